"""recurrent_dropout: what recurrent matrices are applied to is dropped out by one mask for a whole sequence; Gal and
Ghahramani 2016, with the gates tied, as Keras has it.

h' = tanh(w + U @ h)      →      h' = tanh(w + U @ (m * h))

m is drawn for each call, element of the batch and unit: 0 with the probability `recurrent_dropout`, and else
1 / (1 - recurrent_dropout). In evaluation it is 1. All matrices of a step share it, those too that are applied to
something made of a state, as to r * h. Elsewhere the state is whole.
"""

from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import Program, Value, carried, needed, reaching
from rnngen.runtime.drawn import Drawn
from rnngen.wrappers.refusal import NoEffect


def recurrent_dropout(program: Program) -> Program:
    """The program with a cell that has a mask before its recurrent matrices. Raises NoEffect where it has none."""
    graph = program.cell
    varying = reaching(graph, {state.name for state in carried(graph)})
    recurrent = needed(graph, {state.update for state in carried(graph)})
    definitions = graph.by_name()
    products = {
        value.name
        for value in graph.values
        if value.op == "matmul" and value.name in recurrent and value.operands[1] in varying
        if definitions[value.operands[1]].shape == ("hidden",)
    }
    if not products:
        raise NoEffect("no matrix of it is applied to what a state is part of")
    to = Builder(reserved=definitions)
    mask = to.leaf(Value(to.fresh("dropped", "_"), "input", shape=("hidden",)))
    for value in graph.values:
        if value.name in products:
            matrix, vector = value.operands
            dropped = to.make(f"{vector}.dropped", "mul", mask, vector)
            value = replace(value, operands=(matrix, dropped))
        to.keep(value)
    cell = replace(renamed(graph, to, {}), untrained=graph.untrained | {mask})
    drawn = Drawn(mask, "recurrent_dropout", "call", scaled=True)
    return replace(program, cell=cell, drawn=(*program.drawn, drawn))
