"""Kernels of cells with matrices that are made of parameters, and with inputs as wide as their states."""

import pytest
import torch
from cells import ALL, AS_WIDE, program
from judge import compare
from test_matrices import HEADS, LOW_RANK

from rnngen.runtime.language import interpreting
from rnngen.runtime.schedules import possible

TEXTS = AS_WIDE | {"low_rank": LOW_RANK, "heads": HEADS, "antisymmetric": ALL["antisymmetric"]}
CASES = [(name, schedule) for name, text in TEXTS.items() for schedule in possible(program(text).forward.facts)]


def setup_module():
    assert interpreting()


@pytest.mark.parametrize(("name", "schedule"), CASES)
def test_scan(name, schedule, layer_of):
    """A sequence backwards, then both directions with lengths and resets."""
    heads = 2 if name == "heads" else 1
    sizes = 3, 2, 3 * heads if name in AS_WIDE else 4, 3
    for options in ({"reverse": True}, {"both": True, "lengths": [3, 1], "resets": [(1, 0), (0, 1)]}):
        errors = compare(layer_of(TEXTS[name]), torch.float64, sizes, schedule, heads=heads, **options)
        assert not {name: (error, limit) for name, (error, limit) in errors.items() if not error <= limit}
