"""lower: derived operations are expanded, so that a target spells only the primitives.

a = softplus(h)      →      a = max(h, 0) + log1p(exp(-abs(h)))
"""

from collections.abc import Mapping
from dataclasses import replace

from rnngen.across import Across
from rnngen.build import Builder, renamed
from rnngen.equations import parse_expression
from rnngen.ir import CellGraph, Differentiated
from rnngen.ops import OPS, Op

_Rows = Mapping[str, Op] | Mapping[str, Across]


def lower(program: Differentiated) -> Differentiated:
    """Every graph but the described cell, in primitives; the same object if nothing was derived."""
    if not any(_is_derived(graph, OPS) for graph in program.graphs().values()):
        return program
    return replace(
        program,
        once=written_out(program.once, OPS),
        before=written_out(program.before, OPS),
        scan=written_out(program.scan, OPS),
        after=written_out(program.after, OPS),
        again=written_out(program.again, OPS),
        adjoint=written_out(program.adjoint, OPS),
        gradients=written_out(program.gradients, OPS),
    )


def _is_derived(graph: CellGraph, rows: _Rows) -> bool:
    return any(value.op in rows and rows[value.op].definition for value in graph.values)


def written_out(graph: CellGraph, rows: _Rows) -> CellGraph:
    """A graph in which each operation of the rows that has a definition is that; the same object if there is none."""
    if not _is_derived(graph, rows):
        return graph
    builder = Builder(reserved=graph.by_name())
    names: dict[str, str] = {}
    for value in graph.values:
        op = rows.get(value.op)
        if op and op.definition:
            meaning = dict(zip(op.operands.split(), (names[o] for o in value.operands), strict=True))
            names[value.name] = builder.expression(parse_expression(op.definition), meaning, value.name)
        else:
            names[value.name] = builder.copy(value, names)
    return renamed(graph, builder, names)
