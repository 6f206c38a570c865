"""What the torch steps compute for many steps at once, and what is left of a step, give what the step gave."""

import cells
import pytest
import torch
from test_chain import leaves_of
from torch.nn.utils.rnn import pack_padded_sequence

from rnngen import reference
from rnngen.emit.torch.ahead import ahead
from rnngen.ir import LEAVES, CellGraph, State, Value, reaching
from rnngen.runtime import sweep

every_cell = pytest.mark.parametrize("name", cells.ALL)
each_direction = pytest.mark.parametrize("direction", ["scan", "adjoint"])


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@each_direction
@every_cell
def test_the_two_parts_compute_what_the_graph_does(name, direction, masked):
    graph = getattr(cells.program(name), direction)
    before, left = ahead(graph)
    given = leaves_of(graph, masked)
    taken, none = reference.run(before, given, {}, given)
    assert not none and list(taken) == [leaf.name for leaf in left.leaves("input")]
    found = reference.run(left, given | taken, given, given)
    for got, want in zip(found, reference.run(graph, given, given, given), strict=True):
        assert got.keys() == want.keys()
        for what in want:
            torch.testing.assert_close(got[what], want[what], rtol=1e-12, atol=1e-12, msg=f"{what}: {{}}".format)


@each_direction
@every_cell
def test_nothing_is_left_that_needs_no_state(name, direction):
    """But what is made of parameters alone."""
    _, left = ahead(getattr(cells.program(name), direction))
    states = reaching(left, {leaf.name for leaf in left.leaves("state")})
    inputs = reaching(left, {leaf.name for leaf in left.leaves("input")})
    shares = reaching(left, {leaf.name for leaf in left.leaves("share")})
    assert [v.name for v in left.values if v.op not in LEAVES and v.name in inputs - states - shares] == []


def test_a_step_takes_an_input_whose_units_it_counts():
    values = (
        Value("x", "input", shape=("inputs",)),
        Value("h", "state", shape=("hidden",)),
        Value("n", "share", attribute="inputs"),
        Value("h'", "mul", ("h", "n"), ("hidden",)),
    )
    before, left = ahead(CellGraph("counts", values, (State("h", "h'"),), (("y", "h'"),)))
    assert before.outputs == (("x", "x"),)
    assert [leaf.name for leaf in left.leaves("input")] == ["x"]


def test_a_step_may_take_nothing():
    values = (
        Value("x", "input", shape=("hidden",)),
        Value("h", "state", shape=("hidden",)),
        Value("h'", "tanh", ("h",), ("hidden",)),
    )
    before, left = ahead(CellGraph("alone", values, (State("h", "h'"),), (("y", "h'"),)))
    assert not before.outputs and not left.leaves("input")


def test_an_adjoint_has_one_product_for_each_gate():
    _, left = ahead(cells.program("lstm").adjoint)
    assert [value.op for value in left.values].count("mul") == 6


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ["lstm", "gru", "indrnn"])
def test_how_many_steps_at_once_makes_no_difference(name, reverse, layer_of, monkeypatch):
    """With a mask, and with resets, which a scan crosses between the parts."""
    torch.manual_seed(0)
    layer = layer_of(name)(3, 5, reverse=reverse).double()
    x, flags = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True), torch.rand(7, 2) < 0.3

    def found():
        y, _ = layer(x, resets=flags)
        z = layer(pack_padded_sequence(x, [7, 4]))[0].data
        return [y, z, *torch.autograd.grad([y.square().sum() + z.square().sum()], [x, *layer.parameters()])]

    whole = found()
    for elements in (1, 80):  # one step at a time, and a few
        monkeypatch.setattr(sweep, "_AHEAD", elements)
        for got, want in zip(found(), whole, strict=True):
            assert torch.equal(got, want)
