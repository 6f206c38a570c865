"""Wrappers for tests only: one that computes more, one that learns more, one that carries more."""

from dataclasses import replace

from rnngen.build import Builder
from rnngen.ir import CellGraph, Parameter, Program, State, Value


def halved(program: Program) -> Program:
    """Each new state is half of what it was."""
    graph = program.cell
    to = Builder(graph.values)
    states = tuple(
        replace(state, update=to.make(f"{state.update}.halved", "mul", to.constant(0.5), state.update))
        for state in graph.states
    )
    return replace(program, cell=_followed(graph, to, states))


def learned(program: Program) -> Program:
    """Each new state is scaled by a number for each unit, which is learned."""
    graph = program.cell
    to = Builder(graph.values)
    scale = to.leaf(Value(to.fresh("scale", "_"), "parameter", shape=("hidden",)))
    states = tuple(
        replace(state, update=to.make(f"{state.update}.scaled", "mul", scale, state.update)) for state in graph.states
    )
    parameters = (*program.parameters, Parameter(scale, ("hidden",), (scale,), (0.9,)))
    return replace(program, cell=_followed(graph, to, states), parameters=parameters)


def carried(program: Program) -> Program:
    """The first state goes on by the mean of its last change and this one; the last change is one more state."""
    graph = program.cell
    to = Builder(graph.values)
    first, *others = graph.states
    change = to.leaf(Value(to.fresh("change", "_"), "state", shape=("hidden",)))
    both = to.make("change.both", "add", change, to.make("change.now", "sub", first.update, first.name))
    mean = to.make("change.mean", "mul", to.constant(0.5), both)
    new = replace(first, update=to.make(f"{first.update}.carried", "add", first.name, mean))
    return replace(program, cell=_followed(graph, to, (new, *others, State(change, mean))))


TOYS = {wrapper.__name__: wrapper for wrapper in (halved, learned, carried)}


def _followed(graph: CellGraph, to: Builder, states: tuple[State, ...]) -> CellGraph:
    """The graph with other new states; an output that was one follows it."""
    instead = {old.update: new.update for old, new in zip(graph.states, states, strict=False)}
    outputs = tuple((label, instead.get(value, value)) for label, value in graph.outputs)
    return replace(graph, values=tuple(to.values.values()), states=states, outputs=outputs)
