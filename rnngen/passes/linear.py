"""linear: the states whose new value is a * h + b, with an a and a b that are free of states, proved from the graph.

    h' = (1 - z) * h + z * n      →      a = 1 - z, b = z * n
    h' = kept(valid, n, h)        →      a = kept(valid, 0, 1), b = kept(valid, n, 0)

Such a recurrence need not be computed step by step. A state may also read others that are so before it, at the old
value or the new one: they are known for all steps by then. So the states come in rounds, and where one is left that
fits in none, or anything looks across units, the scan is not linear.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from rnngen.across import ACROSS
from rnngen.build import Builder
from rnngen.chain import atoms_of
from rnngen.ir import LEAVES, CellGraph, State, Value, needed


class _Affine(NamedTuple):
    """A value that is a * h + b, by the names of a and b."""

    a: str
    b: str


def linear(graph: CellGraph) -> tuple[CellGraph, ...] | None:
    """For each round a step that computes the a and the b of its states; None if the scan is not linear.

    Its outputs are called after the states, a before b. A state that is a leaf of it is an old value of an earlier
    round, or one of its own, which gives its axes to a number and no more.
    """
    if any(value.op in ACROSS for value in graph.values):
        return None
    read = _read(graph)
    known: frozenset[str] = frozenset()
    rounds: list[CellGraph] = []
    while left := [state for state in graph.states if state.name not in known]:
        to = Builder(reserved=graph.by_name())
        outputs: list[tuple[str, str]] = []
        for state in left:
            if read[state.update] <= known | {state.name}:
                found = _Solution(graph, state, read, to).new_value()
                if found is None:
                    return None
                outputs += [(state.name, name) for name in found]
        if not outputs:
            return None
        made = CellGraph(graph.name, tuple(to.values.values()), outputs=tuple(outputs), backwards=graph.backwards)
        alive = needed(made, set(made.roots()))
        values = tuple(value for value in made.values if value.name in alive)
        rounds.append(CellGraph(graph.name, values, outputs=tuple(outputs), backwards=graph.backwards))
        known |= {name for name, _ in outputs}
    return tuple(rounds)


def _numbers(value: Value, values: Mapping[str, Value]) -> tuple[str, ...]:
    """What a value is computed of: not what only gives it its axes, and of a pack the block."""
    if value.op == "pick":
        return (atoms_of(values, value.name)[0].value,)
    return value.operands[:1] if value.op == "expand" else value.operands


def _read(graph: CellGraph) -> dict[str, frozenset[str]]:
    """The states that each value depends on."""
    values = graph.by_name()
    found: dict[str, frozenset[str]] = {}
    for value in graph.values:
        own = frozenset([value.name] if value.op == "state" else ())
        found[value.name] = own.union(*(found[operand] for operand in _numbers(value, values)))
    return found


class _Solution:
    """A state's new value in terms of its old one. What it takes is added to a builder."""

    def __init__(self, graph: CellGraph, state: State, read: Mapping[str, frozenset[str]], to: Builder):
        self.graph, self.state, self.read, self.to = graph, state, read, to
        self.values = graph.by_name()
        self.leaf = to.leaf(self.values[state.name])
        self.zero, self.one = to.constant(0), to.constant(1)
        self.names: dict[str, str] = {}  # of what is free of the state
        self.forms: dict[str, _Affine | None] = {}

    def new_value(self) -> _Affine | None:
        """None if it is not affine in the old one."""
        wanted = {self.state.update}
        for value in reversed(self.graph.values):
            if value.name in wanted:
                wanted.update(_numbers(value, self.values), filter(self._is_free, value.operands))
        for value in self.graph.values:
            if value.name not in wanted:
                continue
            if not self._is_free(value.name):
                self.forms[value.name] = self._form(value)
            elif value.op == "pick" and (block := self._block(value)):
                self.names[value.name] = self.names[block]
            else:  # what gives its axes to a number may depend on the state, which has the same
                known = dict.fromkeys(value.operands, self.leaf) | self.names
                self.names[value.name] = self.to.copy(self._named(value), known)
        found = self._of(self.state.update)
        return found and _Affine(*map(self._whole, found))

    def _is_free(self, name: str) -> bool:
        return self.state.name not in self.read[name]

    def _named(self, value: Value) -> Value:
        """A value; if it was called after one that it is a part of, it no longer is."""
        computed = value.op not in LEAVES and "." in value.name
        return replace(value, name=self.to.fresh("part.1")) if computed else value

    def _block(self, pick: Value) -> str:
        """What a pick is, if it is no block of a leaf; "" if it is."""
        (atom,) = atoms_of(self.values, pick.name)
        return "" if self.values[atom.value].op in LEAVES else atom.value

    def _of(self, name: str) -> _Affine | None:
        return _Affine(self.zero, self.names[name]) if self._is_free(name) else self.forms[name]

    def _form(self, value: Value) -> _Affine | None:
        """A value that depends on the state, as far as its operation and its operands allow."""
        numbers = _numbers(value, self.values)
        match value.op:
            case "state":
                return _Affine(self.one, self.zero)
            case "pick" | "expand":
                return self._of(numbers[0])
            case "add" | "sub" | "neg":
                return self._each(value, *map(self._of, numbers))
            case "mul" if self._is_free(numbers[0]):
                return self._scaled(value, self._of(numbers[1]), numbers[0])
            case "mul" | "div" if self._is_free(numbers[1]):
                return self._scaled(value, self._of(numbers[0]), numbers[1])
            case "where" | "kept" | "or_zero" if self._is_free(numbers[0]):
                return self._chosen(value, numbers[0], *map(self._of, numbers[1:]))
        return None

    def _each(self, value: Value, *operands: _Affine | None) -> _Affine | None:
        """An operation that is the same on a and on b."""
        found = [operand for operand in operands if operand]
        if len(found) < len(operands):
            return None
        a, b = (self._made(of, value.op, *parts) for of, parts in zip("ab", zip(*found, strict=True), strict=True))
        return _Affine(a, b)

    def _scaled(self, value: Value, operand: _Affine | None, factor: str) -> _Affine | None:
        """A product, or a quotient, of an operand and what is free of the state. Nothing of it is nothing."""
        if operand is None:
            return None
        by = self.names[factor]
        parts = zip("ab", operand, strict=True)
        return _Affine(*(p if p == self.zero else self._made(of, value.op, p, by) for of, p in parts))

    def _chosen(self, value: Value, condition: str, *operands: _Affine | None) -> _Affine | None:
        """By a condition that is free of the state. A number that a mask chooses gets axes."""
        found = [operand for operand in operands if operand]
        if len(found) < len(operands):
            return None
        parts = []
        for of, choices in zip("ab", zip(*found, strict=True), strict=True):
            if set(choices) == {self.zero}:
                parts.append(self.zero)
            else:
                whole = choices if value.op == "where" else tuple(map(self._whole, choices))
                parts.append(self._made(of, value.op, self.names[condition], *whole))
        return _Affine(*parts)

    def _made(self, of: str, op: str, *operands: str) -> str:
        return self.to.make(f"{self.state.name}_{of}.1", op, *operands)

    def _whole(self, name: str) -> str:
        """A value; a number with the axes of the state."""
        number = self.to.number(name) is not None
        return self.to.make("whole.1", "expand", name, self.leaf) if number else name
