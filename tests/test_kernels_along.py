"""Linear scans by several programs along time, in Triton's interpreter, against loops in float64.

Chunks are of two steps here (see along.py). The random cells have them too.
"""

import pytest
import torch
from along import stretches
from cells import ALL, LIBRARY, program
from judge import compare

from rnngen.runtime.language import interpreting

# What decays, or grows, and what comes are inputs.
GROWS = """
name   = "grows"
states = ["h"]
step   = "h' = (A @ x) * h + B @ x"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["A", "B"] }
"""
EVERY = {**LIBRARY, **ALL}
CELLS = [name for name, text in EVERY.items() if program(text).backward.facts.linear]


def test_kernels_are_interpreted():
    assert interpreting()


def test_some_cells_have_rounds_and_sums():
    facts = {name: (program(EVERY[name]).forward.facts, program(EVERY[name]).backward.facts) for name in CELLS}
    counted = {name: [(side.rounds, side.totals) for side in sides] for name, sides in facts.items()}
    assert counted["mingru"] == [(1, 0), (1, 0)]
    assert counted["indrnn"] == [(0, 0), (1, 1)]
    assert counted["rwkv4"] == [(0, 0), (2, 2)]
    assert counted["cascade"] == [(3, 0), (3, 2)]


def check(layer_of, name, sizes, **options):
    key = name if name in LIBRARY else ALL[name]
    time, batch, inputs, hidden = sizes
    inputs = hidden if layer_of(key).cell.inputs["x"] == "hidden" else inputs
    found = compare(layer_of(key), torch.float64, (time, batch, inputs, hidden), "auto", **options)
    assert all(error <= 1e-12 for error, _ in found.values()), found


def divided(layer_of, name, most, time, **options):
    with stretches(lambda _: most) as found:
        check(layer_of, name, (time, 2, 2, 3), **options)
    uneven = program(EVERY[name]).backward.facts.uneven  # of several widths no reset is possible
    assert set(found) == (set() if uneven and "resets" in options else {most})


@pytest.mark.parametrize("name", CELLS)
def test_every_cell(layer_of, name):
    """In two to five stretches, the last of one step. Every second cell has padding, in which a stretch may begin, or
    which it may be all of; the others sequences that begin at once, at the first step of a stretch, at its last and
    again, and none in some stretch.
    """
    number = CELLS.index(name)
    most = 2 + number // 2 % 4
    time = 2 * most - 1
    given = {"resets": [(0, 1), (2, 0), (1, 1), (2, 1)]} if number % 2 else {"lengths": [time, 2]}
    divided(layer_of, name, most, time, reverse=number // 2 % 2 > 0, **given)


@pytest.mark.parametrize("name", ["mingru", "indrnn", "rwkv4"])
def test_padding_and_resets(layer_of, name):
    """Of both, of a sum over time and of states that wait for others; what stands in one above for some."""
    divided(layer_of, name, 3, 6, lengths=[6, 1], reverse=True)
    divided(layer_of, name, 3, 5, lengths=[5, 4], resets=[(0, 1), (2, 0), (3, 0), (4, 0)])


@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_in_other_types(layer_of, dtype, both):
    """More units than a program has, and more than one of them along units."""
    with stretches(lambda time: 4):
        found = compare(layer_of("mingru"), dtype, (7, 1, 2, 18), "linear", both=both)
    assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


def test_without_an_adjoint_and_without_outputs(layer_of):
    """As in inference, and where the last state alone is wanted."""
    layer = layer_of("mingru")(2, 3, dtype=torch.float64, schedule="linear")
    x, h = torch.randn(9, 2, 2, dtype=torch.float64), torch.randn(1, 2, 3, dtype=torch.float64)
    want, want_last = layer.reference(x, h)
    with stretches(lambda _: 5), torch.no_grad():
        y, last = layer(x, h)
    torch.testing.assert_close((y, last), (want, want_last), rtol=1e-12, atol=1e-12)


def test_what_is_no_number_stays_in_its_sequence(layer_of):
    flags = torch.zeros(8, 1, dtype=torch.bool)
    flags[5] = True
    layer = layer_of("mingru")(2, 3, schedule="linear")
    x = torch.randn(8, 1, 2)
    spoilt = x.clone()
    spoilt[1] = torch.nan
    with stretches(lambda _: 4):
        assert torch.equal(layer(spoilt, resets=flags)[0][5:], layer(x, resets=flags)[0][5:])
        x.requires_grad_()
        come = torch.ones(8, 1, 3)
        come[6] = torch.nan
        (found,) = torch.autograd.grad(layer(x, resets=flags)[0], x, come)
        (want,) = torch.autograd.grad(layer(x, resets=flags)[0], x, torch.ones(8, 1, 3))
    assert torch.equal(found[:5], want[:5]) and found[5:7].isnan().any()


@pytest.mark.parametrize("reset", [False, True], ids=["", "reset"])
def test_a_map_that_overflows_leaves_zero_as_it_is(layer_of, reset):
    """Of a state that is zero and would triple at each of a hundred steps."""
    layer = layer_of(GROWS)(2, 1, schedule="linear")
    with torch.no_grad():
        next(layer.parameters()).copy_(torch.eye(2))
    x = torch.zeros(202, 1, 2)
    x[:200, 0, 0] = 3.0  # a, and nothing comes in before it is small again
    x[200:, 0] = torch.tensor([0.5, 1.0])
    flags = torch.zeros(202, 1, dtype=torch.bool)
    flags[201] = reset
    with stretches(lambda _: 2) as found:
        y, _ = layer(x, resets=flags if reset else None)
    assert found == [2]
    assert torch.equal(y[:200], torch.zeros(200, 1, 1))
    assert y[200:].flatten().tolist() == [1.0, 1.0 if reset else 1.5]


def test_the_same_bits_again(layer_of):
    """Sums over time have an order of their own."""
    layer = layer_of("indrnn")(2, 3)
    x = torch.randn(9, 2, 2, requires_grad=True)

    def run():
        layer.zero_grad()
        x.grad = None
        layer(x)[0].square().sum().backward()
        return [x.grad, *(parameter.grad for parameter in layer.parameters())]

    with stretches(lambda _: 5) as found:
        assert all(torch.equal(*pair) for pair in zip(run(), run(), strict=True))
        assert set(found) == {5}
