"""The kernels of every cell of the library by every schedule, in Triton's interpreter, over padded sequences.

`test_kernels_scan.py` asks much more, of a sample.
"""

import pytest
import torch
from cells import ALL, LIBRARY, heads_for, program, sizes_of
from judge import compare

from rnngen.runtime.language import interpreting
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.plan import Plan, Sizes
from rnngen.runtime.schedules import SCHEDULES, possible

T, B, I, H = 3, 2, 2, 3

CASES = [
    (name, schedule)
    for name, text in LIBRARY.items()
    if name not in ALL
    for schedule in possible(program(text).forward.facts)
]


def test_kernels_are_interpreted():
    assert interpreting()


def exactest(name, schedule, heads) -> torch.dtype:
    """The most exact type that the schedule has room for: 20 matrices fit the chip in half precision alone."""
    found = program(LIBRARY[name])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        others = tuple(sizes_of(LIBRARY[name]).items())
        sizes = Sizes(B, H * heads, heads, dtype.itemsize, masked=True, both=False, resets=False, others=others)
        plans = [
            SCHEDULES[schedule].plan(side.facts, sizes, MACHINES["sm_90"]) for side in (found.forward, found.backward)
        ]
        if all(isinstance(plan, Plan) for plan in plans):
            return dtype
    raise AssertionError(f"{name} cannot run by the schedule {schedule} at all: {plans}")


@pytest.mark.parametrize(("name", "schedule"), CASES)
def test_every_cell(layer_of, name, schedule):
    heads = heads_for(LIBRARY[name], schedule)
    dtype = exactest(name, schedule, heads)
    inputs = H * heads if layer_of(name).cell.inputs["x"] == "hidden" else I
    found = compare(layer_of(name), dtype, (T, B, inputs, H), schedule, heads=heads, lengths=(T, T - 1))
    assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}
