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


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize(("name", "schedule"), cases(CELLS))
def test_resets(layer_of, name, schedule, reverse):
    check(layer_of, name, schedule, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "mingru"]))
def test_resets_and_padding(layer_of, name, schedule, reverse):
    check(layer_of, name, schedule, reverse=reverse, lengths=[3, 5, 4])


@pytest.mark.parametrize("lengths", [None, [5, 3, 5]], ids=["plain", "padded"])
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "slstm", "mingru"]))
def test_both_directions(layer_of, name, schedule, lengths):
    check(layer_of, name, schedule, lengths=lengths, both=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "mingru", "indrnn"]))
def test_types(layer_of, name, schedule, dtype):
    check(layer_of, name, schedule, dtype)


def test_chunks_of_a_linear_scan(layer_of):
    """Resets before, at and behind the end of a chunk of 128 steps."""
    resets = [(step, element) for element in range(2) for step in (0, 1, 126 + element, 127, 128, 200)]
    for reverse in (False, True):
        found = compare(layer_of("mingru"), torch.float64, (260, 2, 1, 2), "linear", reverse, resets=resets)
        assert not {name: pair for name, pair in found.items() if not pair[0] <= 10 * pair[1]}
