"""again: the products that the adjoint makes again leave its loop.

Where states alone are kept the adjoint has the products of the scan beside its own. What they are of is known at all
steps before it begins: what was kept, what comes in, and what is made of these. So each is one product over many steps,
which the runtime makes before the adjoint runs over them, and the adjoint reads it:

    adjoint                                       again                              adjoint
    i = sigmoid(w[0] + (U @ h)[0]) ...            s = w + U @ h                      i = sigmoid(s[0]) ...

What is at hand and added to a product alone goes with it: an LSTM's adjoint then reads as many vectors as where gates
are kept. Compiled for sm_90, 64 units in bfloat16, a step takes 1036 cycles by estimate, and 1954 with the product in
the loop; with gates it takes 749. What depends on the adjoint's own states, or on what comes in from behind, stays.
"""

from collections.abc import Set
from dataclasses import replace
from itertools import chain, count

from rnngen.build import with_sums_of_packs
from rnngen.ir import Binding, CellGraph, Differentiated, Value, needed, origin, prune, reaching


def again(program: Differentiated) -> Differentiated:
    """The program with `again`, and an adjoint that reads it; the same object if there is no such product."""
    adjoint = program.adjoint
    known = _known(adjoint, {binding.leaf for binding in program.bindings if binding.kind != "gradient"})
    if not any(value.op == "matmul" and value.name in known for value in adjoint.values):
        return program
    adjoint = with_sums_of_packs(adjoint, known)
    made = _made(adjoint, _known(adjoint, known))
    left = prune(_with_leaves(adjoint, made), keep_leaves=False)
    read = [leaf.name for leaf in left.leaves("input") if leaf.name in made]
    taken = {label for label, _ in adjoint.outputs} | program.gradients.by_name().keys() | left.by_name().keys() - made
    labels: dict[str, str] = {}
    for name in read:
        labels[name] = _free(_label(adjoint, name, made), taken | set(labels.values()))
    cone = needed(adjoint, set(read))
    values = tuple(value for value in adjoint.values if value.name in cone)
    outputs = tuple((label, name) for name, label in labels.items())
    return replace(
        program,
        again=CellGraph(f"{program.scan.name} again", values, (), outputs, adjoint.heads),
        adjoint=_renamed(left, labels),
        bindings=(*program.bindings, *(Binding(label, "made", label) for label in labels.values())),
    )


def _known(graph: CellGraph, inputs: Set[str]) -> set[str]:
    """Names of the values that depend on these inputs, and on nothing that the loop alone has. A product with a
    transposed matrix is none that the scan has, and a share is read off a state.
    """
    late = {value.name for value in graph.values if value.op in ("state", "share", "matmul_t")}
    late |= {leaf.name for leaf in graph.leaves("input") if leaf.name not in inputs}
    return reaching(graph, inputs & graph.by_name().keys()) - reaching(graph, late)


def _made(graph: CellGraph, known: Set[str]) -> set[str]:
    """Names of the products among these, and of their sums with what is at hand, if nothing else becomes of them."""
    definitions, only_users = graph.by_name(), graph.only_users()
    found: set[str] = set()
    for value in graph.values:
        if value.op == "matmul" and value.name in known:
            found.add(value.name)
        elif value.op == "add" and value.name in known:
            alone = any(name in found and only_users.get(name) == value for name in value.operands)
            at_hand = all(n in found or origin(definitions, n)[0].op in ("input", "parameter") for n in value.operands)
            if alone and at_hand and all(definitions[name].shape == value.shape for name in value.operands):
                found.add(value.name)
    return found


def _with_leaves(graph: CellGraph, names: Set[str]) -> CellGraph:
    """The graph with some of its values as inputs."""
    return replace(
        graph,
        values=tuple(
            Value(v.name, "input", shape=v.shape, origin=v.origin) if v.name in names else v for v in graph.values
        ),
    )


def _label(graph: CellGraph, name: str, made: Set[str]) -> str:
    """What to call a product or a sum: its name, or after its matrix if that is made up."""
    definitions = graph.by_name()
    value, ending = definitions[name], "product"
    while value.op == "add":
        value, ending = next(definitions[o] for o in value.operands if o in made), "sum"
    return name if "." not in name else f"{origin(definitions, value.operands[0])[0].name}_{ending}"


def _free(name: str, taken: Set[str]) -> str:
    """`name`, or with the first number behind it that makes it new."""
    return next(new for new in chain([name], (f"{name}.{n}" for n in count(1))) if new not in taken)


def _renamed(graph: CellGraph, names: dict[str, str]) -> CellGraph:
    """The graph with other names for some values, none of which is a state."""
    return replace(
        graph,
        values=tuple(
            replace(v, name=names.get(v.name, v.name), operands=tuple(names.get(o, o) for o in v.operands))
            for v in graph.values
        ),
        states=tuple(replace(state, update=names.get(state.update, state.update)) for state in graph.states),
        outputs=tuple((label, names.get(value, value)) for label, value in graph.outputs),
    )
