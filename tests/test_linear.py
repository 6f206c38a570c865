"""Which scans are linear: the proof against numbers, and what it gives against the step itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

import cells
import pytest
import torch
from test_chain import leaves_of

from rnngen import reference
from rnngen.ir import CellGraph
from rnngen.passes.linear import linear

every_direction = pytest.mark.parametrize("direction", ["scan", "adjoint"])
every_cell = pytest.mark.parametrize("name", cells.ALL)
HIDDEN = 4
POINTS = (0.0, 1.0, -1.0, 0.3, -7.0, 60.0, -60.0)


def step_of(graph: CellGraph, seed: int) -> tuple[Callable[..., dict], dict]:
    """One step as a function of changes of its states, in random numbers of either sign, and these."""
    generator = torch.Generator().manual_seed(seed)
    given = leaves_of(graph, masked=False)
    given = {name: value * torch.randn(value.shape, generator=generator).sign() for name, value in given.items()}

    def step(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
        states = given | changed
        return reference.run(graph, states, states, given)[1]

    return step, given


def are_linear(graph: CellGraph) -> bool:
    """By numbers alone: each state is affine in itself, the others fixed, and no circle of states read one another."""
    names = [state.name for state in graph.states]
    reads: dict[str, set[str]] = {name: set() for name in names}
    for seed in range(6):
        step, given = step_of(graph, seed)
        plain = step()
        for name in names:
            at = {x: step(**{name: torch.full_like(given[name], x)}) for x in POINTS}
            origin, one = at[0.0][name], at[1.0][name]
            for x, found in at.items():
                straight = origin + x * (one - origin)
                if not torch.allclose(found[name], straight, rtol=1e-9, atol=1e-9):
                    return False
                for other in names:
                    if other != name and not torch.equal(found[other], plain[other]):
                        reads[other].add(name)
    try:
        TopologicalSorter(reads).prepare()
    except CycleError:
        return False
    return True


@every_direction
@every_cell
def test_what_is_proved_linear_is_linear_and_all_that_is(name, direction):
    """A product with a state mixes units, and so may an own value: its cells are not linear, whatever the numbers."""
    program = cells.program(name)
    graph = getattr(program, direction)
    chain = program.forward if direction == "scan" else program.backward
    assert chain.facts.linear == (not chain.across and are_linear(graph))


def test_some_cells_are_linear_and_some_are_not():
    found = {name: (p.forward.facts.linear, p.backward.facts.linear) for name, p in programs()}
    assert found["mingru"] == found["cascade"] == found["counts"] == (True, True)
    assert found["indrnn"] == (False, True)  # an adjoint is linear in its states, if nothing looks across units
    assert found["rotation"] == found["lstm"] == (False, False)


def programs() -> Iterator[tuple[str, object]]:
    return ((name, cells.program(name)) for name in cells.ALL)


LINEAR = [(name, d) for name, p in programs() for d in ("scan", "adjoint") if linear(getattr(p, d)) is not None]


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(("name", "direction"), LINEAR)
def test_a_and_b_make_the_new_state_of_the_old_one(name, direction, masked):
    graph = getattr(cells.program(name), direction)
    given = leaves_of(graph, masked)
    want = reference.run(graph, given, given, given)[1]
    solved: set[str] = set()
    for step in linear(graph):
        own = [label for label, _ in step.outputs[::2]]
        assert [label for label, _ in step.outputs[1::2]] == own
        labelled = tuple((f"{label} {n % 2}", value) for n, (label, value) in enumerate(step.outputs))
        # Of a state of this round nothing but its axes may be read.
        states = {name: value for name, value in given.items() if name in solved}
        states |= {name: torch.full_like(given[name], torch.nan) for name in own}
        reads_axes = reference.run(replace(step, outputs=labelled), given | states, states, given)[0]
        for state in own:
            got = reads_axes[f"{state} 0"] * given[state] + reads_axes[f"{state} 1"]
            torch.testing.assert_close(got, want[state].expand_as(got), rtol=1e-12, atol=1e-12)
        solved |= set(own)
    assert solved == want.keys()
