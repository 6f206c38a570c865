"""ahead: what a step in torch does not need its states for is computed for many steps at once.

    f  = sigmoid(w_f)               →     ahead: f, i = 1 - f
    h' = f * h + (1 - f) * u              step:  h' = f * h + i * u

An adjoint is linear in what the steps behind it pass back. There the factors of a product come together first, so that
a step has one product for each:

    d_f = (d_c * c) * (f * (1 - f)) →     ahead: d_f_by_d_c = c * (f * (1 - f))
                                          step:  d_f = d_c * d_f_by_d_c
"""

from collections.abc import Iterable
from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import LEAVES, CellGraph, Value, block_shape, prune, reaching

_LINEAR = frozenset({"add", "sub", "neg"})


def ahead(graph: CellGraph) -> tuple[CellGraph, CellGraph]:
    """A graph for many steps at once, whose outputs are the inputs of the other one, and the step that is left."""
    graph = _factored(graph) if graph.backwards else graph
    early = _early(graph)
    inputs = {leaf.name for leaf in graph.leaves("input")}
    later = [value for value in graph.values if value.name not in early and value.op not in LEAVES]
    read = {*graph.roots(), *(operand for value in later for operand in value.operands)}
    wanted = read & (early | inputs) | _counted(graph, read, early)
    taken = [value for value in graph.values if value.name in wanted]
    before = prune(replace(graph, states=(), outputs=tuple((v.name, v.name) for v in taken), backwards=False))
    before = replace(before, values=tuple(value for value in before.values if value.op != "state"))
    leaves = {value.name: Value(value.name, "input", shape=value.shape, origin=value.origin) for value in taken}
    left = [leaves.get(v.name, v) for v in graph.values if v.name in leaves or v.name not in early | inputs]
    return before, prune(replace(graph, values=tuple(left)))


def _early(graph: CellGraph) -> set[str]:
    """Names of the values that depend on an input and on no state; but the blocks of an output stay apart."""
    values, inputs = graph.by_name(), {leaf.name for leaf in graph.leaves("input")}
    known = _dimensions(graph, [*graph.leaves("input"), *graph.leaves("parameter")])
    late = {leaf.name for leaf in graph.leaves("state")}
    late |= {leaf.name for leaf in graph.leaves("share") if leaf.dimension not in known}
    late |= {name for name, users in graph.users().items() if not users and values[name].op == "stack"}
    return reaching(graph, inputs) - reaching(graph, late) - inputs


def _counted(graph: CellGraph, read: set[str], early: set[str]) -> set[str]:
    """Names of inputs of which a step reads nothing but how many units a dimension has."""
    known = _dimensions(graph, [v for v in graph.values if v.op in ("state", "parameter") or v.name in read & early])
    missing = {leaf.dimension for leaf in graph.leaves("share") if leaf.name in read} - known
    return {leaf.name for leaf in graph.leaves("input") if missing.intersection(leaf.shape)}


def _dimensions(graph: CellGraph, values: Iterable[Value]) -> set[str | int]:
    """The dimensions that can be read off values."""
    return {dimension for v in values if v.name not in graph.heads for dimension in block_shape(v.shape)}


def _factored(graph: CellGraph) -> CellGraph:
    """The graph with each product as one of what depends on a state and of what does not."""
    late = reaching(graph, {leaf.name for leaf in graph.leaves("state")})
    builder = Builder(reserved=graph.by_name())
    names: dict[str, str] = {}
    products: dict[str, tuple[str, str]] = {}  # by the value of the graph: what depends on a state, and its factor

    def whole(name: str) -> str:
        if name not in names:
            names[name] = builder.add(Value(name, "mul", products[name]))
        return names[name]

    def factor(value: Value, base: str, op: str, *factors: str) -> str:
        return builder.make("_by_".join(name.split(".")[0] for name in (value.name, base)), op, *factors)

    for value in graph.values:
        lates = [operand for operand in value.operands if operand in late]
        found = [products[operand] for operand in lates if operand in products]
        bases = {base for base, _ in found}
        if value.op == "mul" and len(lates) == 1:
            (other,) = (operand for operand in value.operands if operand not in late)
            base, by = found[0] if found else (whole(lates[0]), "")
            products[value.name] = base, factor(value, base, "mul", by, names[other]) if by else names[other]
        elif value.op in _LINEAR and len(found) == len(value.operands) and len(bases) == 1:
            (base,) = bases
            products[value.name] = base, factor(value, base, value.op, *(by for _, by in found))
        else:
            names[value.name] = builder.copy(value, {operand: whole(operand) for operand in value.operands})
    for root in graph.roots():
        whole(root)
    return prune(renamed(graph, builder, names))
