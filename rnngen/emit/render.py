"""Templates to text.

Templates may loop over lists and test booleans; everything else is done before. Text of the user's reaches the output
only as the elements of `text` and `tuple_of_text`, written by `ascii`, in comments of one line, or as identifiers.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# What vim, Emacs and Python look for in the lines at either end of a file, without the sign that makes it a command.
_COMMAND = re.compile(r"(coding|local variables|\b(?:vi|vim|ex)(?:[<=>]?[0-9]+)?)([:=])|(-)(\*)(?=-)", re.IGNORECASE)


_WIDTH = 120  # of a line
_LONG = re.compile(rf"^(?=.{{{_WIDTH + 1}}})(?: *[^\s#]|#? {{4}} *#?).*$", re.MULTILINE)
_EQUATION = re.compile(r"( *# +)(.*)")
_OPENING, _CLOSING = "([{", ")]}"


@cache
def environment(target: str) -> Environment:
    """The templates of a target."""
    made = Environment(
        loader=FileSystemLoader(_folder() / target),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is Python, not HTML
    )
    made.filters |= {
        "lines": lines,
        "filled": filled,
        "arguments": arguments,
        "text": literal,
        "tuple_of": lambda items: _tuple(items),
        "tuple_of_text": lambda items: _tuple([literal(item) for item in items]),
        "docstring": _docstring,
        "unpack": lambda names: ", ".join(names) if len(names) > 1 else _tuple(names),
    }
    return made


def render(target: str, template: str, **values: object) -> str:
    """A template with its holes filled; runs of blank lines are cut to what Python style allows."""
    rendered = environment(target).get_template(template).render(**values)
    rendered = re.sub(r"[ \t]+$", "", rendered, flags=re.MULTILINE)
    rendered = _LONG.sub(lambda line: _LONG.sub(lambda part: _wrapped(part[0]), _wrapped(line[0])), rendered)
    rendered = re.sub(r"\n{4,}", "\n\n\n", rendered)
    return rendered.rstrip("\n") + "\n"


def _wrapped(line: str) -> str:
    """A statement of one line on several: a sum by its terms, otherwise what its last bracket holds or what it returns.

    One that has none of these stays as it is; an equation in a comment goes on in the next line.
    """
    if equation := _EQUATION.fullmatch(line):
        opening, text = equation.groups()
        return textwrap.fill(text, _WIDTH, initial_indent=opening, subsequent_indent=f"{opening}    ")
    indent = " " * (len(line) - len(line.lstrip()))
    if '"""' in line:
        return line
    target, equals, value = line.partition(" = ")
    if equals and len(terms := _terms(value)) > 1:
        return "\n".join([f"{target} = (", *(f"{indent}    {term}" for term in terms), f"{indent})"])
    if line.startswith(f"{indent}return ") and len(parts := _parts(line[len(f"{indent}return ") :])) > 1:
        return f"{indent}return (\n{_spread(parts, len(indent) + 4)}\n{indent})"
    if equals and len(parts := _parts(target.strip())) > 2 and len(value) < _WIDTH // 2:
        return f"{indent}(\n{_spread(parts, len(indent) + 4)}\n{indent}) = {value}"
    end = next((end for end in (",", ":") if line.endswith(end)), "")
    line = line.removesuffix(end)
    depth = 0
    for at in range(len(line) - 1, -1, -1):
        depth += (line[at] in _CLOSING) - (line[at] in _OPENING)
        if depth == 0:
            break
    if line[-1] not in _CLOSING or line[at] not in _OPENING:
        return line + end
    inside = _spread(_parts(line[at + 1 : -1]), len(indent) + 4)
    return f"{line[: at + 1]}\n{inside}\n{indent}{line[-1]}{end}"


def _parts(text: str) -> list[str]:
    """What commas outside any bracket separate."""
    return [part.removeprefix(",").strip() for part in _cut(text, (",",))]


def _terms(text: str) -> list[str]:
    """The terms of a sum, each with its sign."""
    return [term.strip() for term in _cut(text, (" + ", " - "))]


def _cut(text: str, marks: tuple[str, ...]) -> list[str]:
    """A text cut before each of the marks that stand outside any bracket."""
    found, depth = [""], 0
    for at, char in enumerate(text):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and text.startswith(marks, at):
            found.append("")
        found[-1] += char
    return found


def lines(items: Sequence[str], indent: int) -> str:
    """Lines at an indentation."""
    return "\n".join(" " * indent + item for item in items)


def filled(items: Sequence[str], indent: int) -> str:
    """Items with a comma behind each, as many to a line as fit."""
    return f"{_spread(items, indent)},"


def _spread(items: Sequence[str], indent: int) -> str:
    """Items with commas between them, as many to a line as fit with one behind them."""
    found, room = [items[0]], _WIDTH - 1 - indent
    for item in items[1:]:
        longer = f"{found[-1]}, {item}".rstrip()
        if len(longer) > room:
            found[-1] += ","
            found.append(item)
        else:
            found[-1] = longer
    return lines(found, indent)


def arguments(numbers: str, *constants: str) -> list[str]:
    """What a kernel takes after its pointers, by names with spaces between: numbers, then constants."""
    return [*numbers.split(), *(f"{name}: tl.constexpr" for name in " ".join(constants).split())]


def literal(item: object) -> str:
    """A value as Python writes it, in ASCII whatever is in it, with the quotes that formatters prefer."""
    if isinstance(item, Mapping):
        return f"{{{', '.join(f'{literal(key)}: {literal(value)}' for key, value in item.items())}}}"
    if isinstance(item, tuple):
        return _tuple([literal(part) for part in item])
    if not isinstance(item, str):
        return ascii(item)
    written = ascii(item)
    return '"' + written[1:-1].replace("\\'", "'") + '"' if '"' not in written else written


def _docstring(item: str) -> str:
    """Text as a docstring, with no command for an editor in it."""
    written = item.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    written = _COMMAND.sub(lambda m: f"{m[1] or m[3]}\\x{ord(m[2] or m[4]):02x}", written)
    return f'"""{written}"""'


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _folder() -> Path:
    """The templates: inside the installed package, or beside `pyproject.toml` in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"
