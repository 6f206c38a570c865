"""Earlier steps: what `lag` means, of whatever it is called, and the states that are made of it."""

import pytest
import torch
from test_runtime import assert_equal, flat, random

from rnngen.compile import compile_model
from rnngen.errors import ModelError
from rnngen.source import Source

H, T, B = 3, 6, 2
# x stands beside the states, so that a value can be told by itself.
CELL = """
name = "lagging"
class = "Told"
states = ["h"]
inputs = {{ x = {{ shape = ["hidden"] }}, tau = {{ shape = [] }} }}
constants = {{ two = 2 }}
output = "y"
step = '''
h' = half * h + x + 0 * n + 0 * two * tau * s
n  = x * x + tau
s  = mean(x)
y  = {}
'''
[parameters]
decay = {{ shape = [], blocks = ["half"], init = 0.5 }}
"""


def shifted(rows, steps):
    """The rows of so many steps before, zeros where there are none."""
    return torch.cat((torch.zeros_like(rows[:steps]), rows[: len(rows) - steps]))


def told(layer_of, what, **options):
    """A layer whose output is an expression, what it is given, and the values that there are by name at each step."""
    made = layer_of(CELL.format(what))(H, H, dtype=torch.float64, **options)
    x, tau = random(T, B, H), random(T, B, seed=2)
    h, new = torch.zeros(B, H, dtype=torch.float64), []
    for row in x.flip(0) if options.get("reverse") else x:
        h = 0.5 * h + row
        new.append(h)
    values = {"x": x, "h'": torch.stack(new), "n": x * x + tau[..., None], "s": x.mean(-1, keepdim=True)}
    return made, x, tau, values | {"tau": tau[..., None]}


MEANINGS = {
    "lag(x)": ("x", 1),
    "lag(x, 4)": ("x", 4),
    "lag(x, two)": ("x", 2),
    "lag(h)": ("h'", 2),
    "lag(h, 2)": ("h'", 3),
    "lag(h')": ("h'", 1),
    "lag(h', 3)": ("h'", 3),
    "lag(n)": ("n", 1),
    "lag(n, 2)": ("n", 2),
    "x * lag(s, 2)": ("s", 2),
    "x * lag(tau)": ("tau", 1),
}


@pytest.mark.parametrize("what", MEANINGS)
def test_what_it_means(layer_of, what):
    layer, x, tau, values = told(layer_of, what)
    name, steps = MEANINGS[what]
    want = shifted(values[name], steps) * (x if what.startswith("x *") else 1)
    for path in (layer, layer.reference):
        y, _ = path(x, tau=tau)
        torch.testing.assert_close(y, want)
    state, rows = None, []
    for row, number in zip(x, tau, strict=True):
        y, state = layer.step(row, state, tau=number)
        rows.append(y)
    torch.testing.assert_close(torch.stack(rows), want)


def test_a_line_in_either_direction(layer_of):
    layer, x, tau, values = told(layer_of, "lag(x, 2) + lag(h)", reverse=True)
    want = shifted(x.flip(0), 2) + shifted(values["h'"], 2)
    torch.testing.assert_close(layer(x, tau=tau)[0], want.flip(0))


def test_the_states_of_a_line_are_those_of_the_layer(layer_of):
    """In the order in which they are called, and each what the one before it was."""
    layer, x, tau, values = told(layer_of, "lag(n) + lag(x, 3) + lag(x) * lag(tau)")
    assert layer.cell.states == ("h", "n_lag_1", "x_lag_1", "x_lag_2", "x_lag_3", "tau_lag_1")
    _, (h, n, one, two, three, number) = layer(x, tau=tau)
    assert_equal((h[0], n[0], one[0], two[0], three[0]), (values["h'"][-1], values["n"][-1], *x.flip(0)[:3]))
    assert number.shape == (1, B, 1) and torch.equal(number[0, :, 0], tau[-1])
    begin = tuple(random(*state.shape, seed=n) for n, state in enumerate(flat(layer.initial_state(B))))
    first, _ = layer(x[:1], begin, tau=tau[:1])
    torch.testing.assert_close(first[0], begin[1][0] + begin[4][0] + begin[2][0] * begin[5][0])
    parts = layer(x[:2], begin, tau=tau[:2])
    rest = layer(x[2:], parts[1], tau=tau[2:])
    assert_equal((torch.cat((parts[0], rest[0])), rest[1]), layer(x, begin, tau=tau))


def test_where_sequences_begin(layer_of):
    """A line returns to what it begins with, and passes no gradient back over the boundary."""
    layer, x, tau, _ = told(layer_of, "lag(x, 2)")
    flags = torch.zeros(T, B, dtype=torch.bool)
    flags[3, 0] = True
    x.requires_grad_()
    y, _ = layer(x, resets=flags, tau=tau)
    assert not y[3:5, 0].any() and torch.equal(y[5, 0], x[3, 0]) and torch.equal(y[3:5, 1], x[1:3, 1])
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), x)
    assert torch.equal(gradient[:, 0, 0], torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64))


DEEPER = """
name = "fading"
states = ["h"]
step = '''
n  = tanh(W @ x + U @ lag(n))
h' = 0.9 * h + n * lag(n, 2) + V @ lag(m)
m  = lag(p) + x
p  = S @ x
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "V"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_ii = { shape = ["inputs", "inputs"], blocks = ["S"] }
"""


def test_a_line_is_as_wide_as_what_it_is_of(layer_of):
    """An equation may read its own earlier value, and needs no state for that."""
    layer = layer_of(DEEPER)(2, H, dtype=torch.float64)
    assert layer.cell.states == ("h", "n_lag_1", "n_lag_2", "m_lag_1", "p_lag_1")
    assert layer.cell.widths == {"p_lag_1": "inputs", "m_lag_1": "inputs"}
    x, n = random(T, B, 2), [torch.zeros(B, H, dtype=torch.float64)] * 2
    h, p, m = torch.zeros(B, H, dtype=torch.float64), *[torch.zeros(B, 2, dtype=torch.float64)] * 2
    for row in x:
        n = [torch.tanh(row @ layer.block("W").T + n[0] @ layer.block("U").T), *n]
        h = 0.9 * h + n[0] * n[2] + m @ layer.block("V").T
        m, p = p + row, row @ layer.block("S").T
    _, last = layer(x)
    assert_equal([state[0] for state in last], [h, n[0], n[1], m, p])


def test_what_is_as_wide_as_x_cannot_be_in_two_layers_of_other_widths(layer_of):
    with pytest.raises(ValueError, match="TGRU carries a state that is as wide as x, and with num_layers=2 the x of"):
        layer_of("tgru")(2, 3, 2)
    layer_of("tgru")(3, 3, 2)
    text = 'name = "two"\ninputs = 2\n[[layers]]\ncell = "tgru"\nhidden = 3\nnum_layers = 2\n'
    with pytest.raises(
        ModelError, match=r"The state 'lag\(x\)' of the cell 'tgru' is as wide as x, which these layers"
    ):
        compile_model(Source("two.toml", text))


@pytest.mark.parametrize("wrapper", ["zoneout", "recurrent_dropout", "drop_connect"])
def test_wrappers_leave_a_line_alone(layer_of, wrapper):
    """It is no state that zones out, and what it is multiplied by no recurrent matrix."""
    text = """
name = "held"
states = ["h"]
step = "h' = tanh(W @ x + V @ lag(x) + U @ h)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "V"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""
    layer = layer_of(f"# with {wrapper}\n{text}")
    assert len(layer.cell.drawn) == 1 and layer.cell.drawn[0].part in ("", "h")
    made = layer(2, H, dtype=torch.float64, **{wrapper: 0.5})
    x = random(T, B, 2)
    _, (_, last) = made(x)
    assert torch.equal(last[0], x[-1])
