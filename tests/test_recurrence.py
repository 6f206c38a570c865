"""`Recurrence`: a cell in Python with the calls of a layer, against generated layers and torch's."""

import cells
import pytest
import torch
from test_runtime import assert_equal, flat, gradients, new_layer, random, state_for
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnngen.runtime import Recurrence

I, H, T, B = 3, 4, 5, 4
LENGTHS = torch.tensor([3, T, 1, 4])


class Leaky(nn.Module):
    """A cell as somebody writes it: a module with two states in a dict."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(I, H, dtype=torch.float64), nn.Linear(H, H, dtype=torch.float64)

    def initial_state(self, batch=None):
        shape = (H,) if batch is None else (batch, H)
        return {"h": torch.zeros(shape, dtype=torch.float64), "count": torch.zeros(shape, dtype=torch.float64)}

    def forward(self, x, state):
        h = 0.7 * state["h"] + 0.3 * torch.tanh(self.inner(x) + self.outer(state["h"]))
        return 2 * h, {"h": h, "count": state["count"] + 1}


@pytest.mark.parametrize("name", cells.SAMPLE)
def test_of_a_generated_cell(name, layer_of):
    layer = new_layer(name, layer_of)
    wrapped = Recurrence(layer)
    x, state = random(T, B, I).requires_grad_(), state_for(layer, 1, B)
    leaves = [x, *layer.parameters()]
    got, want = wrapped(x, state), layer(x, state)
    assert_equal(got, want)
    assert_equal(gradients(got, leaves), gradients(want, leaves))
    assert_equal(wrapped(x), layer(x))
    assert_equal(wrapped(x[:, 0]), layer(x[:, 0]))
    assert_equal(wrapped.initial_state(B), layer.initial_state(B))
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    (y, last), (want_y, want_last) = wrapped(packed), layer(packed)
    assert_equal((y.data, last), (want_y.data, want_last))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_of_torchs_cells(kind):
    torch.manual_seed(0)
    cell, layer = getattr(nn, f"{kind}Cell")(I, H), getattr(nn, kind)(I, H)
    layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    wrapped = Recurrence(cell)
    x = torch.randn(T, B, I)
    (y, last), (want, want_last) = wrapped(x), layer(x)
    torch.testing.assert_close(y, want)
    for got, state in zip(flat(last), flat(want_last), strict=True):
        torch.testing.assert_close(got, state[0])
    assert [key.removeprefix("cell.") for key in wrapped.state_dict()] == list(cell.state_dict())


def test_of_a_module():
    torch.manual_seed(0)
    cell = Leaky()
    wrapped = Recurrence(cell)
    x, state, rows = random(T, B, I), cell.initial_state(B), []
    for row in x:
        y, state = cell(row, state)
        rows.append(y)
    got, last = wrapped(x)
    assert_equal((got, last["h"], last["count"]), (torch.stack(rows), state["h"], state["count"]))
    turned = Recurrence(cell, batch_first=True, return_state=False)
    assert_equal(turned(x.transpose(0, 1)), got.transpose(0, 1))
    assert_equal(wrapped.step(x[0])[0], got[0])
    assert_equal(wrapped(x[:, 1])[0], got[:, 1])


def test_of_sequences_of_different_lengths():
    torch.manual_seed(0)
    wrapped = Recurrence(Leaky())
    x = random(T, B, I)
    y, last = wrapped(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    rows, lengths = pad_packed_sequence(y)
    assert torch.equal(lengths, LENGTHS)
    for number, length in enumerate(LENGTHS):
        want, state = wrapped(x[:length, number])
        assert_equal(rows[:length, number], want)
        assert_equal(last["h"][number], state["h"])
        assert (last["count"][number] == length).all()


def test_of_a_stack(module_of):
    text = "name = 'net'\ninputs = 3\n[[layers]]\ncell = 'lstm'\nhidden = 4\n[[layers]]\ncell = 'gru'\nhidden = 2\n"
    net = module_of(text).Net(dtype=torch.float64)
    x = random(T, B, I)
    assert_equal(Recurrence(net)(x), net(x))


def test_padding_has_no_gradient_that_is_no_number():
    weight = random(H).abs().requires_grad_()

    def cell(x, state):
        v = torch.log(weight[:I] * x)
        return v, v

    y, _ = Recurrence(cell)(pack_padded_sequence(random(T, B, I).abs(), LENGTHS, enforce_sorted=False))
    y.data.sum().backward()
    assert weight.grad.isfinite().all()


def test_of_a_function():
    def cell(x, state):
        total = x if state is None else state + x
        return total, total

    x = random(T, B, I)
    y, last = Recurrence(cell)(x)
    assert_equal((y, last), (x.cumsum(0), x.sum(0)))


def test_mistakes(layer_of):
    with pytest.raises(TypeError, match="Expected a cell that can be called, got int"):
        Recurrence(3)
    with pytest.raises(TypeError, match=r"nn\.GRU takes whole sequences already; its cell is nn\.GRUCell"):
        Recurrence(nn.GRU(I, H))
    with pytest.raises(TypeError, match=r"Expected the cell to give a pair \(output, state\), got a Tensor"):
        Recurrence(lambda x, state: x)(random(T, B, I))
    with pytest.raises(ValueError, match="Recurrence: a GRU with reverse needs the whole sequence"):
        Recurrence(layer_of("gru")(I, H, reverse=True))
    with pytest.raises(ValueError, match="Recurrence: a GRU with last_only needs the whole sequence"):
        Recurrence(layer_of("gru")(I, H, last_only=True))
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D, got 1D instead"):
        Recurrence(Leaky())(random(I))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
        Recurrence(Leaky())(random(0, B, I))
