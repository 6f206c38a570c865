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
from rnngen.ir import CellGraph, reaching
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
    """A layer's cell without its wrapper, over time. product: what is done to each product that varies, by its matrix,
    its vector and its value.
    """

    def __init__(self, name: str, layer: torch.nn.Module):
        self.graph: CellGraph = cells.forms(name)["infer"].cell
        self.layer = layer
        leaves = [leaf.name for op in ("input", "state") for leaf in self.graph.leaves(op)]
        self.varying = reaching(self.graph, set(leaves))
        self.states = [state.name for state in self.graph.states]

    def __call__(
        self, x: Tensor, states: list[Tensor], monkeypatch, **changes: Callable
    ) -> tuple[Tensor, list[Tensor]]:
        computed = reference._computed
        weights = {leaf.name: getattr(self.layer, f"{leaf.name}_l0") for leaf in self.graph.leaves("parameter")}

        def changed(value, operands, shapes):
            result = computed(value, operands, shapes)
            if value.op == "matmul" and value.name in self.varying:
                return changes["product"](*value.operands, result)
            return result

        with monkeypatch.context() as patch:
            if "product" in changes:
                patch.setattr(reference, "_computed", changed)
            named = dict(zip(self.states, states, strict=True))
            outputs, last = reference.scan(self.graph, {"x": x}, named, weights)
        return outputs["y"], list(last.values())


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
