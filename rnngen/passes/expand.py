"""expand: what is carried or stored has all its axes.

A number or a parameter is the same for every element of the batch, and so is what is computed of these alone. Where it
is the new value of a state, or an output, it gets the axes that a state and an output have:

    h' = b      →      h' = expand(b, h)
"""

from dataclasses import replace

from rnngen.across import ACROSS
from rnngen.build import Builder
from rnngen.ir import LEAVES, CellGraph, Differentiated, Value, block_shape, blocks_of


def expand(program: Differentiated) -> Differentiated:
    """The program with roots of all axes in both directions; the same object if they had them."""
    scan, adjoint = _expanded(program.scan), _expanded(program.adjoint)
    if scan is program.scan and adjoint is program.adjoint:
        return program
    return replace(program, scan=scan, adjoint=adjoint)


def thin(graph: CellGraph) -> set[str]:
    """Names of the values that are the same for every element of the batch."""
    found: set[str] = set()
    for value in graph.values:
        if value.op in LEAVES | ACROSS.keys():
            same = value.op in ("constant", "parameter", "share")
        else:
            same = found.issuperset(value.operands) and value.op != "expand"
        if same:
            found.add(value.name)
    return found


def _expanded(graph: CellGraph) -> CellGraph:
    narrow = thin(graph)
    values = graph.by_name()
    stacked = {o for root in graph.roots() if values[root].op == "stack" for o in values[root].operands}
    if narrow.isdisjoint(stacked.union(graph.roots())):
        return graph
    to = Builder(graph.values)

    def whole(name: str, like: Value | None = None) -> str:
        value = values[name]
        if value.op == "stack" and name not in narrow:
            return to.make(f"{name}.whole", "stack", *(whole(o) for o in value.operands))
        if name not in narrow:
            return name
        like = like or _like(graph, value)
        if blocks_of(like.shape) > 1:
            like = to.values[to.make(f"{like.name}.1", "pick", like.name, attribute=0)]
        return to.make(f"{name}.whole", "expand", name, like.name)

    states = tuple(replace(s, update=whole(s.update, values[s.name])) for s in graph.states)
    outputs = tuple((label, whole(name)) for label, name in graph.outputs)
    return replace(graph, values=tuple(to.values.values()), states=states, outputs=outputs)


def _like(graph: CellGraph, value: Value) -> Value:
    """A leaf with all axes, of the value's shape or, for a number, of any."""
    leaves = (*graph.leaves("state"), *graph.leaves("input"))
    return next(leaf for leaf in leaves if not value.shape or block_shape(leaf.shape) == value.shape)
