"""Dimensions of a cell of its own as arguments of its class, as widths of states, and in stacks; several outputs."""

import pytest
import torch
from cells import ALL, LIBRARY, forms

from rnngen.verify import _cases

STACK = """
name   = "speech"
inputs = 3

[[layers]]
cell   = "lstmp"
hidden = 8
sizes  = { proj = 5 }
bidirectional = true

[[layers]]
cell   = "rotation_mingru"
hidden = 4
num_layers = 2

[[layers]]
cell   = "low"
hidden = 6

[[layers]]
dense = 2

[cells.low]
states = ["h"]
sizes  = { rank = 2 }
step   = "h' = tanh(W @ x + U @ (V @ h))"

[cells.low.parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["rank", "hidden"], blocks = ["V"] }
weight_rh = { shape = ["hidden", "rank"], blocks = ["U"] }
"""


# Its layers of num_layers share an x of 5 features only by the size that the layer gives it.
SHARED = """
name   = "shared"
inputs = 5

[[layers]]
cell       = "narrow"
hidden     = 8
sizes      = { proj = 5 }
num_layers = 2

[cells.narrow]
states = { r = { shape = ["proj"] }, c = { shape = ["hidden"] } }
sizes  = { proj = 3 }
step   = '''
c' = tanh(W @ x + X @ lag(x) + U @ r) + 0.5 * c
r' = V @ c'
'''

[cells.narrow.parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "X"] }
weight_hh = { shape = ["hidden", "proj"], blocks = ["U"] }
weight_ho = { shape = ["proj", "hidden"], blocks = ["V"] }
"""

PAIR = """
name   = "pair"
states = ["p", "q"]
inputs = { x = { shape = ["hidden"] } }
output = ["p'", "q'"]
step   = '''
p' = tanh(x + M @ q)
q' = 0.9 * q + p
'''
[parameters]
M = { shape = ["hidden", "hidden"] }
"""


def test_a_size_is_an_argument(layer_of):
    kind = layer_of(ALL["low_rank"])
    usual, own = kind(4, 6), kind(4, 6, rank=5, num_layers=2, bidirectional=True)
    assert usual.weight_rh_l0.shape == (12, 3) and "rank" not in repr(usual)
    assert own.weight_rh_l1_reverse.shape == (12, 5) and own.gain_l0.shape == (5,) and "rank=5" in repr(own)
    assert own.sizes == {"rank": 5}
    with pytest.raises(ValueError, match="rank must be greater than zero, got 0"):
        kind(4, 6, rank=0)
    with pytest.raises(TypeError, match="rank should be of type int, got: float"):
        kind(4, 6, rank=2.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'wide'"):
        kind(4, 6, wide=2)


def test_a_state_is_as_wide_as_a_size(layer_of):
    layer = layer_of("lstmp")(4, 8, num_layers=2, proj=3)
    y, (r, c) = layer(torch.randn(5, 2, 4))
    assert (y.shape, r.shape, c.shape) == ((5, 2, 3), (2, 2, 3), (2, 2, 8))
    assert layer.weight_ih_l1.shape == (32, 3)
    with pytest.raises(RuntimeError, match=r"Expected r size \(2, 2, 3\), got \(2, 2, 8\)"):
        layer(torch.randn(5, 2, 4), (c, c))


def test_a_projection_written_out_is_that_of_torch(layer_of):
    ours = layer_of(ALL["projected"])(4, 6, narrow=3, dtype=torch.float64)
    theirs = torch.nn.LSTM(4, 6, proj_size=3, dtype=torch.float64)
    with torch.no_grad():
        theirs.bias_hh_l0.zero_()
        for own, name in (
            ("weight_ih", "weight_ih"),
            ("weight_hh", "weight_hh"),
            ("bias", "bias_ih"),
            ("weight_ho", "weight_hr"),
        ):
            getattr(ours, f"{own}_l0").copy_(getattr(theirs, f"{name}_l0"))
    x, state = torch.randn(5, 2, 4).double(), (torch.randn(1, 2, 3).double(), torch.randn(1, 2, 6).double())
    for one, other in zip(_flat(ours(x, state)), _flat(theirs(x, state)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_outputs_stand_beside_each_other(layer_of):
    layer = layer_of("rotation_mingru")(3, 4, num_layers=2, bidirectional=True)
    y, (p, q) = layer(torch.randn(5, 2, 3))
    assert y.shape == (5, 2, 16) and layer.weight_ih_l1.shape == (24, 16)
    torch.testing.assert_close(y[-1, :, :8], torch.cat((p[2], q[2]), -1))
    torch.testing.assert_close(y[0, :, 8:], torch.cat((p[3], q[3]), -1))
    last = layer_of("rotation_mingru")(3, 4, last_only=True)
    y, (p, q) = last(torch.randn(5, 2, 3))
    torch.testing.assert_close(y, torch.cat((p[0], q[0]), -1))
    assert layer_of("rotation_mingru")(3, 4, proj_size=3).weight_hr_l0.shape == (3, 8)


def test_layers_of_a_stack_know_their_widths(module_of):
    model = module_of(STACK).Speech()
    y, _ = model(torch.randn(7, 2, 3))
    assert y.shape == (7, 2, 2)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_layers_that_a_size_makes_alike_share_an_input(module_of):
    y, states = module_of(SHARED).Shared()(torch.randn(4, 2, 5))
    assert y.shape == (4, 2, 5) and [state.shape[-1] for state in states[0]] == [5, 8, 5]


def test_outputs_beside_each_other_are_not_as_wide_as_the_states(layer_of):
    kind = layer_of(PAIR)
    assert kind(4, 4)(torch.randn(3, 2, 4))[0].shape == (3, 2, 8)
    assert kind(4, 4, num_layers=2, bidirectional=True, proj_size=2)(torch.randn(3, 2, 4))[0].shape == (3, 2, 4)
    for options, got in (({}, 8), ({"bidirectional": True}, 16)):
        message = f"with outputs of 8 features together num_layers must be 1: a second layer would get {got} features"
        with pytest.raises(ValueError, match=message):
            kind(4, 4, num_layers=2, **options)


NARROW = 'name = "narrow"\n' + SHARED[SHARED.index("states = {") :].replace("cells.narrow.", "")
ACROSS = PAIR.replace("M @ q", "M @ q - mean(x)")


@pytest.mark.parametrize(
    ("cell", "layers"),
    [(NARROW, 2), (PAIR, 1), (ACROSS, 1), (LIBRARY["rotation_mingru"], 2), (LIBRARY["tgru"], 2)],
    ids=["narrow", "pair", "across", "rotation_mingru", "tgru"],
)
def test_verify_finds_widths_that_layers_can_have(module_of, layer_of, cell, layers):
    """And lays two upon another where there are any."""
    kind, described = layer_of(cell), forms(cell)["wrap"]
    runs = [run for *_, run in _cases(module_of(cell), kind, described, ["float64"], "torch", ())]
    for run in runs:
        kind(run.inputs, run.hidden, **run.options)
    assert max(run.options.get("num_layers", 1) for run in runs) == layers


def _flat(results):
    y, state = results
    return (y, *state)
