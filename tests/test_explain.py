"""`rnngen explain`: what it counts, what it foretells, and that its page says what it says."""

import dataclasses
import json
import re
import subprocess
import sys
from itertools import pairwise
from math import prod
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cells import ALL
from click.testing import CliRunner
from quoted import printed, quotes, renewed

from rnngen.cli import main
from rnngen.description import library
from rnngen.explain import explain_model
from rnngen.explain.record import as_record
from rnngen.explain.text import as_text, count, size
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.plan import Choice, Plan
from rnngen.runtime.schedules import SCHEDULES
from rnngen.source import Source

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
QUOTES = quotes(PAGE)


def explained(name: str, target: str = "sm_90", **sizes):
    source = library().get(name) or Source("model.toml", ALL.get(name, name))
    return explain_model(source, target, **sizes)


def sweeps(name: str, target: str = "sm_90", **sizes):
    """Those of the only scan, forward and adjoint."""
    ((_, found),) = explained(name, target, **sizes).scans
    return found


def stack(keys: str) -> str:
    return f'name = "deep"\ninputs = 3\n[[layers]]\ndense = 8\n[[layers]]\n{keys}\n'


# The page.


@pytest.mark.parametrize("command", QUOTES)
def test_the_page_quotes_what_is_printed(command):
    assert printed(command) == QUOTES[command], "run `make generated` and read the difference"


def test_every_example_is_explained():
    examples = {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.toml")}
    assert examples and {command.split()[-1] for command in QUOTES} >= examples
    assert PAGE.count("$ rnngen") == len(QUOTES)


def test_a_page_is_written_again():
    page = "before\n```console\n$ rnngen --version\nrnngen 0.0.1\nmore\n```\nafter\n"
    new = renewed(page)
    assert re.fullmatch(r"before\n```console\n\$ rnngen --version\nrnngen \d+\.\d+\.\d+\n```\nafter\n", new)
    assert renewed(new) == new
    with pytest.raises(RuntimeError, match="No such command"):
        renewed(page.replace("--version", "nothing"))


def test_every_option_is_on_the_page():
    options = {name for option in main.commands["explain"].params for name in option.opts if name.startswith("--")}
    assert options == {*re.findall(r"`(--\w+)(?: FILE)?`", PAGE)}


def test_every_key_is_on_the_page():
    found, left = set(), [as_record(explained("lstm", time=8))]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            found |= value.keys() - {"inputs", *MACHINES}
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    tables = PAGE[PAGE.index("## In JSON") :]
    plans = _plans("lstm")
    inside = {name for plan in plans for one in (plan.constants, plan.options) for name in one}
    inside |= {name for plan in plans if plan.footprint for name in plan.footprint.tile}
    assert found - inside <= set(re.findall(r"`(\w+)`", tables))


def _plans(name: str, target: str = "sm_90", **sizes) -> list[Plan]:
    return [one.plan for sweep in sweeps(name, target, **sizes) for one in sweep.candidates if one.plan]


# Two word for word: what a person would work out of the file and the data sheet.


def test_digits_word_for_word():
    """An LSTM of 64 units, 16 sequences: 4 matrices of 64 x 64; 4 sums, 4 activations and 5 more for each unit."""
    operations, products = 2 * 4 * 64 * 64 * 16 + (4 + 4 + 5) * 64 * 16, 2 * 4 * 64 * 64 * 16
    floor = (4 + 1 + 5) * 64 * 4 * 16 / 3350e3  # four gates read, y and i, f, g, o and c written
    expected = f"""\
layer 1, lstm: 64 units, batch 16, float32, on sm_90 (H100)
  forward
    a step: {operations:,} operations, {products:,} of them in products
    memory: 16 KiB read, 4 KiB written, 20 KiB saved for the adjoint
    from step to step: 64 KiB of weights, 8 KiB of states
    floor: {floor:.2g} us a step, by memory
"""
    assert printed("rnngen explain examples/digits.toml").startswith(expected)
    assert "\n    resident    chosen  1.10 us a step, estimated\n" in printed("rnngen explain examples/digits.toml")


def test_heads_word_for_word():
    """128 units do not fit one program; two heads of 64 do, and have half as much to multiply."""
    text = printed("rnngen explain examples/lstm_heads.toml --heads 2 --time 100")
    products, weights = 2 * 4 * 128 * 64 * 16, 4 * 128 * 64 * 4 // 1024
    expected = f"""\
lstm_heads: 128 units in 2 heads, batch 16, 100 steps, float32, on sm_90 (H100)
  forward
    a step: {(products + 13 * 128 * 16) / 1e6:.3g} M operations, {products / 1e6:.3g} M of them in products
    memory: 32 KiB read, 8 KiB written, 40 KiB saved for the adjoint (3.906 MiB in all)
    from step to step: {weights} KiB of weights, 16 KiB of states
"""
    assert text.startswith(expected)
    assert "    resident    chosen  1.10 us a step, estimated; 0.11 ms in all\n" in text
    assert re.search(r"\n    with heads = 1 it would be (?!resident)\w+: ", text)


# What is counted.


def test_numbers_and_sums_are_counted():
    text = """
name = "leaning"
states = ["h"]
inputs = { tau = { shape = [] } }
step = "h' = tanh(W @ x) * tau - mean(h)"
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
"""
    forward, _ = sweeps(text, hidden=32, batch=2, dtype="bfloat16")
    # tanh, a product with tau, a difference, and the units of the mean.
    assert (forward.work.products, forward.work.pointwise) == (0, 4 * 32 * 2)
    assert forward.work.read == 2 * (32 * 2 + 4)  # a number is float32
    assert forward.work.states == 2 * 32 * 4
    assert forward.work.weights == 0


@pytest.mark.parametrize("target", ["sm_75", "sm_90", "gfx942"])
@pytest.mark.parametrize("name", list(library()))
def test_no_estimate_lies_below_the_floor(name, target):
    for hidden, batch, dtype in (
        (32, 1, "float32"),
        (512, 16, "bfloat16"),
        (64, 4096, "float32"),
        (512, 4096, "float16"),
    ):
        for sweep in sweeps(name, target, hidden=hidden, batch=batch, dtype=dtype):
            for one in sweep.candidates:
                assert one.plan is None or one.plan.time >= sweep.floor.time


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
def test_the_rates_of_a_machine(machine):
    """Those in float32 follow from its processors and its clock, which data sheets give with another boost clock; those
    in half precision are higher, those in float64 no higher.
    """
    lanes = 128 if machine.backend == "cuda" and machine.name not in ("sm_75", "sm_80") else 64
    vector = 2 * lanes * machine.processors * machine.clock_ghz / 1000
    assert any(machine.single_tflops == pytest.approx(times * vector, rel=0.15) for times in (1, 2))
    assert machine.half_tflops >= 1.9 * machine.single_tflops
    assert machine.double_tflops <= machine.single_tflops
    assert [machine.tflops(size) for size in (2, 4, 8)] == [
        machine.half_tflops, machine.single_tflops, machine.double_tflops
    ]  # fmt: skip


@dataclasses.dataclass
class Launched:
    """A `Run` that notes its launches."""

    batch: int
    hidden: int
    heads: int = 1
    time: int = 5
    both: bool = False
    backwards: bool = False
    precision: str = "ieee"
    tensors: tuple = ()
    states: tuple = ()
    grids: list = dataclasses.field(default_factory=list)

    widest = property(lambda self: self.hidden)
    letters = property(lambda self: {"H": self.hidden})

    def launch(self, kernel, grid, choice, tensors, time, **constants):
        self.grids.append(grid)

    def bound(self, kernel, grid, choice, tensors, **constants):
        self.grids.append(grid)

    def exchange(self, *_):
        return ()


@pytest.mark.parametrize("sizes", [{"hidden": 64, "batch": 37}, {"hidden": 200, "batch": 3, "dtype": "bfloat16"}])
@pytest.mark.parametrize("name", ["lstm", "mingru", "indrnn"])
def test_as_many_programs_as_are_launched(name, sizes):
    for sweep in sweeps(name, **sizes):
        for one in (one for one in sweep.candidates if one.plan and one.plan.footprint):
            scan, choice = (
                Launched(sizes["batch"], sizes["hidden"]),
                Choice(one.name, one.plan.constants, {}, along=one.plan.along),
            )
            if one.name == "stepwise":
                SCHEDULES["stepwise"].stage(None, scan, choice, ())
            else:
                SCHEDULES[one.name].launch(None, scan, choice)
            assert [prod(grid) for grid in scan.grids] == [one.plan.footprint.programs]


def test_stepwise_moves_more_than_it_has_to():
    for name in ("lstm", "gru", "mingru"):
        for sweep in sweeps(name):
            (plan,) = (one.plan for one in sweep.candidates if one.name == "stepwise")
            assert plan.footprint.moved_bytes >= sweep.work.moved
            assert plan.footprint.exchanges == plan.footprint.launches > 0


def test_the_time_of_a_sequence():
    record = as_record(explained("mingru", hidden=512, time=130))
    adjoint, forward = record["scans"][0]["sweeps"]["adjoint"], record["scans"][0]["sweeps"]["forward"]
    by_name = {one["name"]: one for one in adjoint["schedules"]}
    assert by_name["stepwise"]["total_ms"] == pytest.approx(130 * by_name["stepwise"]["step_us"] / 1000)
    # A scan by chunks of 128 steps takes as long for a part of one.
    assert by_name["linear"]["total_ms"] == pytest.approx(256 * by_name["linear"]["step_us"] / 1000)
    assert forward["saved_bytes"] == 130 * forward["step"]["saved_bytes"]


def test_a_long_sequence_is_divided_along_time():
    """What a launch would do with it: see test_pretended_gpu.py."""
    found = explained("mingru", hidden=256, batch=1, time=16384)
    assert "along time: 22 stretches of 768 steps, 2 launches" in as_text(found)
    (forward, _) = (sweep for _, sweeps in found.scans for sweep in sweeps)
    plan = forward.chosen.plan
    assert plan.along.total_us(16384) < 16384 * plan.time / 4
    record = as_record(found)["scans"][0]["sweeps"]["forward"]["schedules"]
    by_name = {one["name"]: one for one in record}
    assert by_name["linear"]["along"] == {"most_stretches": 24, "stretches": 22, "steps": 768, "launches": 2}
    assert by_name["linear"]["total_ms"] == pytest.approx(plan.along.total_us(16384) / 1000)
    assert by_name["elementwise"]["along"] is None
    assert "24 stretches of a long sequence at once" in as_text(explained("mingru", hidden=256, batch=1))
    assert "along time" not in as_text(explained("mingru", hidden=256, batch=1, time=100))


def test_numbers_as_people_read_them():
    assert [count(number) for number in (999_999, 1_234_567, 2_500_000_000)] == ["999,999", "1.23 M", "2.5 G"]
    assert [size(number) for number in (1023, 1536, 5 * 1024**2)] == ["1023 B", "1.5 KiB", "5 MiB"]


# What would change the choice.


CASES = [
    ("lstm", {}),
    ("lstm", {"hidden": 64}),
    ("mingru", {"hidden": 512, "dtype": "bfloat16"}),
    ("slstm", {"heads": 2}),
]


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_a_change_is_what_it_says(name, sizes):
    found = sweeps(name, **sizes)
    assert any(sweep.changes for sweep in found)
    for place, sweep in enumerate(found):
        now = sweep.chosen
        assert [change.faster for change in sweep.changes] == sorted((c.faster for c in sweep.changes), reverse=True)
        for change in sweep.changes:
            there = sweeps(name, **sizes | {change.quantity: change.value})[place].chosen
            assert (there.name, there.plan.time) == (change.chosen.schedule, change.chosen.time)
            assert there.name != now.name
            assert change.faster == (there.plan.time < now.plan.time)


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_one_step_nearer_nothing_changes(name, sizes):
    for place, sweep in enumerate(sweeps(name, **sizes)):
        units = {"hidden": 16 * sizes.get("heads", 1), "batch": 1}
        start = {"hidden": 128, "batch": 16} | sizes
        for change in (change for change in sweep.changes if change.quantity in units):
            unit = units[change.quantity]
            nearer = change.value + (unit if change.value < start[change.quantity] else -unit)
            there = sweeps(name, **sizes | {change.quantity: nearer})[place].chosen
            assert there.name == sweep.chosen.name


def test_the_sentence_of_the_readme():
    (forward, _), text = sweeps("lstm"), as_text(explained("lstm"))
    assert forward.chosen.name != "resident"
    assert "    with hidden = 64 it would be resident: 1.10 us a step\n" in text
    assert "    with dtype = bfloat16 it would be resident: " in text


# Stacks.


def test_both_directions_are_one_launch_where_they_run_as_one():
    layer = stack('cell = "lstm"\nhidden = 32\nbidirectional = true\nnum_layers = 2')
    ((scan, (forward, _)),) = explained(layer).scans
    assert (scan.layer, scan.count, scan.sizes.both, scan.sizes.hidden, scan.sizes.heads) == (2, 2, True, 64, 2)
    assert forward.work.products == 2 * 2 * 4 * 32 * 32 * 16
    assert as_text(explained(layer)).startswith("layer 2, lstm: 2 layers of 32 units in both directions, batch 16,")
    assert {change.quantity: change.value for change in forward.changes}["hidden"] > 32
    for other in ("hidden = 8192", "hidden = 32\nproj_size = 8", 'hidden = 32\nschedule = "stepwise"'):
        ((scan, (forward, _)),) = explained(stack(f'cell = "lstm"\nbidirectional = true\n{other}')).scans
        assert not scan.sizes.both
    ((scan, _),) = explained(layer, "c").scans
    assert not scan.sizes.both


def test_a_schedule_that_is_named():
    ((_, (forward, adjoint)),) = explained(stack('cell = "lstm"\nhidden = 32\nschedule = "stepwise"')).scans
    assert (forward.chosen.name, forward.chosen.mark, forward.trouble) == ("stepwise", "named", "")
    assert [(c.quantity, c.value, c.chosen.schedule) for c in forward.changes] == [("schedule", "auto", "resident")]
    ((_, (forward, adjoint)),) = explained(stack('cell = "lstm"\nhidden = 512\nschedule = "resident"')).scans
    assert forward.chosen is None and adjoint.chosen is None
    assert forward.trouble == "The schedule 'resident' is named for it, and cannot run here."
    by_quantity = {change.quantity: change.chosen.schedule for change in forward.changes if change.faster}
    assert by_quantity["schedule"] not in ("", "resident")
    assert by_quantity["hidden"] == "resident"


def test_a_named_schedule_is_for_the_sweeps_that_have_it():
    """The adjoint of an IndRNN is linear, and its forward scan is not."""
    ((_, (forward, adjoint)),) = explained(stack('cell = "indrnn"\nhidden = 32\nschedule = "elementwise"')).scans
    assert (forward.chosen.mark, adjoint.chosen.mark) == ("named", "named")


# A CPU.


def test_a_cpu_has_no_choice():
    for sweep in sweeps("lstm", "c"):
        (only,) = sweep.candidates
        assert (only.name, only.mark, only.plan, sweep.floor, sweep.changes) == ("sequential", "chosen", None, None, ())
    for sweep in sweeps("lstm", "c", dtype="bfloat16"):
        assert sweep.chosen.name == "torch"
        assert sweep.chosen.reason.startswith("there is no native code in bfloat16")
    gpu, cpu = sweeps("lstm"), sweeps("lstm", "c")
    assert [sweep.work for sweep in gpu] == [sweep.work for sweep in cpu]


# The command.


def test_json_says_what_the_values_are():
    result = CliRunner().invoke(main, ["explain", "lstm", "--json", "--target", "gfx942", "--time", "7"])
    assert (result.exit_code, result.stderr) == (0, "")
    record = json.loads(result.stdout)
    assert record == json.loads(json.dumps(as_record(explained("lstm", "gfx942", time=7))))
    assert (record["card"], record["time"]) == ("MI300X", 7)
    for sweep in record["scans"][0]["sweeps"].values():
        assert [one["name"] for one in sweep["schedules"]] == list(SCHEDULES)
        assert [one["name"] for one in sweep["schedules"] if one["chosen"]] == [sweep["chosen"]]


def test_the_two_names_of_the_target():
    one, other = (CliRunner().invoke(main, ["explain", "gru", name, "sm_80"]) for name in ("--target", "--machine"))
    assert one.exit_code == 0 and one.output == other.output


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from rnngen.explain.picture import regions, widths

    drawn = []
    for name in ("one.svg", "two.svg", "one.png"):
        result = CliRunner().invoke(main, ["explain", "lstm", "--plot", str(tmp_path / name)])
        assert (result.exit_code, result.stderr) == (0, f"wrote {tmp_path / name}\n")
        assert result.stdout == as_text(explained("lstm"))
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1], "the same bytes from run to run"
    assert ElementTree.fromstring(drawn[0]).tag.endswith("svg")
    assert drawn[2].startswith(b"\x89PNG")
    ((scan, _),) = explained("lstm", dtype="bfloat16").scans
    found = list(regions(scan, scan.program.forward, MACHINES["sm_90"]))
    assert (found[0][:2], found[-1][2]) == (("resident", 16), 2048)
    assert all(after[1] == before[2] + 16 for before, after in pairwise(found))
    assert [widths(scan)[0], widths(scan)[-1]] == [16, 2048]
    for name, first, last in found:
        for hidden in {first, last}:
            assert sweeps("lstm", dtype="bfloat16", hidden=hidden)[0].chosen.name == name


def test_a_picture_of_a_wide_stack_and_of_heads(tmp_path):
    pytest.importorskip("matplotlib")
    from rnngen.explain.picture import picture, widths

    layers = 'cell = "lstm"\nhidden = 4096\nbidirectional = true\n[[layers]]\ncell = "slstm"\nhidden = 96\nheads = 3'
    found = explained(stack(layers))
    assert [widths(scan)[0] for scan, _ in found.scans] == [16, 48]
    assert picture(found, "svg") == picture(found, "svg")


def test_a_picture_needs_matplotlib(tmp_path):
    script = (
        "import sys; sys.modules['matplotlib'] = None\nfrom rnngen.cli import main\n"
        f"main(['explain', 'lstm', '--plot', {str(tmp_path / 'a.svg')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: The package 'matplotlib' is not installed: pip install matplotlib\n"
    assert not (tmp_path / "a.svg").exists()
