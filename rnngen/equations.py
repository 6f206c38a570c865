"""The text of a step, parsed: lines of `name = expression` into trees.

The grammar is a whitelist over Python's expression grammar: names, numbers, `+ - * / @`, unary minus, comparisons and
calls of the functions of `ops`. Nothing is evaluated. `h'` is the new value of the state `h`.
"""

import ast
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from rnngen.errors import did_you_mean
from rnngen.ops import FUNCTIONS, OPS

LONGEST_EQUATION = 4096  # characters
MOST_EQUATIONS = 256
MOST_NODES = 2000  # in one equation
DEEPEST = 64  # operations inside one another

# Python has no primed names; this letter may end one, and takes the apostrophe's place while Python parses.
_PRIME = "\N{MODIFIER LETTER PRIME}"
_TARGET = re.compile(r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*'?)\s*=(?!=)")
_SIGNS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul"}
_COMPARISONS = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}
_REMEDIES = {
    "Pow": "write the product out, or use sqrt, or exp and log",
    "IfExp": "use where(condition, a, b)",
    "Attribute": "an equation has only names, numbers, operators and functions",
    "BoolOp": "nest where(...) calls",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A tree. op: "name", "number", "matmul" or a row of `ops.OPS`; offset and length are its place in the text."""

    op: str
    operands: tuple["Expression", ...] = ()
    name: str = ""
    number: float = 0.0
    offset: int = field(default=0, compare=False)
    length: int = field(default=0, compare=False)

    def names(self) -> Iterator["Expression"]:
        """Every name in the tree, from left to right."""
        if self.op == "name":
            yield self
        for operand in self.operands:
            yield from operand.names()


@dataclass(frozen=True, slots=True)
class Assignment:
    """`target = expression`, with the text as the user wrote it and the places of both in the step's text."""

    target: str
    expression: Expression
    text: str = field(compare=False, default="")
    offset: int = field(compare=False, default=0)


# report(code, message, offset, length, label, *hints)
Report = Callable[..., None]


class _Rejected(Exception):
    """One equation cannot be used; the reason has been reported."""


def parse_step(text: str, report: Report) -> list[Assignment]:
    """The equations of `text`, in its order. Mistakes go to `report`; equations that have one are left out."""
    found = []
    for start, line in _logical_lines(text):
        if len(found) >= MOST_EQUATIONS:
            report("too-large", f"A step has at most {MOST_EQUATIONS} equations.", start, len(line), "one too many")
            break
        try:
            found.append(_assignment(line, start, report))
        except _Rejected:
            continue
    return found


@cache
def parse_expression(text: str) -> Expression:
    """An expression of ours, as in a row of `ops`."""

    def fault(code: str, message: str, *_: object) -> None:
        raise ValueError(f"{message} [{code}] in {text!r}")

    return _expression(text, 0, fault)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(offset, text) of each equation: comments blanked out, lines within brackets joined.

    A line that looks like a new equation starts one even inside brackets: that is where a bracket was forgotten.
    """
    offset, start, pending, depth = 0, 0, "", 0
    for raw in text.splitlines(keepends=True):
        code = re.sub(r"#[^\n]*", lambda m: " " * len(m[0]), raw)
        if pending and (depth <= 0 or _TARGET.match(code)):
            yield start, pending.rstrip()
            pending, depth = "", 0
        if pending or code.strip():
            start = start if pending else offset
            pending += code
            depth += sum(code.count(c) for c in "([{") - sum(code.count(c) for c in ")]}")
        offset += len(raw)
    if pending:
        yield start, pending.rstrip()


def _assignment(line: str, start: int, report: Report) -> Assignment:
    indent = len(line) - len(line.lstrip())
    strange = [(at, char) for at, char in enumerate(line) if not char.isascii() or (char < " " and char not in "\n\t")]
    if strange:
        at, char = strange[0]
        hint = "write it with ASCII letters; several Unicode letters look like one another"
        report("ascii-only", f"An equation is written in ASCII; here is U+{ord(char):04X}.", start + at, 1, "", hint)
        raise _Rejected
    if len(line) > LONGEST_EQUATION:
        message = f"An equation has at most {LONGEST_EQUATION} characters; this one has {len(line)}."
        report("too-large", message, start + indent, 1, "starts here", "give parts of it names of their own")
        raise _Rejected
    match = _TARGET.match(line)
    if not match:
        hint = "write name = expression, one equation a line"
        report("not-an-equation", "This line is not an equation.", start + indent, len(line.strip()), "", hint)
        raise _Rejected
    expression = _expression(line[match.end() :], start + match.end(), report)
    return Assignment(match["name"], expression, " ".join(line.split()), start + match.start("name"))


def _expression(text: str, start: int, report: Report) -> Expression:
    stripped = text.strip()
    lead = text.index(stripped) if stripped else 0
    if not stripped:
        report("syntax", "The equation has no right-hand side.", start - 1, 1, "nothing follows")
        raise _Rejected
    readable = re.sub(r"(?<=[A-Za-z0-9_])'", _PRIME, stripped)
    try:
        tree = ast.parse(f"({readable}\n)", mode="eval")
    except SyntaxError as error:
        at = _char_offset(readable, error.lineno or 1, (error.offset or 1) - 1) if error.lineno else 0
        at = min(max(at, 0), len(stripped) - 1)
        message = "A bracket is not closed." if "never closed" in error.msg else "The equation cannot be read."
        report("syntax", message, start + lead + at, 1, error.msg.replace("_", " ")[:60])
        raise _Rejected from None
    except (RecursionError, MemoryError, ValueError):
        report("too-large", "The equation is nested too deeply.", start + lead, 1, "starts here")
        raise _Rejected from None
    reader = _Reader(readable, start + lead, report)
    return reader.read(tree.body, 1)


def _char_offset(text: str, line: int, column: int) -> int:
    """The offset in `text` of a place that Python's parser names; it saw one bracket before the text."""
    before = text.split("\n")[: line - 1]
    return sum(len(part) + 1 for part in before) + column - (1 if line == 1 else 0)


class _Reader:
    """Python's tree to ours, refusing every kind of node that is not on the list."""

    def __init__(self, text: str, start: int, report: Report):
        self.lines, self.text, self.start, self.report, self.nodes = text.split("\n"), text, start, report, 0

    def place(self, node: ast.expr) -> tuple[int, int]:
        def offset(line: int, column: int) -> int:  # Python counts bytes of UTF-8, and a prime has two
            shown = ("(" if line == 1 else "") + (self.lines[line - 1] if line <= len(self.lines) else "")
            return _char_offset(self.text, line, len(shown.encode()[:column].decode()))

        begin = offset(node.lineno, node.col_offset)
        return self.start + begin, max(offset(node.end_lineno, node.end_col_offset) - begin, 1)

    def reject(self, node: ast.expr, code: str, message: str, label: str = "", *hints: str) -> "_Rejected":
        self.report(code, message, *self.place(node), label, *hints)
        return _Rejected()

    def read(self, node: ast.expr, depth: int) -> Expression:
        self.nodes += 1
        if depth > DEEPEST or self.nodes > MOST_NODES:
            hint = "give parts of it names of their own"
            raise self.reject(node, "too-large", "The equation is nested too deeply or is too long.", "", hint)
        offset, length = self.place(node)

        def made(op: str, *operands: ast.expr) -> Expression:
            return Expression(op, tuple(self.read(o, depth + 1) for o in operands), offset=offset, length=length)

        match node:
            case ast.Name(id=name):
                return Expression("name", name=name.replace(_PRIME, "'"), offset=offset, length=length)
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return Expression("number", number=self.finite(node, number), offset=offset, length=length)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return made("neg", operand)
            case ast.BinOp(op=sign, left=left, right=right) if type(sign) in _SIGNS:
                if isinstance(sign, ast.Div) and isinstance(right, ast.Constant) and right.value == 0:
                    raise self.reject(node, "not-finite", "The equation divides by zero.", "divides by zero")
                return made(_SIGNS[type(sign)], left, right)
            case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _COMPARISONS:
                return made(_COMPARISONS[type(sign)], left, right)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if not any(
                isinstance(argument, ast.Starred) for argument in arguments
            ):
                return self.call(node, name, arguments, made)
        kind = type(node.op).__name__ if isinstance(node, ast.BinOp | ast.UnaryOp) else type(node).__name__
        hints = (_REMEDIES[kind],) if kind in _REMEDIES else ()
        raise self.reject(node, "not-allowed", f"{kind} is not allowed in an equation.", "", *hints)

    def call(self, node: ast.Call, name: str, arguments: list[ast.expr], made: Callable[..., Expression]) -> Expression:
        if name not in FUNCTIONS:
            hint = did_you_mean(name, FUNCTIONS) or f"the functions are {', '.join(sorted(FUNCTIONS))}"
            raise self.reject(node.func, "unknown-function", f"There is no function '{name}'.", "", hint)
        if len(arguments) != OPS[name].arity:
            message = f"'{name}' takes {OPS[name].arity} arguments; here are {len(arguments)}."
            raise self.reject(node, "wrong-arity", message)
        return made(name, *arguments)

    def finite(self, node: ast.expr, number: int | float) -> float:
        try:
            value = float(number)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self.reject(node, "not-finite", "The number is not finite.", "too large")
        return value
