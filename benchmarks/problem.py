"""What is compared: a cell at one size, and the numbers that every contender is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A type, and how products of float32 are computed: "ieee", or "tf32" with operands of 10 bits after the point.

    limit: the relative error, in the root mean square against float64, up to which an answer counts as right.
    """

    dtype: str
    products: str
    limit: float


ARITHMETIC = {
    "float32": Arithmetic("float32", "ieee", 1e-4),
    "tf32": Arithmetic("float32", "tf32", 1e-2),
    "bfloat16": Arithmetic("bfloat16", "ieee", 5e-2),
    "float16": Arithmetic("float16", "ieee", 1e-2),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A cell of the library at one size.

    hidden: units, and features of the input. arithmetic: a name in ARITHMETIC. threads: of torch, on a CPU.
    """

    cell: str
    time: int
    batch: int
    hidden: int
    arithmetic: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def __str__(self) -> str:
        threads = f" {self.threads} threads" if self.threads > 1 else ""
        return f"{self.cell} T {self.time} B {self.batch} H {self.hidden} {self.arithmetic}{threads}"


class Absent(Exception):
    """A contender cannot take part; `str()` of it is the reason."""


class Problem:
    """The numbers of a case: rows that come in at each step, by name, x first, and weights by the names that our layer
    has for them.

    alone: there is nothing to be compared with, so that weights are as each contender begins, and nothing of ours has
    to be imported for another one.
    """

    def __init__(self, case: Case, alone: bool = False) -> None:
        self.case, self.alone = case, alone

    @property
    def arithmetic(self) -> Arithmetic:
        return ARITHMETIC[self.case.arithmetic]

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.arithmetic.dtype)

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """(time, batch, features) each, or (time, batch) of numbers, which are positive and in float32."""
        import torch

        case = self.case
        generator = torch.Generator().manual_seed(1)
        size = (case.time, case.batch, case.hidden)
        rows = {"x": self._there(torch.randn(size, generator=generator), self.dtype)}
        if not self.alone:
            for name, width in self._layer.cell.inputs.items():
                if name != "x":
                    shape = size if width else size[:2]
                    kind = self.dtype if width else torch.float32
                    rows[name] = self._there(torch.rand(shape, generator=generator), kind)
        return rows

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """As our layer begins, moved a little: what begins as zero would hide that it is not used."""
        import torch

        generator = torch.Generator().manual_seed(2)
        found = {name: tensor.detach().clone() for name, tensor in self._layer.state_dict().items()}
        for name, _ in self._layer.named_parameters():
            tensor = found[name]
            spread = 0.3 / tensor.shape[-1] ** 0.5 if tensor.dim() > 1 else 0.1
            found[name] = (tensor + spread * torch.randn(tensor.shape, generator=generator)).to(self.dtype)
        return found

    def _there(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """On the device of the case."""
        import torch

        return torch.empty(tensor.shape, device=self.case.device, dtype=dtype).copy_(tensor)

    @cached_property
    def _layer(self):
        """Ours, as it begins."""
        import torch

        from benchmarks.modules import layer_class

        torch.manual_seed(0)
        return layer_class(self.case.cell, native=False)(self.case.hidden, self.case.hidden)

    def of_time(self, time: int) -> Problem:
        """The same with fewer steps or more."""
        return Problem(replace(self.case, time=time), self.alone)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Within the block both cuDNN's recurrent layers and other products of float32 are computed so.

    torch's own defaults differ: tf32 for cuDNN's, IEEE for the others.
    """
    import torch

    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = precision
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
