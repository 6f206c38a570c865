"""zoneout: each unit of a state keeps its old value with a probability; Krueger et al. 2017.

h' = tanh(w + U @ h)      →      h' = h + m * (tanh(w + U @ h) - h)

m is drawn for each step, element of the batch and unit: 0 with the probability `zoneout`, and else 1. In evaluation it
is 1 - zoneout. Each state has a mask of its own, and perhaps a rate. As in the paper, an equation of the same step that
reads a new value reads what was computed, h' = o * tanh(c') of an LSTM the c' before the mask. What no new value needs,
and the output alone, reads what is kept; of states that have one new value that of the first, but an output that is one
of them its own. What only remembers, as the last x, and `lag(h)` of a state, has no mask: it is what that was.
"""

from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import Program, State, Value, carried, dimension_of, needed
from rnngen.runtime.drawn import Drawn
from rnngen.wrappers.refusal import NoEffect


def zoneout(program: Program) -> Program:
    """The program with a cell whose states zone out. Raises NoEffect where `lag` makes all of them."""
    graph = program.cell
    recurrent = [state for state in carried(graph) if state.name not in program.lines]
    if not recurrent:
        raise NoEffect("no state of it is part of a recurrence but by 'lag'")
    inside = needed(graph, {state.update for state in graph.states})
    definitions = graph.by_name()
    to = Builder((v for v in graph.values if v.name in inside or not v.operands), definitions)
    masks = [
        to.leaf(Value(to.fresh(f"zoneout_{s.name}", "_"), "input", shape=definitions[s.name].shape)) for s in recurrent
    ]
    kept: dict[str, str] = {}  # by a state's new value the one that takes its place; several may have one
    states: dict[str, State] = {}
    for state, mask in zip(recurrent, masks, strict=True):
        way = to.make(f"{state.update}.way", "sub", state.update, state.name)
        part = to.make(f"{state.update}.part", "mul", mask, way)
        made = to.make(f"{state.update}.zoned", "add", state.name, part)
        kept.setdefault(state.update, made)
        states[state.name] = replace(state, update=made)
    for value in graph.values:
        if value.name not in to.values:
            to.keep(replace(value, operands=tuple(kept.get(operand, operand) for operand in value.operands)))
    every = tuple(states.get(state.name, state) for state in graph.states)
    own = {f"{name}'": state.update for name, state in states.items()}
    outputs = tuple(
        (label, own.get(name, kept.get(value, value)))
        for name, (label, value) in zip(program.outputs, graph.outputs, strict=True)
    )
    untrained = graph.untrained | set(masks)
    cell = replace(renamed(graph, to, kept), states=every, outputs=outputs, untrained=untrained)
    drawn = [
        Drawn(mask, "zoneout", "step", part=s.name, width=dimension_of(definitions[s.name]))
        for s, mask in zip(recurrent, masks, strict=True)
    ]
    return replace(program, cell=cell, drawn=(*program.drawn, *drawn))
