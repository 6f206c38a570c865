"""Sequences one behind another in one scan: every schedule, in Triton's interpreter."""

import pytest
import torch
from cells import ALL, LIBRARY, heads_of
from judge import compare
from test_kernels_scan import cases

from rnngen.runtime.language import interpreting

T, B = 5, 3
RESETS = ((0, 1), (1, 0), (2, 0), (2, 2), (4, 1))  # at once and again, in the middle, before the last step

# One of everything: a product and none, two in a row, several states, parameters that are summed up in the loop, heads.
CELLS = ("lstm", "gru_v3", "indrnn", "mingru", "slstm")


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


def test_chunks_of_a_linear_scan(layer_of):
    """Resets before, at and behind the end of a chunk of 128 steps."""
    resets = [(step, element) for element in range(2) for step in (0, 1, 126 + element, 127, 128, 200)]
    for reverse in (False, True):
        found = compare(layer_of("mingru"), torch.float64, (260, 2, 1, 2), "linear", reverse, resets=resets)
        assert not {name: pair for name, pair in found.items() if not pair[0] <= 10 * pair[1]}


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
