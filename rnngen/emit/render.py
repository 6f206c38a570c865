"""Templates to text.

Templates may loop over lists and test booleans; everything else is done before. Text of the user's reaches the output
only as the elements of `text` and `tuple_of_text`, written by `ascii`, in comments of one line, or as identifiers.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rnngen.emit.breaking import WIDTH, fill

# What vim, Emacs and Python look for in the lines at either end of a file, without the sign that makes it a command.
_COMMAND = re.compile(r"(coding|local variables|\b(?:vi|vim|ex)(?:[<=>]?[0-9]+)?)([:=])|(-)(\*)(?=-)", re.IGNORECASE)


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
        "listed": listed,
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
    rendered = re.sub(r"\n{4,}", "\n\n\n", rendered)
    return rendered.rstrip("\n") + "\n"


def lines(items: Sequence[str], indent: int) -> str:
    """Lines at an indentation."""
    return "\n".join(" " * indent + item for item in items)


def filled(items: Sequence[str], indent: int) -> str:
    """Items with a comma behind each, as many to a line as fit."""
    return f"{lines(fill(items, indent), indent)},"


def listed(items: Sequence[str], indent: int) -> str:
    """Items with a comma between, as many to a line as fit."""
    return lines(fill(items, indent), indent)


def arguments(numbers: str, *constants: str) -> list[str]:
    """What a kernel takes after its pointers, by names with spaces between: numbers, then constants."""
    return [*numbers.split(), *(f"{name}: tl.constexpr" for name in " ".join(constants).split())]


def literal(item: object) -> str:
    """A value as Python writes it, in ASCII whatever is in it, with the quotes that formatters prefer; of a record what
    is not as usual.
    """
    if isinstance(item, Mapping):
        return f"{{{', '.join(f'{literal(key)}: {literal(value)}' for key, value in item.items())}}}"
    if isinstance(item, tuple):
        return _tuple([literal(part) for part in item])
    if is_dataclass(item):
        given = [field for field in fields(item) if getattr(item, field.name) != field.default]
        parts = [f"{field.name}={literal(getattr(item, field.name))}" for field in given]
        return f"{type(item).__name__}({', '.join(parts)})"
    if not isinstance(item, str):
        return ascii(item)
    written = ascii(item)
    return '"' + written[1:-1].replace("\\'", "'") + '"' if '"' not in written else written


def _docstring(about: str, remarks: Sequence[str] = ()) -> str:
    """Text as a docstring of a class, with no command for an editor in it: a line, and paragraphs below it."""
    first, *below = map(_harmless, (about, *remarks))
    indent = " " * 4
    filler = textwrap.TextWrapper(WIDTH, indent, indent, break_long_words=False, break_on_hyphens=False)
    lines = [line for text in below for line in ("", *filler.wrap(text))]
    if not lines or max(map(len, lines)) > WIDTH:  # a word that no line can hold stays whole, escapes and all
        return '"""' + "\\n\\n".join([first, *below]) + '"""'
    return "\n".join([f'"""{first}', *lines, f'{indent}"""'])


def _harmless(text: str) -> str:
    """What stands within triple quotes for a text, on one line."""
    written = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return _COMMAND.sub(lambda m: f"{m[1] or m[3]}\\x{ord(m[2] or m[4]):02x}", written)


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _folder() -> Path:
    """The templates: inside the installed package, or beside `pyproject.toml` in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"
