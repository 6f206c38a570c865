"""The text of a step, parsed: lines of `name = expression`, or `name, name = expression`, into trees.

The language is a small part of Python's expressions: names, numbers, `+ - * / % @`, unary minus, `.T`,
comparisons and calls of the functions of `ops`, `across` and `matrices`, by their names or by those that a cell's
`activations` give them. Nothing is evaluated. `h'` is the new value of the state `h`.
"""

import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from rnngen import idioms
from rnngen.across import ACROSS, Across
from rnngen.errors import did_you_mean
from rnngen.matrices import CALLS, MATRICES, TRANSPOSED, Making
from rnngen.ops import OPS, Op

_ROWS: Mapping[str, Op | Across | Making] = {**MATRICES, **OPS, **ACROSS}
LONGEST_EQUATION = 4096  # characters
MOST_EQUATIONS = 256
LARGEST = (2 - 2**-23) * 2.0**127  # finite number of float32, which a layer has unless it is asked for another dtype
FLOAT32 = f"a finite number of float32, at most {LARGEST:.7e}"
DEEPEST = 64  # operations and brackets inside one another; every later pass may call itself as often

_TARGETS = re.compile(r"\s*(?P<names>[A-Za-z_]\w*'?(?:\s*,\s*[A-Za-z_]\w*'?)*)\s*=(?!=)", re.ASCII)
_LEFT_SIDE = re.compile(r"[^=\n]*[^=<>!\s][^=<>!\n]*(?==(?!=))")
_PRIME = "'"
_PRIMES = dict.fromkeys(map(ord, idioms.PRIMES), _PRIME)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*'?")
_TOKEN = re.compile(
    r"""
    (?P<number> (?: [0-9]+ \.? [0-9]* | \. [0-9]+ ) (?: [eE] [+-]? [0-9]+ )? )
  | (?P<name> [A-Za-z_] [A-Za-z0-9_]* '* )
  | (?P<sign> \.T(?![A-Za-z0-9_']) | [=!<>]= | \*\* | // | << | >> | := | -> | \S )
    """,
    re.VERBOSE,
)
_OTHER_BASE = re.compile(r"0(?:[xX](?:_?[0-9a-fA-F]){1,16}|[oO](?:_?[0-7]){1,21}|[bB](?:_?[01]){1,64})")  # 64 bits
_GROUPED = re.compile(r"[0-9]+(?:_[0-9]+)+(?:\.[0-9]*)?(?:[eE][0-9]+)?")
_LETTER = re.compile(r"\b[abc]\b")
_CALLED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?= ?\()")
_COMPARING = 1
_LEVELS = dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), _COMPARING) | {
    "+": 2,
    "-": 2,
    "*": 3,
    "/": 3,
    "%": 3,
    "@": 3,
}
_TIGHTEST = 4  # the unary minus, a call, a name
_OPS = {op.sign: op.name for op in (OPS | ACROSS).values() if op.sign in _LEVELS and op.arity == 2}
_LEVEL_OF = {op: _LEVELS[sign] for sign, op in _OPS.items()}
_PLAIN_ARGUMENT = r"(?:- )?(?:[0-9.]+(?:[eE][+-]?[0-9]+)?|[A-Za-z_][A-Za-z0-9_]*'*)"

_PLAIN = "an equation has only names, numbers, operators, brackets and functions."
_WRITABLE = "write it in ASCII letters and signs."
_OWN_NAME = "give what stands in its brackets a name of its own."
_UNKNOWN = "unknown"  # the op of a call of no function
LAG = "lag"  # of one or two arguments, and of no row: states are made of it, see `rnngen.lag`


@dataclass(frozen=True, slots=True)
class Expression:
    """A tree. op: "name", "number", "lag" or a row of `OPS`, `ACROSS` or `MATRICES`; offset and length are its place.

    name: of a "name" itself, of a call the activation that chose its function.
    """

    op: str
    operands: tuple["Expression", ...] = ()
    name: str = ""
    number: float = 0.0
    offset: int = field(default=0, compare=False)
    length: int = field(default=0, compare=False)

    def parts(self) -> Iterator["Expression"]:
        """The tree and every tree in it, from left to right, each before what is in it."""
        waiting = [self]
        while waiting:
            part = waiting.pop()
            yield part
            waiting.extend(reversed(part.operands))

    def names(self) -> Iterator["Expression"]:
        """Every name in the tree, from left to right."""
        return (part for part in self.parts() if part.op == "name")


@dataclass(frozen=True, slots=True)
class Assignment:
    """`target = expression`, with the text as the user wrote it, but functions in the place of activations, and the
    places of the targets in the step. Several targets are the blocks of what the expression gives. length: of a place
    that is not the target's own.
    """

    targets: tuple[str, ...]
    expression: Expression
    text: str = field(compare=False, default="")
    offsets: tuple[int, ...] = field(compare=False, default=())
    length: int = field(compare=False, default=0)

    @property
    def name(self) -> str:
        """The targets as a message calls them."""
        return ", ".join(self.targets)


# report(code, message, offset, length, label, *hints)
Report = Callable[..., None]


class Step(NamedTuple):
    """What a step's text is: its equations in its order, and what there is of those with a mistake.

    faulty: equations that could be read to their end, calls of no function among them.
    lost: names, without a prime, that the other lines may define.
    """

    equations: list[Assignment]
    faulty: list[Assignment]
    lost: set[str]


class _Rejected(Exception):
    """One equation cannot be used; the reason has been reported."""


def parse_step(text: str, report: Report, activations: Mapping[str, str]) -> Step:
    """The equations of `text`. Mistakes go to `report`.

    A call of one of the `activations` is a call of the function that it stands for.
    """
    step = Step([], [], set())
    for count, (start, line) in enumerate(_logical_lines(text)):
        if count == MOST_EQUATIONS:
            message = f"A step has at most {MOST_EQUATIONS} equations."
            report("too-large", message, start + _indent(line), len(line.strip()), "one too many")
        if count >= MOST_EQUATIONS:
            step.lost.update(_may_define(line))
            continue
        try:
            equation, sound = _assignment(line, start, report, activations)
            (step.equations if sound else step.faulty).append(equation)
        except _Rejected:
            step.lost.update(_may_define(line))
    return step


def _may_define(line: str) -> list[str]:
    """The names that a line defines, or every name in one that has no left side."""
    line = line.translate(_PRIMES)
    match = _TARGETS.match(line)
    return [name.rstrip(_PRIME) for name in _NAME.findall(match["names"] if match else line)]


@cache
def parse_expression(text: str) -> Expression:
    """An expression of ours, as in a row of `ops`."""

    def fault(code: str, message: str, *_: object) -> None:
        raise ValueError(f"{message} [{code}] in {text!r}")

    return _Parser(text, 0, fault, {name: name for name in _ROWS}).whole()


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(offset, text) of each equation: comments blanked out, lines within brackets joined.

    A line that looks like a new equation starts one even inside brackets: there a bracket was forgotten.
    """
    offset, start, depth = 0, 0, 0
    pending: list[str] = []
    for raw in text.split("\n"):
        code = raw.partition("#")[0].ljust(len(raw))
        if pending and (depth <= 0 or _TARGETS.match(code)):
            yield start, "\n".join(pending)
            pending, depth = [], 0
        if pending or code.strip():
            start = start if pending else offset
            pending.append(code)
            depth += sum(map(code.count, "([{")) - sum(map(code.count, ")]}"))
        offset += len(raw) + 1
    if pending:
        yield start, "\n".join(pending)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _assignment(line: str, start: int, report: Report, activations: Mapping[str, str]) -> tuple[Assignment, bool]:
    """An equation, and whether it is free of mistakes. Raises _Rejected if it cannot be read to its end."""
    _check_characters(line, start, report)
    first = start + _indent(line)
    if len(line.strip()) > LONGEST_EQUATION:
        message = f"An equation has at most {LONGEST_EQUATION:,} characters; this one has {len(line.strip()):,}."
        report("too-large", message, first, 1, "starts here", "give parts of it names of their own.")
        raise _Rejected
    match = _TARGETS.match(line)
    if not match:
        _reject_line(line, first, report)
    parser = _Parser(line[match.end() :], start + match.end(), report, activations)
    expression = parser.whole()
    text = _CALLED.sub(lambda called: activations.get(called[0], called[0]), " ".join(line.split()))
    targets = list(_NAME.finditer(line, *match.span("names")))
    offsets = tuple(start + target.start() for target in targets)
    return Assignment(tuple(target[0] for target in targets), expression, text, offsets), parser.sound


def _reject_line(line: str, first: int, report: Report) -> NoReturn:
    """Raises _Rejected for a line that does not begin with a name and an equals sign."""
    left = _LEFT_SIDE.match(line)
    wrong = (left[0] if left else line.partition("\n")[0]).strip()
    hint = "write name = expression, or name' = expression for the new value of a state."
    if keyword.iskeyword(word := wrong.split()[0]):
        hint = idioms.SIGNS.get(word, hint)
    elif left and "," in wrong and _NAME.search(wrong):
        hint = idioms.TARGETS
    elif "[" in wrong:
        hint = idioms.STEPS
    if wrong.endswith("''"):
        hint = f"{wrong.split()[-1].rstrip(_PRIME)}' is the new value; a step cannot give a later one."
        report("not-causal", "A name has at most one prime.", first, len(wrong), "", hint)
    elif left:
        report("not-an-equation", "The left side of this equation is not a name.", first, len(wrong), "", hint)
    else:
        report("not-an-equation", "This line is not an equation.", first, len(wrong), "", hint)
    raise _Rejected


def _check_characters(line: str, start: int, report: Report) -> None:
    """Several letters of Unicode look alike, and a terminal shows some characters as nothing."""
    wrong: dict[str, int] = {}  # each character once, at its first place
    for at, char in enumerate(line):
        if not (char in "\n\t" or " " <= char <= "~"):
            wrong.setdefault(char, at)
    for char, at in wrong.items():
        import unicodedata  # only needed once something is wrong

        what = unicodedata.name(char, "a control character" if ord(char) < 0xA0 else "an unnamed character")
        message = f"An equation is written in ASCII, and this is U+{ord(char):04X} ({what})."
        label = "not ASCII" if ord(char) > 0x7F else "not printable"
        report("ascii-only", message, start + at, 1, label, _in_ascii(char, what, unicodedata))
    if wrong:
        raise _Rejected


def _in_ascii(char: str, what: str, unicodedata: ModuleType) -> str:
    """The hint for a character, `what` being its name."""
    if hint := idioms.CHARACTERS.get(char):
        return hint
    folded = unicodedata.normalize("NFKC", char)
    if folded.strip() and folded.isascii() and folded.isprintable():
        return f"write {folded} instead."
    kind = unicodedata.category(char)
    if folded == " " or kind == "Zs":
        return "write a plain space instead."
    if kind == "Cf":
        return "take it out: it is a character that is not seen."
    if kind.startswith("M"):
        return "take the mark off, and say it in letters, as in h_tilde."
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", what):
        return f"write {greek[2].lower() if greek[1] == 'SMALL' else greek[2].title()} instead."
    return _WRITABLE


class _Token(NamedTuple):
    kind: str  # "number", "name", "sign" or "end"
    text: str
    start: int
    end: int

    @property
    def operand(self) -> bool:
        """Whether an operand can begin here, a unary minus aside."""
        return self.kind in ("number", "name") or self.text == "("


class _Part(NamedTuple):
    """A tree, its place with the brackets around it, and how many trees stand inside one another in it."""

    tree: Expression
    start: int
    end: int
    depth: int


class _Parser:
    """Reads one expression, and gives up where it cannot be read on. Comparisons bind least, then sums, then
    products (`*`, `/`, `%` and `@` alike), then unary minus.
    """

    def __init__(self, text: str, start: int, report: Report, activations: Mapping[str, str]):
        self.start, self.report = start, report
        self.functions = {name: name for name in (*CALLS, LAG)} | dict(activations)
        self.tokens = [_Token(m.lastgroup or "", m[0], *m.span()) for m in _TOKEN.finditer(text)]
        self.tokens.append(_Token("end", "", len(text.rstrip()), len(text.rstrip()) + 1))
        self.at = 0
        self.sound = True

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def mistake(self, code: str, message: str, start: int, end: int, label: str = "", hint: str = "") -> None:
        self.sound = False
        self.report(code, message, self.start + start, max(end - start, 1), label, *([hint] if hint else []))

    def rejected(self, *mistake: Any) -> _Rejected:
        """The exception for a mistake behind which nothing more can be read; reports it."""
        self.mistake(*mistake)
        return _Rejected()

    def whole(self) -> Expression:
        """The expression that the text is."""
        if len(self.tokens) == 1:
            raise self.rejected("syntax", "This equation has no right-hand side.", -1, 0, "nothing follows")
        for token in self.tokens[:-1]:
            self.check_allowed(token)
        found = self.part(_COMPARING, 1)
        if self.token.kind != "end":
            raise self.unexpected(self.token)
        return found.tree

    def check_allowed(self, token: _Token) -> None:
        text = token.text
        if token.kind == "name" and text.endswith("''"):
            hint = f"{text.rstrip(_PRIME)}' is the new value; a step cannot use a later one."
            raise self.rejected("not-causal", "A name has at most one prime.", token.start, token.end, "", hint)
        signs = (*_LEVELS, "(", ")", ",", TRANSPOSED)
        known = text in signs if token.kind == "sign" else not keyword.iskeyword(text)
        if not known:
            hint = self.remedy(self.tokens.index(token))
            quote = '"' if text == "'" else "'"
            message = f"{quote}{text}{quote} is not allowed in an equation."
            raise self.rejected("not-allowed", message, token.start, token.end, "not allowed", hint)

    def remedy(self, at: int) -> str:
        """The hint for a token that no equation has."""
        text, before = self.tokens[at].text, self.tokens[at - 1] if at else None
        after = self.tokens[at + 1]
        if text == "[" and before and before.text in self.functions:
            return f"the arguments of a function stand in round brackets: {before.text}(...)"
        if text == "[" and (before is None or before.kind == "sign"):
            return idioms.JOINED
        if text == "[" and before and (step := self.step_in_brackets(at)) is not None:
            return idioms.at_a_step(before.text, step)
        if text == "[" and after.kind == "number":
            return idioms.ELEMENT
        operand = not before or before.text in (*_LEVELS, "(", ",")  # one should begin here
        if text == "|" and operand:
            return "the absolute value is a function: abs(...)"
        if text in ("^", "**", ".") and after.text in ("T", "H", "t"):
            return idioms.TRANSPOSE
        if text == "." and before and before.text == "@":  # Julia's @.
            return "leave @. out: every operation but @ works element by element."
        if text == "\\" and after.text in idioms.LATEX:
            return idioms.LATEX[after.text]
        if text == "{" and before and before.text.endswith("_"):  # LaTeX's h_{t-1}
            return idioms.STEPS
        if text != ".":
            return idioms.SIGNS.get(text, _PLAIN)
        if after.kind != "name":
            return "leave the point out: every operation but @ works element by element."
        if before and before.text.lower() in idioms.PACKAGES:
            while self.tokens[at + 2].text == "." and self.tokens[at + 3].kind == "name":
                at += 2
            last = self.tokens[at + 1]
            return f"leave the package out: {last.text}(...)" if last.text in self.functions else self.of_function(last)
        if after.text in self.functions:
            return f"a function stands before its argument: {after.text}(...)"
        return idioms.ABSENT.get(after.text.lower(), _PLAIN)

    def step_in_brackets(self, at: int) -> int | None:
        """How many steps before this one it is that brackets hold, as 2 in [t-2]; None if they hold something else."""
        texts = "".join(token.text for token in self.tokens[at : at + 5])
        found = re.match(r"\[[a-z](?:-([0-9]{1,2}))?\]", texts)
        return found and int(found[1] or 0)

    def of_function(self, function: _Token) -> str:
        """The hint for the name of a function that is not ours."""
        name = function.text.lower()
        if name.endswith(_PRIME) and name.rstrip(_PRIME) in self.functions:
            return idioms.DERIVATIVE
        if renamed := idioms.RENAMED.get(name):
            return f"here it is called {renamed}."
        if name in idioms.OF_A_MATRIX and re.match("[A-Z]", "".join(self.plain_arguments(function))):
            return idioms.OF_A_MATRIX[name]
        if written := idioms.WRITTEN_OUT.get(name):
            letters = _LETTER.findall(written)
            op, (first, last) = parse_expression(written).op, self.extent(function)
            arguments = dict(zip("abc", self.plain_arguments(function), strict=False))
            if arguments.keys() == set(letters):
                filled = _LETTER.sub(lambda letter: arguments[letter[0]], written)
                return f"write {self.in_place(filled, op, first, last)}."
            call = f"{function.text}({', '.join(sorted(set(letters)))})"
            return f"{call} is {self.in_place(written, op, first, last)}; {_OWN_NAME}"
        known = self.functions
        return (
            idioms.ABSENT.get(name)
            or did_you_mean(function.text, known)
            or f"the functions are {', '.join(sorted(known))}."
        )

    def plain_arguments(self, function: _Token) -> list[str]:
        """The arguments of a call, if each is a name or a number, or the negative of one. In any expression they need
        no brackets.
        """
        first, last = self.extent(function)
        texts = " ".join(token.text for token in self.tokens[first:last])
        call = re.fullmatch(rf"[^(]*\( ({_PLAIN_ARGUMENT}(?: , {_PLAIN_ARGUMENT})*) \)", texts)
        return call[1].replace(" ", "").split(",") if call else []

    def extent(self, function: _Token) -> tuple[int, int]:
        """The first token of a call, the packages before its name among it, and the one behind its last."""
        first = self.tokens.index(function)
        last = self.behind_brackets(first + 1)
        while first >= 2 and self.tokens[first - 1].text == "." and self.tokens[first - 2].kind == "name":
            first -= 2
        return first, last

    def behind_brackets(self, at: int) -> int:
        """The token behind the brackets that open at one, itself if none do."""
        depth = 0
        while self.tokens[at].kind != "end" and (depth or self.tokens[at].text == "("):
            depth += {"(": 1, ")": -1}.get(self.tokens[at].text, 0)
            at += 1
        return at

    def in_place(self, written: str, op: str, first: int, last: int) -> str:
        """A text whose outermost operation is `op`, in the place of the tokens from `first` to before `last`: in
        brackets where what stands beside them would take it apart.
        """
        level = _LEVEL_OF.get(op, _TIGHTEST)
        before, behind = self.binding(first - 1), self.binding(last)
        apart = before >= level or behind > level or behind == level == _COMPARING
        return f"({written})" if apart and level < _TIGHTEST else written

    def binding(self, at: int) -> int:
        """How strongly a token binds what stands beside it; 0 if it bounds an expression."""
        token = self.tokens[at] if at >= 0 else None
        if token is None or token.kind == "end" or token.text in ("(", ")", ","):
            return 0
        unary = token.text == "-" and (at == 0 or self.tokens[at - 1].text in (*_LEVELS, "(", ","))
        return _TIGHTEST if unary else _LEVELS.get(token.text, _TIGHTEST)

    def missing_operator(self, before: _Token, token: _Token) -> str:
        """The hint for two operands beside one another."""
        left, right = before.text, token.text
        behind = self.behind_brackets(self.at + (right != "("))
        if right == "(" or (token.kind == "name" and behind > self.at + 1):
            right = f"{right.rstrip('(')}(...)"
        if left in self.functions:
            argument = right if self.binding(behind) <= _LEVELS["+"] and right != "(...)" else "..."
            return f"the argument of a function stands in brackets: {left}({argument})"
        if left == TRANSPOSED and behind == self.at + 2:
            return "leave the brackets out: .T stands alone."
        if number := self.number_of_elsewhere(before):
            return f"write {number}."
        product = self.in_place(f"{left} * {right}", "mul", self.at - 1, behind)
        if before.kind == "number" and right.lower() in ("j", "im"):
            return f"write {product} if {right} is a name; {idioms.COMPLEX}"
        if before.kind == "name":
            applied = self.in_place(f"{left} @ {right}", "matmul", self.at - 1, behind)
            return f"write {applied} if {left} is a matrix, else {product}."
        if before.kind == "number":
            return f"write {product}."
        return "write * between numbers and vectors, and @ between a matrix and a vector."

    def number_of_elsewhere(self, first: _Token) -> str | None:
        """The number that begins with a token, if it is one of Python's with underscores or in another base."""
        at = self.tokens.index(first)
        text = first.text
        while self.tokens[at + 1].start == self.tokens[at].end and self.tokens[at + 1].kind in ("number", "name"):
            at += 1
            text += self.tokens[at].text
        if _OTHER_BASE.fullmatch(text):
            return str(int(text, 0))
        return text.replace("_", "") if _GROUPED.fullmatch(text) else None

    def unexpected(self, token: _Token) -> _Rejected:
        """What is wrong at a token that stands in the place of an operand, or of anything else.

        The token itself says which: where an operand is wrong, an operator should be.
        """
        place = token.start, token.end
        before = self.tokens[self.at - 1] if self.at else None
        complete = before is not None and (before.kind != "sign" or before.text in (")", TRANSPOSED))
        if before and token.operand:
            hint = self.missing_operator(before, token)
            return self.rejected("syntax", "An operator is missing here.", *place, "no operator before this", hint)
        if complete and token.text == ")":
            return self.rejected("syntax", "This bracket was never opened.", *place)
        if complete and token.text == ",":
            message = "A comma can only stand between the arguments of a function."
            return self.rejected("syntax", message, *place, "", idioms.EACH)
        if before and token.kind == "end":
            message = "The equation ends where a name, a number or a bracket should follow."
            return self.rejected("syntax", message, before.start, before.end, "nothing follows")
        message = f"A name, a number or a bracket should stand before this '{token.text}'."
        return self.rejected("syntax", message, *place, "nothing before this")

    def made(self, op: str, start: int, end: int, *parts: _Part, name: str = "") -> _Part:
        depth = 1 + max((part.depth for part in parts), default=0)
        self.check_depth(depth, start, end)
        trees = tuple(part.tree for part in parts)
        tree = Expression(op, trees, name, offset=self.start + start, length=end - start)
        return _Part(tree, start, end, depth)

    def check_depth(self, depth: int, start: int, end: int) -> None:
        if depth > DEEPEST:
            message = f"More than {DEEPEST} operations or brackets stand inside one another in this equation."
            hint = "give parts of it names of their own."
            raise self.rejected("too-large", message, start, min(end, start + 1), "too deep", hint)

    def part(self, lowest: int, depth: int) -> _Part:
        """An operand and the operators behind it that bind at least as strongly as `lowest`."""
        left = self.operand(depth)
        links = 0
        while (level := _LEVELS.get(self.token.text, 0)) >= lowest:
            sign = self.take()
            right = self.part(level + 1, depth + 1)
            if sign.text in "/%" and right.tree.op == "number" and right.tree.number == 0:
                raise self.rejected("not-finite", "The equation divides by zero.", right.start, right.end, "zero")
            links += 1
            if left.depth == DEEPEST and links > DEEPEST // 2:
                message = f"More than {DEEPEST} operands stand in a row here."
                if links < DEEPEST:
                    first = "those of its first operand"
                    message = f"More than {DEEPEST} operations stand inside one another: {links} in a row, and {first}."
                hint = "give parts of the row names of their own."
                raise self.rejected("too-large", message, sign.start, sign.end, "the row is too long here", hint)
            left = self.made(_OPS[sign.text], left.start, right.end, left, right)
            if level == _COMPARING and _LEVELS.get(self.token.text) == _COMPARING:
                message, place = "A comparison has two sides.", (self.token.start, self.token.end)
                raise self.rejected("not-allowed", message, *place, "a third side begins", idioms.NESTED)
        return left

    def operand(self, depth: int) -> _Part:
        """An operand, and the `.T`s behind it."""
        found = self.bare_operand(depth)
        while self.token.text == TRANSPOSED:
            found = self.made("transpose", found.start, self.take().end, found)
        return found

    def bare_operand(self, depth: int) -> _Part:
        token = self.token
        self.check_depth(depth, token.start, token.end)
        if token.kind == "number":
            return self.number(self.take())
        if token.kind == "name":
            return self.call(depth) if self.tokens[self.at + 1].text == "(" else self.name(self.take())
        if token.text == "(":
            self.take()
            inner = self.part(_COMPARING, depth + 1)
            end = self.closing(token).end
            return inner._replace(start=token.start, end=end)
        if token.text == "-":
            self.take()
            inner = self.operand(depth + 1)
            return self.made("neg", token.start, inner.end, inner)
        if token.text == "+" and self.tokens[self.at + 1].operand:
            message = "A plus sign has two sides."
            raise self.rejected("not-allowed", message, token.start, token.end, "nothing before this", "leave it out.")
        raise self.unexpected(token)

    def name(self, token: _Token) -> _Part:
        tree = Expression("name", name=token.text, offset=self.start + token.start, length=len(token.text))
        return _Part(tree, token.start, token.end, 1)

    def number(self, token: _Token) -> _Part:
        number = float(token.text)
        if number > LARGEST:
            message = f"This number must be {FLOAT32}."
            raise self.rejected("not-finite", message, token.start, token.end, "infinite in float32")
        tree = Expression("number", number=number, offset=self.start + token.start, length=len(token.text))
        return _Part(tree, token.start, token.end, 1)

    def call(self, depth: int) -> _Part:
        function, opening = self.take(), self.take()
        op = self.functions.get(function.text, _UNKNOWN)
        if op == _UNKNOWN:
            message = f"There is no function '{function.text}'."
            hint = self.of_function(function)
            self.mistake("unknown-function", message, function.start, function.end, "unknown", hint)
        arguments = []
        if self.token.text != ")":
            arguments.append(self.part(_COMPARING, depth + 1))
            while self.token.text == ",":
                self.take()
                arguments.append(self.part(_COMPARING, depth + 1))
        end = self.closing(opening).end
        wanted = len(arguments) if op == _UNKNOWN else _ROWS[op].arity if op != LAG else 1 + (len(arguments) > 1)
        if len(arguments) != wanted:
            number = "1 argument or 2" if op == LAG else f"{wanted} argument{'s' * (wanted > 1)}"
            message = f"'{function.text}' takes {number}, not {len(arguments)}."
            hint = (idioms.ARGUMENTS if len(arguments) > wanted else idioms.FEWER).get(op, "")
            self.mistake("wrong-arity", message, function.start, end, "", hint)
            # A function's name among those too many is a choice of torch's, as in gelu(h, tanh).
            known = [part for part in arguments[wanted:] if part.tree.name not in self.functions]
            arguments = arguments[:wanted] + known
        chosen = function.text if function.text != op else ""
        return self.made(op, function.start, end, *arguments, name=chosen)

    def closing(self, opening: _Token) -> _Token:
        if self.token.text == ")":
            return self.take()
        if self.token.kind == "end":
            raise self.rejected("syntax", "This bracket is never closed.", opening.start, opening.end, "opened here")
        raise self.unexpected(self.token)
