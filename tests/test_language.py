"""`docs/language.md` leaves out no key and no operation, and what it shows can be compiled."""

import re
from pathlib import Path

import pytest

from rnngen.audit import audit
from rnngen.compile import compile_model
from rnngen.description import file, size, tables
from rnngen.description.initialisers import INITIALISERS
from rnngen.description.tables import SCHEDULE_NAMES, Table
from rnngen.matrices import CALLS
from rnngen.ops import OPS
from rnngen.runtime.drawn import RATES
from rnngen.source import Source
from rnngen.wrappers import WRAPPERS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "language.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
TABLES = [
    table
    for table in vars(tables).values()
    if isinstance(table, type) and issubclass(table, Table) and table is not Table
]


def test_there_are_ten_examples():
    assert len(EXAMPLES) == 10


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split('"')[1])
def test_the_examples_compile(text):
    audit(compile_model(Source("example.toml", text)).text.encode())


# Of keys whose default is no value.
OTHERWISE = {"bias": "from its name", "blocks": "its name", "year": "none", **dict.fromkeys(RATES, "none")}


def shown(default: object) -> str:
    """A default as the page writes it."""
    match default:
        case bool():
            return f"`{str(default).lower()}`"
        case dict():
            return "`{}`"
        case str():
            return default
    return str(default)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_has_a_row(table):
    for name, key in table.model_fields.items():
        rows = re.findall(rf"^\| `{key.alias or name}` \| .*? \| (.*?) \|", PAGE, re.MULTILINE)
        if key.is_required():
            assert "required" in rows
        else:
            default = OTHERWISE[name] if key.default is None else shown(key.default)
            assert any(default in row for row in rows), (name, rows)


@pytest.mark.parametrize("op", (OPS | CALLS).values(), ids=lambda op: op.name)
def test_every_operation_is_explained(op):
    assert re.search(rf"\b{op.name}\b", PAGE)
    if op.sign in ("", op.name):
        assert f"`{op.name}({', '.join(op.operands.split())})`" in PAGE


@pytest.mark.parametrize("name", [*INITIALISERS, *SCHEDULE_NAMES, *WRAPPERS])
def test_every_choice_is_named(name):
    assert re.search(rf'`"?{name}"?`', PAGE)


def test_the_limits_are_the_real_ones():
    from rnngen import compile as road
    from rnngen import document, equations

    limits = PAGE[PAGE.index("## Limits") :]
    for number in (
        document.MOST_BYTES // 1024,
        size.MOST_OPERATIONS,
        equations.MOST_EQUATIONS,
        equations.LONGEST_EQUATION,
        equations.DEEPEST,
    ):
        assert str(number) in limits
    for number in (road.MOST_WORK, tables.MOST_CHARACTERS, file.LONGEST_FILE_NAME):
        assert f"{number:,}" in limits
    assert size.MOST_PARAMETERS == 2**31
