"""Every kernel of the library compiled ahead of time, with no GPU, for every target, with what the cost model picks.

All of it takes hours of one core; `make test` has the cases in QUICK, the others are `slow`.
"""

from itertools import product

import pytest
import triton
from cells import SAMPLE

from benchmarks import static, wide
from benchmarks.aot import TARGETS
from benchmarks.sass import analyse
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


# What the ptxas of an older Triton puts into memory where that of 3.9 has registers enough: bytes of a thread.
SPILLED = {("3.6.0", "gru_forward_resident", "sm_120", "float64"): 16}


def spills(row) -> bool:
    known = SPILLED.get((triton.__version__, row.job.kernel, row.report.target, row.dtype), 0)
    return row.report.spill_bytes > known or bool(row.report.spill_instructions and not known)


def check(found):
    """No spills, and shared memory within the target's limit and as the plan expects it, for every kernel."""
    found = list(found)
    assert found
    assert not [row.job.kernel for row in found if spills(row)]
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
    ("name", "width", "microseconds"),
    [
        ("lstm", 256, {"forward": 1.6, "adjoint": 1.5}),
        pytest.param("lstm", 512, {"forward": 1.8, "adjoint": 1.8}, marks=pytest.mark.slow),
        pytest.param("lstm", 1024, {"forward": 2.2, "adjoint": 2.3}, marks=pytest.mark.slow),
        pytest.param("gru_v3", 512, {"forward": 3.6, "adjoint": 3.0}, marks=pytest.mark.slow),
    ],
)
def test_wide_layers_take_at_most_so_long_by_the_estimate(name, width, microseconds):
    found = check(rows(library()[name], "sm_90", "bfloat16", BATCH, (width,), 1, VARIANTS[:1]))
    scans = {row.job.direction: row for row in found if row.job.schedule == "cooperative"}
    assert scans.keys() == microseconds.keys()
    for direction, row in scans.items():
        assert row.job.chosen
        assert row.report.step.microseconds <= microseconds[direction]


WIDE_QUICK = {("lstm", "sm_80", 1024, 16), ("lstm", "sm_120", 512, 64), ("gru_v3", "sm_90", 256, 64)}
WIDE = list(product(wide.MODELS, wide.TARGETS, wide.WIDTHS, wide.BATCHES))


@pytest.mark.parametrize(
    ("name", "target", "width", "batch"),
    [pytest.param(*case, marks=() if case in WIDE_QUICK else pytest.mark.slow) for case in WIDE],
)
def test_wide_layers_spill_nothing_and_read_their_matrices_once(name, target, width, batch):
    """Or say why they cannot: what is on a chip is what the schedule reckons with."""
    found = list(wide.wide_rows([name], [target], [width], [batch]))
    assert [row["direction"] for row in found] == ["forward", "adjoint"]
    for row in found:
        if "refusal" in row:
            assert "on-chip memory are needed" in row["refusal"] or "would wait for one another" in row["refusal"]
        else:
            assert (row["spill_bytes"], row["step"]["weights"]) == (0, 0) and row["fits"]


def test_reads_of_an_argument_are_counted(monkeypatch):
    """All of a step are of some argument: a stream, what others have sent, and their counter. That is looked at once in
    the LLVM IR as it is played; the machine code has the loop behind it, too.
    """
    watched = ("weight_ih_x_b_ptr", "values_ptr", "counters_ptr")
    monkeypatch.setattr(static, "analyse", lambda compiled, weights: analyse(compiled, weights=watched))
    row = next(rows(library()["lstm"], "sm_90", "bfloat16", BATCH, (256,), 1, VARIANTS[:1], ("cooperative",)))
    assert row.report.step.weights == row.report.step.loads - 1 > 3


def test_a_linear_scan_takes_30_cycles_a_step_by_the_estimate():
    found = [row for row in check(rows(library()["mingru"], "sm_90", "bfloat16", BATCH, (64,), 1)) if row.job.chosen]
    assert [row.job.schedule for row in found] == ["linear"] * 6
    assert max(row.report.step.cycles for row in found) <= 30


@pytest.mark.parametrize("name", ["mingru", pytest.param("rwkv4", marks=pytest.mark.slow)])
def test_what_stretches_make_of_states_is_found_in_half_the_time_by_the_estimate(name):
    """And what they are divided into costs a step nothing."""
    found = check(rows(library()[name], "sm_90", "bfloat16", 1, (256,), 1, VARIANTS[:1], time=16384))
    adjoint = [row for row in found if (row.job.schedule, row.job.direction) == ("linear", "adjoint")]
    assert [row.job.stage for row in adjoint] == list(range(1, len(adjoint) + 1))
    first, *_, whole = (row.report.step.cycles for row in adjoint)
    assert first <= whole / 2 and whole <= (30 if name == "mingru" else 35)


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
