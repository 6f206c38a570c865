"""The tables of a file as a JSON schema, by which an editor completes keys, explains them and marks mistakes.

It follows from the tables and their docstrings. Only what they leave open, since it is looked at with the cell or with
the layer, is said here. It is of draft 7, which Taplo reads.
"""

import re
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from rnngen.description.activations import OF_ONE_ARGUMENT
from rnngen.description.initialisers import INITIALISERS
from rnngen.description.tables import (
    DIMENSIONS,
    LAYERS,
    MOST_OUTPUTS,
    CellFile,
    CellTable,
    LayerTable,
    ModelFile,
    Number,
    Table,
)
from rnngen.equations import LARGEST
from rnngen.library import library
from rnngen.runtime.drawn import RATES
from rnngen.runtime.memory import EVERY, KINDS
from rnngen.wrappers import WRAPPERS

_KEY = re.compile(r"^(\w+): (.*(?:\n    .*)*)", re.MULTILINE)


def schema() -> dict[str, Any]:
    """The schema of a model file, or of a file that is one cell."""
    given: tuple[type[Table], ...] = (ModelFile, CellFile, CellTable, *LAYERS.values())
    _, made = models_json_schema(
        [(table, "validation") for table in given], ref_template="#/definitions/{model}", schema_generator=_Schema
    )
    definitions = made["$defs"]
    _fill({name: definition["properties"] for name, definition in definitions.items()})
    definitions[LayerTable.__name__]["allOf"] = [
        {
            "if": {"required": ["with"], "properties": {"with": {"contains": {"const": name}}}},
            "then": {"required": [name]},
        }
        for name in RATES
    ]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A model file of rnngen",
        **_either(("layers", ModelFile), ("step", CellFile)),
        "definitions": definitions,
    }


def meanings(table: type[Table]) -> dict[str, str]:
    """What the docstrings of a table say of its keys."""
    found: dict[str, str] = {}
    for kind in reversed(table.__mro__):
        if issubclass(kind, Table):
            text = re.sub("^    ", "", kind.__doc__ or "", flags=re.MULTILINE)
            found |= {key: " ".join(words.split()) for key, words in _KEY.findall(text)}
    return found


class _Schema(GenerateJsonSchema):
    """With what docstrings say, without titles, which would repeat the keys, and without null, which TOML has not."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        del made["title"]
        made["description"] = (schema["cls"].__doc__ or "").partition("\n")[0]
        for key, words in meanings(schema["cls"]).items():
            made["properties"][key]["description"] = words
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        return {key: value for key, value in made.items() if (key, value) != ("default", None)}


def _fill(properties: dict[str, dict[str, Any]]) -> None:
    """Says what the tables leave open, by their names."""
    initialisers = [{"enum": list(INITIALISERS)}, TypeAdapter(Number).json_schema()]
    by_name = {"type": "object", "additionalProperties": {"anyOf": initialisers}}
    layer, model = properties["LayerTable"], properties["ModelFile"]
    for name in ("ParameterTable", "StateTable"):
        properties[name]["shape"]["items"] = {"anyOf": [{"enum": list(DIMENSIONS)}, {"type": "string"}]}
    for name in ("CellTable", "CellFile"):
        several = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_OUTPUTS}
        properties[name]["output"]["anyOf"] = [{"type": "string"}, several]
    properties["ParameterTable"]["init"]["anyOf"] = [*initialisers, by_name]
    layer["init"] |= by_name
    for name in ("LayerTable", "CellTable", "CellFile"):
        properties[name]["activations"]["additionalProperties"] = {"enum": list(OF_ONE_ARGUMENT)}
    layer["cell"]["anyOf"] = [{"enum": list(library())}, {"type": "string"}]
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    bound = {"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST}
    for name, rate in (("zoneout", probability), ("clip", bound)):
        layer[name]["anyOf"] = [rate, {"type": "object", "additionalProperties": rate}]
    layer["save"]["examples"] = [*KINDS, EVERY, f"{EVERY} 256"]
    layer["with"]["items"] = {"enum": list(WRAPPERS)}
    model["layers"]["items"] = _either(*LAYERS.items())
    model["cells"]["additionalProperties"] = _reference(CellTable)


def _either(*kinds: tuple[str, type[Table]]) -> dict[str, Any]:
    """The first of several tables whose key is there, or the last.

    A mistake is then one of that table, and not "none of these". Taplo completes by `anyOf` and not by `then`, so they
    stand there too, with anything else beside them, so that it judges nothing.
    """
    *first, (_, last) = kinds
    chosen = _reference(last)
    for key, table in reversed(first):
        chosen = {"if": {"required": [key]}, "then": _reference(table), "else": chosen}
    return {**chosen, "anyOf": [*(_reference(table) for _, table in kinds), {}]}


def _reference(table: type[Table]) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{table.__name__}"}
