"""Long sequences in chunks (`schedule = "chunked"`), by cells that forget and cells that do not: what was done, the
time beside the plain scan's and torch.nn's, and the error beside the plain scan's own.

One sequence, one thread, float32. Some layers are as they begin, some have a bias or a gain that makes them remember,
and some are trained first, for some seconds: on characters of Python's own library, and on the adding problem of
Hochreiter and Schmidhuber (1997).
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.torch_nn import CLASSES
from benchmarks.machine import keep_to
from benchmarks.measure import DIRECTIONS, Budget, quartiles, relative_error, stopwatch, timed
from benchmarks.modules import layer_class

if TYPE_CHECKING:
    from torch import Tensor, nn

CHUNKED = "rnngen, chunked"
SYMBOLS = 96  # those of ASCII that can be printed, and one for all others


@dataclass(frozen=True, slots=True)
class Variant:
    """A layer: its cell and width, and what is done to it. name: for a reader."""

    name: str
    cell: str
    hidden: int
    prepared: Callable[[nn.Module], None]
    inputs: int = 0  # features, as many as units if 0
    x: Callable[[int, int], Tensor] | None = None  # the rows, of (time, features); normal numbers if None


def _as_it_begins(layer: nn.Module) -> None:
    pass


def _bias(block: str, value: float) -> Callable[[nn.Module], None]:
    def prepare(layer: nn.Module) -> None:
        layer.block(block).data.fill_(value)

    return prepare


def _gain(value: float) -> Callable[[nn.Module], None]:
    def prepare(layer: nn.Module) -> None:
        layer.weight_hh_l0.data.normal_(0, value / layer.hidden_size**0.5)

    return prepare


# Trained layers.


def characters() -> Tensor:
    """The text of some of Python's own library, as numbers."""
    import torch

    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join((folder / name).read_bytes() for name in ("typing.py", "argparse.py", "inspect.py", "doctest.py"))
    known = torch.tensor([code - 32 if 32 <= code < 32 + SYMBOLS - 1 else SYMBOLS - 1 for code in range(256)])
    return known[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()]


def _text(time: int, features: int) -> Tensor:
    """What no layer was trained on."""
    import torch

    return torch.nn.functional.one_hot(characters()[-time:], features).float()


def reader(steps: int) -> Callable[[nn.Module], None]:
    """Trained to say the next character: 32 sequences of 128 of them in each step."""

    def prepare(layer: nn.Module) -> None:
        import torch
        from torch.nn import functional as F

        text, generator = characters()[:-20000], torch.Generator().manual_seed(4)
        head = torch.nn.Linear(layer.hidden_size, SYMBOLS)
        optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], 3e-3)
        for _ in range(steps):
            starts = torch.randint(len(text) - 129, (32,), generator=generator)
            rows = torch.stack([text[start : start + 129] for start in starts.tolist()], 1)
            y, _ = layer(F.one_hot(rows[:-1], SYMBOLS).float())
            loss = F.cross_entropy(head(y).flatten(0, 1), rows[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        layer.zero_grad()

    return prepare


def adder(steps: int) -> Callable[[nn.Module], None]:
    """Trained to add two numbers of 50, which are marked."""

    def prepare(layer: nn.Module) -> None:
        import torch

        generator = torch.Generator().manual_seed(5)
        head = torch.nn.Linear(layer.hidden_size, 1)
        optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], 3e-3)
        for _ in range(steps):
            x = torch.zeros(50, 64, 2)
            x[..., 0] = torch.rand(50, 64, generator=generator)
            for half in (0, 25):
                x[half + torch.randint(25, (64,), generator=generator), torch.arange(64), 1] = 1
            y, _ = layer(x)
            loss = (head(y[-1]).squeeze(-1) - x.prod(-1).sum(0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        layer.zero_grad()

    return prepare


def _marked(time: int, features: int) -> Tensor:
    """One pair after another, of 50 numbers each."""
    import torch

    generator = torch.Generator().manual_seed(6)
    x = torch.zeros(time, features)
    x[:, 0] = torch.rand(time, generator=generator)
    x[torch.randint(25, (time // 25,), generator=generator) + 25 * torch.arange(time // 25), 1] = 1
    return x


VARIANTS = (
    Variant("LSTM, 64 units", "lstm", 64, _as_it_begins),
    Variant("LSTM, 128 units", "lstm", 128, _as_it_begins),
    Variant("LSTM, 512 units", "lstm", 512, _as_it_begins),
    Variant("GRU, 128 units", "gru", 128, _as_it_begins),
    Variant("LSTM, 128 units, forget bias 1", "lstm", 128, _bias("b_if", 1)),
    Variant("LSTM, 128 units, forget bias 3", "lstm", 128, _bias("b_if", 3)),
    Variant("LSTM, 128 units, forget bias 5", "lstm", 128, _bias("b_if", 5)),
    Variant("GRU, 128 units, update bias 2", "gru", 128, _bias("b_iz", 2)),
    Variant("GRU, 128 units, update bias 4", "gru", 128, _bias("b_iz", 4)),
    Variant("RNN, 128 units, gain 0.9", "rnn", 128, _gain(0.9)),
    Variant("RNN, 128 units, gain 2, chaotic", "rnn", 128, _gain(2)),
    Variant("LSTM, 128 units, trained on characters", "lstm", 128, reader(400), SYMBOLS, _text),
    Variant("GRU, 128 units, trained on characters", "gru", 128, reader(400), SYMBOLS, _text),
    Variant("LSTM, 64 units, trained to add", "lstm", 64, adder(800), 2, _marked),
)
TIME = 16384


@dataclass(frozen=True, slots=True)
class Forgetting:
    """A variant, plain and in chunks, and torch.nn's layer of the same weights if there is one."""

    variant: Variant
    budget: Budget
    time: int = TIME
    part: str = "chunks"

    @property
    def cost(self) -> float:
        return 3 + 4 * self.budget.seconds + 4e-9 * self.time * self.variant.hidden**2

    @property
    def facts(self) -> dict[str, object]:
        one = self.variant
        sizes = {"time": self.time, "batch": 1, "hidden": one.hidden}
        return {"part": self.part, "cell": one.cell, "layer": one.name, **sizes, "threads": 1}

    def __str__(self) -> str:
        return f"{self.part}: {self.variant.name}"

    def rows(self) -> Iterator[dict[str, object]]:
        import torch

        keep_to(1)
        torch.manual_seed(0)
        one, inputs = self.variant, self.variant.inputs or self.variant.hidden
        layer = layer_class(one.cell)(inputs, one.hidden)
        one.prepared(layer)
        rows = one.x(self.time, inputs) if one.x else torch.randn(self.time, inputs)
        x = rows[:, None].requires_grad_()
        exact = layer_class(one.cell)(inputs, one.hidden, dtype=torch.float64)
        exact.load_state_dict(layer.state_dict())
        modules = {"rnngen": layer, CHUNKED: layer_class(one.cell)(inputs, one.hidden, schedule="chunked")}
        modules[CHUNKED].load_state_dict(layer.state_dict())
        if one.cell in CLASSES:
            modules["torch.nn"] = getattr(torch.nn, CLASSES[one.cell])(inputs, one.hidden)
            modules["torch.nn"].load_state_dict(layer.state_dict())
        judge = _outcome(exact, x.detach().double().requires_grad_())
        errors = {name: _errors(_outcome(module, x), judge) for name, module in modules.items()}
        reports = {CHUNKED: [vars(row) for row in modules[CHUNKED].report()]}
        for direction in DIRECTIONS:
            functions = {name: _run(module, x, direction) for name, module in modules.items()}
            times = timed(functions, self.budget, stopwatch("cpu"))
            for name, samples in times.items():
                pairs = list(zip(samples, times["rnngen"], strict=True))
                facts: dict[str, object] = {"contender": name, "over": "rnngen", "direction": direction}
                facts["error"] = errors[name]["y"] if direction == "forward" else max(errors[name].values())
                facts["ms"] = quartiles(wall for wall, _ in samples)
                facts["cpu_ms"] = quartiles(own for _, own in samples)
                facts["ratio"] = quartiles(ours / theirs for (ours, _), (theirs, _) in pairs)
                yield self.facts | facts | ({"chunked": reports[name]} if name in reports else {})


def _outcome(module: nn.Module, x: Tensor) -> Mapping[str, Tensor]:
    """The output, and every gradient."""
    import torch

    y, _ = module(x)
    seeds = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    names = ["x", *(name for name, _ in module.named_parameters())]
    found = torch.autograd.grad((y * seeds).sum(), [x, *module.parameters()])
    return {"y": y.detach(), **dict(zip(names, found, strict=True))}


def _errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: relative_error(value, exact[name]) for name, value in found.items()}


def _run(module: nn.Module, x: Tensor, direction: str) -> Callable[[], None]:
    import torch

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def both() -> None:
        y, _ = module(x)
        torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))

    return forward if direction == "forward" else both
