"""zoneout: each unit of a state keeps its old value with a probability; Krueger et al. 2017.

h' = tanh(w + U @ h)      →      h' = h + m * (tanh(w + U @ h) - h)

m is drawn for each step, element of the batch and unit: 0 with the probability `zoneout`, and else 1. In evaluation it
is 1 - zoneout. Each state has a mask of its own, and perhaps a rate. As in the paper, an equation of the same step that
reads a new value reads what was computed, h' = o * tanh(c') of an LSTM the c' before the mask. What no new value needs,
and the output alone, reads what is kept. What only remembers what it was given, as the last x, is no state of the
recurrence, and stays as it is.
"""

from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import Program, State, Value, carried, needed
from rnngen.runtime.drawn import Drawn


def zoneout(program: Program) -> Program:
    """The program with a cell whose states zone out."""
    graph = program.cell
    recurrent = carried(graph)
    inside = needed(graph, {state.update for state in graph.states})
    to = Builder((v for v in graph.values if v.name in inside or not v.operands), graph.by_name())
    shapes = {leaf.name: leaf.shape for leaf in graph.leaves("state")}
    masks = [to.leaf(Value(to.fresh(f"zoneout_{s.name}", "_"), "input", shape=shapes[s.name])) for s in recurrent]
    kept: dict[str, str] = {}  # by a state's new value the one that takes its place
    states: dict[str, State] = {}
    for state, mask in zip(recurrent, masks, strict=True):
        way = to.make(f"{state.update}.way", "sub", state.update, state.name)
        part = to.make(f"{state.update}.part", "mul", mask, way)
        made = to.make(f"{state.update}.zoned", "add", state.name, part)
        if state.update not in kept or program.output == f"{state.name}'":  # several may have one new value
            kept[state.update] = made
        states[state.name] = replace(state, update=made)
    for value in graph.values:
        if value.name not in to.values:
            to.keep(replace(value, operands=tuple(kept.get(operand, operand) for operand in value.operands)))
    every = tuple(states.get(state.name, state) for state in graph.states)
    cell = replace(renamed(graph, to, kept), states=every, untrained=graph.untrained | set(masks))
    drawn = [
        Drawn(mask, "zoneout", "step", part=s.name, width="".join(map(str, shapes[s.name])))
        for s, mask in zip(recurrent, masks, strict=True)
    ]
    return replace(program, cell=cell, drawn=(*program.drawn, *drawn))
