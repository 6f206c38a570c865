"""Each wrapper around each cell, against the cell without it: `reference` walks the step as it was described, and what
the wrapper means is done to it here, in plain torch.
"""

import copy
import math
from collections.abc import Callable

import cells
import pytest
import torch
from conftest import imported
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rnngen import reference
from rnngen.compile import compile_model
from rnngen.description import describe
from rnngen.ir import CellGraph, Value, needed, reaching
from rnngen.runtime.drawn import RATES as drawn_rates
from rnngen.source import Source
from rnngen.wrappers import WRAPPERS

SOME = (*cells.SAMPLE, "nas", "rhn", "part_of_heads", "cascade", "product_carried", "product_of_products", "beside")
SOME += ("gru_v3", "packed", "narx", "windowed", "low_rank", "projected", "apart", "foretelling")
TEXTS = cells.LIBRARY | cells.ALL


@pytest.fixture(scope="session")
def wrapped(tmp_path_factory) -> Callable:
    """The class of a cell, by its name, with wrappers around it."""
    found: dict[tuple, type] = {}

    def make(name: str, *wrappers: str) -> type:
        if (name, wrappers) not in found:
            source = Source(f"{name}.toml", TEXTS[name])
            made = compile_model(source, wrappers)
            path = tmp_path_factory.mktemp("wrapped") / f"{made.name}.py"
            path.write_text(made.text)
            class_name = describe(source, wrappers).cells[0].class_name
            found[name, wrappers] = getattr(imported(path, f"every_{'_'.join((name, *wrappers))}"), class_name)
        return found[name, wrappers]

    return make


class Plain:
    """A layer's cell without its wrapper, over time. before: what is done to the operands of a value. product: what is
    done to each product that varies, by its matrix and its value. weights: those that are not the layer's.
    """

    def __init__(self, name: str, layer: torch.nn.Module | None):
        self.program = cells.forms(TEXTS[name])["unpack"]
        self.graph: CellGraph = self.program.cell
        self.layer = layer
        leaves = [leaf.name for op in ("input", "state") for leaf in self.graph.leaves(op)]
        self.varying = reaching(self.graph, set(leaves))
        self.states = [state.name for state in self.graph.states]

    def recurrent(self) -> list[Value]:
        """The products of what an old state is part of, on the way to a new one."""
        carried = reaching(self.graph, set(self.states))
        inside = needed(self.graph, {state.update for state in self.graph.states})
        products = (value for value in self.graph.values if value.op == "matmul" and value.name in inside)
        return [product for product in products if product.operands[1] in carried]

    def __call__(self, x, states, monkeypatch, before=None, product=None, weights=()):
        """The output over time and the last states."""
        computed = reference._computed

        def changed(value, operands, shapes):
            operands = before(value, operands) if before else operands
            result = computed(value, operands, shapes)
            if product and value.op == "matmul" and value.name in self.varying:
                return product(value, operands[1], result)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(reference, "_computed", changed)
            named = dict(zip(self.states, states, strict=True))
            outputs, last = reference.scan(self.graph, {"x": x}, named, self.weights | dict(weights))
        return torch.cat(list(outputs.values()), -1), list(last.values())

    def one(self, x_t: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One step."""
        named = dict(zip(self.states, states, strict=True))
        outputs, new = reference.run(self.graph, {"x": x_t}, named, self.weights)
        return torch.cat(list(outputs.values()), -1), list(new.values())

    def output(self, x_t: Tensor, states: list[Tensor], kept: list[Tensor], monkeypatch) -> Tensor:
        """What a step gives where other new values are kept than it makes: what no new value needs reads these."""
        computed, recurrent = reference._computed, needed(self.graph, {state.update for state in self.graph.states})
        instead: dict[str, Tensor] = {}
        for state, new in zip(self.graph.states, kept, strict=True):
            instead.setdefault(state.update, new)
        made: dict[str, Tensor] = {}

        def changed(value, operands, shapes):
            if value.name not in recurrent:
                operands = [
                    instead.get(name, made.get(name, one)) for name, one in zip(value.operands, operands, strict=True)
                ]
            made[value.name] = computed(value, operands, shapes)
            return made[value.name]

        with monkeypatch.context() as patch:
            patch.setattr(reference, "_computed", changed)
            self.one(x_t, states)
        return torch.cat([instead.get(value, made.get(value)) for _, value in self.graph.outputs], -1)

    @property
    def weights(self) -> dict[str, Tensor]:
        return {leaf.name: getattr(self.layer, f"{leaf.name}_l0") for leaf in self.graph.leaves("parameter")}


def stem(state: str) -> str:
    """What it is a state of a line of, or itself."""
    return state.partition("_lag_")[0]


def compared(layer: torch.nn.Module, plain: Callable, states: int) -> None:
    """Outputs and all gradients of both, over a sequence with states."""
    answers = []
    x = torch.randn(5, 3, layer.input_size, dtype=torch.float64, requires_grad=True)
    begin = layer.initial_state(3)
    shapes = [state.shape[1:] for state in (begin if states > 1 else (begin,))]
    first = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
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


def dense(matrix: Tensor) -> Tensor:
    return torch.block_diag(*matrix) if matrix.dim() == 3 else matrix


@pytest.mark.parametrize("name", SOME)
def test_layer_norm(name, wrapped, monkeypatch):
    torch.manual_seed(0)
    layer = wrapped(name, "layer_norm")(3, 4, dtype=torch.float64)
    gains = [weight.name for weight in layer.cell.weights if weight.name.startswith("gain_")]
    for gain in gains:
        assert getattr(layer, f"{gain}_l0").eq(1).all()
        torch.nn.init.normal_(getattr(layer, f"{gain}_l0"))
    plain = Plain(name, layer)
    definitions = plain.graph.by_name()

    def stack(matrix: str) -> str:
        return definitions[matrix].operands[0] if definitions[matrix].op == "pick" else matrix

    def product(value: Value, vector: Tensor, result: Tensor) -> Tensor:
        """Normed together with the other blocks of its parameter that are applied to the vector."""
        matrix, of = value.operands
        pairs = dict.fromkeys(other.operands for other in plain.graph.values if other.op == "matmul")
        group = {other for other, vector_of in pairs if vector_of == of}
        others = sorted(other for other in group - {matrix} if stack(other) == stack(matrix))
        every = [vector @ dense(layer.block(other)).mT for other in others]
        joined = torch.cat([result, *every], -1)
        normed = F.layer_norm(joined, joined.shape[-1:])[..., : result.shape[-1]]
        number = [vector_of for other, vector_of in pairs if other == matrix].index(of)  # each has a gain of its own
        return layer.block(f"gain_{matrix.removeprefix('weight_')}{f'_{number}' * (number > 0)}") * normed

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
def test_zoneout(name, training, wrapped, monkeypatch):
    torch.manual_seed(0)
    plain = Plain(name, None)
    rates = {name: 0.2 + 0.1 * number for number, name in enumerate(plain.states) if stem(name) == name}
    layer = plain.layer = wrapped(name, "zoneout")(3, 4, dtype=torch.float64, zoneout=rates).train(training)

    def zoned(x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        masks = [torch.ones_like(state).expand(5, *state.shape) for state in states]
        for number, name in enumerate(plain.states):
            if name in rates:
                shape = masks[number].shape
                masks[number] = Masks(layer)(*shape, rate=rates[name], scaled=False).expand(shape)

        def around(t: int, old: list[Tensor], step: Callable) -> tuple[Tensor, list[Tensor]]:
            _, new = step(old)
            new = [mask[t] * n + (1 - mask[t]) * o for mask, n, o in zip(masks, new, old, strict=True)]
            return plain.output(x[t], old, new, monkeypatch), new

        return stepwise(plain, x, states, around)

    compared(layer, zoned, len(plain.states))


@pytest.mark.parametrize("equation", ["y = h'", "y = 1 * h'", "y = g * h'"])
def test_an_output_reads_what_zoneout_kept(equation, tmp_path):
    """Whatever it makes of it, as far as no new value needs that; h' itself reads the c' that was computed."""
    text = f"""name = "unit"
states = ["h", "c"]
output = "y"
step = '''
c' = tanh(W @ x + U @ h)
h' = tanh(k * c' + c)
{equation}
'''
[parameters]
W = {{ shape = ["hidden", "inputs"], blocks = ["W"] }}
U = {{ shape = ["hidden", "hidden"], blocks = ["U"] }}
v = {{ shape = ["hidden"], blocks = ["k"{', "g"' * ("g" in equation)}] }}
"""
    (tmp_path / "unit.py").write_text(compile_model(Source("unit.toml", text), ["zoneout"]).text)
    layer = imported(tmp_path / "unit.py", "unit_kept").UnitZoneout(3, 4, zoneout={"h": 0.4, "c": 0.1}).eval()
    k, *g = layer.v_l0.chunk(len(layer.v_l0) // 4)
    h = c = torch.zeros(2, 4)
    for x_t, y_t in zip(X, layer(X)[0], strict=True):
        made = F.linear(x_t, layer.W_l0).add(F.linear(h, layer.U_l0)).tanh()
        h, c = 0.6 * torch.tanh(k * made + c) + 0.4 * h, 0.9 * made + 0.1 * c
        torch.testing.assert_close(y_t, g[0] * h if g else h)


def test_a_state_of_another_width_zones_out(tmp_path):
    text = """name = "unit"
sizes = { rank = 3 }
states = { h = { shape = ["hidden"] }, r = { shape = ["rank"] } }
step = '''
h' = tanh(W @ x + U @ r)
r' = tanh(V @ h + r)
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
U = { shape = ["hidden", "rank"], blocks = ["U"] }
V = { shape = ["rank", "hidden"], blocks = ["V"] }
"""
    (tmp_path / "unit.py").write_text(compile_model(Source("unit.toml", text), ["zoneout", "clip"]).text)
    layer = imported(tmp_path / "unit.py", "unit_ranked").UnitZoneoutClip(3, 4, zoneout={"r": 0.4}, clip=1.0)
    torch.manual_seed(1)
    masks = Masks(layer)(5, 2, 3, rate=0.4, scaled=False).float()
    h, r = torch.zeros(2, 4), torch.zeros(2, 3)
    for x_t, mask, y_t in zip(X, masks, seeded(layer, X)[0], strict=True):
        new = torch.tanh(F.linear(h, layer.V_l0) + r)
        h, r = torch.tanh(F.linear(x_t, layer.W_l0) + F.linear(r, layer.U_l0)), mask * new + (1 - mask) * r
        torch.testing.assert_close(y_t, h)
    torch.testing.assert_close(seeded(layer, X), seeded(layer.reference, X))


def test_what_a_state_was_does_not_zone_out(layer_of):
    """lag(h) is what h was a step earlier, of whatever zoneout kept, and an output that is a state is that state."""
    text = """# with zoneout
name = "unit"
states = ["h", "p", "q"]
output = ["q'", "p'", "a"]
step = '''
h' = tanh(W @ x + U @ lag(h) + h + lag(n))
n  = tanh(W @ x + p * q)
p' = n
q' = n
a  = 2 * h'
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
U = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""
    rates = {"h": 0.5, "p": 0.3, "q": 0.6}
    layer = layer_of(text)(3, 4, zoneout=rates)
    torch.manual_seed(1)
    masks = [Masks(layer)(5, 2, 4, rate=rate, scaled=False).float() for rate in rates.values()]
    state = last = n = torch.zeros(2, 4)
    old = [state, state, state]
    for x_t, mask, y_t in zip(X, zip(*masks, strict=True), seeded(layer, X)[0], strict=True):
        h, p, q = old
        w = F.linear(x_t, layer.W_l0)
        new = torch.tanh(w + F.linear(last, layer.U_l0) + h + n)
        last, n = h, torch.tanh(w + p * q)
        h, p, q = old = [m * a + (1 - m) * b for m, a, b in zip(mask, (new, n, n), old, strict=True)]
        torch.testing.assert_close(y_t, torch.cat((q, p, 2 * h), -1))
    torch.testing.assert_close(seeded(layer, X), seeded(layer.reference, X))
    with pytest.raises(ValueError, match="zoneout: there is no state 'h_lag_1'; there are h, p, q"):
        layer_of(text)(3, 4, zoneout={"h_lag_1": 0.5})


def test_what_a_state_was_is_clipped_as_the_state_is(layer_of):
    """And an earlier value of an equation where all states are."""
    text = """# with clip
name = "unit"
states = ["h", "c"]
step = '''
n  = tanh(W @ x + lag(n) + lag(c))
h' = tanh(n + U @ lag(h, 2) + h)
c' = tanh(n + c)
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
U = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""
    layer = layer_of(text)(3, 4, dtype=torch.float64, clip=0.02)
    assert layer.cell.states == ("h", "c", "n_lag_1", "c_lag_1", "h_lag_1", "h_lag_2")
    for clip, bounded in ((0.02, "hcnCHH"), ({"h": 0.02}, "hHH"), ({"c": 0.02}, "cC")):
        layer.clip = clip
        bounds = [0.02 if name in bounded else math.inf for name in "hcnCHH"]
        x, zeros = X.double().requires_grad_(), torch.zeros(2, 4, dtype=torch.float64)
        states, outputs = [zeros] * 6, []
        for x_t in x:
            h, c, n, c1, h1, h2 = (
                cut_off(state, bound) if state.requires_grad else state
                for state, bound in zip(states, bounds, strict=True)
            )
            made = torch.tanh(F.linear(x_t, layer.W_l0) + n + c1)
            states = [torch.tanh(made + F.linear(h2, layer.U_l0) + h), torch.tanh(made + c), made, c, h, h1]
            states = [state.clone() for state in states]  # each gets what comes to it alone
            outputs.append(states[0])
        y = torch.stack(outputs)
        want = [y, *torch.autograd.grad(10 * y.sum(), [x, *layer.parameters()])]
        for call in (layer, layer.reference):
            y, _ = call(x)
            found = [y, *torch.autograd.grad(10 * y.sum(), [x, *layer.parameters()])]
            for ours, theirs in zip(found, want, strict=True):
                torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="clip: there is no state 'h_lag_1'; there are h, c"):
        layer_of(text)(3, 4, clip={"h_lag_1": 0.5})


RECURRENT = tuple(name for name in SOME if name not in ("indrnn", "mingru", "cascade", "beside", "windowed", "apart"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_dropout(name, training, wrapped, monkeypatch):
    torch.manual_seed(0)
    layer = wrapped(name, "recurrent_dropout")(3, 4, dtype=torch.float64, recurrent_dropout=0.4).train(training)
    plain = Plain(name, layer)
    values, sizes = plain.graph.by_name(), {"hidden": 4, "inputs": 3, **layer.sizes}
    products = {value.name: values[value.operands[1]].shape[0] for value in plain.recurrent()}

    def dropped(x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        widths = sorted(set(products.values()))
        masks = {width: Masks(layer)(1, 3, sizes[width], rate=0.4, scaled=True)[0] for width in widths}

        def before(value: Value, operands: list[Tensor]) -> list[Tensor]:
            if value.name in products:
                return [operands[0], masks[products[value.name]] * operands[1]]
            return operands

        return plain(x, states, monkeypatch, before=before)

    compared(layer, dropped, len(plain.states))


def test_vectors_of_each_width_drop_out_by_a_mask_of_their_own(layer_of):
    """In the order of the names of dimensions; all of one width share one."""
    text = """# with recurrent_dropout
name = "unit"
sizes = { rank = 3, deep = 2 }
states = { r = { shape = ["rank"] }, h = { shape = ["hidden"] } }
output = "h'"
step = '''
h' = tanh(W @ x + U @ r + V @ (D @ r) + T @ r)
r' = tanh(P @ h)
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
stack = { shape = ["hidden", "rank"], blocks = ["U", "T"] }
P = { shape = ["rank", "hidden"], blocks = ["P"] }
V = { shape = ["hidden", "deep"], blocks = ["V"] }
D = { shape = ["deep", "rank"], blocks = ["D"] }
"""
    layer = layer_of(text)(3, 4, recurrent_dropout=0.4)
    torch.manual_seed(1)
    deep, hidden, rank = (Masks(layer)(1, 2, wide, rate=0.4, scaled=True)[0].float() for wide in (2, 4, 3))
    h, r = torch.zeros(2, 4), torch.zeros(2, 3)
    for x_t, y_t in zip(X, seeded(layer, X)[0], strict=True):
        seen = F.linear(deep * F.linear(rank * r, layer.D_l0), layer.V_l0)
        for u in layer.stack_l0.chunk(2):
            seen = seen + F.linear(rank * r, u)
        h, r = torch.tanh(F.linear(x_t, layer.W_l0) + seen), torch.tanh(F.linear(hidden * h, layer.P_l0))
        torch.testing.assert_close(y_t, h)
    torch.testing.assert_close(seeded(layer, X), seeded(layer.reference, X))


@pytest.mark.parametrize("name", ["rnn", "gru_v3"])
def test_what_sees_a_projection_does_so_behind_dropout(name, wrapped):
    """The mask is of what is projected; matrices are those that the cell has without a wrapper."""
    layer = wrapped(name, "recurrent_dropout")(3, 4, proj_size=2, recurrent_dropout=0.4)
    shapes = {key: weight.shape for key, weight in wrapped(name)(3, 4, proj_size=2).named_parameters()}
    assert {key: weight.shape for key, weight in layer.named_parameters()} == shapes
    torch.testing.assert_close(seeded(layer, X), seeded(layer.reference, X))
    if name == "rnn":
        h = torch.zeros(2, 4)
        torch.manual_seed(1)
        mask = Masks(layer)(2, 4, rate=0.4, scaled=True).float()
        for x_t, y_t in zip(X, seeded(layer, X)[0], strict=True):
            seen = F.linear(mask * h, layer.weight_hr_l0)
            h = F.linear(x_t, layer.weight_ih_l0) + F.linear(seen, layer.weight_hh_l0)
            h = torch.tanh(h + layer.bias_ih_l0 + layer.bias_hh_l0)
            torch.testing.assert_close(y_t, F.linear(h, layer.weight_hr_l0))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECURRENT)
def test_drop_connect(name, training, wrapped, monkeypatch):
    torch.manual_seed(0)
    layer = wrapped(name, "drop_connect")(3, 4, dtype=torch.float64, drop_connect=0.4).train(training)
    plain = Plain(name, layer)
    matrices = needed(plain.graph, {product.operands[0] for product in plain.recurrent()})
    square = [w for w in layer.cell.weights if len(w.shape) == 2 and w.name in matrices]

    def dropped(x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        weights = {w.name: getattr(layer, f"{w.name}_l0") for w in square}
        masks = {n: Masks(layer)(*w.shape, rate=0.4, scaled=True) for n, w in weights.items()}
        for weight in square:
            if len(weight.blocks) > 1 and training:
                for block, part in zip(weight.blocks, masks[weight.name].chunk(len(weight.blocks)), strict=True):
                    part.copy_(part if block in matrices else torch.ones_like(part))
        return plain(x, states, monkeypatch, weights={n: masks[n] * w for n, w in weights.items()})

    compared(layer, dropped, len(plain.states))


def cut_off(tensor: Tensor, bound: float) -> Tensor:
    """The tensor, with its gradient between -bound and bound."""
    passed = tensor.clone()
    passed.register_hook(lambda gradient: gradient.clamp(-bound, bound))
    return passed


def clipped(plain: Plain, bounds: list[float]) -> Callable:
    """A cell without its wrapper whose states are cut off before each step."""

    def around(t: int, old: list[Tensor], step: Callable) -> tuple[Tensor, list[Tensor]]:
        return step([cut_off(state, bound) for state, bound in zip(old, bounds, strict=True)])

    return lambda x, states: stepwise(plain, x, states, around)


@pytest.mark.parametrize("name", SOME)
def test_clip(name, wrapped):
    torch.manual_seed(0)
    plain = Plain(name, None)
    bounds = {name: 0.03 + 0.2 * number for number, name in enumerate(plain.states) if stem(name) == name}
    layer = plain.layer = wrapped(name, "clip")(3, 4, dtype=torch.float64, clip=bounds)
    every = [bounds.get(stem(name), math.inf) for name in plain.states]
    compared(layer, clipped(plain, every), len(plain.states))


def test_what_is_remembered_is_not_clipped(tmp_path):
    text = """name = "unit"
states = ["h"]
step = "h' = tanh(W @ x + V @ lag(x, 2) + U @ h + P @ lag(h))"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "V"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U", "P"] }
"""
    (tmp_path / "unit.py").write_text(compile_model(Source("unit.toml", text), ["clip"]).text)
    layer = imported(tmp_path / "unit.py", "unit_lagged").UnitClip(3, 4, dtype=torch.float64, clip=0.05)
    w, v = layer.weight_ih_l0.chunk(2)
    u, p = layer.weight_hh_l0.chunk(2)
    x = X.double().requires_grad_()
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    rows, h, last, outputs = [zeros[:, :3], zeros[:, :3], *x], zeros, zeros, []
    for t, x_t in enumerate(x):
        if t:
            h, last = cut_off(h, 0.05), cut_off(last, 0.05) if t > 1 else last
        made = torch.tanh(F.linear(x_t, w) + F.linear(rows[t], v) + F.linear(h, u) + F.linear(last, p))
        h, last = made, h
        outputs.append(h)
    y = torch.stack(outputs)
    want = [y, *torch.autograd.grad(10 * y.sum(), [x, *layer.parameters()])]
    for call in (layer, layer.reference):
        y, _ = call(x)
        found = [y, *torch.autograd.grad(10 * y.sum(), [x, *layer.parameters()])]
        for ours, theirs in zip(found, want, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_clip_cuts_off(wrapped):
    """Some units, at some steps; and none where the bound is infinite, as is that of a state without one."""
    layer = wrapped("lstm", "clip")(3, 4, dtype=torch.float64, clip={"h": 0.001})
    plain = torch.nn.LSTM(3, 4, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    for bound, same in (({"h": 0.001}, False), (math.inf, True), ({}, True)):
        layer.clip = bound
        answers = []
        for module in (layer, plain):
            x = X.double().requires_grad_()
            answers.append([module(x)[0], *torch.autograd.grad(module(x)[0].sum(), [x, *module.parameters()])])
        equal = [torch.allclose(*pair) for pair in zip(*answers, strict=True)]
        assert equal == [True, *[same] * 5]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2}, {"reverse": True}])
def test_clip_at_lengths_and_resets(options, wrapped):
    """A layer and its reference; an initial state gets what passes the bound and no more."""
    torch.manual_seed(0)
    layer = wrapped("lstm", "clip")(3, 4, dtype=torch.float64, clip=0.2, **options)
    rows = [torch.randn(length, 3, dtype=torch.float64) for length in (5, 2, 4)]
    packed = torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    flags = torch.nn.utils.rnn.pack_sequence([torch.arange(len(row)) % 3 == 1 for row in rows], enforce_sorted=False)
    hx, reset_to = ([torch.randn_like(s, requires_grad=True) for s in layer.initial_state(3)] for _ in range(2))
    resets = {} if layer.proj_size else {"resets": flags, "reset_to": tuple(reset_to)}
    answers = []
    for call in (layer, layer.reference):
        y, last = call(packed, tuple(hx), **resets)
        total = 10 * y.data.sum() + sum(state.sum() for state in last)
        leaves = [*hx, *(reset_to if resets else ()), *layer.parameters()]
        answers.append([y.data, *last, *torch.autograd.grad(total, leaves)])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    d_h = answers[0][3]
    assert d_h.abs().max() == 0.2 and not d_h.abs().eq(0.2).all()


def test_a_sequence_in_pieces_is_clipped_as_a_whole(wrapped):
    layer = wrapped("gru", "clip")(3, 4, dtype=torch.float64, clip=0.05)
    x = X.double()
    whole, _ = layer(x)
    first, state = layer(x[:2])
    pieces = torch.cat((first, layer(x[2:], state)[0]))
    parameters = list(layer.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), parameters) for y in (whole, pieces)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_was_clipped_has_no_derivative(wrapped):
    """Torch would differentiate another function than the one that was computed."""
    layer = wrapped("rnn", "clip")(3, 4, dtype=torch.float64, clip=0.05)
    x = X.double().requires_grad_()
    want = torch.autograd.grad(layer(x)[0].sum(), x)[0]
    for call in (layer, layer.reference):
        found = torch.autograd.grad(call(x)[0].sum(), x, create_graph=True)[0]
        torch.testing.assert_close(found, want)
        with pytest.raises(NotImplementedError, match="'clip' allows a first one"):
            found.sum().backward()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch's compiler does
def test_a_clipped_reference_is_for_torchs_transforms(wrapped):
    layer = wrapped("rnn", "clip")(3, 4, dtype=torch.float64, clip=0.05)
    x = X.double()

    def total(x: Tensor) -> Tensor:
        return layer.reference(x)[0].sum()

    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(layer(leaf)[0].sum(), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), want)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x[None])[0], want)
    step = 1e-6 * torch.ones_like(x)  # forwards there is nothing to cut off
    moved = (total(x + step) - total(x - step)) / 2e-6
    torch.testing.assert_close(torch.func.jvp(total, (x,), (torch.ones_like(x),))[1], moved, rtol=1e-6, atol=1e-6)
    compiled = torch.compile(layer.reference, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(leaf)[0].sum(), leaf)[0], want)


def test_a_bound_is_given_and_checked(wrapped):
    made = wrapped("lstm", "clip")
    with pytest.raises(TypeError, match=r"LSTMClip: missing 'clip', as clip=1\.0; clip=math\.inf does nothing"):
        made(3, 4)
    for wrong in (0, -1.0, True, "a", math.nan, None):
        with pytest.raises(ValueError, match=r"clip should be a number above 0, which may be math\.inf, got"):
            made(3, 4, clip=wrong)
    with pytest.raises(ValueError, match="clip: there is no state 'hh'; there are h, c"):
        made(3, 4, clip={"hh": 1.0})
    assert "clip={'h': 1.0}" in repr(made(3, 4, clip={"h": 1.0}))
    layer = made(3, 4, clip=1.0)
    layer.clip = -1
    with pytest.raises(ValueError, match="clip should be"):
        layer(X)


def test_drop_connect_leaves_blocks_that_are_not_recurrent(tmp_path):
    text = """name = "unit"
states = ["h"]
output = "y"
step = '''
h' = tanh(W @ x + U @ h + (P @ P) @ h)
y = V @ h'
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
square = { shape = ["hidden", "hidden"], blocks = ["V", "U", "P"] }
"""
    (tmp_path / "unit.py").write_text(compile_model(Source("unit.toml", text), ["drop_connect"]).text)
    layer = imported(tmp_path / "unit.py", "unit_dropped").UnitDropConnect(3, 4, drop_connect=0.5)
    torch.manual_seed(1)
    mask = Masks(layer)(12, 4, rate=0.5, scaled=True).float()
    v, u, p = (layer.square_l0 * torch.cat((torch.ones(4, 4), mask[4:]))).chunk(3)
    h = torch.zeros(2, 4)
    for x_t, y_t in zip(X, seeded(layer, X)[0], strict=True):
        h = torch.tanh(F.linear(x_t, layer.W_l0) + F.linear(h, u) + F.linear(h, p @ p))
        torch.testing.assert_close(y_t, F.linear(h, v))
    torch.testing.assert_close(seeded(layer, X), seeded(layer.reference, X))


# What is random, as a layer has it.

RANDOM = ("zoneout", "recurrent_dropout", "drop_connect")
RATES = dict.fromkeys(RANDOM, 0.3)


@pytest.fixture
def lstm(wrapped) -> Callable:
    """An LSTM with all that is random, and layer norms in the middle."""
    made = wrapped("lstm", "zoneout", "recurrent_dropout", "layer_norm", "drop_connect")

    def layer(**options) -> torch.nn.Module:
        torch.manual_seed(0)
        return made(3, 4, **(RATES | options))

    return layer


X = torch.linspace(-2, 2, 5 * 2 * 3).sin().view(5, 2, 3)


def seeded(call: Callable, *arguments, seed: int = 1, **options):
    torch.manual_seed(seed)
    return call(*arguments, **options)


def test_rates_are_of_wrappers():
    """The runtime, which knows no compiler, names the command that makes a class with a rate."""
    drawn = {name: WRAPPERS[name](cells.forms("lstm")["infer"]).drawn for name in WRAPPERS}
    assert [name for name in WRAPPERS if drawn[name]] == list(drawn_rates)
    assert all(one.rate == name for name in WRAPPERS for one in drawn[name])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.2}, {"proj_size": 2}])
def test_a_seed_says_all(lstm, options):
    layer = lstm(**options)
    y, _ = seeded(layer, X)
    torch.testing.assert_close(seeded(layer, X)[0], y, rtol=0, atol=0)
    torch.testing.assert_close(seeded(layer.reference, X)[0], y)
    assert not torch.allclose(seeded(layer, X, seed=2)[0], y)
    torch.testing.assert_close(seeded(layer.double(), X.double())[0].float(), y)
    layer.eval()
    state = torch.get_rng_state()
    y, _ = layer(X.double())
    assert torch.get_rng_state().equal(state)
    torch.testing.assert_close(layer.reference(X.double())[0], y)


@pytest.mark.parametrize("name", RANDOM)
def test_at_the_rate_zero_nothing_is_drawn(name, wrapped):
    torch.manual_seed(0)
    layer = wrapped("lstm", name)(3, 4, dtype=torch.float64)
    torch.manual_seed(0)
    plain = torch.nn.LSTM(3, 4, dtype=torch.float64)
    state = torch.get_rng_state()
    torch.testing.assert_close(layer(X.double())[0], plain(X.double())[0])
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name", RANDOM)
def test_at_the_rate_one_all_is_zero(name, wrapped):
    layer = wrapped("rnn", name)(3, 4, **{name: 1.0})
    want = torch.zeros(5, 2, 4)
    if name != "zoneout":  # without a state
        want = torch.nn.functional.linear(X, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0).tanh()
    torch.testing.assert_close(layer(X)[0], want)


def test_what_is_drawn_how_often(wrapped):
    """A mask of zoneout for each step, one of dropout for a call."""
    slow = wrapped("rnn", "zoneout")(3, 64, zoneout=0.5)
    y = torch.cat((torch.zeros(1, 2, 64), slow(X)[0]))
    kept = y[1:].eq(y[:-1]).float()
    assert 0.4 < kept.mean() < 0.6
    assert not kept[1].equal(kept[2])
    layer = wrapped("rnn", "recurrent_dropout")(3, 64, recurrent_dropout=0.5)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_hh_l0.copy_(torch.eye(64))
        layer.bias_hh_l0.fill_(0.1)
    reset = layer(X)[0].eq(torch.tensor(0.1).tanh())  # the unit forgets
    assert reset[1].equal(reset[2]) and reset[1].equal(reset[4])
    assert 0.3 < reset[1].float().mean() < 0.7


def test_a_step_draws_each_time(lstm):
    layer = lstm()
    torch.manual_seed(1)
    first, state = layer.step(X[0])
    second, _ = layer.step(X[1], state)
    assert not torch.allclose(first, layer.step(X[0])[0])
    torch.testing.assert_close(first, seeded(layer, X[:1])[0][0])
    assert second.shape == first.shape


def test_the_order_of_dimensions_is_no_matter(lstm):
    layer = lstm()
    y = seeded(layer, X)[0]
    other = lstm(batch_first=True)
    torch.testing.assert_close(seeded(other, X.transpose(0, 1))[0].transpose(0, 1), y)
    packed = torch.nn.utils.rnn.pack_sequence([X[:, 0], X[:3, 1]])
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(seeded(layer, packed)[0])
    torch.testing.assert_close(padded[:, 0], y[:, 0])
    torch.testing.assert_close(padded[:3, 1], y[:3, 1])


def gradients(call: Callable, layer: torch.nn.Module) -> list[Tensor]:
    x = X.clone().requires_grad_()
    y, _ = seeded(call, x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]


def test_checkpoints_and_compiled_graphs_draw_the_same(lstm):
    layer = lstm(num_layers=2)
    want = gradients(layer, layer)
    for call in (
        lambda x: checkpoint(layer, x, use_reentrant=False),
        torch.compile(layer, backend="aot_eager", fullgraph=True),
    ):
        for ours, theirs in zip(gradients(call, layer), want, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_rates_are_seen_set_and_refused(lstm, wrapped):
    layer = lstm(zoneout={"c": 0.5})
    assert "zoneout={'c': 0.5}, recurrent_dropout=0.3, drop_connect=0.3" in repr(layer)
    assert "zoneout" not in repr(lstm(zoneout=0.0))
    one = seeded(layer, X)[0]
    layer.zoneout = 0.0
    assert not torch.allclose(seeded(layer, X)[0], one)
    again = copy.deepcopy(layer)
    torch.testing.assert_close(seeded(again, X)[0], seeded(layer, X)[0], rtol=0, atol=0)
    for name in RANDOM:
        for wrong in (1.5, -0.1, "a", None, True):
            with pytest.raises(ValueError, match=rf"^{name} should be a number in range \[0, 1\], the probability"):
                lstm(**{name: wrong})
        with pytest.raises(TypeError, match=f"LSTM: .* '{name}'; `rnngen compile NAME --with {name}` makes a class"):
            wrapped("lstm")(3, 4, **{name: 0.1})
    with pytest.raises(ValueError, match="zoneout: there is no state 'hh'; there are h, c"):
        lstm(zoneout={"hh": 0.1})
    with pytest.raises(ValueError, match=r"zoneout\['h'\] should be a number in range"):
        lstm(zoneout={"h": 2})
    with pytest.raises(ValueError, match="drop_connect should be a number"):
        lstm(drop_connect={"h": 0.1})
    with pytest.raises(TypeError, match=r"an unexpected keyword argument 'hiden'$"):
        lstm(hiden=1)


def test_any_order_computes_the_same(wrapped):
    """One wrapper draws at a time, so that the masks are the same too."""
    rates = {"zoneout": {"h": 0.3}, "recurrent_dropout": 0.0, "drop_connect": 0.0, "clip": 0.01}
    first, second = (wrapped("gru_v3", *names)(3, 4, **rates) for names in (WRAPPERS, tuple(WRAPPERS)[::-1]))
    second.load_state_dict(first.state_dict())
    for name in RANDOM:
        for layer in (first, second):
            layer.zoneout, layer.recurrent_dropout, layer.drop_connect = (0.3 * (name == other) for other in RANDOM)
        torch.testing.assert_close(gradients(first, first), gradients(second, second))


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "clip"])
def test_a_wrapper_twice(name, wrapped):
    """Its names are new to the cell each time."""
    options = {name: 0.3} if name in RANDOM else {}
    layer = wrapped("gru_v3", name, name)(3, 4, dtype=torch.float64, **options)
    y = seeded(layer, X.double())[0]
    torch.testing.assert_close(seeded(layer.reference, X.double())[0], y)
    once = wrapped("gru_v3", name)(3, 4, dtype=torch.float64, **options)
    once.load_state_dict({n: tensor for n, tensor in layer.state_dict().items() if n in once.state_dict()})
    assert not torch.allclose(seeded(once, X.double())[0], y)


def test_a_file_says_how_gains_begin(tmp_path):
    layer = 'hidden = 4\nwith = ["layer_norm"]\ninit = { gain_ih = 0.5, gain_U_f = 2 }'
    text = f'name = "model"\ninputs = 3\n[[layers]]\ncell = "lstm"\n{layer}\n'
    (tmp_path / "begun.py").write_text(compile_model(Source("model.toml", text)).text)
    (found,) = imported(tmp_path / "begun.py", "begun").Model().layers
    assert found.gain_ih_l0.eq(0.5).all()
    assert found.gain_hh_l0.view(4, 4)[:, 0].tolist() == [1, 2, 1, 1]


def test_a_file_has_rates(tmp_path):
    layer = 'hidden = 4\nwith = ["zoneout", "drop_connect"]\nzoneout = { c = 1 }\ndrop_connect = 0.25'
    text = f'name = "model"\ninputs = 3\n[[layers]]\ncell = "lstm"\n{layer}\n'
    (tmp_path / "rated.py").write_text(compile_model(Source("model.toml", text)).text)
    model = imported(tmp_path / "rated.py", "rated").Model()
    (found,) = model.layers
    assert (found.zoneout, found.drop_connect) == ({"c": 1.0}, 0.25)
    assert seeded(model, X)[1][0][1].eq(0).all()
    torch.testing.assert_close(seeded(model, X)[0], seeded(model.reference, X)[0])
