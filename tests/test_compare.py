"""Two recordings of compiled kernels beside each other: every difference is seen, and nothing else is."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import modules, static
from benchmarks import record as recording
from benchmarks.__main__ import main as benchmarks
from benchmarks.compare import FIGURES, as_text, compare, main, read, summary
from benchmarks.record import OtherOrigin, record
from rnngen.description import describe, library
from rnngen.runtime.plan import Sizes

SCAN = {
    "cell": "lstm",
    "direction": "forward",
    "masked": False,
    "resets": False,
    "schedule": "resident",
    "stage": None,
    "target": "sm_90",
    "dtype": "bfloat16",
    "batch": 16,
    "hidden": 64,
    "heads": 1,
    "triton": "3.9.0",
    "kernel": "lstm_resident_forward",
    "registers": 100,
    "spill_bytes": 0,
    "spill_instructions": 0,
    "shared_bytes": 45056,
    "instructions": 540,
    "step": {"instructions": 280.0, "cycles": 1100.0},
}
STAGE = SCAN | {"schedule": "stepwise", "stage": 1, "kernel": "lstm_stage_1", "shared_bytes": 0, "step": None}
OTHER_KERNELS = [
    {"cell": "gru"},
    {"direction": "adjoint"},
    {"masked": True},
    {"resets": True},
    {"schedule": "stepwise"},
    {"stage": 2},
    {"target": "sm_80"},
    {"dtype": "float32"},
    {"batch": 32},
    {"hidden": 128},
    {"heads": 2},
    {"triton": "3.6.0"},
]


def scan(**changes):
    """A row of a scan; a_step and cycles are those of its step."""
    step = SCAN["step"] | {
        k: changes.pop(v) for k, v in {"instructions": "a_step", "cycles": "cycles"}.items() if v in changes
    }
    return SCAN | {"step": step} | changes


@pytest.fixture
def files(tmp_path):
    """files(rows before, rows after): two recordings of them."""

    def written(before, after):
        paths = []
        for name, rows in (("before", before), ("after", after)):
            paths.append(tmp_path / f"{name}.jsonl")
            paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
        return paths

    return written


@pytest.fixture
def compared(files):
    """compared(rows before, rows after, *options): the exit status and the printed lines."""

    def ran(before, after, *options):
        done = CliRunner().invoke(main, [*map(str, files(before, after)), *options])
        return done.exit_code, done.output.splitlines()

    return ran


def test_what_is_the_same_differs_in_nothing(compared):
    status, lines = compared([SCAN, STAGE], [STAGE, SCAN])
    assert status == 0
    assert lines[0] == (
        "2 kernels on both sides, 0 of them with a figure beyond 3 % or more spills (0); 0 only before, 0 only after"
    )
    assert [line.split() for line in lines[2:]] == [
        ["Triton", "target", "figure", "kernels", "equal", "beyond", "mean", "ratio", "lowest", "highest"],
        ["3.9.0", "sm_90", "registers", "2", "2", "0", "1.000", "1.000", "1.000"],
        ["3.9.0", "sm_90", "a", "step", "1", "1", "0", "1.000", "1.000", "1.000"],
        ["3.9.0", "sm_90", "in", "all", "1", "1", "0", "1.000", "1.000", "1.000"],
        ["3.9.0", "sm_90", "cycles", "1", "1", "0", "1.000", "1.000", "1.000"],
        ["3.9.0", "sm_90", "shared", "bytes", "2", "2", "0", "1.000", "1.000", "1.000"],
    ]


# Beyond the 3 % that are allowed, in either direction, and just within.
@pytest.mark.parametrize(
    ("figure", "before", "within", "beyond"),
    [
        ("registers", 100, (97, 103), (96, 104)),
        ("a_step", 200.0, (194.0, 206.0), (193.5, 206.5)),
        ("cycles", 1000.0, (970.0, 1030.0), (969.0, 1031.0)),
        ("shared_bytes", 1000, (970, 1030), (969, 1031)),
    ],
)
def test_a_figure_may_differ_by_the_bound_and_no_more(compared, figure, before, within, beyond):
    for after in within:
        assert compared([scan(**{figure: before})], [scan(**{figure: after})])[0] == 0
    for after in beyond:
        status, lines = compared([scan(**{figure: before})], [scan(**{figure: after})])
        assert status == 1
        (found,) = [line for line in lines if line.startswith("lstm forward, resident, sm_90 bfloat16 16 x 64, 3.9.0")]
        assert f"{before:g} -> {after:g} ({100 * (after / before - 1):+.1f} %)" in found
        assert found.count("->") == 1


def test_a_kernel_without_a_loop_is_judged_by_all_its_instructions(compared):
    status, lines = compared([STAGE], [STAGE | {"instructions": 594}])
    assert status == 1
    assert [line for line in lines if "lstm forward, stepwise 1, sm_90" in line and "540 -> 594 (+10.0 %)" in line]


def test_what_surrounds_a_loop_does_not_count(compared):
    assert compared([SCAN], [scan(instructions=5400)])[0] == 0


def test_the_bound_can_be_another(compared):
    rows = [scan(cycles=1000.0)], [scan(cycles=1050.0)]
    assert compared(*rows)[0] == 1
    assert compared(*rows, "--bound", "5")[0] == 0
    assert compared(*rows, "--bound", "4.9")[0] == 1


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (SCAN, SCAN | {"step": None}, {("280", "-"), ("-", "540"), ("1100", "-")}),  # a loop that is gone
        (SCAN, scan(cycles=None), {("1100", "-")}),
        (STAGE, STAGE | {"shared_bytes": 16}, {("0", "16")}),  # of nothing, any amount is more
    ],
)
def test_a_figure_on_one_side_only_is_a_difference(compared, before, after, changes):
    status, lines = compared([before], [after])
    assert status == 1
    assert " 1 of them with a figure beyond 3 %" in lines[0]
    for one, other in changes:
        assert f" {one} -> {other} (!)" in lines[3]
    assert lines[3].count("->") == len(changes)
    status, lines = compared([after], [before])
    assert status == 1
    assert lines[3].count("->") == len(changes)


def test_what_no_side_has_is_no_difference(compared):
    status, lines = compared([scan(cycles=None, target="gfx942")], [scan(cycles=None, target="gfx942")])
    assert status == 0
    assert not [line for line in lines if "cycles" in line]


@pytest.mark.parametrize("spills", [{"spill_bytes": 8}, {"spill_instructions": 2}])
def test_a_new_spill_is_a_difference_and_one_less_is_none(compared, spills):
    status, lines = compared([SCAN], [SCAN | spills])
    assert status == 1
    assert "or more spills (1);" in lines[0]
    sizes = f"{spills.get('spill_bytes', 0)} B in {spills.get('spill_instructions', 0)}"
    assert [line for line in lines if line.endswith(f"0 -> {sizes} (!)")]
    assert compared([SCAN | spills], [SCAN])[0] == 0
    assert compared([SCAN | spills], [SCAN | spills])[0] == 0


@pytest.mark.parametrize("change", OTHER_KERNELS, ids=lambda change: next(iter(change)))
def test_a_kernel_on_one_side_only_is_named(compared, change):
    status, lines = compared([SCAN, SCAN | change], [SCAN])
    assert status == 1
    assert lines[0].endswith("1 only before, 0 only after")
    before = lines[lines.index("only before") + 1]
    status, lines = compared([SCAN], [SCAN, SCAN | change])
    assert status == 1
    assert lines[0].endswith("0 only before, 1 only after")
    assert lines[lines.index("only after") + 1] == before
    assert before != "lstm forward, resident, sm_90 bfloat16 16 x 64, 3.9.0"


def test_a_kernel_of_another_name_and_other_constants_is_the_same(compared):
    assert compared([SCAN], [SCAN | {"kernel": "lstm_forward", "num_warps": 2, "constants": {"BB": 4}}])[0] == 0


def test_the_summary_is_for_each_target_and_version_by_itself(files):
    before = [
        scan(cycles=1000.0),
        scan(cycles=500.0, masked=True),
        scan(cycles=200.0, cell="gru"),
        scan(cycles=100.0, target="sm_80"),
        scan(cycles=100.0, triton="3.6.0"),
    ]
    after = [
        scan(cycles=1100.0),
        scan(cycles=500.0, masked=True),
        scan(cycles=180.0, cell="gru"),
        scan(cycles=101.0, target="sm_80"),
        scan(cycles=300.0, triton="3.6.0"),
    ]
    comparison = compare(*map(read, files(before, after)))
    head, *rows = summary(comparison, 0.03)
    assert head == ["Triton", "target", "figure", "kernels", "equal", "beyond", "mean ratio", "lowest", "highest"]
    assert [row for row in rows if row[2] == "cycles"] == [
        ["3.9.0", "sm_90", "cycles", "3", "1", "2", "1.000", "0.900", "1.100"],
        ["3.9.0", "sm_80", "cycles", "1", "0", "0", "1.010", "1.010", "1.010"],
        ["3.6.0", "sm_90", "cycles", "1", "0", "1", "3.000", "3.000", "3.000"],
    ]


def test_none_of_both_is_as_much(files):
    before = [STAGE, scan(shared_bytes=1000)]
    after = [STAGE, scan(shared_bytes=1500)]
    rows = summary(compare(*map(read, files(before, after))), 0.03)
    assert rows[-1] == ["3.9.0", "sm_90", "shared bytes", "2", "1", "1", "1.250", "1.000", "1.500"]


def test_markdown_has_the_same_tables(compared):
    rows = [SCAN, SCAN | {"cell": "gru"}], [scan(cycles=1210.0)]
    _, text = compared(*rows)
    status, markdown = compared(*rows, "--markdown")
    assert status == 1
    assert markdown[0] == text[0]
    ruled = [line for line in markdown if line.startswith("|---")]
    assert [line.count("|") - 1 for line in ruled] == [1, len(FIGURES) + 2, 9]
    plain = [" ".join(line.replace("|", " ").split()) for line in markdown if not line.startswith("|---")]
    assert plain == [" ".join(line.split()) for line in text]
    for above, line in pairwise(markdown):
        if line.startswith("|---"):
            assert above.count("|") == line.count("|")


def test_columns_stand_one_below_the_other():
    assert list(as_text([["a", "bb", "c"], ["aaa", "b", "cc"]])) == ["a    bb  c", "aaa  b   cc"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([SCAN, {k: v for k, v in SCAN.items() if k != "triton"}], "line 2 is no row of the static suite: KeyError"),
        ([SCAN, 3], "line 2 is no row"),
        ([STAGE, SCAN, STAGE], "line 3 has a kernel for the second time: lstm forward, stepwise 1, sm_90"),
        ([], "has no rows"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(compared, broken, reason):
    for rows in ([SCAN], broken), (broken, [SCAN]):
        status, lines = compared(*rows)
        assert status == 2
        assert reason in " ".join(lines)


def test_half_a_line_is_refused(files):
    path, _ = files([SCAN], [])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="line 1 is no row"):
        read(path)


# What is recorded can be compared.


@pytest.fixture(scope="module")
def mingru(tmp_path_factory):
    """A recording of one cell at one size."""
    out = tmp_path_factory.mktemp("recorded") / "mingru.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "TYPES_AND_WIDTHS", (("bfloat16", 16),))
        record(out, ["mingru"], ["sm_90"])
    return out


@pytest.fixture
def begun(mingru, monkeypatch, tmp_path):
    """A copy of it, where one size is still all that is asked for."""
    monkeypatch.setattr(recording, "TYPES_AND_WIDTHS", (("bfloat16", 16),))
    return Path(shutil.copy(mingru, tmp_path))


def test_a_recording_has_every_kernel_and_is_equal_to_itself(mingru):
    found = read(mingru)
    assert {(one.direction, one.masked, one.resets, one.schedule, one.stage) for one in found} == {
        (direction, masked, resets, *schedule)
        for direction in ("forward", "adjoint")
        for masked, resets in ((False, False), (True, False), (False, True))
        for schedule in [("elementwise", None), ("linear", None), ("stepwise", 1)]
        if not (resets and schedule[0] == "stepwise")
    }
    assert {(one.cell, one.target, one.dtype, one.hidden) for one in found} == {("mingru", "sm_90", "bfloat16", 16)}
    for kernel, compiled in found.items():
        assert compiled.figures["registers"] > 0
        assert (compiled.figures["cycles"] is None) == (kernel.schedule == "stepwise")
    assert CliRunner().invoke(main, [str(mingru), str(mingru)]).exit_code == 0


def test_the_stages_of_a_step_are_told_apart():
    (cell,) = describe(library()["gru_v3"]).cells
    found = list(static.jobs(cell, Sizes(16, 32, itemsize=2), "sm_90", "bfloat16"))
    stages = {}
    for job in found:
        assert job.cell == "gru_v3"
        assert job.direction in job.kernel and job.schedule in job.kernel
        stages.setdefault((job.direction, job.masked, job.resets, job.schedule), []).append(job.stage)
    # The adjoint has a kernel before its first product, too.
    assert stages == {
        (direction, masked, resets, schedule): list(range(1, count + 1)) if schedule == "stepwise" else [None]
        for direction, count in (("forward", 2), ("adjoint", 3))
        for masked, resets in ((False, False), (True, False), (False, True))
        for schedule in ("resident", "cooperative", "stepwise")
        if not (resets and schedule == "stepwise")
    }


def test_what_is_recorded_is_not_compiled_again(begun, monkeypatch):
    monkeypatch.setattr(recording, "rows", None)
    before = begun.read_text()
    record(begun, ["mingru"], ["sm_90"])
    assert begun.read_text() == before


def test_a_run_that_was_interrupted_goes_on(begun, monkeypatch):
    def interrupted(*args, **kwargs):
        yield next(static.rows(*args, **kwargs))
        raise KeyboardInterrupt

    before = begun.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(recording, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            record(begun, ["mingru"], ["sm_90", "sm_80"])
    assert begun.read_text() == before
    record(begun, ["mingru"], ["sm_90", "sm_80"])
    assert begun.read_text().startswith(before)
    found = read(begun)
    assert sum(one.target == "sm_80" for one in found) == sum(one.target == "sm_90" for one in found) == len(found) / 2


@pytest.mark.parametrize("origin", ["tree", "triton"])
def test_rows_of_another_origin_are_never_mixed(begun, origin, capsys):
    lines = begun.read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {origin: "another"})
    begun.write_text("\n".join(lines) + "\n")
    with pytest.raises(OtherOrigin, match=f"{origin} another, here "):
        record(begun, ["mingru"], ["sm_80"])
    with pytest.raises(SystemExit) as left:
        benchmarks(["run", "--suite", "static", "--cells", "mingru", "--target", "sm_80", "--out", str(begun)])
    assert left.value.code == 2
    assert "Name another file." in capsys.readouterr().err
    assert begun.read_text().splitlines() == lines


def test_a_tree_is_another_when_anything_that_makes_kernels_has_changed(monkeypatch, tmp_path):
    for folder in ("rnngen", "templates"):
        shutil.copytree(modules.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    here = modules.tree()
    monkeypatch.setattr(modules, "ROOT", tmp_path)
    assert modules.tree() == here
    for kind in ("rnngen/**/*.py", "rnngen/cells/*.toml", "templates/**/*.jinja"):
        path = next(tmp_path.glob(kind))
        text = path.read_bytes()
        path.write_bytes(text + b"\n")
        assert modules.tree() != here
        path.write_bytes(text)
        assert modules.tree() == here
        moved = path.rename(path.with_stem("moved"))
        assert modules.tree() != here
        moved.rename(path)
