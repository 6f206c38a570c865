"""Lines that are longer than people read, broken where Python allows it."""

import re
import textwrap
from collections.abc import Sequence

WIDTH = 120  # of a line
_LONG = re.compile(rf"^(?=.{{{WIDTH + 1}}})(?: *[^\s#]|#? {{4}} *#?).*$", re.MULTILINE)
_EQUATION = re.compile(r"( *# +)(.*)")
_BRACKET = re.compile(r"[(\[{]|[)\]}]")
_COMMA = re.compile(r"[(\[{]|[)\]}]|, ?")
_SIGN = re.compile(r"[(\[{]|[)\]}]| (?=[+-] )")
_FACTOR = re.compile(r"[(\[{]|[)\]}]| (?=[*/%@] )")


def broken(text: str) -> str:
    """A module without long lines, as far as that is possible."""
    return _LONG.sub(lambda line: _LONG.sub(lambda part: broken_line(part[0]), broken_line(line[0])), text)


def broken_line(line: str) -> str:
    """A statement of one line on several: a sum by its terms, values by the commas between them, otherwise what its
    last bracket holds or what it returns, or a product by its factors; and so what is within, as long as it is long.

    One that has none of these stays as it is; an equation in a comment goes on in the next line.
    """
    if equation := _EQUATION.fullmatch(line):
        opening, text = equation.groups()
        return textwrap.fill(text, WIDTH, initial_indent=opening, subsequent_indent=f"{opening}    ")
    indent = " " * (len(line) - len(line.lstrip()))
    if '"""' in line:
        return line
    target, equals, value = line.partition(" = ")
    if equals and len(terms := _cut(value, _SIGN)) > 1:
        return _in_brackets(f"{target} = (", terms, ")", indent)
    if line.startswith(f"{indent}return ") and len(parts := _cut(line[len(f"{indent}return ") :], _COMMA)) > 1:
        return _within(f"{indent}return (", parts, ")", indent)
    if equals and len(parts := _cut(value, _COMMA)) > 1:
        return _within(f"{target} = (", parts, ")", indent)
    if equals and len(parts := _cut(target.strip(), _COMMA)) > 2 and len(value) < WIDTH // 2:
        return _within(f"{indent}(", parts, f") = {value}", indent)
    end = next((end for end in (",", ":") if line.endswith(end)), "")
    statement = line.removesuffix(end)
    opening = _opening(statement)
    if equals and not 0 < opening < WIDTH and len(factors := _cut(value, _FACTOR)) > 1:
        return _in_brackets(f"{target} = (", factors, ")", indent)
    if not opening:
        return line
    parts = _cut(statement[opening + 1 : -1], _COMMA)
    return _within(statement[: opening + 1], parts, f"{statement[-1]}{end}", indent)


def fill(items: Sequence[str], indent: int) -> list[str]:
    """Items with commas between them, as many to a line as fit with one behind them."""
    found, room = [items[0]], WIDTH - 1 - indent
    for item in items[1:]:
        longer = f"{found[-1]}, {item}".rstrip()
        if len(longer) > room:
            found[-1] += ","
            found.append(item)
        else:
            found[-1] = longer
    return found


def _within(opening: str, parts: Sequence[str], closing: str, indent: str) -> str:
    return _in_brackets(opening, fill(parts, len(indent) + 4), closing, indent)


def _in_brackets(opening: str, lines: Sequence[str], closing: str, indent: str) -> str:
    inside = (part for line in lines for part in _parts(line, f"{indent}    "))
    return "\n".join([opening, *inside, f"{indent}{closing}"])


def _parts(text: str, indent: str) -> list[str]:
    """Lines of an expression within brackets."""
    if len(indent) + len(text) <= WIDTH:
        return [f"{indent}{text}"]
    for mark in (_SIGN, _FACTOR):
        if len(parts := _cut(text, mark)) > 1:
            return [line for part in parts for line in _parts(part, indent)]
    return broken_line(f"{indent}{text}").splitlines()


def _opening(text: str) -> int:
    """Where the last bracket of a text is opened if the text ends with it, otherwise 0."""
    if not text.endswith((")", "]", "}")):
        return 0
    opened: list[int] = []
    for bracket in _BRACKET.finditer(text):
        if bracket[0] in "([{":
            opened.append(bracket.start())
        elif bracket.end() == len(text):
            break
        else:
            opened.pop()
    return opened[-1]


def _cut(text: str, mark: re.Pattern[str]) -> list[str]:
    """What the marks outside any bracket separate."""
    found, start, depth = [], 0, 0
    for token in mark.finditer(text):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
        elif depth == 0:
            found.append(text[start : token.start()])
            start = token.end()
    return [*found, text[start:]]
