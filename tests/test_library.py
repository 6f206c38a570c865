"""Every cell of the library: judged by its oracle, cut in two, and fit to be shown.

In the depth that `cells.ALL` is tested in, none of them needs a test of its own.
"""

import math
from pathlib import Path
from statistics import median

import pytest
import torch
from oracles import ORACLES
from test_runtime import flat

from rnngen.description import describe, library

I, H, T, B = 3, 4, 5, 2
EXACT = {"rtol": 1e-12, "atol": 1e-12}

every_cell = pytest.mark.parametrize("name", library())


def test_every_cell_has_an_oracle():
    """A line of `ORACLES` in tests/oracles.py, which says whose code judges the cell."""
    assert list(ORACLES) == list(library())


def new_layer(name, layer_of):
    torch.manual_seed(0)
    cell = layer_of(name).cell
    inputs = H if cell.inputs["x"] == "hidden" else I
    heads = 2 if any(weight.heads for weight in cell.weights) else 1
    layer = layer_of(name)(inputs, H, heads=heads, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():  # whatever a cell begins with: zeros would hide what is multiplied by them
            parameter.copy_(0.7 * torch.randn_like(parameter))
        for buffer in layer.buffers():  # as periods of units
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer) % 3 + 1)
    return layer


def leaves_for(layer):
    """What comes in, by name, x (time, batch, inputs) first, and the states (batch, hidden), none of them zero; a
    normaliser is positive.
    """
    widths = {"": (), "hidden": (H,), "inputs": (layer.input_size,), **{n: (size,) for n, size in layer.sizes.items()}}
    xs = {name: torch.randn(T, B, *widths[of], dtype=torch.float64) for name, of in layer.cell.inputs.items()}
    widths[""] = (1,)
    own = [widths[layer.cell.widths.get(name, "hidden")] for name in layer.cell.states]
    states = [torch.rand(B, *width, dtype=torch.float64) + 0.5 for width in own]
    return {name: x.requires_grad_() for name, x in xs.items()}, [state.requires_grad_() for state in states]


def run(layer, xs, states):
    states = tuple(state[None] for state in states)
    x, others = xs["x"], {name: rows for name, rows in xs.items() if name != "x"}
    y, last = layer(x, states if len(states) > 1 else states[0], **others)
    return [y, *(state[0] for state in flat(last))]


def weights_by_name(layer):
    """What an oracle is given: each parameter and each of its blocks, as matrices with all their zeros."""
    found = {}
    for weight in layer.cell.weights:
        tensor = getattr(layer, f"{weight.name}_l0")
        blocks = list(tensor.chunk(len(weight.blocks)))
        if weight.heads:
            blocks = [torch.block_diag(*block) for block in blocks]
        found |= {weight.name: torch.cat(blocks), **dict(zip(weight.blocks, blocks, strict=True))}
    return found


def gradients(results, leaves):
    loss = sum((torch.linspace(-1, 2, r.numel(), dtype=r.dtype).view_as(r) * r).sum() for r in results)
    return torch.autograd.grad(loss, leaves)


def assert_same(got, want, leaves, **tolerance):
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    for one, other in zip(gradients(got, leaves), gradients(want, leaves), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@every_cell
def test_the_oracle_agrees(name, layer_of):
    """Outputs, last states, and the gradients by x, the states and every parameter."""
    layer = new_layer(name, layer_of)
    xs, first = leaves_for(layer)
    weights, states, outputs = weights_by_name(layer), tuple(first), []
    for rows in zip(*xs.values(), strict=True):
        y, states = ORACLES[name].step(weights, states=states, **dict(zip(xs, rows, strict=True)))
        outputs.append(y)
    want = [torch.stack(outputs), *states]
    assert_same(run(layer, xs, first), want, [*xs.values(), *first, *layer.parameters()], **EXACT)


@every_cell
def test_two_calls_are_one(name, layer_of):
    layer = new_layer(name, layer_of)
    xs, states = leaves_for(layer)
    y, *between = run(layer, {name: x[:2] for name, x in xs.items()}, states)
    rest, *last = run(layer, {name: x[2:] for name, x in xs.items()}, between)
    leaves = [*xs.values(), *states, *layer.parameters()]
    assert_same([torch.cat((y, rest)), *last], run(layer, xs, states), leaves, **EXACT)


@every_cell
def test_no_line_of_a_module_is_longer_than_people_read(name, module_of):
    assert max(map(len, Path(module_of(name).__file__).read_text().splitlines())) <= 120


@every_cell
def test_what_a_cell_says_of_itself(name):
    (cell,) = describe(library()[name]).cells
    assert cell.name == name
    assert cell.paper and cell.year
    assert cell.about.endswith(".") and cell.about.count(". ") == 0 and len(cell.about) <= 110
    assert max(map(len, library()[name].text.splitlines())) <= 120


def test_no_two_classes_have_one_name():
    classes = [describe(source).cells[0].class_name for source in library().values()]
    assert len(set(map(str.lower, classes))) == len(classes)


def test_a_cell_is_as_short_as_its_paper():
    """Lines of the step and of the parameters."""
    found = [describe(source).cells[0] for source in library().values()]
    assert median(len(cell.equations) + len(cell.parameters) for cell in found) <= 12


def test_what_cells_begin_with(layer_of):
    """As their papers say, and as a note says how to."""
    irnn = layer_of("irnn")(I, H)
    assert torch.equal(irnn.weight_hh_l0, torch.eye(H)) and not irnn.bias_l0.any()
    for block in layer_of("ligru")(I, H, dtype=torch.float64).weight_hh_l0.chunk(2):
        torch.testing.assert_close(block @ block.T, torch.eye(H, dtype=torch.float64))
    lasting = layer_of("janet")(I, H, init={"b_s": lambda b: b.uniform_(1, 99).log_()}).block("b_s")
    assert lasting.min() >= 0 and lasting.max() <= math.log(99)
    rhythm = layer_of("phased_lstm")(I, H, init={"period": lambda p: p.uniform_(0, 6).exp_()}).block("period")
    assert rhythm.min() >= 1 and rhythm.unique().numel() == H


def test_units_of_a_clockwork_work_at_their_periods(layer_of):
    """Set as the note says."""
    periods = {"period": lambda p: p.copy_(2 ** (torch.arange(len(p)) * 3 // len(p)))}
    layer = layer_of("clockwork_rnn")(I, 6, init=periods)
    assert layer.block("period").tolist() == [1, 1, 2, 2, 4, 4]
    y, _ = layer(torch.randn(9, B, I))
    worked = torch.cat((y[:1], y)).diff(dim=0).ne(0).all(1)
    for t, units in enumerate(worked[1:], 1):
        assert units.tolist() == [t % period == 0 for period in (1, 1, 2, 2, 4, 4)]
    layer.weight_hh_l0.grad = None
    y[:, :, 4:].sum().backward()
    assert not layer.weight_hh_l0.grad[4:, :4].any() and layer.weight_hh_l0.grad[4:, 4:].all()
