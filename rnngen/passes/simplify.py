"""simplify: constants folded, identities applied, equal values merged, unneeded ones dropped.

a = 2 * 3          h' = 6 * tanh(h)
b = tanh(h)   →
h' = a * b + 0
"""

from dataclasses import replace

from rnngen.build import Builder
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


def renamed(graph: CellGraph, builder: Builder, names: dict[str, str]) -> CellGraph:
    """The graph with the builder's values, its states and outputs following `names`."""
    return replace(
        graph,
        values=tuple(builder.values.values()),
        states=tuple(replace(state, update=names.get(state.update, state.update)) for state in graph.states),
        outputs=tuple((label, names.get(value, value)) for label, value in graph.outputs),
    )
