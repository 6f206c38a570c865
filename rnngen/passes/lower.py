"""lower: derived operations are expanded, so that a target spells only the primitives.

a = softplus(h)      →      a = max(h, 0) + log1p(exp(-abs(h)))
"""

from dataclasses import replace

from rnngen.build import Builder
from rnngen.equations import parse_expression
from rnngen.ir import CellGraph, Differentiated
from rnngen.ops import OPS
from rnngen.passes.simplify import renamed


def lower(program: Differentiated) -> Differentiated:
    """Every graph but the described cell, in primitives; the same object if nothing was derived."""
    graphs = program.graphs()
    lowered = {name: _lowered(graph) for name, graph in graphs.items()}
    changed = {name: graph for name, graph in lowered.items() if graph is not graphs[name]}
    return replace(program, **changed) if changed else program


def _lowered(graph: CellGraph) -> CellGraph:
    if not any(value.op in OPS and OPS[value.op].definition for value in graph.values):
        return graph
    builder = Builder(reserved=graph.by_name())
    names: dict[str, str] = {}
    for value in graph.values:
        op = OPS.get(value.op)
        if op and op.definition:
            meaning = dict(zip(op.operands.split(), (names[o] for o in value.operands), strict=True))
            names[value.name] = builder.expression(parse_expression(op.definition), meaning, value.name)
        else:
            names[value.name] = builder.copy(value, names)
    return renamed(graph, builder, names)
