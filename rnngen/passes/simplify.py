"""simplify: constants folded, identities applied, equal values merged, unneeded ones dropped.

a = 2 * 3          h' = 6 * tanh(h)
b = tanh(h)   →
h' = a * b + 0
"""

from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import CellGraph, Program, prune

_SYMMETRIC = frozenset({"max", "min"})


def simplify(program: Program) -> Program:
    """Every graph of the program in its simplest form; the same object if nothing was to do."""
    simpler = simplify_graph(program.cell)
    return program if simpler == program.cell else replace(program, cell=simpler)


def simplify_graph(graph: CellGraph) -> CellGraph:
    builder = Builder()
    names: dict[str, str] = {}
    for value in graph.values:
        if value.op in _SYMMETRIC and builder.number(names[value.operands[0]]) is not None:  # numbers come second
            value = replace(value, operands=value.operands[::-1])
        names[value.name] = builder.copy(value, names)
    return prune(renamed(graph, builder, names))
