"""A graph built value by value, each in its simplest form.

The passes that rewrite graphs add values to a `Builder`. It computes shapes, gives an equal value back instead of
adding it twice, folds constants and applies the identities below, so that no pass has to clean up after another.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from itertools import chain, count

from rnngen.across import ACROSS, ShapeConflict, shown
from rnngen.equations import Expression, parse_expression
from rnngen.ir import CHOICES, LEAVES, CellGraph, Shape, Value, block_shape, blocks_of, prune
from rnngen.matrices import MATRICES
from rnngen.ops import COMPARISONS, OPS


def shape_of(value: Value, operands: tuple[Shape, ...]) -> Shape:
    """The shape that an operation gives; a leaf's own. Raises ShapeConflict."""
    match value.op:
        case "pick":
            return block_shape(operands[0])
        case "slice":
            start, stop = value.bounds
            return (stop - start, *block_shape(operands[0]))
        case "stack":
            if len(set(operands)) > 1:
                raise ShapeConflict(f"A stack needs equal shapes, not {shown(*operands)}.")
            return (len(operands), *operands[0])
        case "join":
            return (sum(map(blocks_of, operands)), *block_shape(operands[0]))
        case "outer":
            return (*operands[0], *operands[1])
        case "expand" | "kept" | "or_zero":
            return operands[1]
        case op if op in ACROSS:
            return ACROSS[op].shape(*operands)
        case op if op in MATRICES:
            return MATRICES[op].shape(*operands)
        case op if op in OPS:
            shapes, packs = {s for s in map(block_shape, operands) if s}, {s for s in operands if blocks_of(s) > 1}
            counts = {blocks_of(s) for s in operands if s} if packs else set()
            if len(shapes) > 1 or len(counts) > 1:
                raise ShapeConflict(f"'{OPS[op].sign or op}' cannot combine {shown(*operands)}.")
            return (*counts, *(shapes.pop() if shapes else ()))
    return value.shape


class Builder:
    """Collects `values`; every method returns the name of the value that it made or found.

    reserved: names of values that are still to come, so that no part of an expression takes one before.
    """

    def __init__(self, values: Iterable[Value] = (), reserved: Iterable[str] = ()):
        self.values: dict[str, Value] = {}
        self.reserved = frozenset(reserved)
        self._known: dict[tuple[object, ...], str] = {}
        for value in values:
            self.keep(value)

    def keep(self, value: Value) -> str:
        """Add a value as it is."""
        self.values[value.name] = value
        self._known.setdefault(_key(value), value.name)
        return value.name

    def leaf(self, value: Value) -> str:
        return value.name if value.name in self.values else self.keep(value)

    def constant(self, number: float) -> str:
        name = f"{number:g}" if float(f"{number:g}") == number else repr(number)
        return self.add(Value(name, "constant", attribute=float(number)))

    def copy(self, value: Value, names: Mapping[str, str]) -> str:
        """Add a value of another graph, its operands renamed."""
        return self.add(replace(value, operands=tuple(names.get(o, o) for o in value.operands)))

    def make(self, name: str, op: str, *operands: str, attribute: float | int | tuple[int, int] | None = None) -> str:
        """Add a value; `name` is what to call it if it is new."""
        name = self.fresh(name) if name in self.reserved else name
        return self.add(Value(name, op, operands, attribute=attribute))

    def add(self, value: Value) -> str:
        simpler = self._simpler(value)
        if isinstance(simpler, str):
            return simpler
        if _key(simpler) in self._known:
            return self._known[_key(simpler)]
        shape = shape_of(simpler, tuple(self.values[o].shape for o in simpler.operands))
        name = simpler.name if simpler.name not in self.values else self.fresh(simpler.name)
        return self.keep(replace(simpler, name=name, shape=shape))

    def fresh(self, name: str, mark: str = ".") -> str:
        """`name`, or with the first number behind it that makes it new. mark: what stands before the number; "_" for
        what torch will know by this name.
        """
        numbered = (f"{name}{mark}{number}" for number in count(1))
        return next(new for new in chain([name], numbered) if new not in self.values and new not in self.reserved)

    def expression(self, tree: Expression, names: Mapping[str, str], name: str) -> str:
        """Add an expression called `name`; `names` says which values its names mean."""
        if tree.op == "number":
            return self.constant(tree.number)
        if tree.op == "name":
            return names[tree.name]
        operands = [self.expression(operand, names, self.fresh(f"{name}.1")) for operand in tree.operands]
        return self.add(Value(name, tree.op, tuple(operands)))

    def number(self, name: str) -> float | None:
        value = self.values[name]
        return value.number if value.op == "constant" else None

    def numbers(self, names: Iterable[str]) -> list[float] | None:
        """What values are if all of them are constants."""
        found = [self.number(name) for name in names]
        return None if None in found else [number for number in found if number is not None]

    def _simpler(self, value: Value) -> Value | str:
        rule = _RULES.get(value.op)
        if value.op in OPS and value.op not in COMPARISONS | {"where"}:
            numbers = self.numbers(value.operands)
            if numbers is not None and (result := folded(value.op, numbers)) is not None:
                return self.constant(result)
        return (rule(self, value, *value.operands) if rule else None) or value


def with_sums_of_packs(graph: CellGraph, among: Set[str] | None = None) -> CellGraph:
    """P[0] + Q[0], P[1] + Q[1] as blocks of P + Q, where that is all that becomes of a product P. among: the values
    that P and Q may be, all if None.
    """
    definitions, to = graph.by_name(), Builder(graph.values)
    users, only_users = graph.users(), graph.only_users()
    sums: dict[str, Value] = {}  # the second of the two packs, after which the sum can stand
    blocks: dict[str, Value] = {}
    for pack in graph.values:
        picks = {user.block: user for user in users[pack.name] if user.op == "pick"}
        if pack.op != "matmul" or (among is not None and pack.name not in among):
            continue
        if len(picks) < max(blocks_of(pack.shape), 2) or len(picks) < len(users[pack.name]):
            continue
        adds = {n: user for n, pick in picks.items() if (user := only_users.get(pick.name)) and user.op == "add"}
        others = [definitions[next(o for o in add.operands if o != picks[n].name)] for n, add in sorted(adds.items())]
        if {o.op for o in others} != {"pick"} or [o.block for o in others] != list(range(len(picks))):
            continue
        if len({o.operands for o in others}) != 1:
            continue
        (other,) = others[0].operands
        if definitions[other].shape != pack.shape or (among is not None and other not in among):
            continue
        later = max(pack.name, other, key=list(definitions).index)
        total = Value(to.fresh(f"{pack.name}_sum"), "add", (other, pack.name), pack.shape)
        sums[later] = total
        blocks |= {add.name: replace(add, op="pick", operands=(total.name,), attribute=n) for n, add in adds.items()}
    values = []
    for value in graph.values:
        values.append(blocks.get(value.name, value))
        if value.name in sums:
            values.append(sums[value.name])
    return prune(replace(graph, values=tuple(values)))


def renamed(graph: CellGraph, builder: Builder, names: dict[str, str]) -> CellGraph:
    """The graph with the builder's values, its states and outputs following `names`."""
    return replace(
        graph,
        values=tuple(builder.values.values()),
        states=tuple(replace(state, update=names.get(state.update, state.update)) for state in graph.states),
        outputs=tuple((label, names.get(value, value)) for label, value in graph.outputs),
    )


def _key(value: Value) -> tuple[object, ...]:
    if value.op in LEAVES - {"constant"}:
        return value.op, value.name
    return value.op, value.operands, value.attribute


def folded(op: str, numbers: list[float]) -> float | None:
    """The result of an operation on numbers, None if it is not finite or no number."""
    try:
        result = _evaluated(op, numbers)
    except (ArithmeticError, ValueError):  # a division by zero, the logarithm of -1
        return None
    return result if math.isfinite(result) else None


def _evaluated(op: str, numbers: list[float]) -> float:
    if number := OPS[op].number:
        return number(*numbers)
    meaning = dict(zip(OPS[op].operands.split(), numbers, strict=True))

    def value(tree: Expression) -> float:
        if tree.op in ("name", "number"):
            return meaning[tree.name] if tree.op == "name" else tree.number
        return _evaluated(tree.op, [value(operand) for operand in tree.operands])

    return value(parse_expression(OPS[op].definition))


# Each rule gives a simpler value, or the name of an equal one, or None. A zero comes only from a partial derivative
# that is zero, so that dropping what it multiplies loses no infinity of the user's.


def _add(to: Builder, value: Value, a: str, b: str) -> Value | str | None:
    if to.number(a) == 0:
        return b
    if to.number(b) == 0:
        return a
    if to.values[b].op == "neg":
        return to.add(replace(value, op="sub", operands=(a, to.values[b].operands[0])))
    return None


def _sub(to: Builder, value: Value, a: str, b: str) -> Value | str | None:
    if to.number(b) == 0:
        return a
    if to.number(a) == 0:
        return to.add(replace(value, op="neg", operands=(b,)))
    if to.values[b].op == "neg":
        return to.add(replace(value, op="add", operands=(a, to.values[b].operands[0])))
    return None


def _mul(to: Builder, value: Value, a: str, b: str) -> Value | str | None:
    for factor, other in ((a, b), (b, a)):
        number, chosen = to.number(factor), to.values[factor]
        if number == 1:
            return other
        if number == -1:
            return to.add(replace(value, op="neg", operands=(other,)))
        # A number chosen by a condition chooses the product: where(c, 1, 0) * d is where(c, d, 0).
        if chosen.op == "where" and (numbers := to.numbers(chosen.operands[1:])) is not None:
            branches = [
                to.constant(0) if n == 0 else to.make(value.name, "mul", to.constant(n), other) for n in numbers
            ]
            return to.add(replace(value, op="where", operands=(chosen.operands[0], *branches)))
    return None


def _div(to: Builder, value: Value, a: str, b: str) -> Value | str | None:
    return a if to.number(b) == 1 else None


def _sum(to: Builder, value: Value, a: str) -> Value | str | None:
    """Of a negative the negative: it may be of a number then, and not of a vector."""
    if to.values[a].op != "neg":
        return None
    total = to.make(value.name, value.op, *to.values[a].operands)
    return to.add(replace(value, op="neg", operands=(total,)))


def _identity(to: Builder, value: Value, a: str) -> Value | str | None:
    return a


def _neg(to: Builder, value: Value, a: str) -> Value | str | None:
    return to.values[a].operands[0] if to.values[a].op == "neg" else None


def _where(to: Builder, value: Value, condition: str, a: str, b: str) -> Value | str | None:
    compared = to.values[condition]
    numbers = to.numbers(compared.operands)
    if numbers is None:
        return None
    return a if _evaluated(compared.op, numbers) else b


def _pick(to: Builder, value: Value, a: str) -> Value | str | None:
    packed = to.values[a]
    if packed.op == "stack":
        return packed.operands[value.block]
    if packed.op == "slice":
        return to.add(replace(value, operands=packed.operands, attribute=packed.bounds[0] + value.block))
    return None


def _slice(to: Builder, value: Value, a: str) -> Value | str | None:
    return a if value.bounds == (0, blocks_of(to.values[a].shape)) else None


def _stack(to: Builder, value: Value, *blocks: str) -> Value | str | None:
    picks = [to.values[block] for block in blocks]
    first = picks[0]
    if first.op != "pick":
        return None
    whole = to.values[first.operands[0]]
    if whole.op != "parameter" and len(blocks) < blocks_of(whole.shape):
        return None  # of what is computed, blocks are at hand one by one; only parameters lie in memory as a stack
    if any(p.op != "pick" or p.operands != first.operands or p.block != first.block + n
           for n, p in enumerate(picks)):  # fmt: skip
        return None
    run = (first.block, first.block + len(picks))
    return to.add(replace(value, op="slice", operands=first.operands, attribute=run))


def _kept(to: Builder, value: Value, mask: str, new: str, old: str) -> Value | str | None:
    """What is chosen where the step counts needs no choice of its own."""
    chosen = to.values[new]
    return to.add(replace(value, operands=(mask, chosen.operands[1], old))) if chosen.op in CHOICES else None


def _or_zero(to: Builder, value: Value, mask: str, number: str) -> Value | str | None:
    chosen = to.values[number]
    return to.add(replace(value, operands=(mask, chosen.operands[1]))) if chosen.op in CHOICES else None


_RULES: dict[str, Callable[..., Value | str | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "sum": _sum,
    "mean": _sum,
    "identity": _identity,
    "where": _where,
    "pick": _pick,
    "slice": _slice,
    "stack": _stack,
    "kept": _kept,
    "or_zero": _or_zero,
}
