"""The suite of a GPU as one command, on cards that are not there: it runs through, and goes on where it was cut off;
what is fitted to measurements that were planted is what was planted.
"""

import json
import math
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pretended_gpu import CARDS, pretended

from benchmarks import __main__ as command
from benchmarks import calibrate, correctness, gauges, measure, report, run
from benchmarks.__main__ import main
from benchmarks.contenders import ours
from benchmarks.correctness import DTYPES, Correctness
from benchmarks.fit import NothingToFit, as_python, changes, fit
from benchmarks.kept import Kept, OtherOrigin
from benchmarks.modules import ROOT
from benchmarks.problem import Problem
from benchmarks.report.rows import by_machine, read
from benchmarks.suites import Wanted, gpu
from rnngen.runtime.choose import choose, plan_of
from rnngen.runtime.machine import MACHINES, Machine
from rnngen.runtime.plan import Across, Facts, Sizes
from rnngen.runtime.schedules import SCHEDULES

REPORT = '<testsuites><testsuite time="1.5"><testcase name="test_a"/></testsuite></testsuites>'


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# All of it, where nothing is timed.


@pytest.fixture
def dry(monkeypatch, tmp_path):
    """What a card that is not there has no answer to: events, graphs, clocks, a process that has it too, and numbers
    that can be judged. Sequences are short, and layers as wide as they are.
    """

    def ended(options, seconds):
        (path,) = (option.partition("=")[2] for option in options if option.startswith("--junitxml="))
        Path(path).write_text(REPORT)
        return 0, ""

    def timed(functions, budget, clock):
        return {name: [(1.0, 1.0)] * 2 for name in functions}

    monkeypatch.setattr(correctness, "_ended", ended)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "judged", lambda runs, problem: measure.Judgement({}, {}, {}))
    monkeypatch.setattr(measure, "stopwatch", lambda device: lambda function: (function() or 1.0, 1.0))
    monkeypatch.setattr(measure, "Problem", lambda case: Problem(case, alone=True))
    monkeypatch.setattr(measure, "UNMEASURED", 1)
    monkeypatch.setattr(measure, "timed", timed)
    monkeypatch.setattr(gauges, "median_ms", lambda function: (function(), 1.0)[1])
    monkeypatch.setattr(gauges, "STEPS", 2)
    monkeypatch.setattr(gauges, "LAUNCHES", 2)
    questions = tuple((cells, 2 + n, *rest) for n, (cells, _, *rest) in enumerate(gpu.QUESTIONS))
    monkeypatch.setattr(gpu, "QUESTIONS", questions)
    monkeypatch.setattr(gpu, "SIDE_BY_SIDE", tuple((cell, 2, *rest) for cell, _, *rest in gpu.SIDE_BY_SIDE))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None, raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, samples: module)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")  # what is not there has no values
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_suite_runs_through_on_every_card(card, dry, tmp_path, capsys):
    with pretended(card, meta=True) as there:
        assert main(["run", "--suite", "gpu"]) == 0
        tasks = [str(task) for task in gpu.tasks(Wanted())]
    assert there.faults == []
    (path,) = tmp_path.glob("*")
    rows = lines(path)
    assert {row["machine"] for row in rows} == {card.name} and not [row for row in rows if "failure" in row]
    assert list(dict.fromkeys(row["task"] for row in rows)) == tasks and len(set(tasks)) == len(tasks)
    for task in tasks:  # a contender of ours, or the reason why a schedule cannot run
        own = [row for row in rows if row["task"] == task and row["contender"].partition(",")[0] != "torch.nn"]
        told = {"ms", "step_us", "tflops", "gb_s", "clock_ghz", "host_us", "turn_us", "passed", "sheet", "skipped"}
        assert any(told & row.keys() for row in own), task
    assert {row["contender"] for row in rows if "step_us" in row} >= {"elementwise", "linear", "resident", "stepwise"}
    capsys.readouterr()
    assert calibrate.main(["--rows", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(card.name)
    assert eval(said.splitlines()[-1], {"Machine": Machine}).processors == card.processors
    page, _ = report.texts(by_machine(read([path])))
    assert "| bfloat16 | 1 | 0 | 0 |" in page and "### The model beside the card" in page
    assert "Nothing has been timed" not in page


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_the_same_command_goes_on(dry, tmp_path, monkeypatch, capsys):
    """Cut off in its midst, and then for want of time."""
    monkeypatch.setattr(gpu, "QUESTIONS", gpu.QUESTIONS[4:5])
    monkeypatch.setattr(gauges, "_sweeps", lambda half: iter([("stepwise", ("lstm", 2, 3, 16, half))]))
    (tmp_path / "nvidia-h100-80gb-hbm3.jsonl").write_text("former\n")

    def cut(function):
        raise KeyboardInterrupt

    with pretended(CARDS["H100"], meta=True):
        with monkeypatch.context() as patch:
            patch.setattr(gauges, "median_ms", cut)
            assert main(["run", "--suite", "gpu"]) == run.INTERRUPTED
        assert main(["run", "--suite", "gpu", "--minutes", "1"]) == run.UNFINISHED
        assert (tmp_path / "nvidia-h100-80gb-hbm3.jsonl").read_text() == "former\n"
        (part,) = tmp_path.glob("*.part")
        before = part.read_text()
        assert main(["run", "--suite", "gpu"]) == 0
        tasks = [str(task) for task in gpu.tasks(Wanted())]
    (path,) = tmp_path.glob("*")
    assert path.read_text().startswith(before)
    found = list(dict.fromkeys(row["task"] for row in lines(path)))
    assert sorted(found) == sorted(tasks)
    for task in tasks:
        own = [row for row in lines(path) if row["task"] == task]
        assert {row["of"] for row in own} == {len(own)}
        assert len({(row["contender"], row.get("direction")) for row in own}) == len(own)
    assert "minutes were too few for" in capsys.readouterr().out


def test_the_largest_questions_come_first_and_fit_the_time(monkeypatch):
    monkeypatch.setattr(measure, "AVAILABLE", range(16))
    monkeypatch.setattr(correctness, "AVAILABLE", range(16))
    with pretended(CARDS["H100"]):
        tasks = list(gpu.tasks(Wanted()))
    parts = list(dict.fromkeys(task.facts["part"] for task in tasks))
    assert parts == ["correctness", "calibration", "kernels", "schedules"]
    assert {task.arithmetic for task in tasks if task.facts["part"] == "correctness"} == {*DTYPES, ""}
    assert sum(task.cost for task in tasks) < 60 * gpu.MINUTES
    assert sum(task.cost for task in tasks if task.facts["part"] == "calibration") < 150
    first = [task.case for task in tasks if task.facts["part"] == "kernels"][:8]
    assert {case.cell for case in first} == {"lstm", "gru"} and {case.hidden for case in first} == {
        256,
        512,
        1024,
        2048,
    }
    facts = Facts(across=(Across("matmul", 4),), streams=(4,), outputs=(1, 5), levels=1)
    found = {
        width: choose(facts, Sizes(16, width, 1, 2), MACHINES["sm_90"]).schedule for width in (128, 512, 1024, 2048)
    }
    assert found == {128: "resident", 512: "cooperative", 1024: "cooperative", 2048: "stepwise"}


@pytest.mark.parametrize("name", ["T4", "H100", "MI300X"])
def test_what_times_an_exchange_compiles(name, monkeypatch):
    monkeypatch.setattr(gauges, "median_ms", lambda function: (function(), 1.0)[1])
    with pretended(CARDS[name], compiling=True) as card:
        (row,) = gauges.Exchange("cuda").rows()
    assert card.faults == []
    programs = [one.grid[0] for one in card.launches]
    assert programs == [int(count) for count in row["turn_us"]] and max(programs) < CARDS[name].processors


def test_every_schedule_is_a_contender():
    assert tuple(SCHEDULES) == ours.SCHEDULES


# A run that is cut off goes on.


@dataclass
class Counting:
    """A task of two rows that counts how often its turn came, and may end the process in its midst."""

    name: str
    turns: list
    end: object = None
    cost: float = 1.0

    @property
    def facts(self):
        return {"part": "sizes", "cell": self.name}

    def __str__(self):
        return self.name

    def rows(self):
        self.turns.append(self.name)
        yield {**self.facts, "contender": "first"}
        if self.end:
            raise self.end
        yield {**self.facts, "contender": "second"}


ORIGIN = {"machine": "M", "suite": "gpu"}


def measured(out, *tasks, **options):
    return run.measure(tasks, Kept(out, ORIGIN), {"suite": "gpu"}, {"machine": "M"}, torch.device("cpu"), **options)


def test_a_task_is_there_or_is_not(tmp_path, capsys):
    out, turns = tmp_path / "rows.part", []
    a, b, c = (Counting(name, turns) for name in "abc")
    assert measured(out, a, replace(b, end=KeyboardInterrupt()), c) == run.INTERRUPTED
    assert [(row["task"], row["of"]) for row in lines(out)] == [("a", 2)] * 2
    assert measured(out, a, b, c) == 0
    assert "1 of 3 tasks are in" in capsys.readouterr().out
    assert turns == ["a", "b", "b", "c"]  # who was interrupted has the same turn again
    assert [(row["task"], row["contender"]) for row in lines(out)] == [
        (t, c) for t in "abc" for c in ("first", "second")
    ]
    assert measured(out, a, b, c) == 0 and turns == ["a", "b", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("left", [1, 20, -1, -30])
def test_what_a_kill_leaves_of_a_line_is_dropped(left, tmp_path):
    """From a file that was cut off anywhere within the rows of the second task."""
    out, turns = tmp_path / "rows.part", []
    tasks = [Counting(name, turns) for name in "abc"]
    assert measured(out, *tasks[:2]) == 0
    whole = out.read_text()
    first = len("".join(whole.splitlines(keepends=True)[:2]))
    out.write_text(whole[: first + left] if left > 0 else whole[:left])
    assert measured(out, *tasks) == 0
    assert turns == ["a", "b", "b", "c"]
    assert [row["task"] for row in lines(out)] == ["a", "a", "b", "b", "c", "c"]


def test_what_kills_the_process_does_not_keep_others_from_their_turn(tmp_path, capsys):
    """By SIGKILL, as a machine does it that is lent for some minutes."""
    out = tmp_path / "rows.part"
    text = f"""
import os, signal, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
from pathlib import Path
from test_gpu_suite import Counting, measured
class Killing(Counting):
    def rows(self):
        yield from super().rows()
        os.kill(os.getpid(), signal.SIGKILL)
sys.exit(measured(Path({str(out)!r}), Counting("a", []), Killing("b", []), Counting("c", [])))
"""
    for rows in (["a"], ["a", "c"]):  # at last in its turn, since it was begun before
        assert subprocess.run([sys.executable, "-c", text], capture_output=True).returncode == -signal.SIGKILL
        assert [row["task"] for row in lines(out)] == [name for name in rows for _ in range(2)]
    turns = []
    assert measured(out, *(Counting(name, turns) for name in "abc")) == 1
    assert turns == [] and "2 times the process ended while this ran" in lines(out)[-1]["failure"]
    assert "1 are failures" in capsys.readouterr().out


def test_a_run_ends_in_time_and_says_what_is_left(tmp_path, capsys):
    out, turns = tmp_path / "rows.part", []
    tasks = [Counting("a", turns, cost=500), Counting("b", turns, cost=70), Counting("c", turns)]
    assert measured(out, *tasks, minutes=1) == run.UNFINISHED
    assert turns == ["a", "c"]  # the first is always begun, or no call would ever come to it
    said = capsys.readouterr().out
    assert said.endswith("1 minutes were too few for 1 tasks, which the same command goes on with: b\n")
    assert measured(out, *tasks, minutes=1) == 0 and turns == ["a", "c", "b"]


def test_a_card_that_is_lost_ends_the_run_behind_its_task(tmp_path, monkeypatch, capsys):
    def lost(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    turns = []
    tasks = [Counting("a", turns, RuntimeError("CUDA error")), Counting("b", turns)]
    with pretended(CARDS["H100"]), monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", lost)
        about = ({"suite": "gpu"}, {"machine": "M"}, torch.device("cuda", 0))
        assert run.measure(tasks, Kept(tmp_path / "rows", ORIGIN), *about) == run.UNFINISHED
        patch.undo()
        assert "The card answers no more (RuntimeError: CUDA error: an illegal memory" in capsys.readouterr().out
        assert run.measure(tasks, Kept(tmp_path / "rows", ORIGIN), *about) == 1  # one failure, from before
    assert turns == ["a", "b"]


def test_rows_of_another_origin_are_not_mixed(tmp_path, monkeypatch, capsys):
    out = tmp_path / "some-card.part"
    assert measured(out, Counting("a", [])) == 0
    with pytest.raises(OtherOrigin, match=r"some-card\.part has rows of another origin \(machine M, here N\)"):
        Kept(out, ORIGIN | {"machine": "N"})
    kept = command._begun(out, ORIGIN | {"machine": "N"})
    assert not kept.done and (tmp_path / "some-card.former").exists() and not out.exists()
    assert "is in" in capsys.readouterr().out
    (tmp_path / "rows").write_text("[]\n")
    with pytest.raises(OtherOrigin, match="line 1 is no row"):
        Kept(tmp_path / "rows", ORIGIN)


# Whether kernels are right.


def test_checks_are_counted_and_those_that_fail_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(correctness, "COMPILERS", 1)
    checks = tmp_path / "test_of_a_card.py"
    checks.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])\n"
        "def test_it(dtype):\n"
        "    assert dtype != 'float16', 'far off'\n"
        "def test_skipped():\n"
        "    pytest.skip('no room')\n"
    )
    (row,) = Correctness("float16", str(checks)).rows()
    assert (row["passed"], row["wrong"], row["left_out"]) == (0, 1, 0)
    assert row["failure"].startswith("1 of 1 are wrong: test_it[float16]: AssertionError: far off")
    (row,) = Correctness("", str(checks)).rows()
    assert (row["passed"], row["left_out"], "failure" in row) == (0, 1, False)
    checks.write_text("import pytest\npytest.skip('there is no GPU here', allow_module_level=True)\n")
    (row,) = Correctness("float32", str(checks)).rows()
    assert row["failure"].startswith("no check ran: ") and "there is no GPU here" in row["failure"]


def test_checks_that_hang_are_ended(tmp_path):
    checks = tmp_path / "test_of_a_card.py"
    checks.write_text("import time\ndef test_it_float32():\n    time.sleep(60)\n")
    (row,) = Correctness("float32", str(checks), seconds=0.5).rows()
    assert "the checks were not done within 0.5 s" in row["failure"]


def test_every_check_is_in_one_task():
    names = ["test_x[lstm-resident-bfloat16-s-reversed]", "test_y[gru-torch.float16-x]", "test_z[float64]", "test_bits"]
    names.append("test_x[float32]")
    found = {name: [] for name in names}
    for arithmetic in (*DTYPES, ""):
        *rest, last = [f" {part}".split(" not ") for part in Correctness(arithmetic).which.split(" and ")]
        for name in names:
            words = [(word[-1].strip(), len(word) == 1) for word in (*rest, last)]
            if all((word in name) == wanted for word, wanted in words):
                found[name].append(arithmetic)
    assert found == dict(zip(names, [["bfloat16"], ["float16"], ["float64"], [""], ["float32"]], strict=True))


# What is fitted.

LSTM = Facts(across=(Across("matmul", 4),), streams=(4,), outputs=(1, 5), levels=1)
ADJOINT = Facts(True, (Across("matmul_t", 4),), (1, 5), (4,), levels=1)
GRU_V3 = Facts(across=(Across("matmul", 2), Across("matmul", 1)), streams=(3,), outputs=(1, 4), levels=2)
LINEAR = Facts(streams=(2,), linear=True)
NAMES = {LSTM: "lstm", ADJOINT: "lstm", GRU_V3: "gru_v3", Facts(): "indrnn", LINEAR: "mingru"}
SWEEPS = [("stepwise", facts, 128) for facts in (LSTM, ADJOINT, GRU_V3, Facts())]
SWEEPS += [("cooperative", facts, width) for facts in (LSTM, ADJOINT) for width in (256, 512)]
SWEEPS += [("resident", LSTM, 64), ("resident", ADJOINT, 64), ("elementwise", Facts(), 4096), ("linear", LINEAR, 512)]
PLANTED = {"clock_ghz": 1.98, "memory_gb_s": 2900.0, "half_tflops": 700.0, "single_tflops": 51.0, "double_tflops": 60.0}
CONSTANTS = {"stage_us": 6.25, "product_us": 7.5, "exchange_cycles": 4100.0}
FACTORS = (("elementwise", 1.25), ("linear", 0.8), ("resident", 1.5))


def planted(sheet: Machine, truth: Machine, noise: float = 0.0) -> list[dict]:
    """The rows that a card would give of which the model is true."""
    here = {"part": "calibration", "suite": "gpu", "machine": "A card", "when": "2026-01-02T03:04:05+00:00"}
    rows = [{"contender": "data sheet", "sheet": json.loads(json.dumps(asdict(sheet)))}]
    rows += [{"contender": "copy", "gb_s": truth.memory_gb_s}, {"contender": "clock", "clock_ghz": truth.clock_ghz}]
    for arithmetic, size in (("bfloat16", 2), ("float32", 4), ("float64", 8)):
        rows.append({"contender": "torch.mm", "arithmetic": arithmetic, "tflops": truth.tflops(size)})
    draw = random.Random(0)
    for schedule, facts, hidden in SWEEPS:
        sizes = Sizes(16, hidden, 1, 2)
        time = plan_of(schedule, facts, sizes, truth).time * math.exp(draw.gauss(0, noise))
        case = {"cell": NAMES[facts], "time": 512, "batch": 16, "hidden": hidden, "arithmetic": "bfloat16"}
        case |= {
            "direction": "adjoint" if facts.backwards else "forward",
            "facts": asdict(facts),
            "call": asdict(sizes),
        }
        rows.append({"contender": schedule, "step_us": time, **case})
    return [json.loads(json.dumps(here | row)) for row in rows]


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_120", "gfx950"])
def test_what_was_planted_is_found(name):
    sheet = MACHINES[name]
    truth = replace(sheet, **PLANTED, **CONSTANTS, factors=FACTORS)
    found = fit(planted(sheet, truth))
    assert found.sheet == sheet
    for constant in (*PLANTED, *CONSTANTS):
        assert getattr(found.machine, constant) == pytest.approx(getattr(truth, constant), rel=2e-3), constant
    assert dict(found.machine.factors) == pytest.approx(dict(FACTORS), rel=2e-3)
    for one in found.readings:
        assert one.estimate(found.machine) == pytest.approx(one.step_us, rel=3e-3)
    assert eval(as_python(found.machine), {"Machine": Machine}) == found.machine
    again = fit(planted(replace(sheet, factors=(("linear", 3.0),)), truth))  # from a row that was fitted before
    assert again.machine == found.machine


def test_noise_moves_what_is_found_a_little():
    sheet = MACHINES["sm_90"]
    truth = replace(sheet, **PLANTED, **CONSTANTS, factors=FACTORS)
    found = fit(planted(sheet, truth, noise=0.03))
    for constant in CONSTANTS:
        assert getattr(found.machine, constant) == pytest.approx(getattr(truth, constant), rel=0.15), constant


def test_what_was_not_measured_stays_as_it_is():
    sheet = MACHINES["sm_90"]
    rows = planted(sheet, replace(sheet, **PLANTED, **CONSTANTS))
    few = [row for row in rows if row["contender"] in ("data sheet", "copy") or row.get("facts", {}).get("levels") == 1]
    few = [row for row in few if row["contender"] != "stepwise" or not row["facts"]["backwards"]]
    found = fit(few).machine  # one sweep by `stepwise` does not tell a stage from a product
    assert found.memory_gb_s == 2900 and found.clock_ghz == sheet.clock_ghz
    assert (found.stage_us, found.product_us) == (sheet.stage_us, sheet.product_us)
    with pytest.raises(NothingToFit, match="no row says of which machine"):
        fit(rows[1:])
    rows[0]["sheet"]["shared_bytes"] = 1024
    with pytest.raises(NothingToFit, match=r"lstm forward of 256 units by 'cooperative' ran, and now it cannot \("):
        fit(rows)


def test_the_choice_goes_by_what_was_measured():
    sheet = MACHINES["sm_90"]
    slow = replace(sheet, factors=(("resident", 40.0),))
    sizes = Sizes(16, 64, 1, 2)
    assert choose(LSTM, sizes, sheet).schedule == "resident" != choose(LSTM, sizes, slow).schedule
    told = list(changes(fit(planted(sheet, slow))))
    assert "lstm forward, bfloat16, batch 16, 64 units: cooperative, not resident" in told
    assert not list(changes(fit(planted(sheet, sheet))))


def test_a_calibration_is_json_and_a_table(tmp_path, capsys):
    sheet = MACHINES["sm_90"]
    rows = tmp_path / "rows.jsonl"
    made = planted(sheet, replace(sheet, **PLANTED, **CONSTANTS, factors=FACTORS))
    made.append(made[0] | {"contender": "exchange", "skipped": "no room"})
    del made[-1]["sheet"]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    out = tmp_path / "deep" / "card.json"
    assert calibrate.main(["--rows", str(rows), "--json", "--out", str(out)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(out.read_text())
    assert record["machine"]["stage_us"] == {"sheet": 3.5, "fitted": 6.25}
    assert {row["schedule"] for row in record["schedules"]} == {schedule for schedule, *_ in SWEEPS}
    assert all(row["fitted_ratio"] == pytest.approx(1, abs=4e-3) for row in record["schedules"])
    assert calibrate.main(["--rows", str(rows)]) == 0
    said = capsys.readouterr().out
    assert "stage_us" in said and "not measured: exchange : no room" in said and said.endswith(f"{record['python']}\n")


def test_a_calibration_without_a_gpu_or_without_rows_says_so(tmp_path, capsys):
    if not torch.cuda.is_available():
        assert calibrate.main([]) == 0
        assert capsys.readouterr().out == "There is no GPU here that torch can use, so there is nothing to calibrate.\n"
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(SystemExit):
        calibrate.main(["--rows", str(tmp_path / "rows.jsonl")])
    assert "no calibration is in" in capsys.readouterr().err


def test_a_calibration_measures_and_fits(dry, monkeypatch, capsys):
    monkeypatch.setattr(gauges, "_sweeps", lambda half: iter([("stepwise", ("lstm", 2, 3, 16, half))]))
    with pretended(CARDS["A100"], meta=True):
        assert calibrate.main(["--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["card"] == "NVIDIA A100-SXM4-40GB" and "calibration" in said.err
    assert [path.name for path in (ROOT / "benchmarks" / "results").glob("*.jsonl")] == ["amd-epyc.jsonl"]
