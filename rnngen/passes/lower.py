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
    if not any(map(_is_derived, program.graphs().values())):
        return program
    return replace(
        program,
        once=_lowered(program.once),
        before=_lowered(program.before),
        scan=_lowered(program.scan),
        after=_lowered(program.after),
        adjoint=_lowered(program.adjoint),
        gradients=_lowered(program.gradients),
    )


def _is_derived(graph: CellGraph) -> bool:
    return any(value.op in OPS and OPS[value.op].definition for value in graph.values)


def _lowered(graph: CellGraph) -> CellGraph:
    if not _is_derived(graph):
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
