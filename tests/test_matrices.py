"""Matrices that are made of parameters, what is not trained, and inputs as wide as states, by equations in torch."""

import cells
import pytest
import torch
from torch import Tensor

from rnngen import reference
from rnngen.across import ShapeConflict
from rnngen.emit.targets import TARGETS
from rnngen.ir import CellGraph, Value
from rnngen.matrices import MATRICES

T, B, I, H = 5, 2, 3, 4
eye = torch.eye(H, dtype=torch.float64)

LOW_RANK = """
name      = "low_rank"
states    = ["h"]
output    = "y"
constants = { c = 0.5 }
step      = '''
h' = tanh(W @ x + (P @ Q.T + diag(d) - c * triu(P)) @ h + b)
y  = W.T @ (tanh(P) @ h')
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["P", "Q"] }
diagonal  = { shape = ["hidden"], blocks = ["d"] }
bias      = { shape = ["hidden"], blocks = ["b"] }
"""
ECHO_STATE = """
name   = "echo_state"
states = ["h"]
output = "y"
step   = '''
h' = tanh(W @ x + scale * V @ h)
y  = U @ h' + p * h'
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"], trained = false }
reservoir = { shape = ["hidden", "hidden"], blocks = ["V"], trained = false, init = "orthogonal" }
radius    = { shape = [], blocks = ["scale"], trained = false, init = 0.9 }
decay     = { shape = ["hidden"], blocks = ["p"], trained = false }
weight_ho = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""
HEADS = """
name      = "heads_of_matrices"
states    = ["h"]
constants = { gamma = 0.1 }
step      = '''
A  = R - R.T - gamma * eye(R)
h' = tanh(W @ x + A @ h + (S @ tril(R) / 2) @ h + S @ h)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["R", "S"], heads = true }
"""


# One step of each: y and the new states, of x, the states and the blocks.


def antisymmetric(x, h, W_z, W_h, U, V, b_z, b_h):
    a, other = U - U.T - 0.1 * eye, V - V.T - 0.1 * eye
    z = torch.sigmoid(x @ W_z.T + h @ a.T + b_z)
    h = h + 0.3 * z * torch.tanh(x @ W_h.T + h @ other.T + b_h)
    return h, (h,)


def clockwork(x, h, t, W, U, b, period):
    lower = torch.stack([torch.cat([U.new_zeros(n), row[n:]]) for n, row in enumerate(U)])
    new = torch.tanh(x @ W.T + h @ lower.T + b)
    h = torch.where(t == 0, new, h)
    return h, (h, torch.where(t + 1 >= period, torch.zeros_like(t), t + 1))


def low_rank(x, h, W, P, Q, d, b):
    upper = torch.stack([torch.cat([P.new_zeros(n), row[n:]]) for n, row in enumerate(P)])
    h = torch.tanh(x @ W.T + (h @ Q) @ P.T + d * h - 0.5 * h @ upper.T + b)
    return h @ torch.tanh(P).T @ W, (h,)


def echo_state(x, h, W, V, scale, p, U):
    h = torch.tanh(x @ W.T + scale * (h @ V.T))
    return h @ U.T + p * h, (h,)


def intersection(x, h, W_y, W_h, W_q, W_k, U_y, U_h, U_q, U_k, b_y, b_h, b_q, b_k):
    n_y, n_h = torch.relu(x @ W_y.T + h @ U_y.T + b_y), torch.tanh(x @ W_h.T + h @ U_h.T + b_h)
    g_y, g_h = torch.sigmoid(x @ W_q.T + h @ U_q.T + b_q), torch.sigmoid(x @ W_k.T + h @ U_k.T + b_k)
    return g_y * x + (1 - g_y) * n_y, (g_h * h + (1 - g_h) * n_h,)


def sru(x, c, W, W_f, W_r, v_f, v_r, b_f, b_r):
    f, r = torch.sigmoid(x @ W_f.T + v_f * c + b_f), torch.sigmoid(x @ W_r.T + v_r * c + b_r)
    c = f * c + (1 - f) * (x @ W.T)
    return r * c + (1 - r) * x * 3**0.5, (c,)


def sru_linear(x, c, W, W_f, W_r, b_f, b_r):
    f, r = torch.sigmoid(x @ W_f.T + b_f), torch.sigmoid(x @ W_r.T + b_r)
    c = f * c + (1 - f) * (x @ W.T)
    return r * torch.tanh(c) + (1 - r) * x, (c,)


STEPS = {
    **{name: (cells.ALL[name], step) for name, step in (("antisymmetric", antisymmetric), ("clockwork", clockwork))},
    "low_rank": (LOW_RANK, low_rank),
    "echo_state": (ECHO_STATE, echo_state),
    **{
        name: (cells.AS_WIDE[name], step)
        for name, step in zip(cells.AS_WIDE, (intersection, sru, sru_linear), strict=True)
    },
}
every_step = pytest.mark.parametrize("name", STEPS)


def flat(results) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [tensor for part in results for tensor in flat(part)]


def gradients(results, tensors) -> list[Tensor]:
    total = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in flat(results))
    return list(torch.autograd.grad(total, list(tensors), allow_unused=True, materialize_grads=True))


def assert_equal(got, want) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def drawn(layer) -> tuple[Tensor, list[Tensor]]:
    """An input and states. What is a number or a counter is no trouble for a cell that compares it."""
    x = torch.randn(T, B, layer.input_size, dtype=torch.float64).requires_grad_()
    states = [torch.randn(1, B, H, dtype=torch.float64) for _ in layer.cell.states]
    if "t" in layer.cell.states:
        states[layer.cell.states.index("t")] = torch.randint(0, 2, (1, B, H)).double()
    return x, [state.requires_grad_() for state in states]


@pytest.fixture
def layer(name, layer_of):
    torch.manual_seed(0)
    text, _ = STEPS[name]
    made = layer_of(text)(H if name in cells.AS_WIDE else I, H, dtype=torch.float64)
    if name == "clockwork":
        made.clock_l0.copy_(torch.tensor([1.0, 2, 2, 3]))
    return made


@every_step
def test_equals_the_equations(name, layer):
    """Outputs, last states and every gradient, at once and in pieces."""
    _, step = STEPS[name]
    x, states = drawn(layer)
    blocks = [layer.block(block) for weight in layer.cell.weights for block in weight.blocks]
    rows, now = [], [state[0] for state in states]
    for x_t in x:
        y, now = step(x_t, *now, *blocks)
        rows.append(y)
    want = torch.stack(rows), [state[None] for state in now]
    leaves = [x, *states, *layer.parameters()]
    want_gradients = gradients(want, leaves)
    state = states[0] if len(states) == 1 else tuple(states)
    for path in (layer, layer.reference):
        got = path(x, state)
        assert_equal(got, want)
        assert_equal(gradients(got, leaves), want_gradients)
        first, between = path(x[:2], state)
        second, last = path(x[2:], between)
        assert_equal((torch.cat([first, second]), last), want)
        assert_equal(gradients((torch.cat([first, second]), last), leaves), want_gradients)


@every_step
def test_derivatives_of_second_order(name, layer):
    x, states = drawn(layer)
    state = states[0] if len(states) == 1 else tuple(states)
    parameters = dict(layer.named_parameters())

    def function(x, *tensors):
        return torch.func.functional_call(layer, dict(zip(parameters, tensors, strict=True)), (x, state))[0]

    assert torch.autograd.gradgradcheck(function, (x[:2], *parameters.values()), fast_mode=True)
    jacobian = torch.func.jacrev(lambda x: layer.reference(x, state)[0])(x)
    assert_equal(torch.autograd.functional.jacobian(lambda x: layer(x, state)[0], x), jacobian)


OPTIONS = {
    "bias=False": {"bias": False},
    "proj_size": {"proj_size": 2},
    "bidirectional": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}


TEXTS = {name: text for name, (text, _) in STEPS.items()} | {"heads": HEADS}
CASES = [
    (name, options)
    for name in ("antisymmetric", "clockwork", "low_rank", "sru", "heads")
    for options in OPTIONS
    if (name, options) not in (("heads", "bias=False"), ("sru", "two layers, both directions"))
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_options_of_a_layer(name, options, layer_of):
    """Against the cell as it was described, by the judge that shares nothing with the module."""
    torch.manual_seed(0)
    heads = 2 if name == "heads" else 1
    layer = layer_of(TEXTS[name])(H, H, dtype=torch.float64, heads=heads, **OPTIONS[options])
    x = torch.randn(T, B, H, dtype=torch.float64).requires_grad_()
    states = dict(zip(layer.cell.states, flat(layer.initial_state(B)), strict=True))
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    for weight in layer.cell.weights:
        if f"{weight.name}_l0" not in tensors:
            tensors[f"{weight.name}_l0"] = x.new_zeros(weight.size({"hidden": H}, heads))
    graph, leaves = cells.forms(TEXTS[name])["infer"].cell, [x, *layer.parameters()]
    y, last = reference.layers(graph, x, states, tensors, bidirectional=layer.bidirectional)
    want = y, list(last.values())
    want_gradients = gradients(want, leaves)
    for got in (layer(x), layer.reference(x)):
        assert_equal(got, want)
        assert_equal(gradients(got, leaves), want_gradients)


def test_matrices_for_one_vector_are_one_product():
    program = cells.program("antisymmetric")
    (across,) = program.forward.across
    assert across.matrices.count == 2 and not program.scan.untrained
    assert [value.op for value in program.once.values].count("transpose") == 2
    program = cells.program(HEADS)
    assert program.scan.heads == {leaf.name for leaf in program.scan.leaves("parameter")}


@pytest.mark.parametrize("op", MATRICES.values(), ids=MATRICES)
def test_a_row_is_spelled(op):
    """By torch, and by the judge on its own; for a stack of blocks as for one matrix."""
    meaning = {
        "transpose": lambda a: a.mT,
        "compose": lambda a, b: a @ b,
        "tril": torch.tril,
        "triu": torch.triu,
        "diag": torch.diag_embed,
        "eye": lambda a: torch.eye(a.shape[-1], dtype=a.dtype).expand_as(a),
    }[op.name]
    shape, sizes = (("hidden",) if op.name == "diag" else ("hidden", "hidden")), {"hidden": 4}
    names = op.operands.split()
    for leading in ((), (2,)):
        size = (*leading, *(sizes[dimension] for dimension in shape))
        numbers = {name: torch.randn(*size, dtype=torch.float64) for name in names}
        want = meaning(*numbers.values())
        spelled = eval(TARGETS["torch"].spelling.calls[op.name].format(*names), {"torch": torch}, numbers)  # ours
        assert_equal(spelled, want)
        leaves = tuple(Value(name, "parameter", shape=shape) for name in names)
        result = Value("r", op.name, tuple(names), op.shape(*(leaf.shape for leaf in leaves)))
        graph = CellGraph("one", (*leaves, result), outputs=(("r", "r"),))
        assert_equal(reference.run(graph, {}, {}, numbers)[0]["r"], want)
    for wrong in ((), ("inputs", "hidden", "hidden")):
        with pytest.raises(ShapeConflict):
            op.shape(*[wrong] * len(names)) if op.name != "compose" else op.shape(("a", "b"), ("c", "d"))


# What is not trained.


def test_what_is_not_trained_is_a_buffer(layer_of):
    layer = layer_of(ECHO_STATE)(I, H, dtype=torch.float64)
    fixed = ["weight_ih_l0", "reservoir_l0", "radius_l0", "decay_l0"]
    assert [name for name, _ in layer.named_buffers()] == fixed
    assert [name for name, _ in layer.named_parameters()] == ["weight_ho_l0"]
    assert set(layer.state_dict()) == {*fixed, "weight_ho_l0"}
    assert layer.to(torch.bfloat16).reservoir_l0.dtype == torch.bfloat16
    layer.double().reset_parameters()
    assert_equal(layer.reservoir_l0 @ layer.reservoir_l0.T, eye)
    before = layer.reservoir_l0.clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.reservoir_l0) and layer.radius_l0 == 0.9
    layer.block("scale").fill_(0.5)
    assert layer.radius_l0 == 0.5
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    layer(x)[0].sum().backward()
    assert all(getattr(layer, name).grad is None for name in fixed)
    assert x.grad.abs().min() > 0 and layer.weight_ho_l0.grad.abs().max() > 0


def test_what_is_not_trained_has_no_gradient_to_compute():
    """No accumulator, and no product over all rows; the adjoint of the product is no output either."""
    program = cells.program(ECHO_STATE)
    assert program.scan.untrained == {leaf.name for leaf in program.scan.leaves("parameter")}
    assert not program.gradients.outputs and len(program.adjoint.states) == len(program.scan.states)
    program = cells.program("clockwork")
    assert [label for label, _ in program.gradients.outputs] == [
        f"d_{leaf.name}" for leaf in program.scan.leaves("parameter") if leaf.name != "clock"
    ]
    assert len(program.adjoint.states) == len(program.scan.states)


# Inputs as wide as the states.


def test_an_input_as_wide_as_the_states(layer_of):
    class_ = layer_of(cells.AS_WIDE["sru"])
    assert class_.cell.inputs == {"x": "hidden"} and not class_.cell.both
    wrong = {
        "input_size must be equal to hidden_size, got 3 and 4": {"input_size": 3},
        "with bidirectional num_layers must be 1: a second layer would get 8 features for 4 units": {
            "bidirectional": True,
            "num_layers": 2,
        },
        "with proj_size num_layers must be 1: a second layer would get 2 features for 4 units": {
            "proj_size": 2,
            "num_layers": 2,
        },
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=f"SRU uses its input beside its state, so {message}"):
            class_(**{"input_size": H, "hidden_size": H} | options)
    assert class_(H, H, num_layers=3)(torch.randn(T, B, H))[0].shape == (T, B, H)
    assert class_(H, H, bidirectional=True)(torch.randn(T, B, H))[0].shape == (T, B, 2 * H)
