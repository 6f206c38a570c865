"""Long lines are broken where Python allows it, and mean what they meant."""

import ast
import re

import cells
import pytest

from rnngen.compile import compile_model
from rnngen.emit import breaking
from rnngen.source import Source

NEVER = re.compile(r"(?!)")


@pytest.mark.parametrize("name", cells.ALL)
def test_a_broken_line_says_the_same(name, monkeypatch):
    source = Source(f"{name}.toml", cells.ALL[name])
    broken = compile_model(source).text
    monkeypatch.setattr(breaking, "_LONG", NEVER)
    whole = compile_model(source).text
    assert ast.dump(ast.parse(broken)) == ast.dump(ast.parse(whole))


def test_what_is_broken_at_what():
    def broken(line: str) -> list[str]:
        return breaking.broken_line(line).splitlines()

    assert broken("    x = a + b(c - d) - e") == [
        "    x = (",
        "        a",
        "        + b(c - d)",
        "        - e",
        "    )",
    ]
    assert broken("a, b = f(c), g(d)") == ["a, b = (", "    f(c), g(d)", ")"]
    assert broken("    return a, (b, c)") == ["    return (", "        a, (b, c)", "    )"]
    assert broken("f(a, g(b, c), (d,))") == ["f(", "    a, g(b, c), (d,)", ")"]
    assert broken("def f(a, b):") == ["def f(", "    a, b", "):"]
    assert broken("x = (a)") == ["x = (", "    a", ")"]  # no comma: it would be a tuple
    assert broken("x = y") == ["x = y"]
    assert broken("x = f(a) * b / c") == ["x = (", "    f(a)", "    * b", "    / c", ")"]
    assert broken("x = a * f(b)") == ["x = a * f(", "    b", ")"]


def test_what_is_within_is_broken_as_far_as_it_is_long():
    a, b = ("a" * 70, "b" * 70)
    assert breaking.broken(f"x = sqrt(c + ({a} + {b}) / 2)").splitlines() == [
        "x = sqrt(",
        "    c",
        "    + (",
        f"        {a}",
        f"        + {b}",
        "    )",
        "    / 2",
        ")",
    ]
