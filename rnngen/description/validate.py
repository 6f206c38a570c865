"""A table of a file as a record, or what is wrong with it: pydantic's errors in the words of this language."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rnngen import idioms
from rnngen.description.tables import (
    DIMENSIONS,
    CellFile,
    CellTable,
    InputTable,
    LayerTable,
    ModelFile,
    ParameterTable,
    StateTable,
    Table,
)
from rnngen.document import KeyPath, Places
from rnngen.equations import FLOAT32, LARGEST
from rnngen.errors import MOST_MISTAKES, Mistakes, did_you_mean
from rnngen.runtime.layout import NAME as CHUNKED
from rnngen.runtime.memory import EVERY, mistake_of

Validated = TypeVar("Validated", bound=Table)

WRONG_TYPE = "wrong type"
_WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}

_OF_KINDS = {("states",), ("schedule",)}  # keys whose values are of several kinds

# What a class is given in Python: that of a model, and that of a cell, by what stands for it in a file.
_MODEL_ARGUMENTS = {name: f"{name}=..." for name in ("batch_first", "return_state", "device", "dtype")}
_ARGUMENTS = _MODEL_ARGUMENTS | {
    name: f"{name}=..." for name in LayerTable.model_fields.keys() - {"cell", "activations", "wrappers"}
}
_ARGUMENTS |= dict.fromkeys(("hidden", "hidden_size"), "hidden_size=...")
_ARGUMENTS |= {"input_size": "input_size=...", "layers": "num_layers=2"}

# A line to write where a key is missing.
_EXAMPLES = {
    "hidden": "hidden = 64",
    "inputs": "inputs = 1",
    "layers": "[[layers]]",
    "name": 'name = "model"',
    "shape": 'shape = ["hidden"], or ["hidden", "inputs"] for a matrix applied to x, ["hidden", "hidden"] to h',
    "states": 'states = ["h"]',
    "states shape": 'shape = ["hidden"], or ["inputs"] of one as wide as x, [] of a number',
    "inputs shape": 'shape = [] of a number, or ["hidden"] of one as wide as the states, ["inputs"] as x',
    "step": 'step = "h\' = tanh(W @ x + U @ h)"',
}


def validated(
    schema: type[Validated],
    data: dict[str, Any],
    places: Places,
    mistakes: Mistakes,
    meant: Mapping[str, str] = MappingProxyType({}),
) -> Validated | None:
    """The table as a record, or None if it has mistakes. A key that is written wrong is not called missing
    as well.

    meant: hints for keys that this table alone may be given by mistake, by their names.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        faults = [_without_kind(fault) for fault in error.errors(include_url=False)]
        strangers: dict[KeyPath, list[str]] = defaultdict(list)
        for fault in faults[:MOST_MISTAKES]:
            if fault["type"] == "extra_forbidden":
                strangers[fault["loc"][:-1]].append(str(fault["loc"][-1]))
        swallowed = _swallowed(schema, data)
        for fault in faults:
            *table, key = fault["loc"]
            misspelt = fault["type"] == "missing" and any(
                did_you_mean(name, [str(key)]) or f"'{key}'" in (_misplaced(schema, (*table, name), None) or "")
                for name in strangers[tuple(table)]
            )
            if table == ["parameters"] and key in swallowed:
                message = f"'{key}' stands in the table of the parameters, where every key is a parameter."
                hint = "move it above the line [parameters]: a table goes on until the next one begins."
                mistakes.add("misplaced-key", message, places.key("parameters", key), hints=(hint,))
            elif not misspelt and not (fault["type"] == "missing" and not table and key in swallowed):
                _add_schema_mistake(schema, fault, places, mistakes, meant)
        return None


def _without_kind(fault: ErrorDetails) -> ErrorDetails:
    """A fault whose path is one of the file: pydantic puts "list" or "table" behind "states", and the like."""
    path = fault["loc"]
    return {**fault, "loc": (path[0], *path[2:])} if path[:1] in _OF_KINDS and len(path) > 1 else fault


def _swallowed(schema: type[Table], data: dict[str, Any]) -> set[str]:
    """Keys of a cell that its file has behind the line [parameters], so that TOML takes them for parameters."""
    parameters = data.get("parameters")
    inside = parameters if isinstance(parameters, dict) else {}
    return {key for key in schema.model_fields if key in inside and not isinstance(inside[key], dict)}


def _add_schema_mistake(
    schema: type[Table], fault: ErrorDetails, places: Places, mistakes: Mistakes, meant: Mapping[str, str]
) -> None:
    kind, path, given, context = fault["type"], fault["loc"], fault["input"], fault.get("ctx", {})
    span, key = places.value(*path), str(path[-1])
    hint: str | None
    subject = f"Entry {path[-1] + 1} of '{path[-2]}'" if isinstance(path[-1], int) else f"{path[-1]!a}"
    match kind:
        case "extra_forbidden":
            known = keys_of(schema, path)
            hint = (
                (meant.get(key) if len(path) == 1 else None)
                or _misplaced(schema, path, given)
                or did_you_mean(key, known)
                or f"the keys here are {', '.join(known)}."
            )
            message = f"There is no key {subject} in {_title((*places.path, *path[:-1]))}."
            mistakes.add("unknown-key", message, places.key(*path), "unknown", hints=(hint,))
        case "missing":
            message = f"The key '{key}' is missing from {_title((*places.path, *path[:-1]))}."
            example = _EXAMPLES.get(f"{path[0]} {key}") or _EXAMPLES[key]
            hint = f"add {'to it' if places.inline(*path) else 'a line'}: {example}"
            mistakes.add("missing-key", message, places.key(*path), hints=(hint,))
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            hint = did_you_mean(given, choices) if isinstance(given, str) else None
            if "shape" in path and not isinstance(given, str):
                hint = 'write "hidden" or "inputs"; the sizes are given when a layer is made.'
            message = f"{subject} must be {context['expected']}."
            mistakes.add("wrong-value", message, span, "not one of these", hints=(hint,))
        case "string_pattern_mismatch" if key == "save":
            mistakes.add("wrong-save", f"A layer cannot keep {given!a}.", span, hints=(mistake_of(given),))
        case "string_pattern_mismatch":
            message = f"{subject} has to be like '{CHUNKED} 512 128': the least steps of a chunk, those of its warm-up."
            mistakes.add("wrong-value", message, span, "not that")
        case "greater_than_equal" | "less_than_equal" | "finite_number":
            message = f"{subject} must be {_range(schema, path)}, not {given}."
            mistakes.add("out-of-range", message, span, "out of range")
        case "string_too_long":
            message = f"{subject} must have at most {context['max_length']:,} characters, not {len(given):,}."
            mistakes.add("wrong-length", message, span)
        case "too_short" | "too_long":
            bound = context["min_length" if kind == "too_short" else "max_length"]
            few = "at least" if kind == "too_short" else "at most"
            message = f"{subject} must have {few} {bound} {'entry' if bound == 1 else 'entries'}."
            mistakes.add("wrong-length", message, span)
        case _:
            wanted = "a list or a table" if path == ("states",) else _WANTED[kind]
            message = f"{subject} must be {wanted}, not {kind_of(given)}."
            hint = _rewritten(kind, path[-1], given)
            if "shape" in path and kind == "string_type":
                hint = 'write "hidden" or "inputs", which are given when a layer is made, or a size of the cell.'
            mistakes.add("wrong-type", message, span, WRONG_TYPE, hints=(hint,))


def _misplaced(schema: type[Table], path: KeyPath, given: Any) -> str | None:
    """The hint for a key that belongs elsewhere, or is called otherwise here."""
    key = path[-1]
    if len(path) == 3 and path[0] == "parameters":
        return idioms.PARAMETER_KEYS.get(str(key).lower())
    if len(path) > 1 or isinstance(key, int):
        return None
    elsewhere = None
    if schema is ModelFile:
        if key == "cell" and isinstance(given, dict):
            return "did you mean 'cells'?"
        elsewhere = idioms.MODEL_KEYS.get(key.lower())
    elif schema is LayerTable:
        elsewhere = idioms.LAYER_KEYS.get(key.lower())
    elif issubclass(schema, CellTable):
        elsewhere = idioms.CELL_KEYS.get(key.lower())
    if elsewhere:
        return elsewhere
    if schema in (ModelFile, CellTable) and key in keys_of(LayerTable, (key,)):
        return "it belongs to a layer, below a line [[layers]]."
    if schema in (ModelFile, CellTable) and (hint := idioms.LAYER_KEYS.get(key.lower())):
        return f"it belongs to a layer, below a line [[layers]]; {hint}"
    if example := (_ARGUMENTS if schema is CellFile else _MODEL_ARGUMENTS).get(key):
        return f"it is an argument of the class that comes out, in Python: {example}"
    if key == "with" and schema is CellFile:
        return "it is chosen where the cell is compiled: rnngen compile FILE --with NAME."
    if key == "name" and schema is CellTable:
        return "the name of a cell in a model file is its key: [cells.NAME]."
    return None


def _title(path: KeyPath) -> str:
    """What a message calls the table at a path."""
    match path:
        case ():
            return "this file"
        case ("layers", int(number)):
            return f"layer {number + 1}"
        case (*_, "parameters", name):
            return f"the parameter {name!a}"
        case (*_, "inputs", name):
            return f"the input {name!a}"
        case (*_, "states", name):
            return f"the state {name!a}"
        case _:
            return f"the cell {path[-1]!a}"


def keys_of(schema: type[Table], path: KeyPath) -> list[str]:
    """The keys that the table has in which the last key of a path stands."""
    inner: dict[str | int, type[Table]] = {"inputs": InputTable, "states": StateTable}
    table = inner.get(path[0], ParameterTable) if len(path) > 1 else schema
    return [info.alias or name for name, info in table.model_fields.items()]


def _range(schema: type[Table], path: KeyPath) -> str:
    """What the numbers of a key, or of a table of numbers, must be."""
    field = schema.model_fields[str(path[0])]
    if len(path) > 1:
        _, numbers = get_args(field.annotation)
        field = FieldInfo.from_annotation(numbers)
    limits = [m for m in field.metadata if hasattr(m, "ge") or hasattr(m, "le")]
    low = next((m.ge for m in limits if hasattr(m, "ge")), -LARGEST)
    high = next((m.le for m in limits if hasattr(m, "le")), LARGEST)
    return FLOAT32 if high == LARGEST else f"from {low} to {high}"


def kind_of(value: Any) -> str:
    """What a value of TOML is, in words."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a table"
    return "a date or time"


def _rewritten(kind: str, key: str | int, given: Any) -> str | None:
    """The hint for the right value in the wrong writing."""
    shape = given if isinstance(given, list) else [given]
    if kind == "model_type" and all(dimension in DIMENSIONS for dimension in shape):
        return f"write {key} = {{ shape = {json.dumps(shape)} }}."
    if key == "states" and kind == "list_type" and not isinstance(given, str):
        return 'write states = ["h"].'
    if key == "inputs" and kind == "dict_type":
        names = given if isinstance(given, list) and all(isinstance(name, str) for name in given) else []
        if words := [name for name in names if name != "x" and name.isidentifier()]:
            tables = ", ".join(f"{name} = {{ shape = [] }}" for name in words)
            return f'write inputs = {{ {tables} }}, where each is a number; ["hidden"] is a vector.'
        return f"{idioms.AS_WIDE}; numbers are given to the class."
    if key == "layers" and isinstance(given, dict):
        return "write [[layers]], in double brackets, above the keys of each layer."
    if key == "cells" and isinstance(given, list):
        return "write [cells.NAME], in single brackets, above the keys of each cell."
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"write {int(given)}, without a point."
    if kind in ("int_type", "float_type") and isinstance(given, str) and re.fullmatch(r"[0-9.]{1,20}", given):
        return f"write {given}, without the quotes."
    if kind == "list_type" and isinstance(given, str):
        return "write it in square brackets."
    if key == "save" and isinstance(given, int) and mistake_of(text := f"{EVERY} {given}") is None:
        return f'write save = "{text}".'
    return None
