"""The TOML model, validated: what a file says, as plain records.

Two kinds of file exist. A model has `layers` and perhaps `cells`; a cell file describes one cell alone and compiles to
a layer class whose sizes are free. The tables below are the whole schema; `docs/language.md` explains every key.
"""

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rnngen.document import Document, parse
from rnngen.equations import Assignment, parse_step
from rnngen.errors import Mistakes, did_you_mean
from rnngen.ir import Parameter
from rnngen.ops import FUNCTIONS
from rnngen.source import Source, Span

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
RESERVED = frozenset(keyword.kwlist) | FUNCTIONS.keys() | {"x", "self", "print", "torch", "triton", "tl", "con", "nul"}
DIMENSIONS = ("hidden", "inputs")
INITIALISERS = (
    "uniform",
    "zeros",
    "ones",
    "orthogonal",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
)
SCHEDULE_NAMES = ("auto", "resident", "elementwise", "stepwise")
MOST_PARAMETERS = 2**31  # elements of a whole model

Size = Annotated[int, Field(ge=1, le=65536)]
Initialiser = Literal[INITIALISERS] | float | int


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _ParameterTable(_Table):
    shape: list[Literal[DIMENSIONS]] = Field(max_length=2)
    blocks: list[str] = Field(min_length=1, max_length=64)
    init: Initialiser | dict[str, Initialiser] = "uniform"
    heads: bool = False


class _CellTable(_Table):
    about: str = ""
    states: list[str] = Field(min_length=1, max_length=16)
    output: str = ""
    constants: dict[str, float | int] = Field(default={}, max_length=64)
    step: str
    parameters: dict[str, _ParameterTable] = Field(default={}, max_length=64)


class _CellFile(_CellTable):
    name: str
    class_name: str = Field(default="", alias="class")


class _CellLayer(_Table):
    cell: str
    hidden: Size
    heads: Size = 1
    initial_state: Literal["zeros", "learned", "buffer"] = "zeros"
    reverse: bool = False
    schedule: Literal[SCHEDULE_NAMES] = "auto"


class _DropoutLayer(_Table):
    dropout: float = Field(ge=0, le=1)


class _DenseLayer(_Table):
    dense: Size
    bias: bool = True


class _ModelFile(_Table):
    name: str
    inputs: Size
    layers: list[dict[str, Any]] = Field(min_length=1, max_length=256)
    cells: dict[str, dict[str, Any]] = Field(default={}, max_length=64)


_LAYERS: dict[str, type[_Table]] = {"cell": _CellLayer, "dropout": _DropoutLayer, "dense": _DenseLayer}


@dataclass(frozen=True)
class Cell:
    """A described cell. `places` finds its equations and names in the file again."""

    name: str
    class_name: str
    about: str
    states: tuple[str, ...]
    output: str
    constants: Mapping[str, float]
    equations: tuple[Assignment, ...]
    parameters: tuple[Parameter, ...]
    places: "Places" = field(compare=False, repr=False)


@dataclass(frozen=True)
class CellLayer:
    """A cell scanned over time, `inputs` to `hidden` wide."""

    cell: Cell
    inputs: int
    hidden: int
    heads: int
    initial_state: str
    reverse: bool
    schedule: str


@dataclass(frozen=True)
class DropoutLayer:
    probability: float


@dataclass(frozen=True)
class DenseLayer:
    inputs: int
    outputs: int
    bias: bool


Layer = CellLayer | DropoutLayer | DenseLayer


@dataclass(frozen=True)
class Description:
    """What a file says: one cell if `layers` is empty, else a stack of layers over `cells`, each cell once."""

    name: str
    inputs: int
    layers: tuple[Layer, ...]
    cells: tuple[Cell, ...]
    source: Source = field(compare=False, repr=False)


@dataclass(frozen=True)
class Places:
    """Where in its document a cell stands."""

    document: Document
    path: tuple[str | int, ...]

    def key(self, *path: str | int) -> Span:
        """The place of a key, or of the table that lacks it."""
        return self.document.key_span(_existing((*self.path, *path), self.document))

    def value(self, *path: str | int) -> Span:
        """The place of a value, or of the table that lacks it."""
        return self.document.value_span(_existing((*self.path, *path), self.document))

    def text(self, offset: int, length: int) -> Span:
        """A place in the step's text."""
        return self.document.text_span((*self.path, "step"), offset, length)


def describe(source: Source) -> Description:
    """Validate a file.

    Raises ModelError with every mistake in it that can be told apart.
    """
    document = parse(source)
    mistakes = Mistakes(source)
    data = document.data
    if "layers" in data:
        found = _model(document, mistakes)
    else:
        cell = _cell(Places(document, ()), data, _CellFile, mistakes)
        found = cell and Description(cell.name, 0, (), (cell,), source)
    mistakes.check()
    return found


@cache
def library() -> Mapping[str, Source]:
    """The cells that come with rnngen, by name."""
    folder = files("rnngen") / "cells"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {
        name.removesuffix(".toml"): Source(name, (folder / name).read_text(encoding="utf-8")) for name in names
    }


def _model(document: Document, mistakes: Mistakes) -> Description | None:
    model = _validated(_ModelFile, document.data, document, (), mistakes)
    if model is None:
        return None
    _check_name(model.name, "model", document.value_span(("name",)), mistakes)
    cells: dict[str, Cell | None] = {}
    for name, table in model.cells.items():
        _check_name(name, "cell", document.key_span(("cells", name)), mistakes)
        cells[name] = _cell(Places(document, ("cells", name)), {"name": name, **table}, _CellFile, mistakes)
    layers: list[Layer] = []
    used: dict[str, Cell] = {}
    width = model.inputs
    for number, table in enumerate(model.layers):
        path = ("layers", number)
        kinds = [kind for kind in _LAYERS if kind in table]
        if len(kinds) != 1:
            hint = did_you_mean(next(iter(table), ""), _LAYERS) or "write cell = ..., dropout = ... or dense = ..."
            message = "A layer is one of a cell, a dropout or a dense layer."
            mistakes.add("unknown-layer", message, document.key_span(path), hints=(hint,))
            continue
        layer = _validated(_LAYERS[kinds[0]], table, document, path, mistakes)
        if isinstance(layer, _CellLayer):
            cell = _find_cell(layer.cell, cells, document.value_span((*path, "cell")), mistakes)
            if layer.hidden % layer.heads:
                message = f"{layer.hidden} hidden units cannot be divided into {layer.heads} heads."
                mistakes.add("not-divisible", message, document.value_span((*path, "heads")))
            if layer.heads > 1 and cell and not any(p.heads for p in cell.parameters):
                message = f"The cell '{cell.name}' has no block-diagonal parameter, so it has no heads."
                mistakes.add("no-heads", message, document.key_span((*path, "heads")))
            if cell:
                used[cell.name] = cell
                options = layer.model_dump(exclude={"cell"})
                layers.append(CellLayer(cell, width, **options))
            width = layer.hidden
        elif isinstance(layer, _DropoutLayer):
            layers.append(DropoutLayer(layer.dropout))
        elif isinstance(layer, _DenseLayer):
            layers.append(DenseLayer(width, layer.dense, layer.bias))
            width = layer.dense
    for name in cells.keys() - {table.get("cell") for table in model.layers}:
        message = f"The cell '{name}' is used by no layer."
        mistakes.add("unused", message, document.key_span(("cells", name)))
    if (count := sum(map(_parameter_count, layers))) > MOST_PARAMETERS:
        message = f"The model has {count:,} parameters, {4 * count / 2**30:,.0f} GiB in float32; the limit is 2**31."
        mistakes.add("too-large", message, document.key_span(("layers",)))
    return Description(model.name, model.inputs, tuple(layers), tuple(used.values()), document.source)


def _parameter_count(layer: Layer) -> int:
    if isinstance(layer, DenseLayer):
        return layer.outputs * (layer.inputs + layer.bias)
    if isinstance(layer, DropoutLayer):
        return 0
    sizes = {"hidden": layer.hidden, "inputs": layer.inputs}
    count = 0
    for parameter in layer.cell.parameters:
        elements = len(parameter.blocks)
        for dimension in parameter.shape:
            elements *= sizes[dimension]
        count += elements // (layer.heads if parameter.heads else 1)
    return count


def _find_cell(name: str, cells: Mapping[str, Cell | None], span: Span | None, mistakes: Mistakes) -> Cell | None:
    if name in cells:
        return cells[name]
    if name in library():
        return describe(library()[name]).cells[0]
    known = [*cells, *library()]
    hint = did_you_mean(name, known) or f"the library has {', '.join(library())}"
    mistakes.add("unknown-cell", f"There is no cell '{name}' in this file or in the library.", span, hints=(hint,))
    return None


def _cell(places: Places, data: dict[str, Any], table: type[_CellFile], mistakes: Mistakes) -> Cell | None:
    cell = _validated(table, data, places.document, places.path, mistakes)
    if cell is None:
        return None
    _check_name(cell.name, "cell", places.value("name"), mistakes)
    class_name = cell.class_name or "".join(part[:1].upper() + part[1:] for part in cell.name.split("_"))
    if cell.class_name:
        _check_name(cell.class_name, "class", places.value("class"), mistakes)
    owners: dict[str, str] = {}

    def claim(name: str, kind: str, span: Span | None) -> None:
        _check_name(name, kind, span, mistakes)
        if name in owners:
            message = f"'{name}' is already the name of a {owners[name]} of this cell."
            mistakes.add("duplicate-name", message, span, "second use")
        owners[name] = kind

    for number, state in enumerate(cell.states):
        claim(state, "state", places.value("states", number))
    for name in cell.constants:
        claim(name, "constant", places.key("constants", name))
    for name, parameter in cell.parameters.items():
        _check_name(name, "parameter", places.key("parameters", name), mistakes)
        for number, block in enumerate(parameter.blocks):
            claim(block, "block", places.value("parameters", name, "blocks", number))
    parameters = tuple(
        _parameter(name, parameter, places, mistakes) for name, parameter in cell.parameters.items()
    )

    def report(code: str, message: str, offset: int, length: int, label: str = "", *hints: str) -> None:
        mistakes.add(code, message, places.text(offset, length), label, hints=hints)

    equations = parse_step(cell.step, report)
    if not equations and not cell.step.strip():
        mistakes.add("no-equations", f"The cell '{cell.name}' has no equations.", places.value("step"))
    return Cell(
        cell.name,
        class_name,
        cell.about,
        tuple(cell.states),
        cell.output or f"{cell.states[0]}'",
        {name: float(value) for name, value in cell.constants.items()},
        tuple(equations),
        parameters,
        places,
    )


def _parameter(name: str, table: _ParameterTable, places: Places, mistakes: Mistakes) -> Parameter:
    if table.heads and table.shape != ["hidden", "hidden"]:
        message = f"The block-diagonal parameter '{name}' must be hidden x hidden."
        mistakes.add("wrong-shape", message, places.value("parameters", name, "shape"))
    inits = dict.fromkeys(table.blocks, "uniform")
    if isinstance(table.init, dict):
        for block, init in table.init.items():
            if block not in inits:
                message = f"The parameter '{name}' has no block '{block}'."
                hint = did_you_mean(block, table.blocks)
                span = places.key("parameters", name, "init", block)
                mistakes.add("unknown-block", message, span, hints=(hint,) if hint else ())
            inits[block] = init
    else:
        inits = dict.fromkeys(table.blocks, table.init)
    for block, init in inits.items():
        if init not in ("uniform", "zeros", "ones") and isinstance(init, str) and len(table.shape) < 2:
            message = f"The initialiser '{init}' is for matrices; '{block}' is none."
            mistakes.add("wrong-init", message, places.value("parameters", name, "init"))
    return Parameter(
        name, tuple(table.shape), tuple(table.blocks), tuple(inits[b] for b in table.blocks), table.heads
    )


def _check_name(name: str, kind: str, span: Span | None, mistakes: Mistakes) -> None:
    if not NAME.fullmatch(name):
        shown = name if len(name) < 40 else name[:36] + "..."
        points = sorted({f"U+{ord(char):04X}" for char in name if not char.isascii()})
        note = (f"it holds {', '.join(points[:4])}",) if points else ()
        hint = "a name is a letter, then at most 63 letters, digits or underscores, in ASCII"
        mistakes.add("bad-name", f"{shown!a} cannot be the name of a {kind}.", span, notes=note, hints=(hint,))
    elif name.lower() in RESERVED and (kind != "class" or keyword.iskeyword(name)) or keyword.iskeyword(name):
        mistakes.add("reserved-name", f"The name '{name}' is reserved.", span, hints=(f"try '{name}_1'",))


def _validated(
    table: type[_Table], data: dict[str, Any], document: Document, path: tuple[str | int, ...], mistakes: Mistakes
) -> Any:
    try:
        return table.model_validate(data)
    except ValidationError as error:
        reported = set()
        for fault in error.errors(include_url=False):
            where = tuple(part for part in fault["loc"] if _is_path(part, fault["loc"]))
            where = _existing((*path, *where), document)
            if where not in reported:  # a union reports once for each member
                reported.add(where)
                _add_schema_mistake(table, fault, where, document, mistakes)
        return None


def _is_path(part: str | int, location: tuple[str | int, ...]) -> bool:
    """Whether a part of pydantic's location is a key or index of the data rather than the name of a type."""
    names_a_type = isinstance(part, str) and ("[" in part or part in ("float", "int", "constrained-int"))
    return not (names_a_type and part == location[-1] or isinstance(part, str) and "[" in part)


def _existing(path: tuple[str | int, ...], document: Document) -> tuple[str | int, ...]:
    """The longest part of a path that the file has."""
    data: Any = document.data
    for depth, part in enumerate(path):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return path[:depth]
    return path


def _add_schema_mistake(
    table: type[_Table],
    fault: Mapping[str, Any],
    path: tuple[str | int, ...],
    document: Document,
    mistakes: Mistakes,
) -> None:
    kind, location = fault["type"], fault["loc"]
    last = location[-1]
    shown = ".".join(str(part) for part in location if _is_path(part, location))
    context = fault.get("ctx", {})
    value = document.value_span(path)
    match kind:
        case "extra_forbidden":
            known = _keys_beside(table, location)
            hint = did_you_mean(str(last), known) or f"the keys here are {', '.join(known)}"
            message = f"There is no key {str(last)!a} here."
            mistakes.add("unknown-key", message, document.key_span(path), "unknown", hints=(hint,))
        case "missing":
            mistakes.add("missing-key", f"The key '{last}' is missing.", document.key_span(path))
        case "literal_error":
            wanted = context["expected"]
            choices = re.findall(r"'([^']*)'", wanted)
            given = fault["input"]
            hint = did_you_mean(given, choices) if isinstance(given, str) else None
            message = f"'{shown}' must be {wanted}."
            mistakes.add("wrong-value", message, value, hints=(hint,) if hint else ())
        case "greater_than_equal" | "less_than_equal" | "finite_number":
            limit = _limits(table, location)
            mistakes.add("out-of-range", f"'{shown}' must be {limit}.", value, "out of range")
        case "too_short" | "too_long":
            bound = context.get("min_length", context.get("max_length"))
            few = "at least" if kind == "too_short" else "at most"
            mistakes.add("wrong-length", f"'{shown}' must have {few} {bound} entries.", value)
        case _:
            wanted = {
                "int_type": "an integer",
                "float_type": "a number",
                "string_type": "a string",
                "bool_type": "true or false",
                "list_type": "a list",
                "dict_type": "a table",
                "model_type": "a table",
            }.get(kind, kind.replace("_", " "))
            mistakes.add("wrong-type", f"'{shown}' must be {wanted}.", value)


def _keys_beside(table: type[_Table], location: tuple[str | int, ...]) -> list[str]:
    if table is _CellFile and location[0] == "parameters" and len(location) > 2:
        table = _ParameterTable
    keys = [info.alias or name for name, info in table.model_fields.items()]
    return keys


def _limits(table: type[_Table], location: tuple[str | int, ...]) -> str:
    info = table.model_fields.get(str(location[0]))
    metadata = [m for m in (info.metadata if info else ())]
    low = next((m.ge for m in metadata if hasattr(m, "ge")), None)
    high = next((m.le for m in metadata if hasattr(m, "le")), None)
    return f"from {low} to {high}" if low is not None else "a finite number"
