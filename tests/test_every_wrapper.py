"""Each wrapper around each cell, against the cell without it: `reference` walks the step as it was described, and what
the wrapper means is done to it here, in plain torch.
"""

from collections.abc import Callable

import cells
import pytest
import torch
from conftest import imported
from torch import Tensor
from torch.nn import functional as F

from rnngen import reference
from rnngen.compile import compile_model
from rnngen.description import describe
from rnngen.ir import CellGraph, Value, needed, reaching
from rnngen.source import Source

SOME = (*cells.SAMPLE, "nas", "rhn", "part_of_heads", "cascade", "product_carried", "product_of_products", "beside")


@pytest.fixture(scope="session")
def wrapped(tmp_path_factory) -> Callable:
    """The class of a cell, by its name, with wrappers around it."""
    found: dict[tuple, type] = {}

    def make(name: str, *wrappers: str) -> type:
        if (name, wrappers) not in found:
            source = Source(f"{name}.toml", cells.ALL[name])
            made = compile_model(source, wrappers)
            path = tmp_path_factory.mktemp("wrapped") / f"{made.name}.py"
            path.write_text(made.text)
            class_name = describe(source, wrappers).cells[0].class_name
            found[name, wrappers] = getattr(imported(path, f"every_{'_'.join((name, *wrappers))}"), class_name)
        return found[name, wrappers]

    return make


class Plain:
    """A layer's cell without its wrapper, over time. before: what is done to the operands of a value. product: what is
    done to each product that varies, by its matrix, its vector and its value. weights: those that are not the layer's.
    """

    def __init__(self, name: str, layer: torch.nn.Module | None):
        self.graph: CellGraph = cells.forms(name)["infer"].cell
        self.layer = layer
        leaves = [leaf.name for op in ("input", "state") for leaf in self.graph.leaves(op)]
        self.varying = reaching(self.graph, set(leaves))
        self.states = [state.name for state in self.graph.states]

    def __call__(self, x, states, monkeypatch, before=None, product=None, weights=()):
        """The output over time and the last states."""
        computed = reference._computed

        def changed(value, operands, shapes):
            operands = before(value, operands) if before else operands
            result = computed(value, operands, shapes)
            if product and value.op == "matmul" and value.name in self.varying:
                return product(*value.operands, result)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(reference, "_computed", changed)
            named = dict(zip(self.states, states, strict=True))
            outputs, last = reference.scan(self.graph, {"x": x}, named, self.weights | dict(weights))
        return outputs["y"], list(last.values())

    def one(self, x_t: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step."""
        named = dict(zip(self.states, states, strict=True))
        outputs, new = reference.run(self.graph, {"x": x_t}, named, self.weights)
        return outputs["y"], list(new.values())

    @property
    def weights(self) -> dict[str, Tensor]:
        return {leaf.name: getattr(self.layer, f"{leaf.name}_l0") for leaf in self.graph.leaves("parameter")}


def compared(layer: torch.nn.Module, plain: Callable, states: int) -> None:
    """Outputs and all gradients of both, over a sequence with states."""
    answers = []
    x = torch.randn(5, 3, layer.input_size, dtype=torch.float64, requires_grad=True)
    first = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(states)]
    leaves = [x, *first, *layer.parameters()]

    def own(call: Callable) -> tuple[Tensor, list[Tensor]]:
        hx = [state.unsqueeze(0) for state in first]
        y, last = call(x, hx[0] if states == 1 else tuple(hx))
        return y, [state[0] for state in (last if isinstance(last, tuple) else (last,))]

    for run in (lambda: plain(x, first), lambda: own(layer), lambda: own(layer.reference)):
        torch.manual_seed(7)
        y, last = run()
        outputs = [y, *last]
        incoming = [torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output) for output in outputs]
        outputs = [output for output in outputs if output.requires_grad]
        found = torch.autograd.grad(
            outputs, leaves, incoming[: len(outputs)], allow_unused=True, materialize_grads=True
        )
        answers.append([y, *last, *found])
    want, *others = answers
    for got in others:
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SOME)
def test_layer_norm(name, wrapped, monkeypatch):
    torch.manual_seed(0)
    layer = wrapped(name, "layer_norm")(3, 4, dtype=torch.float64)
    gains = [weight.name for weight in layer.cell.weights if weight.name.startswith("gain_")]
    for gain in gains:
        assert getattr(layer, f"{gain}_l0").eq(1).all()
        torch.nn.init.normal_(getattr(layer, f"{gain}_l0"))
    plain = Plain(name, layer)

    def product(matrix: str, vector: str, value: Tensor) -> Tensor:
        return layer.block(f"gain_{matrix.removeprefix('weight_')}") * F.layer_norm(value, value.shape[-1:])

    compared(layer, lambda x, states: plain(x, states, monkeypatch, product=product), len(plain.states))


class Masks:
    """What a layer draws, drawn once more from its seed: by the order and the recipe that docs/layers.md has."""

    def __init__(self, layer: torch.nn.Module):
        self.layer = layer

    def __call__(self, *shape: int, rate: float, scaled: bool) -> Tensor:
        expected = 1.0 if scaled else 1 - rate
        if not (self.layer.training and rate):
            return torch.full((1,) * len(shape), expected, dtype=torch.float64)
        kept = (torch.rand(shape) >= rate).double()
        return kept / (1 - rate) if scaled else kept


def stepwise(plain: Plain, x: Tensor, states: list[Tensor], around: Callable) -> tuple[Tensor, list[Tensor]]:
    """Step by step, with something done around each: around(t, states, step)."""
    outputs = []
    for t, x_t in enumerate(x):
        y, states = around(t, states, lambda old, x_t=x_t: plain.one(x_t, old))
        outputs.append(y)
    return torch.stack(outputs), states


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SOME)
def test_zoneout(name, training, wrapped):
    torch.manual_seed(0)
    plain = Plain(name, None)
    rates = {state: 0.2 + 0.1 * number for number, state in enumerate(plain.states)}
    layer = plain.layer = wrapped(name, "zoneout")(3, 4, dtype=torch.float64, zoneout=rates).train(training)
    same = plain.graph.outputs[0][1]  # the output follows the state that it is
    place = next((n for n, state in enumerate(plain.graph.states) if state.update == same), None)

    def zoned(x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        masks = [Masks(layer)(5, 3, 4, rate=rate, scaled=False).expand(5, 3, 4) for rate in rates.values()]

        def around(t: int, old: list[Tensor], step: Callable) -> tuple[Tensor, list[Tensor]]:
            y, new = step(old)
            new = [mask[t] * n + (1 - mask[t]) * o for mask, n, o in zip(masks, new, old, strict=True)]
            return (y if place is None else new[place]), new

        return stepwise(plain, x, states, around)

    compared(layer, zoned, len(plain.states))


RECURRENT = tuple(name for name in SOME if name not in ("indrnn", "mingru", "cascade", "beside"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_dropout(name, training, wrapped, monkeypatch):
    torch.manual_seed(0)
    layer = wrapped(name, "recurrent_dropout")(3, 4, dtype=torch.float64, recurrent_dropout=0.4).train(training)
    plain = Plain(name, layer)
    carried = reaching(plain.graph, set(plain.states))
    recurrent = needed(plain.graph, {state.update for state in plain.graph.states})

    def dropped(x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mask = Masks(layer)(1, 3, 4, rate=0.4, scaled=True)[0]

        def before(value: Value, operands: list[Tensor]) -> list[Tensor]:
            if value.op == "matmul" and value.name in recurrent and value.operands[1] in carried:
                return [operands[0], mask * operands[1]]
            return operands

        return plain(x, states, monkeypatch, before=before)

    compared(layer, dropped, len(plain.states))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECURRENT)
def test_drop_connect(name, training, wrapped, monkeypatch):
    torch.manual_seed(0)
    layer = wrapped(name, "drop_connect")(3, 4, dtype=torch.float64, drop_connect=0.4).train(training)
    plain = Plain(name, layer)
    square = [w.name for w in layer.cell.weights if len(w.shape) == 2 and "inputs" not in w.shape]

    def dropped(x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        weights = {name: getattr(layer, f"{name}_l0") for name in square}
        masks = {n: Masks(layer)(*w.shape, rate=0.4, scaled=True) for n, w in weights.items()}
        return plain(x, states, monkeypatch, weights={n: masks[n] * w for n, w in weights.items()})

    compared(layer, dropped, len(plain.states))
