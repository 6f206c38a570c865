"""Sequences one behind another in one scan: every schedule, in Triton's interpreter."""

import pytest
import torch
from cells import ALL, LIBRARY, heads_of
from judge import compare
from test_kernels_scan import cases

from rnngen.runtime.both import joined
from rnngen.runtime.language import interpreting

T, B = 5, 3
RESETS = ((0, 1), (1, 0), (2, 0), (2, 2), (4, 1))  # at once and again, in the middle, before the last step

# One of everything: a product and none, two in a row, several states, parameters that are summed up in the loop, heads.
CELLS = ("lstm", "gru_v3", "indrnn", "mingru", "slstm_flashrnn")


def setup_module():
    assert interpreting()


def check(layer_of, name, schedule, dtype=torch.float64, sizes=(T, B, 2, 3), **options):
    found = compare(
        layer_of(name if name in LIBRARY else ALL[name]),
        dtype,
        sizes,
        schedule,
        heads=heads_of(ALL[name]),
        resets=RESETS,
        **options,
    )
    assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


@pytest.mark.parametrize(("name", "schedule"), cases(CELLS))
def test_resets(layer_of, name, schedule):
    """Random cells have them in every direction, beside padding, layers and projections; these are the library's."""
    check(layer_of, name, schedule, reverse=name in ("gru_v3", "indrnn"))


@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "mingru"]))
def test_both_directions_with_padding(layer_of, name, schedule):
    check(layer_of, name, schedule, lengths=[5, 3, 4], both=True)


@pytest.mark.parametrize(("name", "schedule"), cases(["gru", "mingru"]))
def test_half_precision(layer_of, name, schedule):
    check(layer_of, name, schedule, torch.bfloat16)


@pytest.mark.parametrize("name", ["lstm", "mingru", "indrnn"])
def test_what_is_no_number_stays_in_its_sequence(layer_of, name):
    """Forwards and backwards, by every schedule: an input, and a gradient that comes in."""
    flags = torch.zeros(T, 1, dtype=torch.bool)
    flags[3] = True
    for schedule in layer_of(name).cell.schedules:
        layer = layer_of(name)(2, 3, schedule=schedule)
        x = torch.randn(T, 1, 2)
        spoilt = x.clone()
        spoilt[1] = torch.nan
        assert torch.equal(layer(spoilt, resets=flags)[0][3:], layer(x, resets=flags)[0][3:])
        x.requires_grad_()
        come = torch.ones(T, 1, 3)
        come[4] = torch.nan
        (found,) = torch.autograd.grad(layer(x, resets=flags)[0], x, come)
        (want,) = torch.autograd.grad(layer(x, resets=flags)[0], x, torch.ones(T, 1, 3))
        assert torch.equal(found[:3], want[:3])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["lstm", "gru", "mingru", "held"])
def test_both_directions_one_after_the_other(layer_of, name, batch):
    """Asked of a schedule that cannot run both at once: what a reset returns to has its gradient."""
    layer = layer_of(ALL[name])(2, 3, bidirectional=True, dtype=torch.float64)
    cell, states = layer.cell, len(layer.cell.states)
    weights = [[getattr(layer, f"{w.name}_l0{end}") for w in cell.weights] for end in ("", "_reverse")]
    joint = [joined(w, *pair) for w, *pair in zip(cell.weights, *weights, strict=True)]
    x = torch.randn(T, batch, 2, dtype=torch.float64)
    both = [torch.randn(batch, 6, dtype=torch.float64) for _ in range(states)]
    first = [torch.randn(batch, 6, dtype=torch.float64, requires_grad=True) for _ in range(states)]
    flags = (torch.arange((T + 1) * batch) % 3 == 1).view(T + 1, batch, 1).int()
    y, _ = cell.run(x, both, joint, resets=flags, first=first, both=True, schedule="stepwise")
    apart = [
        cell.reference(
            x,
            [state.chunk(2, -1)[n] for state in both],
            weights[n],
            resets=flags,
            first=[part.chunk(2, -1)[n] for part in first],
            reverse=n == 1,
        )[0]
        for n in range(2)
    ]
    want = torch.cat(apart, -1)
    torch.testing.assert_close(y, want)
    weighting = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    gradients = [torch.autograd.grad((rows * weighting).sum(), first) for rows in (y, want)]
    torch.testing.assert_close(*gradients)


def test_chunks_of_a_linear_scan(layer_of):
    """Resets before, at and behind the end of a chunk of 128 steps."""
    resets = [(step, element) for element in range(2) for step in (0, 1, 126 + element, 127, 128, 200)]
    for reverse in (False, True):
        found = compare(layer_of("mingru"), torch.float64, (260, 2, 1, 2), "linear", reverse, resets=resets)
        assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


NAMES = """
name = "names"
states = ["h", "h_first"]
step = '''
reset = sigmoid(W_1 @ x + U_1 @ h)
cut = tanh(W_2 @ x + b * h_first)
boundary = reset * cut
begun = boundary + h
h_first' = cut * h_first + begun
h' = tanh(begun + h_first')
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W_1", "W_2"] }
U = { shape = ["hidden", "hidden"], blocks = ["U_1"] }
resets = { shape = ["hidden"], blocks = ["b"] }
"""


def test_a_cell_may_call_its_values_what_kernels_call_theirs(layer_of):
    for schedule in ("resident", "stepwise"):
        found = compare(layer_of(NAMES), torch.float64, (T, B, 2, 3), schedule, resets=RESETS)
        assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}
