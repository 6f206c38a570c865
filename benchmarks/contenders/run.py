"""What an adapter gives: a contender that is ready to run one problem."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn


class Run(Protocol):
    """A contender with a problem's numbers.

    forward: inference. both: a training step without an optimizer, gradients of the input and of all weights included.
    Both end when the result is there, but on a GPU. outcome: the output and the gradients that `seeds`, those of the
    output, give, by our names, in float64 on the CPU. version: of whose code runs, if it is not torch's or ours.
    """

    version: str

    def forward(self) -> None: ...

    def both(self) -> None: ...

    def outcome(self, seeds: Tensor) -> dict[str, Tensor]: ...


class TorchRun:
    """A module of torch.

    call: from x (time, batch, features), and what else comes in by name, to the output alone. ours: the name that we
    have for one of the module's parameters, "" for one that we do not have.
    """

    def __init__(
        self,
        problem: Problem,
        module: nn.Module,
        call: Callable[..., Tensor],
        ours: Callable[[str], str] = str,
        version: str = "",
    ) -> None:
        self.module, self.call, self.ours, self.version = module, call, ours, version
        self.parameters = list(module.parameters())
        self.leaf = problem.rows["x"].detach().clone().requires_grad_()
        self.others = {name: rows for name, rows in problem.rows.items() if name != "x"}
        self.seed: Tensor | None = None

    def forward(self) -> None:
        import torch

        if self.module.training:  # then cuDNN would keep what a backward pass needs
            self.module.eval()
        with torch.no_grad():
            self.call(self.leaf, **self.others)

    def both(self) -> None:
        if not self.module.training:
            self.module.train()
        y = self.call(self.leaf, **self.others)
        if self.seed is None:  # as wide as the output, which need not be as wide as the input
            self.seed = y.detach().new_ones(y.shape)
        y.backward(self.seed)
        self._forget()

    def outcome(self, seeds: Tensor) -> dict[str, Tensor]:
        import torch

        self.module.train()
        y = self.call(self.leaf, **self.others)
        y.backward(seeds.to(y))
        found = {"y": y.detach(), "x": self.leaf.grad}
        for name, parameter in self.module.named_parameters():
            found[self.ours(name)] = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        result = {name: tensor.double().cpu() for name, tensor in found.items() if name}
        self._forget()
        return result

    def saved_bytes(self) -> int:
        """What a forward pass keeps for the backward one, beside the weights and the input."""
        import torch

        known = {tensor.untyped_storage().data_ptr() for tensor in (*self.parameters, self.leaf)}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.module.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = self.call(self.leaf, **self.others)
        del y
        return sum(size for place, size in kept.items() if place not in known)

    def _forget(self) -> None:
        for tensor in (*self.parameters, self.leaf):
            tensor.grad = None


def first(result: Any) -> Any:
    """The output of (output, state)."""
    return result[0]


def package(name: str, remedy: str = "") -> ModuleType:
    """An installed package. Raises Absent, with how to install it or why it cannot be imported.

    remedy: other words than "pip install" and its name.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name and name.startswith(missing.name):
            raise Absent(f"{missing.name} is not installed: {remedy or f'pip install {missing.name}'}") from None
        raise Absent(f"{name} cannot be imported: {missing}") from None
    except Exception as error:  # whatever it does where it is imported
        raise Absent(f"{name} cannot be imported: {type(error).__name__}: {error}"[:300]) from None


def installed(distribution: str) -> str:
    """Its name and version."""
    from importlib.metadata import version

    return f"{distribution} {version(distribution)}"
