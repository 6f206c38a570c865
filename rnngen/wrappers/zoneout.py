"""zoneout: each unit of a state keeps its old value with a probability; Krueger et al. 2017.

h' = tanh(w + U @ h)      →      h' = h + m * (tanh(w + U @ h) - h)

m is drawn for each step, element of the batch and unit: 0 with the probability `zoneout`, and else 1. In evaluation it
is 1 - zoneout. Each state has a mask of its own, and perhaps a rate. As in the paper, an equation of the same step that
reads a new value reads what was computed, h' = o * tanh(c') of an LSTM the c' before the mask. What only remembers
what it was given, as the last x, is no state of the recurrence, and stays as it is.
"""

from dataclasses import replace

from rnngen.build import Builder
from rnngen.ir import Program, Value, carried
from rnngen.runtime.drawn import Drawn


def zoneout(program: Program) -> Program:
    """The program with a cell whose states zone out; an output that is a state's new value is what is kept of it."""
    graph = program.cell
    to = Builder(graph.values)
    recurrent = carried(graph)
    masks = [to.leaf(Value(to.fresh(f"zoneout_{s.name}", "_"), "input", shape=("hidden",))) for s in recurrent]
    kept: dict[str, str] = {}  # by a state's new value the one that takes its place
    states: dict[str, State] = {}
    for state, mask in zip(recurrent, masks, strict=True):
        way = to.make(f"{state.update}.way", "sub", state.update, state.name)
        part = to.make(f"{state.update}.part", "mul", mask, way)
        made = to.make(f"{state.update}.zoned", "add", state.name, part)
        if state.update not in kept or program.output == f"{state.name}'":  # several may have one new value
            kept[state.update] = made
        states[state.name] = replace(state, update=made)
    outputs = tuple((label, kept.get(value, value)) for label, value in graph.outputs)
    untrained = graph.untrained | set(masks)
    every = tuple(states.get(state.name, state) for state in graph.states)
    cell = replace(graph, values=tuple(to.values.values()), states=every, outputs=outputs, untrained=untrained)
    drawn = [Drawn(mask, "zoneout", "step", part=s.name) for s, mask in zip(recurrent, masks, strict=True)]
    return replace(program, cell=cell, drawn=(*program.drawn, *drawn))
