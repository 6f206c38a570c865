"""The schema that editors are given means what the validator means: of keys, types, choices and limits."""

import json
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from test_language import EXAMPLES, PAGE, TABLES

from rnngen.description import describe, library
from rnngen.description.schema import meanings, schema
from rnngen.errors import Mistake, ModelError
from rnngen.source import Source

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parent.parent
SCHEMA = schema()
JUDGE = jsonschema.Draft7Validator(SCHEMA)
# What a schema can say. A function is a choice where it is a text of TOML, an activation, and not in an equation.
CODES = {
    "misplaced-key",
    "missing-key",
    "no-model",
    "out-of-range",
    "unknown-key",
    "unknown-layer",
    "unknown-wrapper",
    "wrong-save",
    "wrong-length",
    "wrong-type",
    "wrong-value",
}
CODES_OF_FUNCTIONS = {"unknown-function", "wrong-arity"}


def is_of_tables(mistake: Mistake) -> bool:
    if mistake.code in CODES_OF_FUNCTIONS:
        return mistake.source.text_of(mistake.span)[0] in "\"'"
    return mistake.code in CODES


def mistakes(text: str) -> list[Mistake]:
    """Those of the tables that the validator finds."""
    try:
        describe(Source("model.toml", text))
    except ModelError as error:
        return [mistake for mistake in error.mistakes if is_of_tables(mistake)]
    return []


def test_it_is_a_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_is_explained_as_in_the_language(table):
    """In the words of its row, and in no other."""
    keys = [info.alias or name for name, info in table.model_fields.items()]
    words = meanings(table)
    assert words.keys() == set(keys)
    for key in keys:
        rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |")]
        assert any(row.endswith(f" | {words[key]} |") for row in rows), key
        assert SCHEMA["definitions"][table.__name__]["properties"][key]["description"] == words[key]


def test_what_is_right_is_right():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.toml")]
    for text in (*texts, *EXAMPLES, *(source.text for source in library().values())):
        JUDGE.validate(tomllib.loads(text))


ERRORS = [path for path in sorted((ROOT / "tests" / "errors").glob("*.toml")) if not path.stem.startswith("toml_")]


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_what_is_wrong_is_wrong(path):
    """And a mistake in an equation is none for the schema."""
    text = path.read_text(encoding="utf-8")
    assert JUDGE.is_valid(tomllib.loads(text)) == (not mistakes(text))


CELL = {
    "name": "cell1",
    "class": "CellOne",
    "about": "A cell.",
    "paper": "Nobody",
    "year": 2000,
    "note": "None.",
    "states": ["h"],
    "inputs": {"x": {"shape": ["hidden"]}},
    "sizes": {"rank": 3},
    "output": ["h'"],
    "constants": {"c": 0.5},
    "activations": {"act": "tanh"},
    "step": "h' = act(W @ x + U @ h + Q @ (V @ h) + c * b)",
    "parameters": {
        "weight_ih": {"shape": ["hidden", "inputs"], "blocks": ["W"], "init": "zeros", "bias": False},
        "weight_hh": {
            "shape": ["hidden", "hidden"],
            "blocks": ["U"],
            "init": {"U": 1},
            "heads": True,
            "trained": False,
        },
        "bias": {"shape": ["hidden"], "blocks": ["b"], "init": 0.5},
        "weight_hk": {"shape": ["rank", "hidden"], "blocks": ["V"]},
        "weight_kh": {"shape": ["hidden", "rank"], "blocks": ["Q"]},
    },
}
LAYER = {
    "cell": "cell1",
    "hidden": 8,
    "num_layers": 2,
    "bias": False,
    "dropout": 0.5,
    "bidirectional": True,
    "proj_size": 2,
    "heads": 2,
    "initial_state": "learned",
    "reverse": False,
    "last_only": False,
    "init": {"W": 1.0},
    "activations": {"act": "relu"},
    "sizes": {"rank": 2},
    "with": ["zoneout", "recurrent_dropout", "drop_connect", "clip"],
    "save": "every 7",
    "zoneout": {"h": 0.5},
    "recurrent_dropout": 0.5,
    "drop_connect": 0.5,
    "clip": 0.5,
    "schedule": "stepwise",
}
MODEL = {
    "name": "model",
    "inputs": 3,
    "layers": [LAYER, {"dropout": 0.5}, {"dense": 3, "bias": True}],
    "cells": {"cell1": {key: value for key, value in CELL.items() if key != "name"}},
}
SHAPED = CELL | {"states": {"h": {"shape": ["hidden"]}, "p": {"shape": ["inputs"]}}}
OTHERS = [True, 3, -1, 2.5, 10**9, "text", "", [], ["text"], [3], {}, {"a": 3}, {"a": "text"}, date(2000, 1, 1)]


def toml(value: Any) -> str:
    """A value, on one line."""
    match value:
        case dict():
            return f"{{ {', '.join(f'{json.dumps(key)} = {toml(one)}' for key, one in value.items())} }}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case date():
            return value.isoformat()
    return json.dumps(value)


def text_of(data: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in data.items())


def paths(data: Any, above: tuple = ()) -> Iterator[tuple]:
    """To everything in a document."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*above, key)
        yield from paths(value, (*above, key))


def changed(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Documents, each with one thing left out, added, or in the place of another."""
    for *above, last in paths(whole):
        for other in [None, *OTHERS]:
            document = deepcopy(whole)
            table: Any = document
            for key in above:
                table = table[key]
            if other is None:
                del table[last]
            else:
                table[last] = other
            yield document
        if isinstance(table, dict):
            document = deepcopy(whole)
            table = document
            for key in above:
                table = table[key]
            table["stranger"] = 3
            yield document


def test_the_documents_have_every_key():
    found = {key for whole in (CELL, MODEL) for path in paths(whole) for key in path}
    for table in TABLES:
        assert {info.alias or name for name, info in table.model_fields.items()} <= found
    for whole in (CELL, SHAPED, MODEL):
        assert mistakes(text_of(whole)) == [] and JUDGE.is_valid(whole)


@pytest.mark.parametrize("whole", [CELL, SHAPED, MODEL], ids=["cell", "shaped", "model"])
def test_a_changed_document_is_right_or_wrong_for_both(whole):
    count = {True: 0, False: 0}
    for document in changed(whole):
        text = text_of(document)
        right = not mistakes(text)
        assert JUDGE.is_valid(tomllib.loads(text)) == right, text
        count[right] += 1
    assert min(count.values()) > 50, "there are enough of either"
