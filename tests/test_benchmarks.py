"""The benchmarks, on small sizes, and with what they ask of a GPU answered: they are fair, and they lose nothing."""

import json
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pretended_gpu import CARDS, pretended
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks import __main__ as command
from benchmarks import measure, modules, report, run
from benchmarks.__main__ import main
from benchmarks.alone import STATUS, FirstResult, Memory, peak_growth
from benchmarks.contenders import CONTENDERS, Contender, torchrecurrent
from benchmarks.contenders.run import TorchRun, package
from benchmarks.forgetting import VARIANTS, Forgetting, adder
from benchmarks.kept import Kept
from benchmarks.machine import AVAILABLE, sensors
from benchmarks.measure import Budget, Comparison, Rate, apart, in_turn, judged, timed
from benchmarks.problem import ARITHMETIC, Absent, Case, Problem, products_in
from benchmarks.products import products
from benchmarks.report.rows import NoRow, Rows, by_machine, read
from benchmarks.suites import Wanted, cpu, gpu
from generated.lstm import LSTM
from rnngen.library import library

SHORT = Budget(0, 2, 2)
SMALL = ("run", "--suite", "gpu", "--device", "cpu", "--hidden", "8", "--time", "6", "--quick")


@pytest.fixture(autouse=True)
def _threads():
    """As many threads and processors as before."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if AVAILABLE:
        os.sched_setaffinity(0, AVAILABLE)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def comparison(cell="lstm", *contenders: str, over="torch.nn", **case) -> Comparison:
    sizes = {"time": 5, "batch": 3, "hidden": 4} | case
    return Comparison("sizes", Case(cell, **sizes), contenders or ("rnngen", "torch.nn"), over, SHORT)


# What is measured.


def test_rows_say_what_was_measured_and_where(tmp_path, capsys):
    out = tmp_path / "deeper" / "rows.jsonl"
    cells = ("--cells", "lstm", "gru")
    assert main([*SMALL, *cells, "--batch", "3", "--dtype", "float32", "tf32", "bfloat16", "--out", str(out)]) == 0
    found = lines(out)
    timed = [row for row in found if "ms" in row]
    assert {(row["cell"], row["arithmetic"], row["direction"], row["contender"]) for row in timed} == {
        (cell, arithmetic, direction, contender)
        for arithmetic in ("float32", "tf32", "bfloat16")
        for cell in ("lstm", "gru")
        for direction in ("forward", "both")
        for contender in ("rnngen", "torch.nn")
    }
    for row in timed:
        assert {"machine", "capability", "cores", "system", "load", "torch", "cuda", "cudnn"} <= row.keys()
        assert {"triton", "python", "c", "no_c", "commit", "when", "suite", "threads", "over"} <= row.keys()
        assert (row["time"], row["batch"], row["hidden"]) == (6, 3, 8)
        assert len(row["ms"]) == len(row["cpu_ms"]) == len(row["ratio"]) == 3
        assert 0 < row["error"] < 3e-2
        assert row["contender"] == "rnngen" or row["ratio"] == [1, 1, 1]
    assert len(capsys.readouterr().out.splitlines()) == len(found) + 1
    main([*SMALL, "--batch", "3", "--cells", "gru", "--out", str(out)])
    assert len(lines(out)) > len(found)  # appended, not written anew


@pytest.mark.parametrize("name", ["rnngen", "torch steps", "torch.nn", "nn.LSTM"])
def test_forward_rows_are_of_inference_and_others_of_training(name):
    seen = []
    run = CONTENDERS[name].build(Problem(Case("lstm", 2, 1, 3)))
    hook = register_module_forward_hook(lambda layer, args, out: seen.append((layer.training, out[0].requires_grad)))
    try:
        for _ in range(2):
            run.forward()
            run.both()
    finally:
        hook.remove()
    assert seen == [(False, False), (True, True)] * 2


@pytest.mark.parametrize("name", ARITHMETIC)
def test_all_have_the_same_arithmetic(name, monkeypatch):
    seen = set()
    whole = measure.timed

    def noted(*given):
        seen.add((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision))
        return whole(*given)

    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision
    monkeypatch.setattr(measure, "timed", noted)
    assert len([row for row in comparison(arithmetic=name).rows() if "ms" in row]) == 4
    assert seen == {(ARITHMETIC[name].products,) * 2}
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == before


def test_our_kernels_take_the_arithmetic_that_is_said():
    with pretended(CARDS["A100"]) as card:
        layer, x = LSTM(4, 16, device="cuda"), torch.randn(2, 3, 4, device="cuda")
        for precision in ("ieee", "tf32"):
            with products_in(precision), torch.no_grad():
                layer(x)
    assert [one.constants["PRECISION"] for one in card.launches] == ["ieee", "tf32"]


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")  # what is not there has no values
def test_on_a_gpu_both_directions_launch_our_kernels(monkeypatch):
    """On one that is not there, so that no answer is right and no time means anything."""
    monkeypatch.setattr(measure, "judged", lambda runs, problem: measure.Judgement({}, {}, {}))
    monkeypatch.setattr(measure, "stopwatch", lambda device: lambda function: (function() or 1.0, 1.0))
    with pretended(CARDS["H100"]) as card:
        rows = list(comparison("lstm", "rnngen", arithmetic="bfloat16", device="cuda", hidden=16).rows())
    assert [row["direction"] for row in rows] == ["forward", "both"]
    assert {one.kernel for one in card.launches} == {"lstm_forward_resident", "lstm_adjoint_resident"}


# The judge.


def test_what_is_wrong_is_not_timed():
    problem = Problem(Case("gru", 5, 40, 4))
    runs = {name: CONTENDERS[name].build(problem) for name in ("rnngen", "torch.nn")}
    good = judged(runs, problem)
    assert good.faults == {} and max(good.errors.values()) < 1e-5
    runs["rnngen"].module.register_forward_hook(lambda module, args, result: (result[0] * 1.01, result[1]))
    wrong = judged(runs, problem)
    assert list(wrong.errors) == ["torch.nn"]
    assert (
        "Wrong: beyond 1e-04 of float64" in wrong.faults["rnngen"]
        and "y 1.0e-02 (torch's own" in wrong.faults["rnngen"]
    )
    with torch.no_grad():
        runs["torch.nn"].module.register_forward_hook(lambda module, args, result: (result[0] * 1.01, result[1]))
    assert judged(runs, problem).faults == {}  # as far off as torch's own is no fault of ours


def test_a_wrong_gradient_is_seen_too(monkeypatch):
    whole = CONTENDERS["torch steps"].build

    def scaled(problem):
        run = whole(problem)
        run.module.weight_hh_l0.register_hook(lambda gradient: gradient * 1.001)
        return run

    monkeypatch.setitem(CONTENDERS, "torch steps", Contender(scaled, ""))
    found = list(comparison("lstm", "rnngen", "torch steps", "torch.nn").rows())
    (fault,) = (row for row in found if row["contender"] == "torch steps")
    assert "weight_hh_l0 1.0e-03" in fault["failure"] and "ms" not in fault and "y " not in fault["failure"]
    assert len([row for row in found if "ms" in row]) == 4


def test_a_gradient_that_is_lacking_is_wrong():
    problem = Problem(Case("gru", 3, 2, 4))
    run = CONTENDERS["rnngen"].build(problem)
    run.module.bias_hh_l0.requires_grad_(False)
    assert "bias_hh_l0 1.0e+00" in judged({"rnngen": run}, problem).faults["rnngen"]


def test_the_judge_begins_from_the_rounded_numbers():
    problem = Problem(Case("lstm", 3, 2, 8, "bfloat16"))
    some = torch.arange(2)
    exact, seeds = measure.exact_answer(problem, some)
    layer = nn.LSTM(8, 8, dtype=torch.float64)
    layer.load_state_dict({name: value.bfloat16().double() for name, value in problem.weights.items()})
    assert torch.equal(exact["y"], layer(problem.rows["x"].bfloat16().double())[0].detach())
    assert seeds.dtype == torch.bfloat16


@pytest.mark.parametrize("cell", ["phased_lstm", "lstmp", "clockwork_rnn", "block_lstm", "sru"])
def test_cells_of_every_kind_are_judged(cell):
    """With another input, an output that is narrower, buffers, blocks, and an x as wide as a state."""
    found = list(comparison(cell, "rnngen", "torch steps", "nn.LSTM", "loop", over="nn.LSTM", hidden=40).rows())
    assert len(found) == 8 and all("ms" in row for row in found)
    assert all((row.get("error") is None) == (row["contender"] == "nn.LSTM") for row in found)


def test_torchrecurrent_has_our_weights():
    """Of every cell that is compared with it; its answer is judged as ours is."""
    modules.write(list(torchrecurrent.CELLS))
    for cell in torchrecurrent.CELLS:
        problem = Problem(Case(cell, 3, 2, 4))
        names = ("torchrecurrent", "loop")
        found = judged({name: CONTENDERS[name].build(problem) for name in names}, problem)
        assert set(found.errors) == set(names), found.faults


def test_products_are_those_of_the_cell():
    counts = {cell: products(cell, 64) for cell in ("lstm", "gru", "indrnn", "mingru", "lstmp", "layer_norm_lstm")}
    assert counts == {"lstm": 8, "gru": 6, "indrnn": 1, "mingru": 2, "lstmp": 6.5, "layer_norm_lstm": 8}


# Who takes part.


def test_one_that_is_missing_has_a_reason():
    found = list(comparison("mgu", "torch.nn", "rnngen", "jax", "FlashRNN", over="rnngen").rows())
    reasons = {row["contender"]: row["skipped"] for row in found if "skipped" in row}
    assert reasons == {
        "torch.nn": "torch.nn has no mgu",
        "jax": "no mgu is written for jax here",
        "FlashRNN": "FlashRNN has no mgu",
    }
    assert [row["contender"] for row in found if "ms" in row] == ["rnngen", "rnngen"]
    with pytest.raises(Absent, match=r"^a_package_of_nobody is not installed: pip install a_package_of_nobody$"):
        package("a_package_of_nobody.part")


def test_a_package_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_here.py").write_text("raise OSError('libcudart.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Absent, match=r"broken_here cannot be imported: OSError: libcudart\.so: cannot open"):
        package("broken_here")


def test_whatever_somebody_elses_code_raises_is_a_row(monkeypatch):
    def broken(problem):
        raise RuntimeError("no kernel image\nis available")

    class Later(TorchRun):
        def both(self):
            raise torch.OutOfMemoryError("CUDA out of memory")

    whole = CONTENDERS["torch steps"].build

    def later(problem):
        run = whole(problem)
        return Later(problem, run.module, run.call)

    monkeypatch.setitem(CONTENDERS, "jax", Contender(broken, ""))
    monkeypatch.setitem(CONTENDERS, "loop", Contender(later, ""))
    found = list(comparison("lstm", "rnngen", "jax", "loop", "torch.nn").rows())
    failures = [(row["contender"], row.get("direction"), row["failure"]) for row in found if "failure" in row]
    assert failures == [
        ("jax", None, "RuntimeError: no kernel image is available"),
        ("loop", "both", "OutOfMemoryError: CUDA out of memory"),
    ]
    assert len([row for row in found if "ms" in row]) == 5


# Times.


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd", "abcde"])
def test_everyone_is_as_often_at_every_place_and_behind_every_other(names):
    orders = [in_turn(names, number) for number in range(2 * len(names))]
    assert {order.index(name) for name in names for order in orders} == set(range(len(names)))
    places = Counter((name, order.index(name)) for name in names for order in orders)
    assert set(places.values()) == {2}
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert len(follows) == len(names) * (len(names) - 1) and set(follows.values()) <= {2}


def test_rounds_are_as_many_as_there_is_time_for():
    order = []
    times = timed(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Budget(0, 4, 9), lambda f: (f() or 1.0, 2.0)
    )
    assert "".join(order) == "abbabaab"
    assert len(timed({"a": lambda: None}, Budget(60, 2, 9), lambda function: (1.0, 1.0))["a"]) == 9
    assert times == {"a": [(1.0, 2.0)] * 4, "b": [(1.0, 2.0)] * 4}


def test_who_takes_long_is_timed_apart():
    warm = {"ours": 1.0, "base": 1.0, "loop": 30.0}
    assert list(apart(warm, "base")) == [("ours", "base"), ("base", "loop")]
    assert list(apart({"ours": 1.0, "base": 2.0}, "base")) == [("ours", "base")]
    assert list(apart({"ours": 1.0, "loop": 30.0}, "base")) == [("ours", "loop")]  # it was wrong, or is not there
    found = list(comparison("lstm", "rnngen", "torch.nn", "loop", hidden=2, time=9).rows())
    assert len({(row["contender"], row["direction"]) for row in found}) == len(found) == 6


def test_the_rate_of_products_is_measured():
    (row,) = Rate(size=64).rows()
    assert row["gflops"] > 0 and row["contender"] in ("torch.mm", "oneDNN")


def test_the_sensors_of_the_card_are_read_where_nvidia_smi_is(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\necho "$@" >> "$0.asked"\necho "580.95.05, 1755, 1980, 2619, 312.45, 700.00, 41"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pretended(CARDS["H100"]):
        found = sensors(torch.device("cuda", 0))
    assert found["driver"] == "580.95.05"
    assert (found["sm_clock_mhz"], found["power_w"], found["temperature_c"]) == ("1755", "312.45", "41")
    assert "-i GPU-01234567-89ab-cdef-0123-456789abcdef" in (tmp_path / "nvidia-smi.asked").read_text()
    script.write_text("#!/bin/sh\nexit 9\n")
    with pretended(CARDS["H100"]):
        assert set(sensors(torch.device("cuda", 0)).values()) == {None}


# Memory, and a process of its own.

only_linux = pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what a process had at its highest")


@only_linux
def test_memory_is_what_the_process_has_at_its_highest():
    def there_and_gone():
        block = torch.ones(25_000_000)
        del block

    assert 95e6 < peak_growth(there_and_gone) < 120e6


def test_what_is_kept_is_without_weights_and_input():
    problem = Problem(Case("lstm", 4, 3, 5))
    layer = nn.Linear(5, 5)
    run = TorchRun(problem, layer, lambda x: layer(x).exp())
    assert run.saved_bytes() == 4 * 3 * 5 * 4  # exp keeps its result, and Linear its weight and its input


def test_a_process_of_its_own_gives_first_results():
    (empty, filled) = FirstResult(Case("lstm", 3, 2, 4), "torch.nn").rows()
    assert (empty["cache"], filled["cache"]) == ("empty", "filled") and min(empty["seconds"], filled["seconds"]) > 0.1
    (row,) = FirstResult(Case("mgu", 3, 2, 4), "torch.nn").rows()
    assert row["skipped"] == "torch.nn has no mgu"


@only_linux
def test_and_memory():
    (row,) = Memory(Case("lstm", 2000, 16, 16), "rnngen").rows()
    assert row["saved_mb"] > 2000 * 16 * 16 * 4 * 4 / 1e6  # the gates
    assert row["peak_mb"] > row["saved_mb"]


# The run.


class Failing:
    """A task that gives a row and then raises something."""

    cost, facts = 1.0, {"part": "sizes", "hidden": 3}

    def __init__(self, error: BaseException):
        self.error = error

    def rows(self):
        yield {**self.facts, "contender": "rnngen", "skipped": "for a test"}
        raise self.error


def measured(out, *tasks):
    return run.measure(tasks, Kept(out), {"suite": "cpu"}, {"machine": "M"}, torch.device("cpu"))


def test_a_task_that_fails_is_a_row_and_the_run_goes_on(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    fault = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")
    assert measured(out, Failing(fault), comparison()) == 1
    found = lines(out)
    assert found[1]["failure"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 TiB"
    assert found[1]["hidden"] == 3 and found[1]["machine"] == "M"
    assert len([row for row in found if "ms" in row]) == 4
    assert "FAILED, OutOfMemoryError" in capsys.readouterr().out


def test_rows_are_kept_when_the_run_is_cut_short(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    assert measured(out, comparison(), Failing(KeyboardInterrupt()), comparison()) == run.INTERRUPTED
    assert len(lines(out)) == 4  # and none of a part of a task
    assert capsys.readouterr().out.endswith(f"Interrupted. The 4 rows that were measured are in {out}\n")


def test_a_whole_suite_takes_the_place_of_the_former_one_when_it_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.machine.processor", lambda: "Some CPU/2")
    kept = tmp_path / "some-cpu-2.jsonl"
    kept.write_text("former\n")
    for tasks, status in (([Failing(KeyboardInterrupt())], run.INTERRUPTED), ([comparison()], 0)):
        monkeypatch.setattr(cpu, "tasks", lambda wanted, tasks=tasks: tasks)
        assert main(["run"]) == status
        assert (kept.read_text() == "former\n") == bool(status)
    assert len(lines(kept)) == 4 and [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_a_terminal_has_a_bar_with_the_time_that_is_left(tmp_path, monkeypatch, capsys):
    @contextmanager
    def terminal():
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr.isatty", lambda: True)
            yield

    with terminal():
        measured(tmp_path / "rows.jsonl", comparison(), comparison("gru"))
    said = capsys.readouterr()
    assert "left, sizes: gru T 5 B 3 H 4 float32" in said.err
    assert said.out.count("torch.nn") >= 4


def test_without_a_gpu_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["run", "--suite", "gpu"]) == 0
    assert "no GPU here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--cells", "lstm", "nosuch"], "--cells: nosuch; 'rnngen cells' lists"),
        (["--parts", "sizes", "nosuch"], "--parts: nosuch; there are chunks, threads, sizes, library, length"),
        (["--hidden", "0"], "argument --hidden: invalid"),
        (["--suite", "static", "--target", "sm_1"], "--target: sm_1; there are sm_75"),
    ],
)
def test_what_is_asked_for_and_is_not_there_is_a_mistake(arguments, told, capsys):
    with pytest.raises(SystemExit) as left:
        main(["run", *arguments])
    assert left.value.code == 2 and told in capsys.readouterr().err


def test_the_static_suite_keeps_what_kernels_compile_to(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("benchmarks.record.record", lambda *given: asked.extend(given))
    out = tmp_path / "kernels.jsonl"
    assert main(["run", "--suite", "static", "--cells", "mingru", "--target", "sm_90", "--out", str(out)]) == 0
    assert asked == [out, ["mingru"], ["sm_90"]]
    assert "kernels.jsonl" in capsys.readouterr().out


def test_the_suites_have_the_sizes_that_they_say(monkeypatch):
    monkeypatch.setattr(modules, "write", lambda cells: None)
    tasks = list(cpu.tasks(Wanted()))
    assert len(set(map(str, tasks))) == len(tasks)  # by which a run that was cut off knows what is done
    chunks = [task for task in tasks if task.facts["part"] == "chunks"]
    assert {(one.facts["cell"], one.facts["hidden"]) for one in chunks} >= {("lstm", 64), ("lstm", 512), ("gru", 128)}
    tasks = [task for task in tasks if task not in chunks]
    sizes = [task.case for task in tasks if task.facts["part"] == "sizes"]
    assert {(case.hidden, case.batch) for case in sizes if case.time == 64} == {
        (hidden, batch) for hidden in (16, 64, 256, 512) for batch in (1, 16, 64)
    }
    assert {(case.cell, case.time) for case in sizes} == {(c, t) for c in ("lstm", "gru") for t in (64, 1000)}
    whole = [task for task in tasks if task.facts["part"] == "library"]
    assert [task.case.cell for task in whole] == list(library()) and {task.over for task in whole} == {"nn.LSTM"}
    assert max(task.case.time for task in tasks if task.facts["part"] == "length") == 16384
    assert {task.case.threads for task in tasks if task.facts["part"] == "threads"} == {1, 2}
    assert tasks[0].case.threads == 2
    assert not any("loop, compiled" in getattr(task, "contenders", ()) for task in cpu.tasks(Wanted(quick=True)))
    assert sum("loop, compiled" in getattr(task, "contenders", ()) for task in tasks) == 1
    assert {name for task in [*tasks, *gpu.tasks(Wanted())] for name in getattr(task, "contenders", ())} == set(
        CONTENDERS
    )


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[-1]], ids=lambda variant: variant.name)
def test_chunks_are_timed_and_judged(variant):
    """Of few steps, and little training."""
    variant = replace(variant, hidden=8, prepared=adder(1) if variant.inputs else variant.prepared)
    rows = list(Forgetting(variant, SHORT, 1200).rows())
    assert [(row["contender"], row["direction"]) for row in rows] == [
        (name, direction) for direction in ("forward", "both") for name in ("rnngen", "rnngen, chunked", "torch.nn")
    ]
    assert all(row["error"] < 1e-5 for row in rows)
    assert [one["sweep"] for one in rows[1]["chunked"]][:1] == ["forward"]
    assert all("chunked" in row for row in rows if row["contender"] == "rnngen, chunked")


# The report.


def made_up(**changes) -> dict:
    """A row."""
    here = {"machine": "Some CPU", "cores": 2, "capability": "AVX2", "system": "Linux", "load": 0.5, "commit": "abc"}
    here |= {"torch": "2.13", "triton": None, "python": "3.11", "when": "2026-01-02T03:04:05+00:00", "suite": "cpu"}
    case = {
        "part": "sizes",
        "cell": "lstm",
        "time": 64,
        "batch": 16,
        "hidden": 64,
        "arithmetic": "float32",
        "threads": 1,
    }
    result = {
        "contender": "rnngen",
        "over": "torch.nn",
        "direction": "both",
        "ms": [0.9, 1.0, 1.1],
        "ratio": [0.8, 0.9, 1.0],
    }
    row = here | case | result | changes
    return {key: value for key, value in row.items() if value != "gone"}


def all_made_up() -> list[dict]:
    """Some of every part."""
    rows = [
        made_up(
            cell=cell,
            hidden=hidden,
            batch=batch,
            direction=direction,
            contender=name,
            ratio=[ratio - 0.1, ratio, ratio + 0.1],
        )
        for cell in ("lstm", "gru")
        for hidden in (16, 64, 256)
        for batch in (1, 16, 64)
        for direction in ("forward", "both")
        for name, ratio in (("rnngen", 0.5 if hidden < 256 else 1.23), ("torch.nn", 1.0), ("loop", 20.4))
    ]
    library = {"part": "library", "over": "nn.LSTM"}
    for cell, count, ratio in (("indrnn", 1, 0.25), ("lstm", 8, 1.5), ("nas", 16, 2.5)):
        for direction in ("forward", "both"):
            rows += [
                made_up(**library, cell=cell, products=count, direction=direction, ratio=[ratio] * 3),
                made_up(**library, cell=cell, products=count, direction=direction, contender="nn.LSTM", ratio=[1] * 3),
                made_up(**library, cell=cell, products=count, direction=direction, contender="loop", ratio=[9] * 3),
            ]
    rows.append(made_up(**library, cell="gru", products=6, contender="loop"))  # ours was wrong, and not timed
    nothing = dict.fromkeys(("direction", "ms", "ratio", "over"), "gone")
    rows += [made_up(part="length", time=time, ms=[time / 64] * 3) for time in (1, 64, 4096)]
    rows += [made_up(part="memory", time=time, peak_mb=time / 10, saved_mb=3.0, **nothing) for time in (1024, 4096)]
    rows += [made_up(part="first", cache=cache, seconds=s, **nothing) for cache, s in (("empty", 4.5), ("filled", 1.5))]
    rows += [made_up(part="threads", threads=threads, ms=[3 / threads] * 3) for threads in (1, 2)]
    done = {"chunks": 16, "steps": 1024, "warm_up": 128, "passes": 2, "repaired": 3, "step_by_step": 0}
    for name, time in (("rnngen, chunked", 2.0), ("rnngen", 4.0), ("torch.nn", 8.0)):
        for direction in ("forward", "both"):
            row = made_up(
                part="chunks", layer="An LSTM", contender=name, direction=direction, over="rnngen", error=1e-7
            )
            rows.append(row | {"ms": [time] * 3, "ratio": [time / 4] * 3, "chunked": [done, done]})
    rows += [made_up(part="floor", contender="oneDNN", hidden=1024, gflops=200.0, cell="gone", **nothing)]
    rows += [made_up(contender="jax", version="jax 1.2", skipped="jax is not installed: pip install jax", **nothing)]
    return rows


@pytest.fixture
def written(tmp_path):
    """written(rows): the file that has them."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_a_report_has_what_was_measured(written, tmp_path, capsys):
    assert main(["report", str(written(all_made_up())), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "performance.md").read_text()
    assert (
        "Measured on **Some CPU** (2 cores, AVX2, Linux), 2026-01-02, at commit abc, with torch 2.13, Python 3.11"
        in text
    )
    assert "| 64, 16 | 1 | 0.50 (0.40 - 0.60) | 20 | 0.34 |" in text  # floor: 2 * 8 * 64^2 * 16 * 64 / 200e6
    assert "rnngen is slower than torch.nn in 12 of these 36 rows" in text.replace(
        "12 of 36 of these", "12 of these 36"
    )
    assert "Of the 3 cells of the library 1 take at most the time of `nn.LSTM`" in text
    assert "1 of the 2 that have no more products than an LSTM" in " ".join(text.split())
    assert "| indrnn | 1 | 0.25 | 0.25 (0.25 - 0.25) | - | - | 9.00 | - |" in text
    assert "| 4096 steps | 15.6 |" in text and "| 4096 steps | 410, 3 |" in text
    assert "| `rnngen` | 4.5 | 1.5 |" in text
    assert "| 64, 16 | forward + backward | rnngen | 3 | 1.5 | 2.00 |" in text
    assert "| `jax` | jax is not installed: pip install jax | 1 |" in text
    assert "*floor* is a model and no measurement" in text and "200 GF/s" in text
    assert "**Nothing has been timed on a GPU.**" in text
    row = "| An LSTM | 16 of 1024, 128 | 3 + 3 | 2 | 0.50 | 0.25 | 1.0e-07, plain 1.0e-07 | 2 | 0.50 | 0.25 | "
    assert row in text
    assert "| H100, bfloat16, batch 16, forward | `resident` to 128; `cooperative` from 144 (resident: heads of" in text
    pictures = sorted(path.name for path in (tmp_path / "out" / "performance").iterdir())
    assert pictures == [
        f"{name}-{theme}.svg"
        for name in ("chunks", "estimates", "length", "library", "sizes")
        for theme in ("dark", "light")
    ]
    assert all(f"performance/{name}" in text for name in pictures)
    again = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    main(["report", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")])
    assert {path: path.read_bytes() for path in again} == again
    assert len(capsys.readouterr().out.splitlines()) == 22


def test_the_readme_has_a_few_sizes_with_losses_in_bold(written):
    _, part = report.texts(by_machine(read([written(all_made_up())])))
    assert "| LSTM, forward + backward | 0.50 | 0.50 | 0.50 | **1.23** | **1.23** |" in part
    assert 'srcset="docs/performance/sizes-dark.svg"' in part
    assert (
        report.with_part(f"a\n{report.BEGIN}old{report.END}\nb", "new")
        == f"a\n{report.BEGIN}\n\nnew\n\n{report.END}\nb"
    )
    with pytest.raises(ValueError, match=r"README\.md has no place"):
        report.with_part("a", "new")


def whole(*rows) -> str:
    """The page of these rows, in one line."""
    page, _ = report.texts(by_machine(rows))
    return " ".join(page.split())


def test_of_a_measurement_the_newest_row_counts(written):
    late = "2026-02-02T00:00:00+00:00"
    rows = [made_up(ratio=[1, 2, 3]), made_up(direction="forward")]
    rows += [
        made_up(ratio=[1, 4, 5], when=late),
        made_up(hidden=16, direction="gone", skipped="of no use", ratio="gone"),
    ]
    rows += [made_up(hidden=16, when=late)]
    found = Rows(read([written(rows)]))
    assert [row["ratio"][1] for row in found.of(direction="both", hidden=64)] == [4]
    assert len(found.of(hidden=16).rows) == 1 and "skipped" not in found.one(hidden=16)
    both = by_machine(
        [made_up(), *(made_up(machine="Another", when=late, contender=n) for n in ("rnngen", "torch.nn"))]
    )
    assert list(both) == ["Another", "Some CPU"]
    page, _ = report.texts(both)
    assert "no native code here" not in page
    assert "There is no native code here, so rnngen runs steps of torch: no cc." in whole(made_up(no_c="no cc"))
    assert "C by cc 12, jax 1.2." in whole(made_up(c="cc 12", version="jax 1.2"))
    assert "\n# Another\n" in page and "performance/another-sizes-light.svg" in page


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"when": "2026"}', "3", '{"when": 1, "machine": 2, "part": 3, "contender": 4, "suite": 5}']
)
def test_what_is_no_row_is_refused(line, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(made_up()) + f"\n{line}\n")
    with pytest.raises(NoRow, match=r"rows\.jsonl, line 2 "):
        read([path])
    with pytest.raises(SystemExit):
        main(["report", str(path), "--out", str(tmp_path)])
    assert "line 2" in capsys.readouterr().err


def test_a_report_of_a_gpu_has_its_rows_and_no_estimate(written):
    rows = [
        made_up(suite="gpu", part="kernels", machine="H100", arithmetic="bfloat16", contender=name)
        for name in ("rnngen", "torch.nn")
    ]
    page, _ = report.texts(by_machine(read([written(rows)])))
    assert "| lstm | bfloat16 | 64, 16, 64 | forward + backward | rnngen | 1 | 0.90 (0.80 - 1.00) | torch.nn |" in page
    assert "Nothing has been timed" not in page


def test_the_page_and_the_readme_are_what_the_kept_rows_say():
    """Write them again after a change: python -m benchmarks report."""
    files = sorted(command.RESULTS.glob("*.jsonl"))
    page, part = report.texts(by_machine(read(files)))
    assert (modules.ROOT / "docs" / "performance.md").read_text("utf-8") == page
    readme = (modules.ROOT / "README.md").read_text("utf-8")
    assert report.with_part(readme, part) == readme
    for name in {name for line in page.splitlines() for name in line.split('"') if name.endswith(".svg")}:
        assert (modules.ROOT / "docs" / name).exists()
