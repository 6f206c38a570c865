"""Every kernel of the library compiled ahead of time, with no GPU, for four targets, with what the cost model picks."""

import pytest

from benchmarks.aot import TARGETS
from benchmarks.static import rows
from rnngen.description import library
from rnngen.document import read

BATCH = 16
# Published times of FlashRNN's Triton kernels, in microseconds a step at 1.755 GHz by the same estimate (sm_90, bf16,
# 16 sequences, heads x width = 768): forward and backward by the width of a head.
PEER = {
    ("forward", 32): 1.25,
    ("forward", 64): 1.79,
    ("forward", 128): 3.14,
    ("adjoint", 32): 1.65,
    ("adjoint", 64): 1.71,
}


def check(found):
    """No spills, and shared memory within the target's limit, for every kernel."""
    found = list(found)
    assert found
    wrong = [row.job.kernel for row in found if row.report.spill_bytes or row.report.spill_instructions or not row.fits]
    assert not wrong
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", library())
def test_half_precision(name, target):
    check(rows(library()[name], target, "bfloat16", BATCH, (32, 64, 128), heads=1))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["lstm", "gru_v3", "indrnn"])
def test_other_types(name, dtype, target):
    check(rows(library()[name], target, dtype, BATCH, (32,), heads=1))


@pytest.mark.parametrize("width", [33, 100])
def test_widths_that_are_no_power_of_two(width):
    check(rows(library()["lstm"], "sm_90", "bfloat16", BATCH, (width,), heads=1))


@pytest.mark.parametrize("width", [32, 64, 128])
def test_the_resident_lstm_takes_half_the_time_of_its_peer_by_the_estimate(width):
    heads = 768 // width
    found = check(rows(read("examples/lstm_heads.toml"), "sm_90", "bfloat16", BATCH, (width,), heads))
    scans = {row.job.direction: row for row in found if row.job.schedule == "resident" and row.job.cell == "lstm_heads"}
    assert scans.keys() == {"forward", "adjoint"}
    for direction, row in scans.items():
        assert row.job.chosen
        if (direction, width) in PEER:
            assert row.report.step.microseconds <= PEER[direction, width] / 2
