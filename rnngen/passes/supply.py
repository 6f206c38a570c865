"""supply: the adjoint gives the operands of weight gradients that were not saved.

The gradient of a matrix is a product of all rows of d and all rows of what the matrix was applied to. Where that
operand was not saved, it would be computed again for all steps at once: some operations of torch, each of which reads
and writes whole arrays. The adjoint has all that it is made of in registers, and writes it as one more output:

    gradients                                     adjoint                           gradients
    c' = (1 - e) * c + e * n                      c' = (1 - e) * c + e * n          d_V = outer(d_p, c')
    d_V = outer(d_p, or_zero(valid, c'))    →     output or_zero(valid, c')

What the adjoint does not read anyway stays where it is: one array less would be written, and one more read. So does
what takes more than sums and products. Compiled for sm_90, 64 units in bfloat16, an adjoint that gives it would take
17% more cycles by estimate and spill registers (dreamer_gru), or 20% more (lstmp); of those that give one, rhn takes 7%
more, and lem 18% less, since it also writes fewer of its gradients twice. But where states alone are kept an operand
may take the products of the scan: the adjoint, which has them, gives it whatever it takes.
"""

from collections.abc import Set
from dataclasses import replace
from itertools import chain, count

from rnngen.across import ACROSS
from rnngen.build import Builder, renamed
from rnngen.ir import LEAVES, VIEWS, CellGraph, Differentiated, Value, needed, origin, prune
from rnngen.passes.expand import thin
from rnngen.runtime.plan import is_saved

_PRIME = "'"
_CHEAP = frozenset({"add", "sub", "mul", "neg"})


def supply(program: Differentiated) -> Differentiated:
    """The program with such outputs of its adjoint, which `gradients` reads; the same object if there are none."""
    adjoint, gradients = program.adjoint, program.gradients
    found = _operands(gradients, adjoint)
    if not found:
        return program
    known = gradients.by_name()
    leaves = tuple(
        replace(v, op="input", operands=(), attribute=None) if v.name in found else v for v in known.values()
    )
    left = prune(replace(gradients, values=leaves), keep_leaves=False)
    to = Builder(adjoint.values)
    cone = needed(gradients, set(found))
    names: dict[str, str] = {}
    for value in gradients.values:
        if value.name in cone:
            names[value.name] = to.leaf(value) if value.op in LEAVES else to.copy(value, names)
    taken = {leaf.name for leaf in adjoint.values if leaf.op in LEAVES} | left.by_name().keys() - found.keys()
    taken |= {binding.leaf for binding in program.bindings} | {label for label, _ in adjoint.outputs}
    labels: dict[str, str] = {}  # by the value of the adjoint: two operands that are one value are written once
    for operand, label in found.items():
        if names[operand] not in labels:
            labels[names[operand]] = _free(label, taken | set(labels.values()))
    outputs = (*adjoint.outputs, *((label, value) for value, label in labels.items()))
    return replace(
        program,
        adjoint=replace(adjoint, values=tuple(to.values.values()), outputs=outputs),
        gradients=_reading(left, {operand: labels[names[operand]] for operand in found}),
    )


def _operands(gradients: CellGraph, adjoint: CellGraph) -> dict[str, str]:
    """The operands of `outer` that the adjoint can give, each with a label."""
    values, same = gradients.by_name(), thin(gradients)
    at_hand = {origin(adjoint.by_name(), value.name) for value in adjoint.values if value.op in LEAVES | VIEWS}
    found: dict[str, str] = {}
    for outer in (value for value in gradients.values if value.op == "outer"):
        for operand in outer.operands[:2]:
            chosen = values[operand]
            whole = values[chosen.operands[1]] if chosen.op == "or_zero" else chosen
            cheap = _is_cheap(gradients, whole.name) and _read(gradients, whole.name) <= at_hand
            if whole.name not in same and (cheap or _takes_products(gradients, whole.name)):
                name = whole.name.rstrip(_PRIME)
                found.setdefault(operand, f"{outer.operands[2]}_operand" if "." in name else whole.name)
    return found


def _is_cheap(graph: CellGraph, name: str) -> bool:
    """Whether a value is computed, of what is in memory, by nothing but sums and products."""
    found = needed(graph, {name})
    computed = {value.op for value in graph.values if value.name in found and value.op not in LEAVES | VIEWS}
    return bool(computed) and computed <= _CHEAP


def _takes_products(graph: CellGraph, name: str) -> bool:
    """Whether a value is computed by something across units once more, as where states alone are kept."""
    found = needed(graph, {name})
    return any(value.op in ACROSS for value in graph.values if value.name in found)


def _read(graph: CellGraph, name: str) -> set[tuple[Value, int]]:
    """The vectors and numbers in memory that a value is computed of, each a block of a leaf."""
    values = graph.by_name()
    parts = [values[part] for part in needed(graph, {name})]
    read = {o for part in parts if part.op not in VIEWS for o in part.operands if values[o].op in LEAVES | VIEWS}
    found = {origin(values, o) for o in read}
    return {(leaf, block) for leaf, block in found if leaf.op not in ("constant", "share")}


def _free(label: str, taken: Set[str]) -> str:
    """`label`, or with the first number behind it under which nothing else is known."""
    new = chain([label], (f"{label}.{number}" for number in count(1)))
    return next(name for name in new if name not in taken and not is_saved(name))


def _reading(graph: CellGraph, labels: dict[str, str]) -> CellGraph:
    """The graph with leaves of other names."""
    to = Builder(reserved=labels.values())
    names: dict[str, str] = {}
    for value in graph.values:
        if value.name in labels:
            names[value.name] = to.leaf(replace(value, name=labels[value.name]))
        else:
            names[value.name] = to.copy(value, names)
    return renamed(graph, to, names)
