"""hoist: what does not depend on the state leaves the loop.

A step falls into four graphs:

    once      expressions of parameters alone: evaluated once a call
    before    products and reductions of the input, with the biases added to them: one GEMM over all rows; states whose
              new value no state has a part in: their old values are the new ones, shifted by a step
    scan      the recurrence, and the pointwise work around it, which costs less there than the memory it would pass
    after     products and reductions that no state needs: one GEMM over all rows

    pre = W @ x + U @ h + b      →      before: w = W @ x + b        scan: pre = w + U @ h
    p' = x,  g = V @ p           →      before: v = V @ p            scan: g = v
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from rnngen.across import ACROSS
from rnngen.build import Builder, renamed
from rnngen.ir import (
    LEAVES,
    VIEWS,
    CellGraph,
    Packed,
    Split,
    State,
    Value,
    block_diagonal,
    block_shape,
    blocks_of,
    carried,
    delays,
    learned,
    needed,
    prune,
    reaching,
    viewed,
)
from rnngen.ops import COMPARISONS, OPS
from rnngen.runtime.plan import is_saved

_SUMS = frozenset({"add", "sub"})


def hoist(program: Packed) -> Split:
    """The program with its cell split into `once`, `before`, `scan` and `after`."""
    graph, early = _with_biases(*_with_sums(_with_norms(_regrouped(program.cell))))
    phase = _phases(graph, early)
    outputs = dict(graph.outputs)
    after = _extract(graph, phase, "after", (), [*dict.fromkeys(outputs.values())])
    states = carried(graph)
    old = {state.name for state in states}
    from_scan = [leaf.name for leaf in after.leaves("input") if phase[leaf.name] == "scan" or leaf.name in old]
    from_scan = from_scan or [states[0].update]  # the adjoint needs a gradient over time to run along
    scan = _extract(graph, phase, "scan", states, from_scan)
    later = [leaf.name for g in (scan, after) for leaf in g.leaves("input")]
    wanted = [name for name in dict.fromkeys(later) if phase[name] == "before"]
    before = _after_their_updates(_extract(graph, phase, "before", delays(graph), wanted))
    leaves = [leaf.name for g in (before, scan, after) for leaf in g.leaves("parameter")]
    once = _extract(graph, phase, "once", (), [n for n in dict.fromkeys(leaves) if phase[n] == "once"])
    scan = replace(scan, outputs=tuple((_label(name, outputs["y"]), name) for name in from_scan))
    after = replace(after, outputs=graph.outputs)
    return Split(**vars(program), once=once, before=before, scan=scan, after=after, results=tuple(from_scan))


def _label(name: str, output: str) -> str:
    """Of an output of the scan; the pass `save` adds those that `is_saved` means."""
    return "y" if name == output else f"{name}.1" if is_saved(name) else name


def _ranks(graph: CellGraph) -> dict[str, int]:
    """0 for what depends on parameters alone, 1 for what depends on inputs too, or on what they were, 2 for a state."""
    with_input = reaching(graph, {leaf.name for leaf in graph.leaves("input")} | {s.name for s in delays(graph)})
    with_state = reaching(graph, {state.name for state in carried(graph)})
    return {v.name: 2 if v.name in with_state else 1 if v.name in with_input else 0 for v in graph.values}


def _phases(graph: CellGraph, early: set[str]) -> dict[str, str]:
    """The graph that each value belongs to; "leaf" and "view" values belong to every graph that uses them.

    early: sums that are made before the scan.
    """
    rank = _ranks(graph)
    across = {v.name for v in graph.values if v.op in ACROSS}
    products = {v.name for v in graph.values if v.op == "matmul"}
    # What is made of a reduction stays with it: within the loop its gradient would take a reduction at every step.
    reduced = reaching(graph, {name for name in across - products if rank[name] == 1})
    delayed = {state.name: state.update for state in delays(graph)}
    before = needed(graph, early | {name for name in across | reduced if rank[name] == 1})
    before |= needed(graph, set(delayed.values()))
    recurrent = needed(graph, {state.update for state in carried(graph)})
    after = reaching(graph, {name for name in across if rank[name] == 2 and name not in recurrent})
    phase = {}
    for value in graph.values:
        if value.name in delayed:
            phase[value.name] = "before"
        elif value.op in LEAVES:
            phase[value.name] = "leaf"
        elif value.op in COMPARISONS:  # no tensor of conditions passes from one graph to another
            phase[value.name] = "view"
        elif value.op in VIEWS:
            whole = phase[value.operands[0]]
            phase[value.name] = whole if whole in ("scan", "after") else "view"
        elif rank[value.name] == 0:
            phase[value.name] = "once"
        else:
            name = value.name
            outside = rank[name] == 1 and block_shape(value.shape) != ("hidden",)
            phase[name] = "before" if name in before or outside else "after" if name in after else "scan"
    # A parameter of which the scan uses only some blocks is cut up outside, so that its gradient has their size.
    for parameter, views in _views_of_parameters(graph, phase).items():
        blocks = {n for view in views for n in viewed(view)}
        if len(blocks) < blocks_of(parameter.shape):
            phase |= {view.name: "once" for view in views}
    return phase


def _views_of_parameters(graph: CellGraph, phase: dict[str, str]) -> dict[Value, list[Value]]:
    """The views of each parameter that the values of the scan use directly."""
    definitions = graph.by_name()
    found: dict[Value, list[Value]] = defaultdict(list)
    for value in graph.values:
        for operand in (definitions[name] for name in value.operands):
            in_scan = phase[value.name] == "scan" or value.op in COMPARISONS
            if in_scan and operand.op in VIEWS:
                parameter = definitions[operand.operands[0]]
                if parameter.op == "parameter" and operand not in found[parameter]:
                    found[parameter].append(operand)
    return {parameter: views for parameter, views in found.items() if views}


def _extract(
    graph: CellGraph, phase: dict[str, str], part: str, states: tuple[State, ...], outputs: list[str]
) -> CellGraph:
    """The values of one phase; what they take from an earlier phase becomes a leaf."""
    definitions = graph.by_name()
    builder = Builder()

    def bring(name: str) -> None:
        value = definitions[name]
        if name in builder.values:
            return
        if phase[name] in (part, "view"):
            for operand in value.operands:
                bring(operand)
        elif phase[name] != "leaf" or (value.op == "state" and not states):
            op = "parameter" if phase[name] == "once" else "input"
            value = Value(name, op, shape=value.shape, origin=value.origin)
        builder.keep(value)

    for state in states:
        bring(state.name)
        if state.bound:
            bring(state.bound)
    for value in graph.values:
        if phase[value.name] == part and (part != "once" or value.name in needed(graph, set(outputs))):
            bring(value.name)
    for name in [*outputs, *(state.update for state in states)]:
        bring(name)
    values = tuple(builder.values.values())
    # What was made of block-diagonal matrices, or cut out of a stack of them, is block-diagonal too.
    heads = block_diagonal(graph) & {value.name for value in values if value.op == "parameter"}
    untrained = {value.name for value in values if value.op == "parameter"} - learned(graph)
    untrained |= {value.name for value in values if value.op == "input"} & graph.untrained
    named = tuple((name, name) for name in outputs)
    return CellGraph(graph.name, values, states, named, frozenset(heads), untrained=frozenset(untrained))


def _after_their_updates(graph: CellGraph) -> CellGraph:
    """The graph with each state behind its new value, of which the old ones are made."""
    definitions, updates = graph.by_name(), {state.name: state.update for state in graph.states}
    order: dict[str, Value] = {}

    def bring(name: str) -> None:
        if name not in order:
            for other in (*definitions[name].operands, *filter(None, [updates.get(name)])):
                bring(other)
            order[name] = definitions[name]

    for name in definitions:
        bring(name)
    return replace(graph, values=tuple(order.values()))


def _regrouped(graph: CellGraph) -> CellGraph:
    """Sums reordered: terms of the input first, then of parameters, then of the state.

    Only unnamed parts of an equation are taken apart; a sum that has a name keeps it.
    """
    rank = _ranks(graph)
    only_users = graph.only_users()
    definitions = graph.by_name()

    def inner(value: Value) -> bool:
        user = only_users.get(value.name)
        return value.op in _SUMS and "." in value.name and user is not None and user.op in _SUMS

    def terms(value: Value, sign: int) -> Iterator[tuple[int, str]]:
        left, right = value.operands
        for name, its_sign in ((left, sign), (right, sign if value.op == "add" else -sign)):
            part = definitions[name]
            yield from terms(part, its_sign) if inner(part) else [(its_sign, name)]

    builder = Builder()
    names: dict[str, str] = {}
    for value in graph.values:
        if inner(value):
            continue
        parts = list(terms(value, 1)) if value.op in _SUMS else []
        if len({rank[name] for _, name in parts}) < 2:
            names |= _copied(value, parts, builder, names)
            continue
        sums = []
        for wanted in (1, 0, 2):
            group = [(sign, names[name]) for sign, name in parts if rank[name] == wanted]
            group.sort(key=lambda term: -term[0])  # a positive term first, as far as there is one
            if group:
                sums.append(_sum(builder, f"{value.name}.1", group))
        names[value.name] = _sum(builder, value.name, [(1, part) for part in sums])
    return prune(renamed(graph, builder, names))


def _copied(value: Value, parts: list[tuple[int, str]], builder: Builder, names: dict[str, str]) -> dict[str, str]:
    if len(parts) > 2:
        return {value.name: _sum(builder, value.name, [(sign, names[name]) for sign, name in parts])}
    return {value.name: builder.copy(value, names)}


def _sum(builder: Builder, name: str, terms: list[tuple[int, str]]) -> str:
    """The sum of terms with signs; it has the name, and what is summed on the way has none of its own."""
    (sign, total), *rest = terms
    if sign < 0:
        total = builder.make(f"{name}.1", "neg", total)
    for left, (sign, term) in zip(range(len(rest) - 1, -1, -1), rest, strict=True):
        total = builder.make(f"{name}.1" if left else name, "add" if sign > 0 else "sub", total, term)
    return total


def _with_norms(graph: CellGraph) -> CellGraph:
    """Gains and biases of the blocks of a norm of the input as those of the norm.

    n = layer_norm(P), a = n[0] * u + b, c = n[1] * v + d   →   S = n * stack(u, v) + stack(b, d), a = S[0], c = S[1]
    """
    norms = {value.name for value in graph.values if value.op in ACROSS and ACROSS[value.op].definition}
    while found := _blockwise(graph, norms):
        pack, using, others = found
        builder = Builder(graph.values)
        stack = Value(builder.fresh(f"{pack.name}_stack"), "stack", tuple(others), pack.shape)
        whole = Value(builder.fresh(f"{pack.name}_{using[0].op}"), using[0].op, (pack.name, stack.name), pack.shape)
        norms.add(whole.name)
        blocks = {user.name: number for number, user in enumerate(using)}
        values = [
            replace(value, op="pick", operands=(whole.name,), attribute=blocks[value.name])
            if value.name in blocks
            else value
            for value in graph.values
        ]
        graph = prune(_in_order(replace(graph, values=(*values, stack, whole))))
    builder = Builder()
    names: dict[str, str] = {}
    for value in graph.values:  # where all blocks of a parameter are stacked, that is the parameter
        names[value.name] = builder.copy(value, names)
    return prune(renamed(graph, builder, names))


def _blockwise(graph: CellGraph, packs: set[str]) -> tuple[Value, list[Value], list[str]] | None:
    """One of the packs, of inputs, whose blocks are only ever multiplied with parameters, or added to them; what is
    made of each; and by which vector.
    """
    rank, users, only_users, definitions = _ranks(graph), graph.users(), graph.only_users(), graph.by_name()
    for pack in graph.values:
        picks = {user.block: user.name for user in users[pack.name] if user.op == "pick"}
        count = blocks_of(pack.shape)
        if pack.name not in packs or rank[pack.name] != 1 or not 1 < len(picks) == len(users[pack.name]) == count:
            continue
        using = [user for number in range(count) if (user := only_users.get(picks[number]))]
        if len(using) < count or {user.op for user in using} not in ({"add"}, {"mul"}):
            continue
        others = [next(o for o in user.operands if o != picks[n]) for n, user in enumerate(using)]
        if all(rank[o] == 0 and definitions[o].shape == block_shape(pack.shape) for o in others):
            return pack, using, others
    return None


def _in_order(graph: CellGraph) -> CellGraph:
    """The graph with each value behind those that it is made of."""
    definitions = graph.by_name()
    order: dict[str, Value] = {}

    def bring(name: str) -> None:
        if name not in order:
            for operand in definitions[name].operands:
                bring(operand)
            order[name] = definitions[name]

    for name in definitions:
        bring(name)
    return replace(graph, values=tuple(order.values()))


def _with_sums(graph: CellGraph) -> tuple[CellGraph, set[str]]:
    """Sums of products of inputs as sums of whole stacks, and the names of these.

    a = P[0] + Q[0], c = P[1] + Q[1]   →   S = P + Q, a = S[0], c = S[1]; the scan reads S, and torch adds P within the
    GEMM of Q.
    """
    sums: set[str] = set()
    while found := _summed(graph, sums):
        one, other, adds = found
        total = Value(Builder(graph.values).fresh(f"{one.name}_sum"), "add", (one.name, other.name), one.shape)
        sums.add(total.name)
        place = next(place for place, value in enumerate(graph.values) if value.name in adds)
        values = [
            replace(value, op="pick", operands=(total.name,), attribute=adds[value.name])
            if value.name in adds
            else value
            for value in graph.values
        ]
        graph = prune(replace(graph, values=(*values[:place], total, *values[place:])))
    only_users, definitions, rank = graph.only_users(), graph.by_name(), _ranks(graph)
    for value in graph.values:
        parts = [definitions[name] for name in value.operands] if value.op == "add" and rank[value.name] == 1 else []
        if parts and all((p.op == "matmul" or p.name in sums) and only_users.get(p.name) == value for p in parts):
            sums.add(value.name)
    return graph, sums


def _summed(graph: CellGraph, sums: set[str]) -> tuple[Value, Value, dict[str, int]] | None:
    """Two stacks of products of inputs whose blocks are only ever added to one another, and the block that each such
    sum is of; None if there are none. sums: stacks that were made so.
    """
    rank, users, only_users = _ranks(graph), graph.users(), graph.only_users()
    found: dict[tuple[str, ...], Value] = {}
    for pack in graph.values:
        picks = {user.block: user for user in users[pack.name] if user.op == "pick"}
        stack = rank[pack.name] == 1 and (pack.op == "matmul" or pack.name in sums)
        if not stack or len(picks) < 2 or not len(users[pack.name]) == len(picks) == blocks_of(pack.shape):
            continue
        adds = [only_users.get(pick.name) for _, pick in sorted(picks.items())]
        names = tuple(add.name for add in adds if add and add.op == "add")
        if len(names) < len(adds):
            continue
        if other := found.get(names):
            return other, pack, {name: number for number, name in enumerate(names)}
        found[names] = pack
    return None


def _with_biases(graph: CellGraph, sums: set[str]) -> tuple[CellGraph, set[str]]:
    """Biases moved from the blocks of a product of the input to the product, and the names of the sums so made, and of
    those that are there.

    a = P[0] + b, c = P[1] + d   →   Q = P + stack(b, d), a = Q[0], c = Q[1]; torch adds Q's bias within the GEMM.
    """
    rank = _ranks(graph)
    users = graph.users()
    biases = _biases(graph, rank)
    builder = Builder()
    names: dict[str, str] = {}
    early: set[str] = set()
    lifted: dict[str, tuple[str, int | None]] = {}  # the sum that goes away: its product and the block of it
    bare: set[str] = set()  # blocks without their biases, which nothing uses any more
    for value in graph.values:
        if value.name in bare:
            continue
        if value.name in lifted:
            product, place = lifted[value.name]
            whole = names[product]
            names[value.name] = whole if place is None else builder.make(value.name, "pick", whole, attribute=place)
            continue
        names[value.name] = builder.copy(value, names)
        early |= {names[value.name]} if value.name in sums else set()
        if not (value.name in sums or (value.op == "matmul" and rank[value.name] == 1)):
            continue
        blocks = blocks_of(value.shape)
        picks = {p.block: p for p in users[value.name] if p.op == "pick"}
        if blocks > 1 and len(picks) < len(users[value.name]):
            continue
        found: dict[int, tuple[str, str]] = {}
        for number in range(blocks):
            block = value if blocks == 1 else picks.get(number)
            if block and block.name in biases:
                found[number] = biases[block.name]
                total, _ = found[number]
                lifted[total] = (value.name, None if blocks == 1 else number)
                bare |= {block.name} - {value.name}
        if found:
            # The biases may stand later in the graph; they depend on parameters alone, so they can be made now.
            bias = _stacked_biases(graph, found, blocks, builder, names)
            named = [total for total in lifted if lifted[total] == (value.name, None) and "." not in total]
            if value.name in sums:
                first, second = value.operands
                first = builder.make(f"{first}_b", "add", names[first], bias)
                terms = first, names[second]
            else:
                terms = names[value.name], bias
            label = named[0] if named else f"{value.name}_b"
            names[value.name] = builder.make(label, "add", *terms)
            early.add(names[value.name])
    graph = prune(renamed(graph, builder, names))
    return graph, early & graph.by_name().keys()


def _biases(graph: CellGraph, rank: dict[str, int]) -> dict[str, tuple[str, str]]:
    """For each value that is only ever the first term of a sum, or a difference, with vectors of parameters: that, and
    these.
    """
    definitions = graph.by_name()
    found = {}
    for name, user in graph.only_users().items():
        if user.op in _SUMS and user.operands[0] == name:
            other = definitions[user.operands[1]]
            if rank[other.name] == 0 and other.shape == definitions[name].shape:
                found[name] = (user.name, other.name)
    return found


def _stacked_biases(
    graph: CellGraph, found: dict[int, tuple[str, str]], blocks: int, builder: Builder, names: dict[str, str]
) -> str:
    definitions = graph.by_name()

    def bring(name: str) -> str:
        if name not in names:
            value = definitions[name]
            for operand in value.operands:
                bring(operand)
            names[name] = builder.copy(value, names)
        return names[name]

    def bias(total: str, name: str) -> str:
        return builder.make(f"{total}.1", "neg", bring(name)) if definitions[total].op == "sub" else bring(name)

    zero = builder.constant(0.0) if len(found) < blocks else ""
    parts = [bias(*found[number]) if number in found else zero for number in range(blocks)]
    if zero:
        parts = [part if part != zero else builder.make("zeros", "mul", zero, parts[min(found)]) for part in parts]
    return parts[0] if blocks == 1 else _stacked(builder, parts)


def _stacked(builder: Builder, parts: list[str]) -> str:
    """stack(a + c, b + d) as stack(a, b) + stack(c, d): whole parameters rather than copies of their blocks."""
    return _operation_on_stacks(builder, parts) or builder.make("bias", "stack", *parts)


def _operation_on_stacks(builder: Builder, parts: list[str]) -> str | None:
    """One operation in place of a stack of such operations, None where their operands make no stacks.

    Those are vectors, or a scalar that all have: 0.5 * b and 0.5 * d, but not 0.5 * b and k * d.
    """
    values = [builder.values[part] for part in parts]
    op, shape = values[0].op, values[0].shape
    if op not in OPS or any(value.op != op for value in values):
        return None
    stacks = []
    for column in zip(*(value.operands for value in values), strict=True):
        operands = [builder.values[name] for name in column]
        if len(set(column)) == 1 and operands[0].shape == ():
            stack = column[0]
        elif any(operand.shape != shape for operand in operands):
            return None
        elif any(operand.op in COMPARISONS for operand in operands):  # a stack holds numbers
            stack = _operation_on_stacks(builder, list(column))
        else:
            stack = _stacked(builder, list(column))
        if stack is None:
            return None
        stacks.append(stack)
    return builder.make("bias", op, *stacks)
