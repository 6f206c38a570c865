"""What a guide to recurrent networks asks for, row by row, as a user of rnngen would write it.

The guide is "Recurrent Models" of Flux.jl: S1 to S30 are what its text shows, F1 to F29 what the code behind it does.
Each row has a test of its number, and `NOT_HERE` says of which rows something is not there, or is otherwise, and why.
The judges are torch.nn, and the guide's equations written by hand in float64. The whole file runs twice: by the CPU
path, and by the kernels in Triton's interpreter.
"""

import copy
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import SAMPLE
from conftest import INTERPRETED
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from rnngen.description import library
from rnngen.errors import ModelError
from rnngen.runtime import Recurrence
from rnngen.runtime.language import interpreting

# By row: what is not there, or is there in another way, and why.
NOT_HERE = {
    "S18": "A call takes a state as (hidden,), or with all its dimensions as in torch; (batch, hidden) is for `step`.",
    "F1": "The default is torch's: the output and the state. return_state=False gives the output alone.",
    "F3": "An activation is chosen where the cell is compiled, not by an argument of the class.",
    "F4": "The default is torch.nn's, uniform within 1 / sqrt(hidden), biases too; Glorot is asked for by `init`.",
    "F7": "Three arrays, not four: there is no dead block (F27).",
    "F9": "y[-1] has the value of the state and never its memory, so that one can be written into.",
    "F11": "The mistake is a RuntimeError, as in torch, and not a DimensionMismatch.",
    "F14": "A layer is not made from a cell: each is both, by `step` and by its call.",
    "F16": "Types that differ are an error, as in torch.nn: nothing is computed in another type than one asked for.",
    "F18": "Fast approximations are not offered: tanh and sigmoid are right to the last places of their type.",
    "F21": "First derivatives everywhere; torch.func and forward mode are for `reference`.",
    "F22": "It needs a GPU: tests/test_gpu.py, with batches.",
    "F24": "Gradients are clipped after the backward pass, by torch; there is no clip inside the scan.",
    "F25": "What Flux lacks is here, but layers that keep a state, dropout in the recurrence, layer norm in a cell.",
    "F26": "It is a slip of a docstring there; what ours says is what ours does.",
    "F28": "A sequence without steps is an error, as in torch; a batch without sequences is not.",
}
ROWS = [f"S{number}" for number in range(1, 31)] + [f"F{number}" for number in range(1, 30)]
ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "examples" / "guide.toml").read_text(encoding="utf-8")
I, H, T, B = 2, 5, 3, 4  # the guide's sizes
DTYPE = torch.float64

# What no kernel has a part in is the same in both runs.
once = pytest.mark.skipif(INTERPRETED, reason="no kernel has a part in it")


def setup_module():
    assert interpreting() == INTERPRETED


def test_every_row_is_accounted_for():
    tests = {match[1] + match[2].lstrip("0") for name in globals() if (match := re.match(r"test_([SF])(\d\d)_", name))}
    assert tests | NOT_HERE.keys() == set(ROWS)
    assert set(ROWS) - tests == {"F22"}
    assert (ROOT / "tests" / "test_gpu.py").exists()


# The equations, by hand. W, U and b are what a user of Flux has: gates in the rows, one bias.


def rnn_step(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(x @ W.T + h @ U.T + b)
    return h, h


def lstm_step(x: Tensor, state: tuple[Tensor, Tensor], W: Tensor, U: Tensor, b: Tensor):
    h, c = state
    i, f, g, o = (x @ W.T + h @ U.T + b).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, (h, c)


def gru_step(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The reset gate stands outside of the product."""
    (W_r, W_z, W_n), (U_r, U_z, U_n), (b_r, b_z, b_n) = (tensor.chunk(3) for tensor in (W, U, b))
    r = torch.sigmoid(x @ W_r.T + h @ U_r.T + b_r)
    z = torch.sigmoid(x @ W_z.T + h @ U_z.T + b_z)
    n = torch.tanh(x @ W_n.T + r * (h @ U_n.T) + b_n)
    h = (1 - z) * n + z * h
    return h, h


def gru_v3_step(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The reset gate stands inside of it."""
    (W_r, W_z, W_n), (U_r, U_z, U_n), (b_r, b_z, b_n) = (tensor.chunk(3) for tensor in (W, U, b))
    r = torch.sigmoid(x @ W_r.T + h @ U_r.T + b_r)
    z = torch.sigmoid(x @ W_z.T + h @ U_z.T + b_z)
    n = torch.tanh(x @ W_n.T + (r * h) @ U_n.T + b_n)
    h = (1 - z) * n + z * h
    return h, h


EQUATIONS = {"rnn": rnn_step, "lstm": lstm_step, "gru_flux": gru_step, "gru_v3": gru_v3_step}
every_cell = pytest.mark.parametrize("name", EQUATIONS)


def by_hand(name: str, layer: nn.Module) -> Callable:
    """A cell that computes a layer's equations with the layer's own parameters, two biases being one."""
    W, U, *biases = layer.parameters()
    return lambda x, state: EQUATIONS[name](x, state, W, U, sum(biases))


def loop(step: Callable, x, state) -> tuple[Tensor, object]:
    """The guide's: step by step, the outputs gathered in a list."""
    y = []
    for x_t in x:
        y_t, state = step(x_t, state)
        y.append(y_t)
    return torch.stack(y), state


# Numbers.


def random(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def state_of(name: str, *shape: int):
    return (random(*shape), random(*shape)) if name == "lstm" else random(*shape)


def flat(results) -> list[Tensor]:
    """The tensors of nested tuples and lists."""
    return [results] if isinstance(results, Tensor) else [tensor for part in results for tensor in flat(part)]


def gradients(results, tensors) -> list[Tensor]:
    """Of a sum in which every element has a weight of its own."""
    loss = sum(
        (tensor * torch.linspace(-1, 2, tensor.numel(), dtype=tensor.dtype).view(tensor.shape)).sum()
        for tensor in flat(results)
    )
    return list(torch.autograd.grad(loss, list(tensors), retain_graph=True))


def assert_same(got, want) -> None:
    """But for rounding in float64."""
    for one, other in zip(flat(got), flat(want), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def guide(module_of):
    """The module of examples/guide.toml: `Elman`, written by its equation, and the model `Guide`."""
    return module_of(GUIDE)


@pytest.fixture
def new(layer_of):
    """new("lstm", 2, 5, ...): a layer of the library in float64."""
    return lambda name, *sizes, **options: layer_of(name)(*sizes, **{"dtype": DTYPE} | options)


# ---- Recurrent cells ----


def test_S01_a_cell_by_its_equation(guide):
    """Weights have the names and shapes of the equation, and can be set by them."""
    cell = guide.Elman(I, H, dtype=DTYPE)
    assert not cell.b_l0.any()
    Wxh, Whh, b = random(H, I), random(H, H), random(H)
    with torch.no_grad():
        for name, values in {"Wxh": Wxh, "Whh": Whh, "b": b}.items():
            assert cell.block(name).shape == values.shape
            cell.block(name).copy_(values)
    x, h = random(I), random(H)
    y, _ = cell.step(x, h)
    assert_same(y, torch.tanh(Wxh @ x + Whh @ h + b))


def test_S02_a_step_gives_output_and_state(guide, new):
    """In the simplest cell they are the same numbers."""
    for cell in (guide.Elman(I, H, dtype=DTYPE), new("rnn", I, H)):
        y, h = cell.step(random(B, I), random(B, H))
        assert y.shape == (B, H) and h.shape == (1, B, H)
        assert torch.equal(y, h[0])


def test_S03_a_state_of_several_parts(new):
    cell, theirs = new("lstm", I, H), nn.LSTMCell(I, H, dtype=DTYPE)
    theirs.load_state_dict({key.removesuffix("_l0"): value for key, value in cell.state_dict().items()})
    x, state = random(B, I), state_of("lstm", B, H)
    y, (h, c) = cell.step(x, state)
    assert_same((y, (h[0], c[0])), (h[0], theirs(x, state)))
    assert cell.cell.states == ("h", "c")


@every_cell
def test_S04_a_step_without_a_batch(name, new):
    cell = new(name, I, H)
    x, state = random(I), state_of(name, H)
    y, after = cell.step(x, state)
    want, want_after = by_hand(name, cell)(x, state)
    assert y.shape == (H,)
    assert_same((y, flat(after)), (want, [part[None] for part in flat(want_after)]))


def test_S05_a_loop_over_a_list(guide):
    """It is differentiable, and the layer in one call gives the same."""
    cell = guide.Elman(I, H, dtype=DTYPE)
    x, h0 = [random(I) for _ in range(T)], random(H)
    y, h = [], h0
    for x_t in x:
        y_t, h = cell.step(x_t, h)
        y = [*y, y_t]
    want, _ = loop(by_hand("rnn", cell), x, h0)
    leaves = [*x, h0, *cell.parameters()]
    assert_same(y, list(want))
    assert_same(gradients(y, leaves), gradients(list(want), leaves))
    assert_same(cell(torch.stack(x), h0)[0], want)


def test_S06_an_initial_state_of_zeros(guide):
    cell = guide.Elman(I, H, dtype=DTYPE)
    x = random(I)
    want, _ = by_hand("rnn", cell)(x, torch.zeros(H, dtype=DTYPE))
    for given in ((torch.zeros(H, dtype=DTYPE),), (cell.initial_state(),), ()):
        assert_same(cell.step(x, *given)[0], want)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_S07_cells_of_the_library(name, new):
    """In the same loop, against torch's cells, which give the state alone."""
    cell, theirs = new(name.lower(), I, H), getattr(nn, f"{name}Cell")(I, H, dtype=DTYPE)
    theirs.load_state_dict({key.removesuffix("_l0"): value for key, value in cell.state_dict().items()})
    x = [random(B, I) for _ in range(T)]
    y, state = loop(cell.step, x, None)
    want, theirs_state = [], None
    for x_t in x:
        theirs_state = theirs(x_t, theirs_state)
        want.append(theirs_state[0] if name == "LSTM" else theirs_state)
    assert_same(y, torch.stack(want))
    assert_same([part[0] for part in flat(state)], flat(theirs_state))


@pytest.mark.parametrize("shape", [(T, I), (T, B, I)], ids=str)
def test_S08_all_outputs_or_the_last(shape, new):
    whole, last = new("lstm", I, H), new("lstm", I, H, last_only=True)
    last.load_state_dict(whole.state_dict())
    x = random(*shape)
    want, _ = loop(by_hand("lstm", whole), x, (torch.zeros(*shape[1:-1], H, dtype=DTYPE),) * 2)
    for got, layer in ((whole(x)[0][-1], whole), (last(x)[0], last)):
        assert got.shape == (*shape[1:-1], H)
        assert_same(got, want[-1])
        assert_same(gradients(got, [x, *layer.parameters()]), gradients(want[-1], [x, *whole.parameters()]))
    with torch.no_grad():
        assert_same(last(x)[0], want[-1])


# ---- A cell as a part of a model ----


class RecurrentCellModel(nn.Module):
    """The guide's: a number for each step, from a list of inputs; h0 is not trained."""

    def __init__(self, cell: nn.Module, hidden_size: int):
        super().__init__()
        self.register_buffer("h0", torch.zeros(hidden_size, dtype=DTYPE))
        self.cell = cell
        self.dense = nn.Linear(hidden_size, 1, dtype=DTYPE)

    def forward(self, x: list[Tensor]) -> Tensor:
        z, h = [], self.h0
        for x_t in x:
            z_t, h = self.cell.step(x_t, h)
            z.append(z_t)
        return self.dense(torch.stack(z))


@pytest.fixture
def model(guide) -> RecurrentCellModel:
    return RecurrentCellModel(guide.Elman(I, H, dtype=DTYPE), H)


def model_by_hand(model: RecurrentCellModel, x) -> Tensor:
    """What the model computes, without a layer and without a module."""
    W, U, b = model.cell.parameters()
    h, rows = model.h0, []
    for x_t in x:
        h = torch.tanh(x_t @ W.T + h @ U.T + b)
        rows.append(h @ model.dense.weight.T + model.dense.bias)
    return torch.stack(rows)


def test_S09_a_cell_in_a_model(model):
    assert [name for name, _ in model.named_parameters()] == [
        "cell.Wxh_l0",
        "cell.Whh_l0",
        "cell.b_l0",
        "dense.weight",
        "dense.bias",
    ]
    x = [random(B, I) for _ in range(T)]
    assert_same(model(x), model_by_hand(model, x))


def test_S10_an_initial_state_that_is_not_trained(guide):
    """A word says so; the state is saved, and moves with the model."""
    layer = guide.Elman(I, H, initial_state="buffer")
    assert "initial_h" in layer.state_dict()
    assert "initial_h" not in dict(layer.named_parameters())
    layer.initial_h.copy_(torch.linspace(-1, 1, H))
    layer.to(DTYPE)
    assert layer.initial_h.dtype == DTYPE and not layer.initial_h.requires_grad
    copied = guide.Elman(I, H, initial_state="buffer", dtype=DTYPE)
    copied.load_state_dict(layer.state_dict(), strict=True)
    x = random(T, B, I)
    want, _ = loop(by_hand("rnn", layer), x, layer.initial_h[0])
    assert_same(copied(x)[0], want)
    optimizer = torch.optim.SGD(copied.parameters(), lr=1.0)
    copied(x)[0].sum().backward()
    optimizer.step()
    assert torch.equal(copied.initial_h, layer.initial_h) and not torch.equal(copied.Whh_l0, layer.Whh_l0)


@every_cell
def test_S11_a_step_of_a_batch(name, new):
    """A vector is the state of every element, and its gradient their sum; afterwards each has its own."""
    cell = new(name, I, H)
    x, h0 = [random(B, I) for _ in range(T)], state_of(name, H)
    got, want = loop(cell.step, x, h0), loop(by_hand(name, cell), x, h0)
    assert all(part.shape == (1, B, H) for part in flat(got[1]))
    assert_same((got[0], [part[0] for part in flat(got[1])]), want)
    assert_same(gradients(got[0], flat(h0)), gradients(want[0], flat(h0)))
    wide = [part.detach().expand(B, H).clone().requires_grad_() for part in flat(h0)]
    y, _ = loop(cell.step, x, tuple(wide) if name == "lstm" else wide[0])
    assert_same([gradient.sum(0) for gradient in gradients(y, wide)], gradients(want[0], flat(h0)))


@pytest.mark.parametrize("shape", [(T, I), (T, B, I)], ids=str)
def test_S12_outputs_in_one_array(shape, new):
    layer = new("gru", I, H)
    x = random(*shape)
    y, _ = layer(x)
    assert y.shape == (*shape[:-1], H)
    assert_same(y, loop(layer.step, x, None)[0])


def test_S13_one_dense_layer_over_all_steps(guide):
    model = guide.Guide(dtype=DTYPE)
    for shape in ((T, B, I), (T, I)):
        x = random(*shape)
        got, _ = model(x)
        cell, dense = model.layers
        assert got.shape == (*shape[:-1], 1)
        assert_same(got, torch.stack([dense(z_t) for z_t in cell(x)[0]]))


def test_S14_a_loss_over_the_sequence(model):
    x, y = [random(B, I) for _ in range(T)], [random(B, 1) for _ in range(T)]
    loss = F.mse_loss(model(x), torch.stack(y))
    rows = zip(model_by_hand(model, x), y, strict=True)
    assert_same(loss, sum((row - y_t).square().sum() for row, y_t in rows) / (T * B))


def test_S15_the_gradient_of_the_whole_model(model):
    x, y = [random(B, I) for _ in range(T)], random(T, B, 1)
    F.mse_loss(model(x), y).backward()
    want = torch.autograd.grad(F.mse_loss(model_by_hand(model, x), y), list(model.parameters()))
    assert_same([parameter.grad for parameter in model.parameters()], want)
    assert model.h0.grad is None


def test_S16_the_optimiser(model):
    """AdamW's first step moves a weight by the rate in the direction of its gradient, and lets it decay."""
    x, y = [random(B, I) for _ in range(T)], random(T, B, 1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = F.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    for old, parameter in zip(before, model.parameters(), strict=True):
        g = parameter.grad
        assert_same(parameter, old * (1 - 1e-3 * 1e-2) - 1e-3 * g / (g.abs() + 1e-8))
    assert F.mse_loss(model(x), y) < loss


# ---- The whole sequence at once ----


@pytest.mark.parametrize("shape", [(T, I), (T, B, I)], ids=str)
@every_cell
def test_S17_the_whole_sequence_at_once(name, shape, new):
    layer = new(name, I, H)
    x, h0 = random(*shape), state_of(name, H)
    got, want = layer(x, h0), loop(by_hand(name, layer), x, h0)
    leaves = [x, *flat(h0), *layer.parameters()]
    assert_same((got[0], [part[0] for part in flat(got[1])]), want)
    assert_same(gradients(got, leaves), gradients((want[0], [part[None] for part in flat(want[1])]), leaves))


def test_S18_a_state_for_a_layer(guide):
    layer = guide.Elman(I, H, dtype=DTYPE)
    x, one, each = random(T, B, I), random(H), random(B, H)
    step = by_hand("rnn", layer)
    assert_same(layer(x, one)[0], loop(step, x, one)[0])
    assert_same(layer(x, each[None])[0], loop(step, x, each)[0])
    assert_same(layer(x[:, 0], one[None])[0], loop(step, x[:, 0], one)[0])
    with pytest.raises(RuntimeError, match=rf"h should also be 3-D of size \(1, {B}, {H}\)"):
        layer(x, each)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE], ids=str)
def test_S19_no_state_given(dtype, new):
    for name in EQUATIONS:
        layer = new(name, I, H, dtype=dtype)
        x = random(T, B, I, dtype=dtype)
        zeros = tuple(torch.zeros(1, B, H, dtype=dtype) for _ in layer.cell.states)
        (y, last), (want, _) = layer(x), layer(x, zeros if len(zeros) > 1 else zeros[0])
        assert torch.equal(y, want)
        assert {part.dtype for part in flat((y, last))} == {dtype}


def test_S20_training_of_the_layer(new):
    """Three steps of AdamW with torch's layer beside it: the same losses."""
    ours, theirs = new("rnn", I, H), nn.RNN(I, H, dtype=DTYPE)
    theirs.load_state_dict(ours.state_dict())
    dense = nn.Linear(H, 1, dtype=DTYPE)
    x, y, h0 = random(T, B, I), random(T, B, 1), torch.zeros(1, B, H, dtype=DTYPE)
    losses = []
    for layer, head in ((ours, dense), (theirs, copy.deepcopy(dense))):
        optimizer = torch.optim.AdamW([*layer.parameters(), *head.parameters()], lr=1e-2)
        losses.append([])
        for _ in range(3):
            loss = F.mse_loss(head(layer(x, h0)[0]), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.detach())
    assert_same(losses[0], losses[1])
    assert losses[0][2] < losses[0][0]


def test_S21_any_cell_as_a_layer(new):
    """A generated one, torch's, and a function of one's own."""
    layer = new("lstm", 2, 3)
    x = random(4, 3, 2)
    rnn = Recurrence(layer)
    assert rnn(x)[0].shape == (4, 3, 3)
    assert_same(rnn(x), layer(x))
    theirs = nn.LSTMCell(2, 3, dtype=DTYPE)
    theirs.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    y, state = Recurrence(theirs)(x)
    assert_same((y, [part[None] for part in state]), layer(x))
    zeros = torch.zeros(3, dtype=DTYPE)
    y, state = Recurrence(by_hand("lstm", layer))(x, (zeros, zeros))
    assert_same((y, [part[None] for part in state]), layer(x))


# ---- Stacks ----

STACK = """
name   = "stacked"
inputs = 3
[[layers]]
cell   = "lstm"
hidden = 5
[[layers]]
dropout = 0.5
[[layers]]
cell   = "lstm"
hidden = 5
"""


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_S22_a_stack_with_dropout(training, new, module_of):
    """In nn.Sequential or in a model file, against torch's layers with the same weights and the same drops."""
    lower, upper = nn.LSTM(3, 5, dtype=DTYPE), nn.LSTM(5, 5, dtype=DTYPE)
    stack = nn.Sequential(new("lstm", 3, 5, return_state=False), nn.Dropout(0.5), new("lstm", 5, 5, return_state=False))
    net = module_of(STACK).Stacked(dtype=DTYPE, return_state=False)
    for ours in (stack, net.layers):
        ours[0].load_state_dict(lower.state_dict())
        ours[2].load_state_dict(upper.state_dict())
    x = random(T, B, 3)
    torch.manual_seed(1)
    want, _ = upper(F.dropout(lower(x)[0], 0.5, training))
    leaves = [x, *lower.parameters(), *upper.parameters()]
    for ours in (stack, net):
        ours.train(training)
        torch.manual_seed(1)
        got = ours(x)
        assert_same(got, want)
        assert_same(gradients(got, [x, *ours.parameters()]), gradients(want, leaves))


def test_S23_dropout_in_training_alone(module_of):
    """Each element has a chance of its own, and what stays is scaled."""
    net = module_of(STACK).Stacked(dtype=DTYPE)
    seen = []
    net.layers[1].register_forward_hook(lambda module, args, y: seen.append((args[0], y)))
    x = random(8, B, 3)
    net.eval()(x)
    net.train()(x)
    (before, after), (_, dropped) = seen
    assert torch.equal(before, after)
    stays = dropped != 0
    assert torch.equal(dropped[stays], 2 * before[stays])
    assert 0.3 < stays.double().mean() < 0.7
    for axis in range(3):  # not by steps, nor by sequences, nor by features
        assert stays.unique(dim=axis).shape[axis] > 1


def test_S24_a_stack_without_a_batch(new, module_of):
    net = module_of(STACK).Stacked(dtype=DTYPE).eval()
    x = random(4, 3)
    y, _ = net(x)
    lower, _, upper = net.layers
    zeros = (torch.zeros(5, dtype=DTYPE),) * 2
    between, _ = loop(by_hand("lstm", lower), x, zeros)
    assert y.shape == (4, 5)
    assert_same(y, loop(by_hand("lstm", upper), between, zeros)[0])


def layers_of(stacked: nn.Module, single: Callable[[], nn.Module]) -> list[nn.Module]:
    """Single layers with the weights of the layers of one of several."""
    found = []
    for number in range(stacked.num_layers):
        mine = {key: w for key, w in stacked.state_dict().items() if key.endswith(f"_l{number}")}
        layer = single()
        layer.load_state_dict({key.replace(f"_l{number}", "_l0"): value for key, value in mine.items()})
        found.append(layer)
    return found


def test_S25_equal_layers(new):
    stacked, theirs = new("lstm", 3, 3, num_layers=2), nn.LSTM(3, 3, num_layers=2, dtype=DTYPE)
    theirs.load_state_dict(stacked.state_dict(), strict=True)
    x = random(T, B, 3)
    assert_same(stacked(x), theirs(x))
    y = x
    for layer in layers_of(stacked, lambda: new("lstm", 3, 3)):
        y, _ = layer(y)
    assert_same(stacked(x)[0], y)


@every_cell
def test_S26_the_initial_states_of_a_layer(name, new):
    layer = new(name, I, H, num_layers=2)
    states = layer.initial_state(B)
    assert isinstance(states, tuple) == (name == "lstm")
    for part in flat(states):
        assert part.shape == (2, B, H) and part.dtype == DTYPE and not part.any()
    assert all(part.shape == (2, H) for part in flat(layer.initial_state()))
    x = random(T, B, I)
    assert_same(layer(x, states), layer(x))


def test_S27_initial_states_that_are_trained(new):
    """One for each layer and part of the state."""
    layer = new("lstm", 3, 3, num_layers=2, initial_state="learned")
    assert layer.initial_h.shape == layer.initial_c.shape == (2, 3)
    assert {"initial_h", "initial_c"} < dict(layer.named_parameters()).keys()
    with torch.no_grad():
        layer.initial_h.copy_(random(2, 3))
        layer.initial_c.copy_(random(2, 3))
    x = random(T, B, 3)
    y = x
    for number, single in enumerate(layers_of(layer, lambda: new("lstm", 3, 3))):
        y, _ = loop(by_hand("lstm", single), y, (layer.initial_h[number], layer.initial_c[number]))
    states = [layer.initial_h, layer.initial_c]
    assert_same(layer(x)[0], y)
    assert_same(gradients(layer(x)[0], states), gradients(y, states))


def test_S28_a_loop_over_layers_and_states(new, module_of):
    layers = [new("lstm", 3, 3) for _ in range(2)]
    states = [state_of("lstm", 3) for _ in layers]
    x = random(10, 3)
    want = y = x
    for layer, state in zip(layers, states, strict=True):
        y, _ = layer(y, state)
        want, _ = loop(by_hand("lstm", layer), want, state)
    assert_same(y, want)
    assert_same(gradients(y, flat(states)), gradients(want, flat(states)))
    net = module_of(STACK.replace("hidden = 5", "hidden = 3")).Stacked(dtype=DTYPE).eval()
    net.layers[0].load_state_dict(layers[0].state_dict())
    net.layers[2].load_state_dict(layers[1].state_dict())
    assert_same(net(x, states)[0], want)


def test_S29_weights_are_shared_over_time(guide):
    """Their gradient is the sum of what each step would give to weights of its own."""
    layer = guide.Elman(I, H, dtype=DTYPE)
    x, h0 = random(T, B, I), random(H)
    copies = [[weight.detach().clone().requires_grad_() for weight in layer.parameters()] for _ in range(T)]
    h, y = h0, []
    for x_t, (W, U, b) in zip(x, copies, strict=True):
        y_t, h = rnn_step(x_t, h, W, U, b)
        y.append(y_t)
    each = gradients(torch.stack(y), flat(copies))
    want = [sum(each[number::3]) for number in range(3)]
    assert_same(gradients(layer(x, h0)[0], layer.parameters()), want)


@every_cell
def test_S30_no_state_hides_in_a_layer(name, new):
    layer = new(name, I, H)
    x = random(T, B, I)
    inside = copy.deepcopy(layer.state_dict())
    (y, _), (again, _) = layer(x), layer(x)
    assert torch.equal(y, again)
    assert layer.state_dict().keys() == inside.keys()
    assert all(torch.equal(value, inside[key]) for key, value in layer.state_dict().items())
    first, state = layer(x[:1])
    rest, _ = layer(x[1:], state)
    assert_same(torch.cat((first, rest)), y)


# ---- What the code behind the guide does ----


@every_cell
def test_F01_return_state(name, new):
    layer, plain = new(name, I, H), new(name, I, H, return_state=False)
    plain.load_state_dict(layer.state_dict())
    x, h0 = random(T, B, I), state_of(name, H)
    y, last = layer(x, h0)
    assert isinstance(last, tuple) == (name == "lstm")
    assert all(part.shape == (1, B, H) for part in flat(last))
    assert_same([part[0] for part in flat(last)], loop(by_hand(name, layer), x, h0)[1])
    assert torch.equal(plain(x, h0), y)


def test_F02_no_bias(new, guide):
    """An array fewer; and a bias of one's own takes the place of a drawn one, if its size is right."""
    for name in EQUATIONS:
        layer, plain = new(name, I, H), new(name, I, H, bias=False)
        biases = [key for key in layer.state_dict() if key.startswith("bias")]
        assert layer.state_dict().keys() - plain.state_dict().keys() == set(biases)
        layer.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            for key in biases:
                getattr(layer, key).zero_()
        x = random(T, B, I)
        assert_same(plain(x), layer(x))
    assert len(list(new("gru_flux", I, H).parameters())) == 3
    assert len(list(guide.Elman(I, H, bias=False).parameters())) == 2
    mine = np.arange(3.0 * H)
    layer = new("gru_flux", I, H, init={"bias": lambda bias: bias.copy_(torch.from_numpy(mine))}, dtype=torch.float32)
    assert layer.bias_l0.dtype == torch.float32 and np.array_equal(layer.bias_l0.detach().numpy(), mine)
    with pytest.raises(RuntimeError, match="size"):
        new("gru_flux", I, H, init={"bias": lambda bias: bias.copy_(torch.zeros(H))})


ACTIVE = """
name   = "active"
inputs = 2
[[layers]]
cell   = "{cell}"
hidden = 5
activations = {{ act = "{act}" }}
[cells.own]
states = ["h"]
activations = {{ act = "tanh" }}
step   = "h' = act(W @ x + U @ h + b)"
[cells.own.parameters]
weight_ih = {{ shape = ["hidden", "inputs"], blocks = ["W"] }}
weight_hh = {{ shape = ["hidden", "hidden"], blocks = ["U"] }}
bias = {{ shape = ["hidden"], blocks = ["b"] }}
"""


@pytest.mark.parametrize("act", ["relu", "softsign", "gelu"])
def test_F03_any_activation(act, module_of):
    """By name, of a cell of one's own and of the library's."""
    text = ACTIVE.format(cell="own", act=act)
    own = module_of(text).Active(dtype=DTYPE).layers[0]
    library_text = text[: text.index("[cells.own]")].replace('"own"', '"rnn"')
    ready = module_of(library_text).Active(dtype=DTYPE).layers[0]
    x, h0 = random(T, B, I), random(H)
    for layer in (own, ready):
        W, U, *biases = layer.parameters()
        y, h = [], h0
        for x_t in x:
            h = getattr(F, act)(x_t @ W.T + h @ U.T + sum(biases))
            y.append(h)
        got, want = layer(x, h0)[0], torch.stack(y)
        assert_same(got, want)
        assert_same(gradients(got, [x, *layer.parameters()]), gradients(want, [x, *layer.parameters()]))
    if act == "relu":
        theirs = nn.RNN(I, H, nonlinearity="relu", dtype=DTYPE)
        theirs.load_state_dict(ready.state_dict(), strict=True)
        assert_same(ready(x), theirs(x))


@once
def test_F04_initialisers(layer_of):
    """Of the stacked matrix, as in Flux, or of each gate."""
    LSTM = layer_of("lstm")
    size, width = 40, 30
    stacked = LSTM(size, width, init={"weight_ih": "xavier_uniform", "weight_hh": "orthogonal", "bias_ih": "zeros"})
    bound = math.sqrt(6 / (4 * width + size))
    assert 0.98 * bound < stacked.weight_ih_l0.abs().max() <= bound
    identity = torch.eye(width)
    torch.testing.assert_close(stacked.weight_hh_l0.T @ stacked.weight_hh_l0, identity, atol=1e-5, rtol=0)
    assert not stacked.bias_ih_l0.any() and stacked.bias_hh_l0.any()
    gates = LSTM(size, width, init={"W_g": "xavier_uniform", "U_g": nn.init.orthogonal_})
    wider = math.sqrt(6 / (width + size))
    assert 0.98 * wider < gates.block("W_g").abs().max() <= wider
    torch.testing.assert_close(gates.block("U_g").T @ gates.block("U_g"), identity, atol=1e-5, rtol=0)
    usual = 1 / math.sqrt(width)
    for parameter in LSTM(size, width).parameters():
        assert 0.9 * usual < parameter.abs().max() <= usual


@once
def test_F05_the_bias_of_the_forget_gate(layer_of):
    """Flux has none; here it is a word."""
    layer = layer_of("lstm")(I, 100, init={"b_if": 1.0, "b_hf": 0.0})
    assert (layer.block("b_if") == 1).all() and not layer.block("b_hf").any()
    assert (layer.bias_ih_l0[100:200] == 1).all()  # the second gate of four
    assert (layer.block("b_ii") != 1).all()


def test_F06_gru_flux(new):
    """The reset gate outside of the product, and one bias: torch's GRU whose second bias is zero."""
    layer, theirs = new("gru_flux", I, H), nn.GRU(I, H, dtype=DTYPE)
    weights = {key: value for key, value in layer.state_dict().items() if key != "bias_l0"}
    zeros = torch.zeros_like(layer.bias_l0)
    theirs.load_state_dict({**weights, "bias_ih_l0": layer.bias_l0, "bias_hh_l0": zeros}, strict=True)
    x, h0 = random(T, B, I), random(1, B, H)
    got, want = layer(x, h0), theirs(x, h0)
    assert_same(got, want)
    ours = gradients(got, [x, h0, *layer.parameters()])
    assert_same(ours, gradients(want, [x, h0, theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0]))
    assert_same(got[0], loop(by_hand("gru_flux", layer), x, h0[0])[0])
    # That torch's own second bias is not the first one's twin: in the last gate it stands inside the reset.
    gru = new("gru", I, H)
    gru.load_state_dict({**weights, "bias_ih_l0": zeros, "bias_hh_l0": layer.bias_l0})
    assert not torch.allclose(gru(x, h0)[0], got[0])


def test_F07_gru_v3(new):
    """The reset gate inside of the product."""
    layer = new("gru_v3", I, H)
    assert [tuple(parameter.shape) for parameter in layer.parameters()] == [(3 * H, I), (3 * H, H), (3 * H,)]
    x, h0 = random(T, B, I), random(H)
    leaves = [x, h0, *layer.parameters()]
    got, want = layer(x, h0)[0], loop(by_hand("gru_v3", layer), x, h0)[0]
    assert_same(got, want)
    assert_same(gradients(got, leaves), gradients(want, leaves))
    assert not torch.allclose(got, loop(by_hand("gru_flux", layer), x, h0)[0])


@pytest.mark.parametrize("name", SAMPLE)
def test_F08_no_state_is_a_state_of_zeros(name, new):
    cell = new(name, I, H)
    for x in (random(B, I), random(I)):
        zeros = tuple(torch.zeros(H, dtype=DTYPE) for _ in cell.cell.states)
        got, want = cell.step(x), cell.step(x, zeros if len(zeros) > 1 else zeros[0])
        assert all(torch.equal(one, other) for one, other in zip(flat(got), flat(want), strict=True))


@pytest.mark.parametrize("wanted", [False, True], ids=["inference", "training"])
@every_cell
def test_F09_output_and_state_have_their_own_memory(name, wanted, new):
    layer = new(name, I, H)
    with torch.set_grad_enabled(wanted):
        y, last = layer(random(T, B, I))
    (h, *_) = flat(last)
    assert torch.equal(y[-1], h[0])
    kept = h.detach().clone()
    y.detach().zero_()
    assert torch.equal(h, kept)


def last_state(cell: Callable, x: list[Tensor], h0) -> list[Tensor]:
    """Only the state after the last step counts."""
    state = h0
    for x_t in x:
        _, state = cell(x_t, state)
    return [part.reshape(-1, H) for part in flat(state)]


def each_from_h0(cell: Callable, x: list[Tensor], h0) -> list[Tensor]:
    """Steps that do not follow one another."""
    return [cell(x_t, h0)[0] for x_t in x]


def appended(cell: Callable, x: list[Tensor], h0) -> list[Tensor]:
    y, state = [], h0
    for x_t in x:
        y_t, state = cell(x_t, state)
        y.append(y_t)
    return y


def concatenated(cell: Callable, x: list[Tensor], h0) -> list[Tensor]:
    """One array that grows."""
    y, state = x[0].new_zeros(0, *x[0].shape[:-1], H), h0
    for x_t in x:
        y_t, state = cell(x_t, state)
        y = torch.cat((y, y_t[None]))
    return [y]


@pytest.mark.parametrize("style", [last_state, each_from_h0, appended, concatenated])
@pytest.mark.parametrize(
    ("batch", "state"), [((B,), ()), ((B,), (B,)), ((), ())], ids=["one h0 for a batch", "an h0 for each", "no batch"]
)
@every_cell
def test_F10_gradients_of_loops(name, batch, state, style, new):
    """Of parameters, every x_t and h0."""
    cell = new(name, I, H)
    x, h0 = [random(*batch, I) for _ in range(2)], state_of(name, *state, H)
    leaves = [*x, *flat(h0), *cell.parameters()]
    got, want = style(cell.step, x, h0), style(by_hand(name, cell), x, h0)
    assert_same(got, [part.reshape(got[0].shape) for part in want])
    assert_same(gradients(got, leaves), gradients(want, leaves))


@once
@every_cell
def test_F11_sizes_that_do_not_fit(name, new):
    """Of the input, and of each part of the state: who says it, what was expected, what came."""
    layer = new(name, I, H)
    title = type(layer).__name__
    with pytest.raises(RuntimeError, match=rf"{title}: .*input_size. Expected {I}, got {I + 1}"):
        layer(random(T, B, I + 1))
    with pytest.raises(RuntimeError, match=rf"{title}: .*input_size. Expected {I}, got {I + 1}"):
        layer.step(random(I + 1))
    for call in (layer, layer.step):
        with pytest.raises(ValueError, match=rf"{title}.*: Expected input to be .* got 4D"):
            call(random(1, T, B, I))
    for number, part in enumerate(layer.cell.states):
        states = [random(1, B, H) for _ in layer.cell.states]
        states[number] = random(1, B, H + 1)
        given = tuple(states) if len(states) > 1 else states[0]
        for call in (lambda given: layer(random(T, B, I), given), lambda given: layer.step(random(B, I), given)):
            message = rf"{title}: Expected {part} size \(1, {B}, {H}\), got \(1, {B}, {H + 1}\)"
            with pytest.raises(RuntimeError, match=message):
                call(given)


def test_F12_initial_states_of_whatever_recurs(new, module_of):
    """A layer, a wrapped cell and a stack."""
    layer = new("lstm", I, H)
    for asked in (layer, Recurrence(layer)):
        assert [part.shape for part in asked.initial_state(B)] == [(1, B, H)] * 2
        assert [part.shape for part in asked.initial_state()] == [(1, H)] * 2
    net = module_of(STACK).Stacked(dtype=DTYPE).eval()
    states = net.initial_state(B)
    assert [[part.shape for part in state] for state in states] == [[(1, B, 5)] * 2] * 2
    x = random(T, B, 3)
    assert_same(net(x, states), net(x))


@every_cell
def test_F13_a_wrapped_cell_is_its_layer(name, new):
    layer = new(name, I, H)
    x, h0 = random(T, B, I), state_of(name, H)
    leaves = [x, *flat(h0), *layer.parameters()]
    got, want = Recurrence(layer)(x, h0), layer(x, h0)
    assert_same(got, want)
    assert_same(gradients(got, leaves), gradients(want, leaves))
    y = Recurrence(layer, return_state=False)(x[:, 0], h0)
    assert y.shape == (T, H)
    assert_same(y, layer(x[:, 0], h0)[0])


def test_F14_a_layer_is_its_cell(new):
    """Nothing is to be made of anything else: `step` and the call have the same weights."""
    layer = new("gru", I, H)
    x = random(T, B, I)
    layer.step(x[0])[0].sum().backward()
    by_step = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    layer(x[:1])[0].sum().backward()
    assert_same([parameter.grad for parameter in layer.parameters()], by_step)
    assert {id(p) for p in Recurrence(layer).parameters()} == {id(p) for p in layer.parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE, torch.bfloat16], ids=str)
def test_F15_states_are_of_the_type_of_the_weights(dtype, new):
    layer = new("lstm", I, H, dtype=dtype)
    assert {part.dtype for part in layer.initial_state(B)} == {dtype}
    assert {part.dtype for part in flat(layer(random(T, B, I, dtype=dtype)))} == {dtype}
    assert {part.device.type for part in new("lstm", I, H, device="meta").initial_state(B)} == {"meta"}


def test_F16_types_do_not_mix(new):
    """But under autocast, whose type the result has."""
    layer = new("lstm", I, H, dtype=torch.float32)
    x = random(T, B, I)
    with pytest.raises(
        ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)"
    ):
        layer(x)
    want, _ = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x.to(torch.bfloat16))
    assert {part.dtype for part in flat((y, state))} == {torch.bfloat16}
    torch.testing.assert_close(y.float(), want, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_F17_a_layer_of_another_type_keeps_its_options(dtype, new):
    layer = new("gru", I, H, return_state=False)
    said = repr(layer)
    x = random(T, B, I)
    want = layer(x)
    y = layer.to(dtype)(x.to(dtype))
    assert isinstance(y, Tensor) and y.dtype == dtype and repr(layer) == said
    torch.testing.assert_close(y.double(), want, rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_F18_functions_are_right_to_the_last_places(function, module_of):
    """In float32, from where they are linear to where they are flat."""
    text = ACTIVE.format(cell="own", act=function)
    layer = module_of(text).Active(dtype=torch.float32).layers[0]
    values = torch.cat([sign * torch.logspace(-6, 1.3, 200) for sign in (-1.0, 1.0)])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.block("W")[:, 0] = 1.0
        y, _ = layer(torch.stack((values, torch.zeros_like(values)), -1)[None])
    want = getattr(torch, function)(values.double())
    error = (y[0, :, 0].double() - want).abs() / want
    # An exponential multiplies the rounding of its argument by that argument.
    assert (error.abs() < (2 + values.abs()) * torch.finfo(torch.float32).eps).all()


@once
def test_F19_what_is_printed(guide, layer_of):
    cell = guide.Elman(4, 6)
    assert repr(cell) == "Elman(4, 6, parameters=66)"
    assert sum(parameter.numel() for parameter in cell.parameters()) == 4 * 6 + 6 * 6 + 6
    assert "(lstm): LSTM(2, 5, num_layers=2, parameters=420)" in repr(
        nn.ModuleDict({"lstm": layer_of("lstm")(I, H, num_layers=2)})
    )
    assert "Linear(in_features=5, out_features=1" in repr(guide.Guide())


@once
def test_F20_shapes_without_numbers(layer_of, module_of):
    layer = layer_of("rnn")(2, 3, device="meta")
    y, h = layer(torch.empty(4, 2, device="meta"))
    assert y.is_meta and y.shape == (4, 3) and h.shape == (1, 3)
    with FakeTensorMode():
        net = module_of(STACK).Stacked()
        y, states = net(torch.empty(T, B, 3))
        assert [part.shape for part in flat(states)] == [(1, B, 5)] * 4
        y.sum().backward()
        assert all(parameter.grad.shape == parameter.shape for parameter in net.parameters())
    assert y.shape == (T, B, 5)


def chain(names: list[str], new: Callable) -> nn.Module:
    """Layers of width 3, one above another."""
    return nn.Sequential(*(new(name, 3 if above else I, 3, return_state=False) for above, name in enumerate(names)))


@pytest.mark.parametrize("names", [*([name] for name in EQUATIONS), ["lstm", "rnn"]], ids=", ".join)
def test_F21_derivatives(names, new):
    """By finite differences."""
    model = chain(names, new)
    weights = dict(model.named_parameters())

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(model, dict(zip(weights, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (random(2, 2, I), *weights.values()), fast_mode=True)


@every_cell
def test_F21_torch_func(name, new):
    layer = new(name, I, 3)
    x = random(2, 2, I)

    def loss(x: Tensor) -> Tensor:
        return layer.reference(x)[0].square().sum()

    assert_same(torch.func.grad(loss)(x), torch.autograd.grad(layer(x)[0].square().sum(), x)[0])
    along = torch.randn_like(x)
    _, slope = torch.func.jvp(loss, (x,), (along,))
    assert_same(slope, (torch.func.grad(loss)(x) * along).sum())


def test_F21_compiled(new):
    torch._dynamo.reset()
    model = chain(["gru_flux", "lstm"], new)
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = random(T, B, I)
    leaves = [x, *model.parameters()]
    assert_same(fast(x), model(x))
    assert_same(gradients(fast(x), leaves), gradients(model(x), leaves))


def test_F23_modules_within_modules(guide, layer_of):
    """They are found; one that is there twice counts once, and gets both gradients."""
    layer = layer_of("lstm")(3, 3, return_state=False, dtype=DTYPE)
    model = nn.Sequential(nn.Linear(3, 3, dtype=DTYPE), nn.BatchNorm1d(4), layer)
    assert layer in set(model.modules())
    twice = nn.Sequential(layer, layer)
    assert len(list(twice.parameters())) == len(list(layer.parameters())) == 4
    x = random(T, B, 3)
    other = copy.deepcopy(layer)
    each = gradients(other(layer(x)), [*layer.parameters(), *other.parameters()])
    assert_same(gradients(twice(x), layer.parameters()), [a + b for a, b in zip(each[:4], each[4:], strict=True)])


def test_F24_clipped_gradients(new):
    """With torch's layer beside it."""
    ours, theirs = new("rnn", I, H), nn.RNN(I, H, dtype=DTYPE)
    theirs.load_state_dict(ours.state_dict())
    x = random(T, B, I)
    norms = []
    for layer in (ours, theirs):
        layer(x)[0].square().sum().backward()
        norms.append(nn.utils.clip_grad_norm_(layer.parameters(), 0.1))
    assert norms[0] > 0.1
    assert_same(norms[0], norms[1])
    found, want = ([parameter.grad for parameter in layer.parameters()] for layer in (ours, theirs))
    assert_same(found, want)
    assert sum(gradient.square().sum().item() for gradient in found) == pytest.approx(0.1**2)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # of torch's own
def test_F25_what_flux_does_not_have(new):
    """Both directions, several layers with dropout, a projection, and sequences of different lengths: as in torch."""
    options = {"num_layers": 2, "dropout": 0.5, "bidirectional": True, "proj_size": 2}
    ours, theirs = new("lstm", I, H, **options), nn.LSTM(I, H, dtype=DTYPE, **options)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = pack_sequence([random(length, I) for length in (2, 3, 1)], enforce_sorted=False)
    (y, state), (want, want_state) = ours.eval()(x), theirs.eval()(x)
    assert_same((y.data, state), (want.data, want_state))
    assert torch.equal(y.batch_sizes, want.batch_sizes)
    assert_same(gradients(y.data, ours.parameters()), gradients(want.data, theirs.parameters()))
    whole, results = random(2, B, I), []
    for layer in (ours, theirs):
        torch.manual_seed(1)
        results.append(layer.train()(whole))
    assert_same(*results)


@once
def test_F26_a_cell_gives_a_pair():
    """A wrapped cell that gives its state alone is told what was expected."""
    assert "y_t, state = cell(x_t, state)" in Recurrence.__doc__
    with pytest.raises(TypeError, match=r"pair \(output, state\), got a Tensor"):
        Recurrence(lambda x, state: torch.tanh(x))(random(T, B, I))
    y, state = Recurrence(lambda x, state: (2 * x, x))(x := random(T, B, I))
    assert torch.equal(y, 2 * x) and torch.equal(state, x[-1])


@once
def test_F27_a_dead_weight_is_a_mistake(module_of):
    """What Flux's GRUv3 has: a third block beside the matrix that is used."""
    text = library()["gru_v3"].text
    dead = text.replace('blocks = ["U_r", "U_z", "U_n"]', 'blocks = ["U_r", "U_z", "U_dead"]')
    dead = f'{dead}weight_hn = {{ shape = ["hidden", "hidden"], blocks = ["U_n"] }}\n'
    with pytest.raises(ModelError, match="U_dead"):
        module_of(dead)


def test_F28_nothing_to_read(new, guide):
    layer = new("lstm", I, H)
    for empty in (layer, Recurrence(layer), guide.Guide(dtype=DTYPE)):
        with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
            empty(random(0, B, I))
    y, (h, c) = layer(random(T, 0, I))
    assert y.shape == (T, 0, H) and h.shape == c.shape == (1, 0, H)


class Operators(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found.append(function)
        return function(*args, **(kwargs or {}))


@every_cell
def test_F29_one_operator_for_all_steps(name, new):
    """And one for the way back, however long the sequence is."""
    layer = new(name, I, H)
    counts = []
    for time in (2, 9):
        x = random(time, B, I)
        with Operators() as operators:
            torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])
        counts.append(len(operators.found))
        assert [f.namespace for f in operators.found].count("rnngen") == 2
    assert counts[0] == counts[1]


# ---- The pages for those who come from elsewhere ----


FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def page(monkeypatch, tmp_path, module_of):
    """page(name): runs the blocks of a page of docs, and gives the names that they leave behind.

    Modules that its commands compile can be imported, and it finds its files in the working directory.
    """
    monkeypatch.chdir(tmp_path)

    def page(name: str) -> dict[str, object]:
        names: dict[str, object] = {}
        texts = {}
        for language, body in FENCED.findall((ROOT / "docs" / name).read_text(encoding="utf-8")):
            if language == "toml":
                texts[re.search(r'^name\s*= "(\w+)"', body, re.MULTILINE)[1]] = body
            elif language == "sh":
                (models,) = re.findall(r"^rnngen compile (.*?)(?: #.*)?$", body, re.MULTILINE)
                for model in models.split():
                    key = model.removesuffix(".toml")
                    monkeypatch.setitem(sys.modules, key, module_of(texts.get(key, key)))
            else:
                assert language == "python"
                exec(compile(body, name, "exec"), names)
        return names

    return page


def test_the_page_for_users_of_flux(page, tmp_path):
    """Arrays as a user of Flux has them, saved in Julia's order, give the layers what Flux's equations give."""

    def drawn(*shape: int) -> np.ndarray:
        return np.asfortranarray(random(*shape).detach().float().numpy())

    arrays = {}
    for cell, gates in (("lstm", 4), ("gru", 3), ("gruv3", 3)):
        arrays |= {f"{cell}_Wi": drawn(gates * H, I), f"{cell}_Wh": drawn(gates * H, H), f"{cell}_b": drawn(gates * H)}
    arrays["gruv3_Wh_h"] = drawn(H, H)
    arrays["x"] = drawn(I, T, B)
    np.savez(tmp_path / "flux.npz", **arrays)
    names = page("from_flux.md")

    numbers = {key: torch.from_numpy(value.copy()).double() for key, value in arrays.items()}
    x = numbers["x"].permute(1, 2, 0)
    v3 = torch.cat((numbers["gruv3_Wh"][: 2 * H], numbers["gruv3_Wh_h"]))
    zeros = torch.zeros(B, H, dtype=DTYPE)
    for key, step, recurrent, state in (
        ("lstm", lstm_step, numbers["lstm_Wh"], (zeros, zeros)),
        ("gru", gru_step, numbers["gru_Wh"], zeros),
        ("gruv3", gru_v3_step, v3, zeros),
    ):
        want, _ = loop(
            lambda x, s, step=step, key=key, U=recurrent: step(x, s, numbers[f"{key}_Wi"], U, numbers[f"{key}_b"]),
            x,
            state,
        )
        torch.testing.assert_close(names[f"y_{key}"].double(), want.permute(2, 0, 1), rtol=1e-5, atol=1e-5)


def test_the_page_for_users_of_torch(page):
    names = page("from_torch.md")
    assert names["ours"].state_dict().keys() == names["theirs"].state_dict().keys()
    x = torch.randn(T, B, 8)
    torch.testing.assert_close(names["ours"](x), names["theirs"](x), rtol=1e-5, atol=1e-6)
