"""Every kernel of the library compiled ahead of time, with no GPU, for every target, with what the cost model picks.

All of it takes hours of one core; `make test` has the cases in QUICK, the others are `slow`.
"""

from itertools import product

import pytest
from cells import SAMPLE

from benchmarks.aot import TARGETS
from benchmarks.static import VARIANTS, rows
from rnngen.description import library
from rnngen.document import read

BATCH = 16
WIDTHS = {"bfloat16": (16, 32, 64, 128), "float16": (32, 128), "float32": (16, 32, 64), "float64": (16, 32)}

# Every schedule on one target, the most that fits on the others, and what has spilled or not fitted once.
QUICK = {
    *((name, "sm_90", "bfloat16", 64) for name in ("lstm", "gru_v3", "indrnn", "mingru")),
    *(("lstm", target, "bfloat16", 128) for target in ("sm_80", "sm_100", "gfx942")),  # sm_90: six heads of it below
    ("gru_v3", "sm_100", "float64", 32),
    ("gru_v3", "gfx942", "float16", 32),
    ("indrnn", "sm_80", "float32", 64),
    ("mingru", "gfx942", "bfloat16", 64),
    ("lstm", "sm_80", "bfloat16", 16),
    ("gru_flux", "sm_80", "bfloat16", 128),
    ("gru_flux", "sm_90", "float32", 64),
    ("gru_v3", "sm_90", "float32", 64),
    ("gru", "sm_120", "float64", 32),
    ("rnn", "sm_100", "bfloat16", 16),
    ("rnn_relu", "sm_100", "bfloat16", 32),
}
# The sample in every type and width, the whole library at the width that most people have.
CASES = [
    (name, target, dtype, width)
    for name, target, dtype in product(library(), TARGETS, WIDTHS)
    for width in WIDTHS[dtype]
    if name in SAMPLE or (dtype, width) == ("bfloat16", 64)
]

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
    """No spills, and shared memory within the target's limit and as the plan expects it, for every kernel."""
    found = list(found)
    assert found
    spilling = [row.job.kernel for row in found if row.report.spill_bytes or row.report.spill_instructions]
    assert not spilling
    assert not [row.job.kernel for row in found if not row.fits]
    for row in found:
        if row.job.schedule == "resident":
            # Above what is compiled by half where streams are loaded without asynchronous copies, and on AMD by as much
            # again where a stack of sums never goes through local memory. 8 KiB are an eighth of the least there is.
            most = row.report.shared_bytes * (2 if TARGETS[row.report.target].backend == "hip" else 1.5)
            most = max(most, row.report.shared_bytes + 8192)
            assert row.report.shared_bytes <= row.job.expected_bytes <= most, row.job.kernel
    return found


@pytest.mark.parametrize(
    "name, target, dtype, width",
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_no_kernel_spills_and_every_one_fits(name, target, dtype, width):
    check(rows(library()[name], target, dtype, BATCH, (width,), heads=1))


def test_the_quick_cases_are_some_of_all():
    assert set(CASES) > QUICK


@pytest.mark.parametrize(
    "width", [33, pytest.param(24, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_widths_that_are_no_power_of_two(width):
    check(rows(library()["lstm"], "sm_90", "bfloat16", BATCH, (width,), heads=1))


@pytest.mark.parametrize(
    ("name", "width", "cycles"),
    [
        ("lstm", 256, {"forward": 3600, "adjoint": 3300}),
        pytest.param("lstm", 1024, {"forward": 5000, "adjoint": 4600}, marks=pytest.mark.slow),
        pytest.param("gru_v3", 512, {"forward": 8600, "adjoint": 6300}, marks=pytest.mark.slow),
    ],
)
def test_wide_layers_read_their_matrices_once(name, width, cycles):
    """A step reads what others have sent and its streams; the matrices of a program would be hundreds of loads."""
    found = check(rows(library()[name], "sm_90", "bfloat16", BATCH, (width,), 1, VARIANTS[:1]))
    scans = {row.job.direction: row for row in found if row.job.schedule == "cooperative"}
    assert scans.keys() == cycles.keys()
    for direction, row in scans.items():
        assert row.job.chosen
        assert row.report.step.loads <= 40 and row.report.step.cycles <= cycles[direction]


def test_a_linear_scan_takes_30_cycles_a_step_by_the_estimate():
    found = [row for row in check(rows(library()["mingru"], "sm_90", "bfloat16", BATCH, (64,), 1)) if row.job.chosen]
    assert [row.job.schedule for row in found] == ["linear"] * 6
    assert max(row.report.step.cycles for row in found) <= 30


@pytest.mark.parametrize("width", [32, 64, 128])
def test_the_resident_lstm_takes_half_the_time_of_its_peer_by_the_estimate(width):
    heads = 768 // width
    found = check(rows(read("examples/lstm_heads.toml"), "sm_90", "bfloat16", BATCH, (width,), heads, VARIANTS[:1]))
    scans = {row.job.direction: row for row in found if row.job.schedule == "resident"}
    assert scans.keys() == {"forward", "adjoint"}
    for direction, row in scans.items():
        assert row.job.chosen
        if (direction, width) in PEER:
            assert row.report.step.microseconds <= PEER[direction, width] / 2
