"""Every schedule of every cell, in Triton's interpreter, against the cell's equations in float64.

What the judge shares with what it judges is said in judge.py.
Time goes with programs and steps here, so a cell's kernels are asked once each: what a schedule does alike for all
cells, as the direction, alternates among them, and the library's have it all.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from cells import ALL, LIBRARY, SAMPLE, heads_for, program
from judge import TOLERANCES, compare
from test_runtime import SLOW, SLOW_BY_A_CARRIED_VALUE, SLOW_WITH_A_PRODUCT, STEEP, check_carried, check_padding
from torch.nn.utils.rnn import pack_padded_sequence

from rnngen.runtime import launch as launch_module
from rnngen.runtime.both import joined
from rnngen.runtime.language import interpreting
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.schedules import SCHEDULES, possible, resident

# (time, batch, inputs, hidden for one head): one of everything, primes, beyond one tile of the batch, T = 1.
SIZES = [(1, 1, 1, 1), (3, 2, 5, 7), (2, 17, 3, 13), (4, 9, 2, 24), (1, 5, 3, 33)]


def test_kernels_are_interpreted():
    assert interpreting()


def cases(names) -> list[tuple[str, str]]:
    """Each cell with each schedule that its kernels come in."""
    return [(name, schedule) for name in names for schedule in possible(program(ALL[name]).forward.facts)]


def alternating(found) -> list[tuple[str, str, bool]]:
    """Cases with a direction each: of every schedule the second, the fourth and so on are reversed."""
    places: Counter[str] = Counter()
    directed = []
    for name, schedule in found:
        directed.append((name, schedule, bool(places[schedule] % 2)))
        places[schedule] += 1
    return directed


def words(value) -> str | None:
    """The id of a direction, or of a type."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return {False: "forwards", True: "reversed"}.get(value) if isinstance(value, bool) else None


def fewest(schedule, sizes, lengths):
    """Two of the batch, but for `resident`: the others have no tiles of it, but programs for each of its elements."""
    time, batch, *widths = sizes
    most = batch if schedule == "resident" else 2
    return (time, min(batch, most), *widths), lengths and lengths[-most:]


def test_what_has_a_product_is_resident_and_what_has_none_is_elementwise():
    for name in ALL:
        products = any(value.op == "matmul" for value in program(ALL[name]).scan.values)
        wanted = {"resident", "cooperative"} if products else {"elementwise"}
        assert {schedule for _, schedule in cases([name])} >= {*wanted, "stepwise"}
        assert (name, "elementwise" if products else "resident") not in cases([name])


def check(module_of, layer_of, name, dtype, sizes, schedule, reverse, lengths=None):
    key = name if name in LIBRARY else ALL[name]
    scan = getattr(module_of(key), f"{layer_of(key).cell.name}_scan")
    assert scan.forward.kernels.keys() == {case for cell, case in cases([name])}
    # A norm over few units divides by next to nothing now and then, and what two sequences give is chance.
    if "norm(" not in ALL[name]:
        sizes, lengths = fewest(schedule, sizes, lengths)
    found = compare(layer_of(key), dtype, sizes, schedule, reverse, heads_for(ALL[name], schedule), lengths=lengths)
    assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


# In each type, the other way in every second one; few cells are `elementwise` or `linear`, and those run both ways.
IN_EVERY_TYPE = [
    (name, schedule, dtype, way != bool(number % 2))
    for name, schedule, way in [
        *alternating(case for case in cases(SAMPLE) if case[1] in ("resident", "cooperative", "stepwise")),
        *((*case, way) for case in cases(SAMPLE) if case[1] in ("elementwise", "linear") for way in (False, True)),
    ]
    for number, dtype in enumerate(TOLERANCES)
]


@pytest.mark.parametrize(("name", "schedule", "dtype", "reverse"), IN_EVERY_TYPE, ids=words)
def test_sample(module_of, layer_of, name, schedule, dtype, reverse):
    sizes = SIZES[(list(TOLERANCES).index(dtype) + SAMPLE.index(name)) % len(SIZES)]
    check(module_of, layer_of, name, dtype, sizes, schedule, reverse)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "gru_v3", "indrnn", "mingru"]))
def test_sizes(module_of, layer_of, name, schedule, sizes):
    check(module_of, layer_of, name, torch.float32, sizes, schedule, False)


@pytest.mark.parametrize(
    ("name", "schedule"), [c for c in cases(["lstm", "indrnn", "mingru"]) if c[1] in ("stepwise", "elementwise")]
)
def test_more_units_than_a_program_has(module_of, layer_of, name, schedule):
    """A grid that leaves some out is seen only where one block does not hold them all: no block is larger than 256,
    and of `linear`, which has more than one in other tests too, none is larger than 16.
    """
    check(module_of, layer_of, name, torch.float32, (2, 2, 3, 300), schedule, False)


@pytest.mark.parametrize(
    ("name", "schedule", "reverse"), alternating(c for c in cases(ALL) if c[1] != "stepwise"), ids=words
)
def test_sequences_of_different_lengths(module_of, layer_of, name, schedule, reverse):
    """By `stepwise`, which takes one direction after the other, it is a half of `test_both_directions_at_once`."""
    check(module_of, layer_of, name, torch.float64, (3, 3, 3, 6), schedule, reverse, lengths=[2, 3, 1])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "gru_v3", "indrnn"]))
def test_different_lengths_in_every_type(module_of, layer_of, name, schedule, dtype):
    check(module_of, layer_of, name, dtype, (3, 18, 2, 17), schedule, True, lengths=[1 + n % 3 for n in range(18)])


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "gru_v3", "indrnn", "mingru"]))
def test_no_steps_at_all(layer_of, name, schedule, reverse):
    """What a trace of a projection has behind the first step of a sequence of one."""
    layer = layer_of(name)(3, 5)
    weights = list(layer.parameters())
    states = [torch.randn(2, 5, requires_grad=True) for _ in layer.cell.states]
    y, last = layer.cell.run(torch.zeros(0, 2, 3), states, weights, schedule=schedule, reverse=reverse)
    assert y.shape == (0, 2, 5) and all(map(torch.equal, last, states))
    found = torch.autograd.grad([y, *last], [*states, *weights], [torch.ones_like(y), *(3 * state for state in states)])
    want = [*(3 * state for state in states), *map(torch.zeros_like, weights)]
    assert all(map(torch.equal, found, want))


@pytest.fixture
def sweeps(monkeypatch):
    """Of each sweep by kernels its schedule, and whether it is of both directions."""
    found = []

    def launched(schedule, launch):
        def noted(launched, scan, choice):
            found.append((schedule, scan.both))
            launch(launched, scan, choice)

        return noted

    for name, schedule in SCHEDULES.items():
        monkeypatch.setattr(schedule, "launch", launched(name, schedule.launch))
    return found


@pytest.mark.parametrize(
    ("name", "schedule", "lengths"),
    [
        *((*case, [2, 3, 1]) for case in cases(ALL)),
        *((*case, None) for case in cases([*SAMPLE, "heads"]) if case[1] != "stepwise"),
    ],
    ids=lambda value: None if isinstance(value, str) else "packed" if value else "whole",
)
def test_both_directions_at_once(layer_of, sweeps, name, schedule, lengths):
    """In one launch, where the cell is twice itself; heads come twice too, and units in blocks that are not whole."""
    layer = layer_of(ALL[name])
    heads = heads_for(ALL[name], schedule)
    sizes, lengths = fewest(schedule, (3, 3, 3, 6), lengths)
    found = compare(layer, torch.float64, sizes, schedule, heads=heads, lengths=lengths, both=True)
    assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}
    at_once = layer.cell.both and schedule != "stepwise"
    assert [both for _, both in sweeps] == [at_once] * (2 if at_once else 4)


def test_both_directions_at_once_in_one_graph(layer_of, sweeps):
    """Whether a device can is found out where the graph is made, without a break and without a warning."""
    layer = layer_of("lstm")(3, 6, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    got, want = (run(x)[0] for run in (torch.compile(layer, fullgraph=True, backend="aot_eager"), layer))
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert [both for _, both in sweeps] == [True] * len(sweeps) != []


@pytest.mark.parametrize("name", ["lstm", "gru_v3", "indrnn", "rhn", "held", "windowed"])
def test_both_directions_one_after_the_other(layer_of, sweeps, name):
    """By a schedule that cannot run them at once, and was asked to."""
    cell = layer_of(ALL[name]).cell
    widths = {"hidden": 5, "inputs": 3, "output": 5, "earlier": 3}
    pairs = [[torch.randn(weight.size(widths, 1), dtype=torch.float64) for weight in cell.weights] for _ in range(2)]
    weights = [joined(*row) for row in zip(cell.weights, *pairs, strict=True)]
    x, states = (
        torch.randn(4, 2, 3, dtype=torch.float64),
        [torch.randn(2, 2 * widths[cell.widths.get(name, "hidden")], dtype=torch.float64) for name in cell.states],
    )
    valid = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0]], dtype=torch.int32)[..., None]
    tensors = [x, *states, *weights]
    answers = []
    for schedule in ("stepwise", "auto"):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        first, own = leaves[1 : 1 + len(states)], leaves[1 + len(states) :]
        y, last = cell.run(leaves[0], first, own, valid, both=True, schedule=schedule)
        outputs = [y, *last]
        answers.append([*outputs, *torch.autograd.grad(sum((o * o).sum() for o in outputs), leaves)])
    assert [both for _, both in sweeps] == [False, False] * 2 + [True, True]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-12, atol=1e-12)


# Of a unit that does not exist it computes 0 / 0, on the way there and on the way back.
SIGNS = """
name   = "signs"
states = ["h"]
step   = "h' = tanh(W @ x + U_1 @ (h / abs(h)) + U_2 @ h)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_1", "U_2"] }
"""


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("schedule", ["resident", "stepwise"])
def test_units_that_do_not_exist_take_no_part_in_a_product(layer_of, schedule, dtype):
    found = compare(layer_of(SIGNS), dtype, (3, 2, 3, 5), schedule)
    assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        (SLOW, "elementwise"),
        (SLOW, "stepwise"),
        (SLOW_WITH_A_PRODUCT, "resident"),
        (SLOW_WITH_A_PRODUCT, "stepwise"),
        (SLOW_BY_A_CARRIED_VALUE, "stepwise"),
    ],
)
def test_what_is_carried_from_step_to_step_is_not_rounded_to_bfloat16(layer_of, text, schedule):
    check_carried(layer_of, text, schedule)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("schedule", ["auto", "stepwise"])
@pytest.mark.parametrize("steep", STEEP)
def test_padding_has_no_gradient_that_is_no_number(layer_of, steep, schedule, reverse):
    check_padding(layer_of, steep, reverse, schedule)


@pytest.mark.parametrize(("name", "schedule", "reverse"), alternating(cases(ALL)), ids=words)
def test_only_the_last_step(layer_of, name, schedule, reverse):
    """In inference the others are not written at all."""
    options = {"schedule": schedule, "reverse": reverse}
    torch.manual_seed(0)
    whole = layer_of(ALL[name])(3, 6, **options)
    last = layer_of(ALL[name])(3, 6, last_only=True, **options)
    last.load_state_dict(whole.state_dict())
    x = torch.randn(3, 2, 3)
    with torch.no_grad():
        (rows, want), (y, state) = whole(x), last(x)
    torch.testing.assert_close(y, rows[0 if reverse else -1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(state, want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "schedule"), cases(sorted(ALL.keys() - set(SAMPLE))))
def test_other_cells(module_of, layer_of, name, schedule, dtype):
    half = dtype == torch.bfloat16
    check(module_of, layer_of, name, dtype, (3, 9 if half else 2, 3, 6), schedule, reverse=half)


@pytest.mark.parametrize(("name", "schedule"), cases(["lstm", "gru", "mingru"]))
def test_two_runs_give_the_same_bits(layer_of, name, schedule):
    layer = layer_of(name)(3, 20, schedule=schedule)
    x = torch.randn(4, 9, 3)

    def gradients():
        y, _ = layer(x)
        return torch.autograd.grad(y.square().sum(), layer.parameters())

    for once, again in zip(gradients(), gradients(), strict=True):
        assert torch.equal(once, again)


def test_a_nan_stays_in_its_row_of_the_batch(layer_of):
    layer = layer_of("lstm")(3, 20, schedule="resident")
    x = torch.randn(4, 9, 3)
    x[1, 2, 0] = float("nan")
    y, _ = layer(x)
    assert y[1:, 2].isnan().all()
    assert not y[:, [0, 1, 3, 4, 5, 6, 7, 8]].isnan().any()


@pytest.mark.parametrize("schedule", ["resident", "stepwise"])
def test_an_infinite_weight_reaches_its_own_unit_only(layer_of, schedule):
    """And as a number: where matrices stay in registers, too."""
    layer = layer_of("lstm")(3, 24, schedule=schedule, dtype=torch.bfloat16)
    x, states = torch.randn(1, 9, 3).bfloat16(), [torch.rand(1, 9, 24).bfloat16() + 0.1 for _ in range(2)]
    finite, _ = layer(x, tuple(states))
    with torch.no_grad():
        layer.weight_hh_l0[5, 7] = float("inf")  # of the input gate
    y, _ = layer(x, tuple(states))
    assert y.isfinite().all()
    assert ((y != finite).any(1)[0] == (torch.arange(24) == 5)).all()


def test_inference_computes_the_same_without_saving(layer_of):
    layer = layer_of("lstm")(3, 20, schedule="resident")
    x = torch.randn(4, 9, 3)
    with torch.no_grad():
        without, _ = layer(x)
    with_gradient, _ = layer(x)
    assert torch.equal(without, with_gradient)


def test_a_schedule_that_cannot_run_says_why(layer_of):
    names = "'auto', 'resident', 'cooperative', 'stepwise', 'chunked'"
    choices = f"schedule must be one of {names} for the cell 'lstm', got"
    for name in ("elementwise", "fast"):
        with pytest.raises(ValueError, match=f"{choices} '{name}'"):
            layer_of("lstm")(3, 20, schedule=name)
    with pytest.raises(ValueError, match="wider than the 64"):
        layer_of("lstm")(3, 80, schedule="resident")(torch.randn(4, 2, 3))


@pytest.mark.parametrize(("name", "batch", "tile"), [("lstm", 34, 16), ("gru", 66, 32)])
def test_larger_tiles_of_the_batch_give_the_same_bits(layer_of, name, batch, tile, monkeypatch):
    """A GPU of one multiprocessor takes 16 of the batch from 33 on, and 32 from 65; the second batch is padded."""
    tiles = []
    launched = resident.launch

    def launch(kernel, scan, choice):
        tiles.append(choice.constants["BB"])
        launched(kernel, scan, choice)

    monkeypatch.setattr(resident, "launch", launch)
    torch.manual_seed(0)
    layer = layer_of(name)(2, 5, dtype=torch.bfloat16, schedule="resident")
    x = torch.randn(2, batch, 2, dtype=torch.bfloat16, requires_grad=True)
    answers = []
    for processors in (132, 1):
        machine = replace(MACHINES["sm_90"], processors=processors)
        monkeypatch.setattr(launch_module, "machine_of", lambda device, machine=machine: machine)
        if name == "gru":
            y = layer(pack_padded_sequence(x, torch.arange(batch) % 2 + 1, enforce_sorted=False))[0].data
        else:
            y, _ = layer(x)
        answers.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)
    assert tiles == [8, 8, tile, tile]
