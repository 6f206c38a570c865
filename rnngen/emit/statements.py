"""A graph as statements: which values get a line of their own, what they are called, how an expression is written.

A value becomes a line if the user named it, if several others use it, or if a target must see it alone (a product);
everything else is written where it is used, so that the lines read like the equations they came from.
"""

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import pack, unpack

from rnngen.across import ACROSS
from rnngen.ir import CellGraph, Equation, Value, block_shape, blocks_of
from rnngen.matrices import MATRICES
from rnngen.ops import COMPARISONS, OPS
from rnngen.runtime.plan import letter_of

_SUM, _PRODUCT, _UNARY, _ATOM = 1, 2, 3, 4
_LEVELS = {"add": _SUM, "sub": _SUM, "mul": _PRODUCT, "div": _PRODUCT, "neg": _UNARY} | dict.fromkeys(COMPARISONS, 0)


@dataclass(frozen=True, slots=True)
class Statement:
    """`target = text`; `comment` is the equation that begins here, "" if none does."""

    value: Value
    target: str
    text: str
    comment: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        return (*([f"# {self.comment}"] if self.comment else []), f"{self.target} = {self.text}")


@dataclass(frozen=True)
class Spelling:
    """How a target writes the operations.

    `calls` are formats over the operands, {0} and {1}; "" for what the target writes by other means.

    `with_number` replaces `calls` where the second operand is a number that the call of two tensors would refuse;
    `with_fraction` where it is one that float32 does not hold.
    `filled` is a tensor like {0} that holds the number {1} everywhere: a choice between two numbers has no type.
    `fraction` is a number that is not whole.
    `alone` are operations that have a line of their own.
    `log1p_exp_minus_abs` is log1p(exp(-abs({0}))), of which softplus and its like are made, where the target has it.
    """

    target: str
    calls: Mapping[str, str]
    with_number: Mapping[str, str]
    with_fraction: Mapping[str, str]
    filled: str
    reserved: frozenset[str]
    fraction: str = "{0}"
    log1p_exp_minus_abs: str = ""
    alone: frozenset[str] = frozenset()

    def nests(self, op: str) -> bool:
        """Whether an operation is an expression in which and as which others can stand, each once."""
        return op not in self.alone and (op in _LEVELS or self._is_call(op))

    def _is_call(self, op: str) -> bool:
        return op in OPS.keys() | ACROSS.keys() | MATRICES.keys() and self.call(op).count("{0}") == 1

    def call(self, op: str) -> str:
        """The format of an operation. Raises LookupError where there is none."""
        if op not in self.calls:
            raise LookupError(f"emit/{self.target}/spelling.py does not say how to write '{op}'")
        return self.calls[op]


class Names:
    """Identifiers for the values of graphs that share a function.

    They are the values' own names, made fit for Python and for the template around them.
    """

    def __init__(self, graphs: Sequence[CellGraph], reserved: Iterable[str]):
        self._taken = set(reserved) | set(keyword.kwlist)
        shapes = {block_shape(value.shape) for graph in graphs for value in graph.values}
        self._taken |= {letter_of(str(dimension)) for shape in shapes for dimension in shape}
        self._found: dict[str | tuple[str, ...], str] = {}
        self._counts: dict[str, int] = {}
        for graph in graphs:
            for value in graph.values:  # names of the user's first: what is made up gives way to them
                if "." not in value.name and value.op != "constant" and value.name not in self._found:
                    self._found[value.name] = self._free(identifier(value.name))

    def __getitem__(self, name: str) -> str:
        if name not in self._found:
            stem = identifier(name.split(".")[0])
            if stem not in self._taken:
                self._found[name] = self._free(stem)
            else:
                self._counts[stem] = number = self._counts.get(stem, 0) + 1
                self._found[name] = self._free(f"{stem}_{number}")
        return self._found[name]

    def claim(self, names: Iterable[str]) -> None:
        """Find identifiers for values now, in this order, rather than as they come."""
        for name in names:
            self[name]

    def share(self, name: str, known: str) -> None:
        """Call a value by an identifier that it has already."""
        self._found.setdefault(name, known)

    def made(self, key: tuple[str, ...], wanted: str) -> str:
        """An identifier for something that is no value of a graph, `wanted` if that is free."""
        if key not in self._found:
            self._found[key] = self._free(wanted)
        return self._found[key]

    def block(self, pack: str, number: int) -> str:
        """An identifier for a block of a pack that has no name of its own."""
        return self.made((pack, str(number)), f"{self[pack]}_{number}")

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def identifier(name: str) -> str:
    """A name of the user's or of a pass, as an identifier: `h'` is `h_next`."""
    return re.sub(r"\W+", "_", name.replace("'", "_next")).strip("_")


def statements(
    graph: CellGraph,
    spelling: Spelling,
    names: Names,
    atom: Callable[[Value], str | None],
    equations: Iterable[Equation] = (),
    apart: bool = False,
) -> list[Statement]:
    """The graph's values as lines, in order.

    atom(value) is how the target writes a value that it has already, such as a leaf or a block of one; None for a value
    that is to be computed. apart: a stack that is only an output gets no line, since its blocks are written one by one.
    """
    users = graph.users()
    values = graph.by_name()
    roots = set(graph.roots())
    comments = {target: equation for equation in equations for target in equation.targets}
    texts: dict[str, tuple[str, int]] = {}
    found: list[Statement] = []
    shown: list[Equation] = []
    backwards = graph.backwards
    for value in graph.values:
        known = atom(value)
        if value.op == "constant":
            texts[value.name] = number(value.number, spelling.fraction), _ATOM if value.number >= 0 else _UNARY
        elif known is not None:
            texts[value.name] = known, _ATOM
        else:
            text, level = _expression(value, spelling, texts, values)
            uses = sum(user.operands.count(value.name) for user in users[value.name])
            if apart and value.op == "stack" and not users[value.name]:
                continue
            inline = "." in value.name and uses == 1 and value.name not in roots
            if inline and spelling.nests(value.op) and spelling.nests(users[value.name][0].op):
                texts[value.name] = text, level
                continue
            target = names[value.name]
            equation = comments.get(value.name)
            comment = f"{equation.text}    {equation.place}" if equation and equation not in shown else ""
            shown += [equation] if equation else []
            if backwards and not comment and value.name.startswith("d_"):
                comment, backwards = "backwards: the adjoint of each equation, from the last one to the first", False
            found.append(Statement(value, target, text, comment))
            texts[value.name] = target, _ATOM
    return found


def number(value: float, fraction: str = "{0}") -> str:
    """A number as Python and C write it, whole ones without a point."""
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else fraction.format(repr(value))


def _expression(
    value: Value, spelling: Spelling, texts: Mapping[str, tuple[str, int]], values: Mapping[str, Value]
) -> tuple[str, int]:
    operands = [texts[operand] for operand in value.operands]
    if value.op in _LEVELS:
        level = _LEVELS[value.op]
        sign = OPS[value.op].sign
        if value.op == "neg":
            return f"-{_within(operands[0], _UNARY)}", _UNARY
        left, right = _within(operands[0], level), _within(operands[1], level + 1)
        return f"{left} {sign} {right}", level
    second = values[value.operands[-1]]
    form = None
    if len(operands) == 2 and second.op == "constant":
        exact = unpack("f", pack("f", second.number))[0] == second.number
        form = (None if exact else spelling.with_fraction.get(value.op)) or spelling.with_number.get(value.op)
    form = form or spelling.call(value.op)
    atoms = [text for text, _ in operands]
    if value.op == "expand" and values[value.operands[0]].op == "constant":
        return spelling.filled.format(atoms[1], atoms[0]), _ATOM
    if value.op == "where" and all(values[operand].op == "constant" for operand in value.operands[1:]):
        like = next(o for o in values[value.operands[0]].operands if values[o].op != "constant")
        atoms[1] = spelling.filled.format(texts[like][0], atoms[1])
    if value.op in OPS and len(operands) == 2 and values[value.operands[0]].op == "constant":
        atoms[0] = spelling.filled.format(atoms[1], atoms[0])  # torch differentiates no remainder of a number
    if "{*}" in form:
        return form.replace("{*}", ", ".join(atoms)), _ATOM
    if (at_once := _at_once(value, spelling, texts, values)) is not None:
        return at_once, _ATOM
    count = blocks_of(values[value.operands[0]].shape)
    return form.format(*atoms, at=value.attribute, of=count), _ATOM


def _at_once(
    value: Value, spelling: Spelling, texts: Mapping[str, tuple[str, int]], values: Mapping[str, Value]
) -> str | None:
    """What several operations are in one, if this is the last of them and the others stand in its text."""
    if not spelling.log1p_exp_minus_abs:
        return None
    within = value
    for op, deeper in [("log1p", "exp"), ("exp", "neg"), ("neg", "abs")]:
        operand = values[within.operands[0]] if within.op == op else None
        if operand is None or operand.op != deeper:
            return None
        within = operand
    given = texts[within.operands[0]][0]
    apart = spelling.call("exp").format("-" + spelling.call("abs").format(given))
    return spelling.log1p_exp_minus_abs.format(given) if texts[value.operands[0]][0] == apart else None


def _within(operand: tuple[str, int], level: int) -> str:
    text, its_level = operand
    return text if its_level >= level else f"({text})"
