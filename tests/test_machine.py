"""The choice of a schedule: what is legal, what fits, what is cheaper, and the reasons given."""

import dataclasses

import pytest
from click.testing import CliRunner

from rnngen.cli import main
from rnngen.runtime.choose import choose
from rnngen.runtime.machine import MACHINES, row_of
from rnngen.runtime.plan import Across, Along, Facts, NotPossible, Sizes
from rnngen.runtime.schedules import SCHEDULES, linear
from rnngen.runtime.schedules.resident import shared_bytes

LSTM = Facts(across=(Across("matmul", 4),), streams=(4,), outputs=(1, 5), levels=1)
INDRNN = Facts()


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
def test_every_schedule_has_a_reason(machine):
    choice = choose(LSTM, Sizes(16, 64, 1, 2), machine)
    assert choice.reasons.keys() == SCHEDULES.keys()
    assert all(choice.reasons.values())


@pytest.mark.parametrize(
    "backend, name, row",
    [
        ("cuda", "sm_70", "sm_75"),  # V100: the oldest row
        ("cuda", "sm_75", "sm_75"),
        ("cuda", "sm_87", "sm_86"),  # Orin
        ("cuda", "sm_89", "sm_89"),
        ("cuda", "sm_90", "sm_90"),
        ("cuda", "sm_103", "sm_100"),  # B300
        ("cuda", "sm_121", "sm_120"),  # GB10
        ("hip", "gfx90a", "gfx942"),
        ("hip", "gfx950", "gfx950"),
    ],
)
def test_every_architecture_has_a_row(backend, name, row):
    assert row_of(backend, name).name == row
    assert MACHINES[row].backend == backend


def test_each_row_has_constants_that_were_counted():
    """For a row of its own, or for one of another target with the same matrix instructions."""
    assert {machine.kin for machine in MACHINES.values()} == {"sm_75", "sm_80", "sm_90", "sm_100", "gfx942"}
    for machine in MACHINES.values():
        assert MACHINES[machine.kin].backend == machine.backend


@pytest.mark.parametrize("name", ["sm_80", "sm_86", "sm_90", "sm_100"])
def test_matrices_of_64_units_in_float32_have_few_sequences_on_nvidia(name):
    """With 8 of them masked scans spilled 48 bytes."""
    choice = choose(LSTM, Sizes(16, 64, 1, 4), MACHINES[name], "resident")
    assert (choice.constants["BB"], choice.options["num_warps"]) == (4, 8)


@pytest.mark.parametrize("name", ["gfx942", "gfx950"])
def test_amd_keeps_matrices_in_registers(name):
    """What was compiled for an LSTM: 4 to 32 KiB, where the sum of its matrices is 32 to 128."""
    for width, itemsize in ((64, 2), (128, 2), (64, 4), (32, 8)):
        assert choose(LSTM, Sizes(16, width, 1, itemsize), MACHINES[name]).schedule == "resident"


def test_a_grid_has_a_limit_beside_the_batch():
    machine = MACHINES["sm_90"]
    assert "65536 heads" in choose(LSTM, Sizes(1, 65536, 65536, 2), machine).reasons["resident"]
    wide = choose(INDRNN, Sizes(1, 128 * 65536, 1, 2), machine)
    assert wide.schedule == "stepwise"
    assert "65535 programs" in wide.reasons["elementwise"]
    wide = choose(MINGRU, Sizes(1, 16 * 65536, 1, 2), machine)
    assert wide.schedule == "elementwise"
    assert "65535 programs" in wide.reasons["linear"]


def test_narrow_products_are_resident_and_wide_ones_cooperative():
    machine = MACHINES["sm_90"]
    assert choose(LSTM, Sizes(16, 128, 1, 2), machine).schedule == "resident"
    assert choose(LSTM, Sizes(16, 129, 1, 2), machine).schedule == "cooperative"
    assert choose(LSTM, Sizes(16, 768, 6, 2), machine).schedule == "resident"  # six heads of 128
    assert "129" in choose(LSTM, Sizes(16, 129, 1, 2), machine).reasons["resident"]


@pytest.mark.parametrize("hidden", [129, 256, 768, 1000, 1024])
@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "adjoint"])
@pytest.mark.parametrize("batch", [1, 16, 64])
def test_cooperative_programs_fit_the_machine_all_at_once(hidden, backwards, batch):
    machine = MACHINES["sm_90"]
    choice = choose(LSTM_ADJOINT if backwards else LSTM, Sizes(batch, hidden, 1, 2), machine)
    assert choice.schedule == "cooperative" and choice.options["launch_cooperative_grid"]
    found = choice.constants
    assert found["KU"] * (found["SLICES"] - 1) < hidden <= found["KU"] * found["SLICES"]
    assert -(-batch // found["BB"]) * found["SLICES"] * found["PARTS"] <= machine.processors
    matrices = 4 * hidden * hidden * 2 / (found["SLICES"] * found["PARTS"])
    assert matrices <= machine.shared_bytes


def test_what_is_not_cooperative_says_why():
    machine = MACHINES["sm_90"]
    for sizes, reason in (
        (Sizes(16, 2048, 1, 2), "KiB of on-chip memory are needed and 227 KiB are there"),
        (Sizes(16, 4096, 1, 2), "programs would wait for one another, and 132 run at once"),
        (Sizes(4096, 512, 1, 2), "programs would wait for one another, and 132 run at once"),
    ):
        choice = choose(LSTM, sizes, machine)
        assert choice.schedule == "stepwise" and reason in choice.reasons["cooperative"]
    assert "no matrix" in choose(INDRNN, Sizes(16, 512, 1, 2), machine).reasons["cooperative"]
    several = dataclasses.replace(LSTM, across=(*LSTM.across, Across("product")))
    assert "cannot exchange 'product'" in choose(several, Sizes(16, 512, 1, 2), machine).reasons["cooperative"]
    heads = dataclasses.replace(LSTM, across=(Across("matmul", 4, heads=True), Across("mean")), levels=2)
    assert "a group of programs has one" in choose(heads, Sizes(16, 512, 2, 2), machine).reasons["cooperative"]


@pytest.mark.parametrize("name", ["gfx942", "gfx950"])
def test_no_option_of_nvidias_compiler_is_given_to_amds(name):
    choice = choose(LSTM, Sizes(16, 256, 1, 2), MACHINES[name], "cooperative")
    assert "maxnreg" not in choice.options and choice.constants["BB"] == 16


def test_no_product_is_elementwise():
    choice = choose(INDRNN, Sizes(16, 4096, 1, 2), MACHINES["sm_90"])
    assert choice.schedule == "elementwise"
    assert choice.constants["BLOCK"] * 2 >= 4 * 32  # four bytes a thread, or no copy is asynchronous


MINGRU = Facts(streams=(2,), linear=True)


def test_what_is_linear_is_scanned_in_chunks_while_programs_are_few():
    machine = MACHINES["sm_90"]
    assert choose(MINGRU, Sizes(16, 768, 1, 2), machine).schedule == "linear"
    assert choose(MINGRU, Sizes(512, 4096, 1, 2), machine).schedule == "elementwise"
    assert choose(INDRNN, Sizes(16, 768, 1, 2), machine).schedule == "elementwise"
    assert "not linear" in choose(INDRNN, Sizes(16, 768, 1, 2), machine).reasons["linear"]
    assert "a matrix" in choose(LSTM, Sizes(16, 64, 1, 2), machine).reasons["linear"]


@pytest.mark.parametrize(
    "facts, itemsize, block, warps",
    [
        (MINGRU, 2, 16, 4),
        (MINGRU, 8, 8, 4),
        (Facts(streams=(3, 1), outputs=(2,), linear=True), 4, 16, 4),
        (Facts(streams=(2,), outputs=(1, 4), linear=True), 4, 16, 8),
        (Facts(streams=(4, 2, 1), outputs=(2,), linear=True), 8, 8, 16),
    ],
)
def test_a_tile_of_a_linear_scan_fits_the_registers(facts, itemsize, block, warps):
    choice = choose(facts, Sizes(16, 64, 1, itemsize), MACHINES["sm_90"], "linear")
    assert (choice.constants["CHUNK"], choice.constants["BLOCK"]) == (128, block)
    assert choice.options["num_warps"] == warps


IN_ROUNDS = Facts(streams=(2,), linear=True, rounds=1)


def along(batch: int, hidden: int, facts: Facts = IN_ROUNDS, **options: bool) -> Along:
    return choose(facts, Sizes(batch, hidden, 1, 2, **options), MACHINES["sm_90"], "linear").along


def test_stretches_of_time_fill_a_machine_that_units_leave_empty():
    assert (along(1, 256).most, along(16, 256).most, along(16, 4096).most) == (24, 1, 1)
    assert along(1, 16).most == linear.MOST_STRETCHES
    found = along(1, 256)
    assert (found.stretches(16384), found.steps(16384), found.launches(16384)) == (22, 768, 2)
    assert (along(16, 256).stretches(10**6), along(16, 256).launches(10**6)) == (1, 1)
    # Two programs along time scan everything once more than one does, and gain next to nothing.
    assert (along(3, 1024).most, along(3, 1024).stretches(10**6)) == (2, 1)


@pytest.mark.parametrize("hidden", [16, 64, 256, 1024])
@pytest.mark.parametrize("facts", [Facts(linear=True, rounds=rounds, totals=2) for rounds in (1, 3)])
def test_stretches_are_chosen_where_they_are_faster(hidden, facts):
    found = along(1, hidden, facts)
    for time in (0, 1, 127, 128, 129, 1000, 2048, 5000, 16384, 100_003, 10**6):
        stretches, steps = found.stretches(time), found.steps(time)
        assert stretches == 1 or (stretches - 1) * steps < time <= stretches * steps
        assert steps % 128 == 0 and 1 <= stretches <= found.most
        assert found.total_us(time) <= -(-time // 128) * found.chunk_us
        assert stretches == 1 or time >= 1024, "a launch more costs as much as a scan that short"
    assert found.stretches(10**6) > 1


def test_the_gradient_of_what_resets_return_to_is_added_up_as_well():
    facts = Facts(backwards=True, streams=(2, 1), linear=True, rounds=1, totals=1)
    assert (along(1, 64, facts).begins, along(1, 64, facts, resets=True).begins) == (False, True)
    assert [along(1, 64, facts, resets=resets).launches(10**5) for resets in (False, True)] == [4, 6]


def test_what_does_not_fit_is_refused_with_both_sizes():
    small = dataclasses.replace(MACHINES["sm_90"], shared_bytes=40 * 1024)
    choice = choose(LSTM, Sizes(16, 128, 1, 2), small)
    assert choice.schedule != "resident"
    assert "40 KiB are there" in choice.reasons["resident"]


def test_fewer_stages_where_memory_is_short():
    sizes = Sizes(16, 128, 1, 2)
    plenty = choose(LSTM, sizes, MACHINES["sm_90"], "resident").constants["STAGES"]
    short = dataclasses.replace(MACHINES["sm_90"], shared_bytes=150 * 1024)
    assert choose(LSTM, sizes, short, "resident").constants["STAGES"] < plenty


LSTM_ADJOINT = Facts(True, (Across("matmul_t", 4),), streams=(5, 1), outputs=(4,), levels=1)
GRU_V3 = Facts(across=(Across("matmul", 2), Across("matmul", 1)), streams=(3,), outputs=(1, 3), levels=2)
CFN = Facts(across=(Across("matmul", 2),), streams=(3,), outputs=(1, 3), levels=1)
RNN_ADJOINT = Facts(True, (Across("matmul_t", 1),), streams=(1, 1), outputs=(1,), levels=1)


@pytest.mark.parametrize(
    "name, facts, width, itemsize, masked, compiled",
    [
        ("sm_80", LSTM, 64, 2, False, 12288),
        ("sm_80", LSTM_ADJOINT, 64, 2, True, 49216),
        ("sm_90", LSTM, 64, 2, False, 18432),
        ("sm_90", LSTM_ADJOINT, 64, 2, True, 16448),
        ("sm_90", GRU_V3, 64, 2, True, 18432),
        ("sm_80", CFN, 64, 2, True, 28736),
        ("sm_80", LSTM_ADJOINT, 16, 2, False, 12288),
        ("sm_80", RNN_ADJOINT, 16, 2, False, 3328),
        ("sm_80", GRU_V3, 32, 8, False, 40960),
        ("sm_90", LSTM, 64, 4, False, 73728),
        ("sm_90", GRU_V3, 128, 2, False, 122880),
        ("sm_90", GRU_V3, 128, 2, True, 122944),
        ("sm_100", LSTM, 32, 2, False, 16384),
        ("sm_100", LSTM_ADJOINT, 128, 2, False, 172048),
        ("sm_100", RNN_ADJOINT, 32, 2, False, 8192),
        ("gfx942", LSTM, 32, 2, False, 4096),
        ("gfx942", LSTM_ADJOINT, 64, 2, False, 32768),
        ("gfx942", GRU_V3, 16, 2, False, 4096),
        ("gfx942", GRU_V3, 64, 4, False, 16384),
    ],
)
def test_on_chip_memory_is_reckoned_as_it_was_compiled(name, facts, width, itemsize, masked, compiled):
    """By Triton 3.9; tests/test_aot.py compiles the library and compares all of it."""
    sizes = Sizes(16, width, 1, itemsize, masked)
    constants = choose(facts, sizes, MACHINES[name], "resident").constants
    most = compiled * (2 if MACHINES[name].backend == "hip" else 1.5)
    assert compiled <= shared_bytes(facts, sizes, MACHINES[name], constants) <= most


def test_a_schedule_by_name():
    machine = MACHINES["sm_90"]
    assert choose(LSTM, Sizes(16, 64, 1, 2), machine, "stepwise").schedule == "stepwise"
    with pytest.raises(NotPossible, match="a matrix is applied to a state"):
        choose(LSTM, Sizes(16, 64, 1, 2), machine, "elementwise")
    with pytest.raises(NotPossible, match="dense and block-diagonal"):
        choose(
            dataclasses.replace(LSTM, across=(Across("matmul", 4), Across("matmul", 1, heads=True))),
            Sizes(16, 64, 2, 2),
            machine,
            "resident",
        )


@pytest.mark.parametrize(
    ("width", "heads", "itemsize", "machine", "tiles"),
    [
        (64, 1, 2, "sm_90", {1: 8, 4224: 8, 4225: 16, 10**6: 16}),
        (64, 12, 2, "sm_90", {16: 8, 352: 8, 353: 16, 5000: 16}),
        (32, 1, 2, "sm_80", {3456: 8, 3457: 16, 6912: 16, 6913: 32, 10**6: 32}),
        (128, 1, 2, "sm_90", {1: 8, 5000: 8}),  # the sums of 128 units fill the registers
        (64, 1, 4, "sm_90", {1: 4, 5000: 4}),
        (32, 1, 4, "sm_90", {1: 8, 5000: 8}),
        (64, 1, 2, "gfx942", {1: 16, 10**6: 16}),
    ],
)
def test_a_batch_is_in_one_of_three_tiles(width, heads, itemsize, machine, tiles):
    """Neither the length nor the batch is a constant of a kernel: a layer has at most three, whatever the batch is."""
    facts = dataclasses.replace(LSTM, across=(dataclasses.replace(LSTM.across[0], heads=heads > 1),))
    found = {batch: choose(facts, Sizes(batch, width * heads, heads, itemsize), MACHINES[machine]) for batch in tiles}
    assert {batch: choice.constants["BB"] for batch, choice in found.items()} == tiles
    assert {choice.schedule for choice in found.values()} == {"resident"}


def test_sums_over_units_have_all_of_them():
    machine = MACHINES["sm_90"]
    normed = dataclasses.replace(LSTM, across=(*LSTM.across, Across("mean"), Across("mean")), levels=3)
    assert normed.sums == 2 and LSTM.sums == 0
    without, with_sums = (choose(facts, Sizes(16, 64, 1, 2), machine) for facts in (LSTM, normed))
    assert {without.schedule, with_sums.schedule} == {"resident"}
    times = [SCHEDULES["resident"].plan(facts, Sizes(16, 64, 1, 2), machine).time for facts in (LSTM, normed)]
    assert times[0] < times[1]
    with pytest.raises(NotPossible, match="summed over all heads, and a program has one"):
        choose(normed, Sizes(16, 64, 2, 2), machine, "resident")
    assert choose(normed, Sizes(10**5, 64, 1, 2), machine, "resident").constants["BB"] == 8
    alone = dataclasses.replace(INDRNN, across=(Across("sum"),), levels=1)
    for hidden, block, warps in ((64, 64, 1), (65, 128, 1), (1024, 1024, 4)):
        found = choose(alone, Sizes(16, hidden), machine, "elementwise")
        assert (found.constants["BLOCK"], found.options["num_warps"]) == (block, warps)
    with pytest.raises(NotPossible, match="1025 are more than the 1024 that a program has"):
        choose(alone, Sizes(16, 1025), machine, "elementwise")
    with pytest.raises(NotPossible, match="both directions"):
        choose(alone, Sizes(16, 64, both=True), machine, "elementwise")
    with pytest.raises(NotPossible, match="it cannot compute 'product'"):
        choose(dataclasses.replace(alone, across=(Across("product"),)), Sizes(16, 64), machine, "elementwise")


def test_explain():
    result = CliRunner().invoke(main, ["explain", "lstm", "--hidden", "64", "--dtype", "bfloat16"])
    assert result.exit_code == 0
    assert "resident    chosen" in result.output
    assert "a matrix is applied to a state" in result.output
    assert CliRunner().invoke(main, ["explain", "lstm", "--machine", "abacus"]).exit_code == 2
