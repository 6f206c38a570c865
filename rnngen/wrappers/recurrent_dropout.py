"""recurrent_dropout: what recurrent matrices are applied to is dropped out by one mask for a whole sequence; Gal and
Ghahramani 2016, with the gates tied, as Keras has it.

h' = tanh(w + U @ h)      →      h' = tanh(w + U @ (m * h))

m is drawn for each call, element of the batch and unit: 0 with the probability `recurrent_dropout`, and else
1 / (1 - recurrent_dropout). In evaluation it is 1. All matrices of a step share it, those too that are applied to
something made of a state, as to r * h. Vectors of another width have a mask of their own. Elsewhere the state is whole.
"""

from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import Program, Value, carried, dimension_of, needed, reaching
from rnngen.runtime.drawn import Drawn
from rnngen.wrappers.refusal import NoEffect


def recurrent_dropout(program: Program) -> Program:
    """The program with a cell that has masks before its recurrent matrices, one for each width of what these are
    applied to, in the order of the names of dimensions. Raises NoEffect where there is no such matrix.
    """
    graph = program.cell
    varying = reaching(graph, {state.name for state in carried(graph)})
    recurrent = needed(graph, {state.update for state in carried(graph)})
    definitions = graph.by_name()
    widths = {
        value.name: dimension_of(definitions[value.operands[1]])
        for value in graph.values
        if value.op == "matmul" and value.name in recurrent and value.operands[1] in varying
    }
    if not widths:
        raise NoEffect("no matrix of it is applied to what a state is part of")
    to = Builder(reserved=definitions)
    masks = {
        width: to.leaf(Value(to.fresh(f"dropped_{width}", "_"), "input", shape=(width,)))
        for width in sorted(set(widths.values()))
    }
    for value in graph.values:
        if value.name in widths:
            matrix, vector = value.operands
            dropped = to.make(f"{vector}.dropped", "mul", masks[widths[value.name]], vector)
            value = replace(value, operands=(matrix, dropped))
        to.keep(value)
    cell = replace(renamed(graph, to, {}), untrained=graph.untrained.union(masks.values()))
    drawn = (Drawn(mask, "recurrent_dropout", "call", scaled=True, width=width) for width, mask in masks.items())
    return replace(program, cell=cell, drawn=(*program.drawn, *drawn))
