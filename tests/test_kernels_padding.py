"""Steps at which nothing counts: a program does not run them, and its numbers are those that it has when it does."""

import re
import sys
from functools import cache

import numpy as np
import pytest
import torch
from cells import ALL, heads_of, program
from conftest import imported
from kernels_for_interpreter import bounds_of_a_tile, every_step

from rnngen.compile import compile_model
from rnngen.runtime.both import joined
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.plan import Sizes
from rnngen.runtime.schedules import SCHEDULES, possible
from rnngen.runtime.schedules.linear import CHUNK
from rnngen.runtime.seal import NO_DIGEST, sealed
from rnngen.source import Source

# (time, batch, elements of a tile, steps of a chunk): longer than what is read at once, tiles that are not full.
TILES = [
    (0, 3, 8, 1),
    (1, 9, 8, 1),
    (63, 9, 8, 1),
    (150, 17, 8, 1),
    (300, 5, 4, 1),
    (1100, 2, 1, 1),
    (2200, 2, 1, CHUNK),
]
# Of each sequence where it begins and how long it is: a tile of eight that begins late and ends early, one with a hole
# and one at which nothing counts.
TIME = 5
STARTS, LENGTHS = (
    [2, 1, 2, 3, 1, 2, 1, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0],
    [1, 2, 0, 1, 2, 1, 2, 1, 2, 1, 0, 1, 1, 2, 2, 2, 0],
)


@pytest.mark.parametrize("case", TILES, ids=str)
def test_the_steps_between_which_any_counts(case):
    time, batch, tile, chunk = case
    generator = np.random.default_rng(0)
    tiles = -(-batch // tile)
    for rate in (0.0, 0.003, 0.1, 1.0):
        valid = (generator.random((time, batch)) < rate).astype(np.int32)
        for backwards, both in ((False, False), (True, False), (False, True), (True, True)):
            found = torch.full((2, tiles, 2), -1, dtype=torch.int32)
            bounds_of_a_tile[(tiles, 2)](torch.tensor(valid), found, time, batch, tile, chunk, backwards, both)
            for second in (False, True):
                ordered = valid[::-1] if backwards != (both and second) else valid
                for number in range(tiles):
                    steps = np.flatnonzero(ordered[:, number * tile : (number + 1) * tile].any(1))
                    begin, end = (steps[0], steps[-1] + 1) if len(steps) else (0, 0)
                    wanted = [begin // chunk * chunk, min(-(-end // chunk) * chunk, time)]
                    assert found[int(second), number].tolist() == wanted


def mask(time=TIME, starts=STARTS, lengths=LENGTHS):
    """(time, batch, 1): each sequence counts from its start on, for its length."""
    step, starts = torch.arange(time)[:, None], torch.tensor(starts)
    return ((step >= starts) & (step < starts + torch.tensor(lengths))).int()[..., None]


@pytest.fixture(scope="module")
def layer_of(tmp_path_factory):
    """layer_of(name): the class of a cell, with operators of its module's own. Two modules of a cell share theirs: what
    is changed in one of them may be in none that runs.
    """
    folder = tmp_path_factory.mktemp("padding")

    @cache
    def made(name):
        generated = compile_model(Source("cell.toml", ALL[name]))
        text = re.sub(r'"(\w+)_[0-9a-f]{12}"', r'"\1_padding"', generated.text)
        path = folder / f"padding_{generated.name}.py"
        path.write_text(sealed(re.sub(r"(?<=# Body:   sha256 )[0-9a-f]{64}", NO_DIGEST, text, count=1)))
        module = imported(path)
        (found,) = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
        return found

    return made


@pytest.fixture(autouse=True)
def what_is_not_written_is_no_number():
    torch.use_deterministic_algorithms(True)  # which fills what torch makes empty
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def run(layer_class, schedule, direction, valid, heads=1, dtype=torch.float64, last_only=False):
    """The output, the last states and every gradient, of a scan with the mask."""
    cell, generator = layer_class.cell, torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    time, batch, _ = valid.shape
    widths = {"hidden": 5 * heads, "inputs": 2, "output": 5 * heads}
    both = direction == "both"
    pairs = [[random(*weight.size(widths, heads)) for weight in cell.weights] for _ in range(2)]
    weights = [joined(*pair) for pair in zip(cell.weights, *pairs, strict=True)] if both else pairs[0]
    states = [random(batch, 5 * heads * (2 if both else 1)) for _ in cell.states]
    leaves = [tensor.requires_grad_(not last_only) for tensor in (random(time, batch, 2), *states, *weights)]
    options = {"both": True} if both else {"reverse": direction == "backwards"}
    if last_only:
        options["last_only"] = True
    states, weights = leaves[1 : 1 + len(states)], leaves[1 + len(states) :]
    y, last = cell.run(leaves[0], states, weights, valid, schedule=schedule, **options)
    outputs = [y, *last]
    if last_only:
        return outputs
    loss = sum((output * random(*output.shape)).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def same(monkeypatch, layer_class, *arguments, **options):
    """Whether the numbers are those of a run of every step, bit for bit; and numbers at all."""
    found = run(layer_class, *arguments, **options)
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[layer_class.__module__], "counted", every_step)
        wanted = run(layer_class, *arguments, **options)
    return all(torch.equal(got, want) and got.isfinite().all() for got, want in zip(found, wanted, strict=True))


def cases(names):
    """Each cell with each schedule that leaves steps out."""
    found = [(name, schedule) for name in names for schedule in possible(program(ALL[name]).forward.facts)]
    return [case for case in found if case[1] != "stepwise"]


@pytest.mark.parametrize("direction", ["forwards", "backwards", "both"])
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "indrnn", "mingru"]))
def test_the_numbers_are_the_same(layer_of, monkeypatch, name, schedule, direction):
    for valid in (mask(), mask(0), mask(1)):
        assert same(monkeypatch, layer_of(name), schedule, direction, valid)


# Cells whose products have an operand that the forward scan stores; whose outputs are no new states; with many states.
OTHERS = ["conditional", "delay", "forecast", "automaton", "cascade"]


@pytest.mark.parametrize(("name", "schedule"), cases(OTHERS))
def test_what_is_stored_is_not_read_where_it_was_not(layer_of, monkeypatch, name, schedule):
    assert same(monkeypatch, layer_of(name), schedule, "forwards", mask(), heads=heads_of(ALL[name]))


def test_stored_a_step_later(layer_of, monkeypatch):
    """In half precision a step is stored during the next one."""
    assert same(monkeypatch, layer_of("lstm"), "resident", "backwards", mask(), dtype=torch.bfloat16)


@pytest.mark.parametrize(("time", "direction"), [(CHUNK + 1, "forwards"), (2 * CHUNK + 3, "backwards")])
def test_chunks_that_do_not_count(layer_of, monkeypatch, time, direction):
    valid = mask(time, [0, time - 3, CHUNK - 1, CHUNK, 0], [3, 2, 2, 1, time])
    assert same(monkeypatch, layer_of("mingru"), "linear", direction, valid)


@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "mingru"]))
def test_only_the_last_step(layer_of, monkeypatch, name, schedule):
    assert same(monkeypatch, layer_of(name), schedule, "forwards", mask(), last_only=True)


@pytest.mark.parametrize("direction", ["forwards", "backwards"])
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "indrnn", "mingru"]))
def test_steps_that_do_not_count_are_not_run(layer_of, monkeypatch, name, schedule, direction):
    """The stages of a scan are called for the steps of each program, from the first that counts to the last."""
    layer_class = layer_of(name)
    module, calls = sys.modules[layer_class.__module__], []

    def noted(function, stage):
        def call(*arguments):
            calls.append(stage)
            return function(*arguments)

        return call

    stages = {"forward": f"{name}_forward", "adjoint": f"{name}_adjoint" + "_0" * (name == "lstm")}
    for stage in stages.values():
        monkeypatch.setattr(module, stage, noted(getattr(module, stage), stage))
    long = 2 * CHUNK + 5
    valid = mask(long, [0, 0, long - 1, 3], [2, CHUNK + 1, 1, 0]) if schedule == "linear" else mask()
    run(layer_class, schedule, direction, valid)
    time, batch, _ = valid.shape
    scan, sizes = layer_class.cell.scan, Sizes(batch, 5, itemsize=8, masked=True)
    plans = {which: SCHEDULES[schedule].plan(getattr(scan, which).facts, sizes, MACHINES["sm_90"]) for which in stages}
    constants = [plan.constants for plan in plans.values()]
    (tile,) = {one.get("BB", 1) for one in constants}
    chunk = CHUNK if schedule == "linear" else 1
    wanted = dict.fromkeys(stages, 0)
    for which, backwards in (("forward", direction == "backwards"), ("adjoint", direction == "forwards")):
        for first in range(0, batch, tile):
            steps = [t for t in range(time) if valid[t, first : first + tile].any()]
            counts = [time - 1 - t if backwards else t for t in steps]
            wanted[which] += -(-(max(counts) + 1) // chunk) - min(counts) // chunk if counts else 0
        wanted[which] *= plans[which].constants.get("SLICES", 1) * plans[which].constants.get("PARTS", 1)  # of a group
    assert {which: calls.count(stage) for which, stage in stages.items()} == wanted
    programs = sum(one.get("SLICES", 1) * one.get("PARTS", 1) for one in constants)
    assert sum(wanted.values()) < programs * time * -(-batch // tile) / chunk
