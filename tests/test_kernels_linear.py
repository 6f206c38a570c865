"""Linear scans over more than one chunk of time, in Triton's interpreter, against loops in float64."""

import pytest
import torch
from cells import ALL, program
from judge import compare

from rnngen.runtime.choose import choose
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.plan import Sizes
from rnngen.runtime.schedules.linear import CHUNK

CASES = [("mingru", time) for time in (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 40)]
CASES += [("counts", 2 * CHUNK + 1), ("cascade", CHUNK + 1)]

# What decays and what comes are inputs.
DECAYS = """
name   = "decays"
states = ["h"]
step   = "h' = (A @ x) * h + B @ x"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["A", "B"] }
"""


def right(found):
    return not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(("name", "time"), CASES)
def test_chunks_follow_one_another(layer_of, name, time, masked):
    lengths = [time, 1] if masked else None
    reverse = time % 2 == 0
    assert right(compare(layer_of(ALL[name]), torch.float64, (time, 2, 2, 3), "linear", reverse, lengths=lengths))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mingru", "counts"])
def test_in_other_types(layer_of, name, dtype):
    assert right(compare(layer_of(ALL[name]), dtype, (CHUNK + 3, 1, 2, 18), "linear"))


@pytest.mark.parametrize("name", ["indrnn", "twins", "automaton", "one_way"])
def test_a_backward_pass_is_linear_where_the_forward_pass_is_not(layer_of, name):
    facts = program(ALL[name]).backward.facts
    assert choose(facts, Sizes(2, 3, 1, 8), MACHINES["sm_90"]).schedule == "linear"
    assert not program(ALL[name]).forward.facts.linear
    for lengths in (None, [9, 4]):
        assert right(compare(layer_of(ALL[name]), torch.float64, (9, 2, 2, 3), "auto", lengths=lengths))


def test_twenty_chunks(layer_of):
    found = compare(layer_of("mingru"), torch.float64, (20 * CHUNK + 7, 1, 2, 2), "linear")
    assert all(error <= 1e-12 for error, _ in found.values())


def loop(x, h, seed):
    """h' = a * h + b in float64, and the gradients of a sum of its outputs."""
    x, h = (tensor.double().requires_grad_() for tensor in (x, h))
    a, b = x.chunk(2, dim=-1)
    rows, state = [], h
    for t in range(len(x)):
        state = a[t] * state + b[t]
        rows.append(state)
    y = torch.stack(rows)
    return y, *torch.autograd.grad((y * seed).sum(), [x, h])


@pytest.mark.parametrize("decay", [0.0, 1e-30, 1e-5, -1e-20], ids=str)
def test_decays_that_underflow_lose_nothing(layer_of, decay):
    """Their products over a chunk are zero, and so would be what is divided by them."""
    time, units = CHUNK + 30, 3
    generator = torch.Generator().manual_seed(0)
    a = torch.full((time, 2, units), decay)
    a[time // 2 :: 7] = 1.0  # and what is kept beside them is kept
    b = torch.randn(time, 2, units, generator=generator)
    b[5:40] = 0.0  # long enough for a state to vanish
    x, h = torch.cat([a, b], dim=-1), torch.randn(2, units, generator=generator)
    seed = torch.randn(time, 2, units, generator=generator)
    layer = layer_of(DECAYS)(2 * units, units, schedule="linear")
    with torch.no_grad():
        next(layer.parameters()).copy_(torch.eye(2 * units))
    given, first = x.clone().requires_grad_(), h[None].clone().requires_grad_()
    y, _ = layer(given, first)
    found = y, *torch.autograd.grad((y * seed).sum(), [given, first])
    for got, want in zip(found, loop(x, h, seed), strict=True):
        torch.testing.assert_close(got.double(), want.reshape(got.shape), rtol=2e-6, atol=1e-6)
