"""clip: the gradient that passes from a step to the one before it is cut off, unit by unit; Graves 2013, who clips
derivatives within the network rather than the norm of what comes out of it.

d_h' = U.T @ d_a      →      d_h' = min(max(U.T @ d_a, -clip_h), clip_h)

That is no derivative, and the step forwards stays as it is. A bound is a number of the layer, `clip`, for all states or
by their names. What comes to a state at its own step, as from an output that it is, is added behind that, and is cut
off on its way to the step before. `lag(h)` of a state is one more way to the steps before, and has the bound of h; one
of an equation has that of all states. What only remembers what it was given, as the last x, has no bound.
"""

from dataclasses import replace

from rnngen.build import Builder
from rnngen.ir import Program, Value, carried
from rnngen.runtime.drawn import Drawn
from rnngen.wrappers.refusal import NoEffect


def clip(program: Program) -> Program:
    """The program with a cell whose states have bounds. Raises NoEffect if they have them already."""
    graph = program.cell
    if any(state.bound for state in graph.states):
        raise NoEffect("gradients of its states are cut off already")
    to = Builder(graph.values)
    bounds = {s.name: to.leaf(Value(to.fresh(f"clip_{s.name}", "_"), "parameter")) for s in carried(graph)}
    states = tuple(replace(state, bound=bounds.get(state.name, "")) for state in graph.states)
    untrained = graph.untrained | set(bounds.values())
    cell = replace(graph, values=tuple(to.values.values()), states=states, untrained=untrained)
    of = {name: line * (line in bounds) for name, line in program.lines.items()}
    drawn = (Drawn(bound, "clip", "never", part=of.get(name, name), width="") for name, bound in bounds.items())
    return replace(program, cell=cell, drawn=(*program.drawn, *drawn))
