"""The TOML model, validated: what a file says, as plain records.

Two kinds of file exist. A model has `layers` and perhaps `cells`; a cell file describes one cell alone and
compiles to a layer class whose sizes are free. The tables below are the whole schema; `docs/language.md`
explains every key.
"""

import keyword
import math
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import count, islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rnngen import idioms
from rnngen.cell import Cell, check_names
from rnngen.document import KeyPath, Places, parse
from rnngen.equations import Assignment, Step, parse_expression, parse_step
from rnngen.errors import MOST_MISTAKES, Mistakes, did_you_mean
from rnngen.ir import Parameter
from rnngen.ops import FUNCTIONS, OPS
from rnngen.runtime import PUBLISHED
from rnngen.source import Source, Span

DIMENSIONS = ("hidden", "inputs")
_MATRIX_INITIALISERS = (
    "orthogonal",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
)
INITIALISERS = ("uniform", "zeros", "ones", *_MATRIX_INITIALISERS)
SCHEDULE_NAMES = ("auto", "resident", "elementwise", "stepwise")
PROJECTION = "weight_hr"  # what a layer with proj_size has besides the parameters of its cell
MOST_LAYERS = 256
MOST_CELLS = 64
MOST_ACTIVATIONS = 16
MOST_PARAMETERS = 2**31  # elements of a whole model
MOST_CHARACTERS = 2000  # of a text about a cell
LONGEST_FILE_NAME = 128  # it stands beside every equation in a module
LARGEST = (2 - 2**-23) * 2.0**127  # finite number of float32, which a layer has unless it is asked for another dtype
MOST_OPERATIONS = 384  # in the equations of a file; a compile takes more than a millisecond for each

# ---- The schema ----

Size = Annotated[int, Field(ge=1, le=65536)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class _Table(BaseModel):
    # A schema is built when a file first needs it: for a cell file that saves 20 ms.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class _ParameterTable(_Table):
    shape: list[Literal[DIMENSIONS]] = Field(max_length=2)
    blocks: list[str] = Field(min_length=1, max_length=64)
    init: Any = "uniform"  # looked at by `_initialisers`: pydantic reports a union once for each member
    heads: bool = False
    bias: bool | None = None


class _CellTable(_Table):
    class_name: str = Field(default="", alias="class")
    about: str = Field(default="", max_length=MOST_CHARACTERS)
    states: list[str] = Field(min_length=1, max_length=16)
    output: str = ""
    constants: dict[str, Number] = Field(default={}, max_length=64)
    activations: dict[str, str] = Field(default={}, max_length=MOST_ACTIVATIONS)
    step: str
    parameters: dict[str, _ParameterTable] = Field(default={}, max_length=64)


class _CellFile(_CellTable):
    name: str


class _CellLayer(_Table):
    cell: str
    hidden: Size
    num_layers: int = Field(default=1, ge=1, le=MOST_LAYERS)
    bias: bool = True
    dropout: float = Field(default=0.0, ge=0, le=1)
    bidirectional: bool = False
    proj_size: int = Field(default=0, ge=0, le=65536)
    heads: Size = 1
    initial_state: Literal["zeros", "learned", "buffer"] = "zeros"
    reverse: bool = False
    last_only: bool = False
    init: dict[str, Any] = {}  # looked at by `_check_layer_init`
    activations: dict[str, str] = {}
    schedule: Literal[SCHEDULE_NAMES] = "auto"


class _DropoutLayer(_Table):
    dropout: float = Field(ge=0, le=1)


class _DenseLayer(_Table):
    dense: Size
    bias: bool = True


class _ModelFile(_Table):
    name: str
    inputs: Size
    layers: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_LAYERS)
    cells: dict[str, dict[str, Any]] = Field(default={}, max_length=MOST_CELLS)


_LAYERS: dict[str, type[_Table]] = {"cell": _CellLayer, "dropout": _DropoutLayer, "dense": _DenseLayer}

# What a class is given in Python: that of a model, and that of a cell, by what stands for it in a file.
_MODEL_ARGUMENTS = {name: f"{name}=..." for name in ("batch_first", "return_state", "device", "dtype")}
_ARGUMENTS = _MODEL_ARGUMENTS | {
    name: f"{name}=..." for name in _CellLayer.model_fields.keys() - {"cell", "activations"}
}
_ARGUMENTS |= dict.fromkeys(("hidden", "hidden_size"), "hidden_size=...")
_ARGUMENTS |= dict.fromkeys(("inputs", "input_size"), "input_size=...")
_ARGUMENTS |= {"layers": "num_layers=2"}

# A line to write where a key is missing.
_EXAMPLES = {
    "hidden": "hidden = 64",
    "inputs": "inputs = 1",
    "layers": "[[layers]]",
    "name": 'name = "model"',
    "shape": 'shape = ["hidden"], or ["hidden", "inputs"] for a matrix applied to x, ["hidden", "hidden"] to h',
    "states": 'states = ["h"]',
    "step": 'step = "h\' = tanh(W @ x + U @ h)"',
}

# ---- What is handed on ----


@dataclass(frozen=True)
class CellLayer:
    """A cell scanned over time, from `inputs` to `outputs` features; the keys of its table are torch's arguments."""

    cell: Cell
    inputs: int
    hidden: int
    num_layers: int
    bias: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    heads: int
    initial_state: str
    reverse: bool
    last_only: bool
    init: Mapping[str, str | float]
    schedule: str

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def outputs(self) -> int:
        return (self.proj_size or self.hidden) * self.directions


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
    """What a file says: one cell if `layers` is empty, else a stack of layers; `cells` has each cell once."""

    name: str
    inputs: int
    layers: tuple[Layer, ...]
    cells: tuple[Cell, ...]
    source: Source = field(compare=False, repr=False)


def describe(source: Source) -> Description:
    """Validate a file.

    Raises ModelError with every mistake in it that can be told apart.
    """
    places = Places(parse(source), ())
    mistakes = Mistakes(source)
    if len(source.file_name) > LONGEST_FILE_NAME:
        message = f"The file's name has {len(source.file_name):,} characters; at most {LONGEST_FILE_NAME} are allowed."
        mistakes.add("too-large", message, Span(1, 1, 1))
    data = places.document.data
    if data.keys() <= {"name"}:
        hint = "a cell has the keys name, states, step and parameters, a model name, inputs and layers; "
        hint += "rnngen cells gru prints a cell to begin with."
        mistakes.add("no-model", "This file describes neither a cell nor a model.", places.value(), hints=(hint,))
        mistakes.check()
    if not isinstance(data.get("layers"), list) and not data.keys().isdisjoint(("states", "step", "parameters")):
        cell = _cell(data.get("name"), _CellFile, data, places, mistakes)
        found = cell and Description(cell.name, 0, (), (cell,), source)
        if cell:
            _check_operations([cell], mistakes)
    else:
        found = _model(data, places, mistakes)
    mistakes.check()
    return found


@cache
def library() -> Mapping[str, Source]:
    """The cells that come with rnngen, by name."""
    folder = files("rnngen") / "cells"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {name.removesuffix(".toml"): Source(name, (folder / name).read_text(encoding="utf-8")) for name in names}


@cache
def _library_cell(name: str) -> Cell:
    return describe(library()[name]).cells[0]


# ---- A model ----


def _model(data: dict[str, Any], places: Places, mistakes: Mistakes) -> Description | None:
    model = _validated(_ModelFile, data, places, mistakes)
    if isinstance(data.get("name"), str):
        _check_name(data["name"], "model", places.value("name"), mistakes)
    # What is within a table is looked at even if the file around it has a mistake of its own.
    key = "cells" if "cells" in data else "cell"  # which `_validated` calls a mistake, without one for each use
    cells = {
        name: _cell(name, _CellTable, table, Places(places.document, (key, name)), mistakes)
        for name, table in _tables(data.get(key), MOST_CELLS)
    }
    layers: list[Layer | None] = []
    width = model.inputs if model else 1
    tables = list(_tables(data.get("layers"), MOST_LAYERS))
    for number, table in tables:
        layer = _layer(table, width, cells, Places(places.document, ("layers", number)), mistakes)
        layers.append(layer)
        width = getattr(layer, "outputs", width)
    named = {table["cell"] for _, table in tables if isinstance(table.get("cell"), str)}
    layers = _named_apart(layers, _as_described(named, cells), data.get("name"))
    used = {layer.cell.name: layer.cell for layer in layers if isinstance(layer, CellLayer)}
    for name in cells:
        if name not in named:
            hint = f'write cell = "{name}" in a layer, or leave the cell out.'
            mistakes.add("unused", f"No layer uses the cell {name!a}.", places.key(key, name), hints=(hint,))
    _check_time(layers, places, mistakes)
    _check_size(layers, places, mistakes)
    own = {name: cell for name, cell in cells.items() if cell}
    chosen = [cell for name, cell in used.items() if name not in named]
    _check_operations([*own.values(), *chosen], mistakes)
    _check_clashes(data.get("name"), used.values(), places, mistakes)
    if model is None or None in layers:
        return None
    return Description(model.name, model.inputs, tuple(layers), tuple(used.values()), places.document.source)


def _tables(container: Any, most: int) -> Iterator[tuple[str | int, dict[str, Any]]]:
    """The first tables in a table or in a list, if it is one."""
    pairs: Iterable[tuple[str | int, Any]] = ()
    if isinstance(container, dict):
        pairs = container.items()
    elif isinstance(container, list):
        pairs = enumerate(container)
    return ((key, table) for key, table in islice(pairs, most) if isinstance(table, dict))


def _layer(
    table: dict[str, Any], width: int, cells: Mapping[str, Cell | None], places: Places, mistakes: Mistakes
) -> Layer | None:
    """The layer of a table, `width` features being what comes in."""
    kinds = [kind for kind in table if kind in _LAYERS and not (kind == "dropout" and "cell" in table)]
    if len(kinds) != 1:
        _reject_kind(table, kinds, cells, places, mistakes)
        return None
    layer = _validated(_LAYERS[kinds[0]], table, places, mistakes)
    cell = None
    if isinstance(table.get("cell"), str):
        cell = _find_cell(table["cell"], cells, places.value("cell"), mistakes)
    match layer:
        case _DropoutLayer():
            return DropoutLayer(layer.dropout)
        case _DenseLayer():
            return DenseLayer(width, layer.dense, layer.bias)
        case _CellLayer():
            _check_heads(layer, cell, places, mistakes)
            _check_keys(layer, places, mistakes)
            if cell:
                _check_bias(layer, cell, places, mistakes)
                _check_layer_init(layer, cell, places, mistakes)
                cell = _with_activations(cell, layer.activations, places, mistakes)
            init = {name: _as_float(value) for name, value in layer.init.items()}
            options = layer.model_dump(exclude={"cell", "activations"}) | {"init": init}
            return cell and CellLayer(cell, width, **options)
    return None


def _reject_kind(
    table: dict[str, Any], kinds: list[str], cells: Mapping[str, Cell | None], places: Places, mistakes: Mistakes
) -> None:
    if kinds:
        first, second, *_ = kinds
        message = f"This layer is of two kinds, '{first}' and '{second}'."
        hint = "put each kind of layer under a [[layers]] of its own."
        mistakes.add("unknown-layer", message, places.key(second), "a second kind", hints=(hint,))
        return
    # The key that was meant for the kind, if there is one: first those for which a remedy is known.
    keys = [key for key in table if all(key not in _keys_of(schema, (key,)) for schema in _LAYERS.values())]
    remedies = ((key, _kind_meant(key, table[key], {*cells, *library()})) for key in keys if not mistakes.enough)
    if keys:
        key, hint = next((pair for pair in remedies if pair[1]), (keys[0], _KINDS))
        mistakes.add("unknown-layer", f"There is no kind of layer {key!a}.", places.key(key), "unknown", hints=(hint,))
        return
    mistakes.add("unknown-layer", "This layer has no kind.", places.value(), hints=(_KINDS,))


_KINDS = "a layer has one of the keys cell, dropout and dense."


def _kind_meant(key: str, value: Any, cells: Collection[str]) -> str | None:
    """The hint for a key that stands where the kind of a layer should."""
    if hint := idioms.LAYER_KINDS.get(key.lower()) or did_you_mean(key, _LAYERS):
        return hint
    names = [name.lower() for name in (key, value) if isinstance(name, str)]
    return next((f'a layer names its cell: cell = "{name}"' for name in names if name in cells), None)


def _find_cell(name: str, cells: Mapping[str, Cell | None], span: Span | None, mistakes: Mistakes) -> Cell | None:
    if name in cells:
        return cells[name]
    if name in library():
        return _library_cell(name)
    hint = did_you_mean(name.rpartition(".")[2], [*cells, *library()]) or f"the library has {', '.join(library())}."
    message = f"There is no cell {name!a} in this file or in the library."
    note = "a cell of another file is not found from here; copied to this one, it stands under [cells.NAME]."
    mistakes.add("unknown-cell", message, span, notes=(note,), hints=(hint,))
    return None


def _check_heads(layer: _CellLayer, cell: Cell | None, places: Places, mistakes: Mistakes) -> None:
    if layer.hidden % layer.heads:
        message = f"The {layer.hidden} hidden units cannot be divided evenly among {layer.heads} heads."
        mistakes.add("not-divisible", message, places.value("heads"))
    elif layer.heads > 1 and cell and not any(parameter.heads for parameter in cell.parameters):
        message = f"The cell '{cell.name}' has no block-diagonal parameter, so it has no heads."
        hint = "leave the key out, or give heads = true to a parameter of the cell."
        mistakes.add("no-heads", message, places.key("heads"), hints=(hint,))


def _check_keys(layer: _CellLayer, places: Places, mistakes: Mistakes) -> None:
    """Keys of a layer that cannot stand together."""
    if layer.reverse and layer.bidirectional:
        message = "A bidirectional layer runs in both directions, so it cannot also be reversed."
        mistakes.add("conflict", message, places.key("reverse"), hints=("leave out one of the two keys.",))
    if layer.dropout and layer.num_layers == 1:
        message = "This dropout would do nothing: it stands between the layers of num_layers, and there is one."
        hint = "for a dropout behind this layer, put the key under a [[layers]] of its own."
        mistakes.add("no-effect", message, places.key("dropout"), hints=(hint,))
    if layer.proj_size >= layer.hidden:
        message = f"'proj_size' must be smaller than 'hidden': from 0 to {layer.hidden - 1}, not {layer.proj_size}."
        mistakes.add("out-of-range", message, places.value("proj_size"), "out of range")


def _check_bias(layer: _CellLayer, cell: Cell, places: Places, mistakes: Mistakes) -> None:
    if layer.bias or any(parameter.bias for parameter in cell.parameters):
        return
    message = f"The cell '{cell.name}' has no biases, so this would do nothing."
    hint = "leave the key out, or write bias = true in the table of a parameter that is one."
    mistakes.add("no-effect", message, places.key("bias"), hints=(hint,))


def _check_layer_init(layer: _CellLayer, cell: Cell, places: Places, mistakes: Mistakes) -> None:
    """The layer's initialisers are of parameters or of blocks of its cell."""
    owners = {parameter.name: parameter for parameter in cell.parameters}
    owners |= {block: parameter for parameter in cell.parameters for block in parameter.blocks}
    if layer.proj_size:
        owners[PROJECTION] = Parameter(PROJECTION, ("hidden", "hidden"), (PROJECTION,), ("uniform",))
    for name, init in layer.init.items():
        parameter = owners.get(name)
        rank = len(parameter.shape) if parameter else 2
        _check_initialiser(init, rank, places.value("init", name), mistakes)
        if parameter is None:
            known = dict.fromkeys(parameter.name for parameter in owners.values())
            hint = did_you_mean(name, owners) or f"its parameters are {', '.join(known)}."
            message = f"The cell '{cell.name}' has no parameter and no block {name!a}."
            mistakes.add("unknown-block", message, places.key("init", name), hints=(hint,))
        elif parameter.bias and not layer.bias:
            message = f"This layer has no biases, and {name!a} is one."
            hint = "leave it out here, or leave out bias = false."
            mistakes.add("conflict", message, places.key("init", name), hints=(hint,))


def _with_activations(cell: Cell, chosen: Mapping[str, str], places: Places, mistakes: Mistakes) -> Cell:
    """The cell with other functions; its name becomes its own in `_named_apart`."""
    functions = _activations(chosen, places, mistakes)
    for name in chosen:
        if name not in cell.activations:
            known = ", ".join(cell.activations)
            hint = did_you_mean(name, cell.activations) or (known and f"its activations are {known}.")
            hint = hint or f'in the cell, write activations = {{ {name} = "tanh" }} and {name}(...) in an equation.'
            message = f"The cell '{cell.name}' has no activation {name!a}."
            mistakes.add("unknown-activation", message, places.key("activations", name), hints=(hint,))
            return cell
    functions = cell.activations | functions
    if functions == cell.activations:
        return cell

    def silent(*_: object) -> None:
        """Mistakes in the equations have been reported with the cell."""

    step = parse_step(cell.places.table["step"], silent, functions)
    return replace(cell, activations=functions, equations=tuple(step.equations))


def _as_described(names: set[str], cells: Mapping[str, Cell | None]) -> dict[str, Cell]:
    """The cells of this file or of the library that have these names."""
    own = {name: cell for name, cell in cells.items() if cell and name in names}
    return {name: _library_cell(name) for name in names if name in library()} | own


def _named_apart(layers: list[Layer | None], others: Mapping[str, Cell], model: Any) -> list[Layer | None]:
    """The layers with a name and a class for each cell whose functions are not those of its description, which
    `others` has by its name.
    """
    taken = {name for cell in others.values() for name in (cell.name, cell.class_name)}
    taken |= {class_name_of(model)} if isinstance(model, str) else set()
    made: dict[tuple[str, ...], Cell] = {}

    def named(cell: Cell) -> Cell:
        key = (cell.name, *cell.activations.values())
        if cell.activations == others[cell.name].activations:
            return cell
        for number in count(1) if key not in made else ():
            words = (*cell.activations.values(), *([str(number)] if number > 1 else []))
            name, class_name = "_".join((cell.name, *words)), cell.class_name + class_name_of("_".join(words))
            if taken.isdisjoint((name, class_name)):
                taken.update((name, class_name))
                made[key] = replace(cell, name=name, class_name=class_name)
                break
        return made[key]

    return [replace(layer, cell=named(layer.cell)) if isinstance(layer, CellLayer) else layer for layer in layers]


def _check_time(layers: list[Layer | None], places: Places, mistakes: Mistakes) -> None:
    """A layer that gives its last step alone leaves no time for a recurrent layer behind it."""
    last_only = None
    for number, layer in enumerate(layers):
        if not isinstance(layer, CellLayer):
            continue
        if last_only is not None:
            message = f"Layer {number + 1} is recurrent, and layer {last_only + 1} before it gives its last step alone."
            hint = "leave out last_only there; only the last recurrent layer can have it."
            mistakes.add("no-time", message, places.key("layers", last_only, "last_only"), hints=(hint,))
        last_only = number if layer.last_only else None


def _check_size(layers: list[Layer | None], places: Places, mistakes: Mistakes) -> None:
    counts = [_parameter_count(layer) for layer in layers]
    if sum(counts) > MOST_PARAMETERS:
        largest = counts.index(max(counts))
        message = f"The model has {sum(counts):,} parameters; at most {MOST_PARAMETERS:,} are allowed."
        notes = (f"they would take {4 * sum(counts) / 2**30:,.0f} GiB in float32.",)
        key = "dense" if isinstance(layers[largest], DenseLayer) else "hidden"
        label = f"{counts[largest]:,} of them are here"
        mistakes.add("too-large", message, places.value("layers", largest, key), label, notes=notes)


def _parameter_count(layer: Layer | None) -> int:
    match layer:
        case DenseLayer():
            return layer.outputs * (layer.inputs + layer.bias)
        case CellLayer():
            first, later = (_cell_count(layer, inputs) for inputs in (layer.inputs, layer.outputs))
            return layer.directions * (first + (layer.num_layers - 1) * later)
    return 0


def _cell_count(layer: CellLayer, inputs: int) -> int:
    """The parameters of one direction of one of its layers. With a projection, matrices that are applied to the
    projected state have fewer columns than this counts.
    """
    sizes = {"hidden": layer.hidden, "inputs": inputs}
    return layer.proj_size * layer.hidden + sum(
        len(parameter.blocks)
        * math.prod(sizes[dimension] for dimension in parameter.shape)
        // (layer.heads if parameter.heads else 1)
        for parameter in layer.cell.parameters
        if layer.bias or not parameter.bias
    )


def _check_operations(cells: list[Cell], mistakes: Mistakes) -> None:
    """The passes take time for each operation, however short the text is in which it was written.

    A cell counts once for each choice of its activations.
    """
    count = 0
    for cell in cells:
        for equation in cell.equations:
            count += sum(bool(part.operands) for part in equation.expression.parts())
            if count > MOST_OPERATIONS:
                message = f"The equations of this file have more than {MOST_OPERATIONS:,} operations."
                span = cell.places.text(equation.offset, len(equation.target))
                source = cell.places.document.source
                mistakes.add("too-large", message, span, "the limit is passed here", source=source)
                return


# ---- A cell ----


def _cell(name: Any, schema: type[_CellTable], data: dict[str, Any], places: Places, mistakes: Mistakes) -> Cell | None:
    table = _validated(schema, data, places, mistakes)
    span = places.value("name") if schema is _CellFile else places.key()
    if isinstance(name, str):
        _check_name(name, "cell", span, mistakes)
    activations = _activations(data.get("activations"), places, mistakes)
    step = _step(data.get("step"), activations, places, mistakes)
    if table is None:
        return None
    class_name = table.class_name or class_name_of(name)
    _check_class(class_name, name, table, places, span, mistakes)
    names = _claim_names(name, table, [*step.equations, *step.faulty], places, mistakes)
    cell = Cell(
        name,
        class_name,
        table.about,
        tuple(table.states),
        table.output or f"{table.states[0]}'",
        table.constants,
        activations,
        tuple(step.equations),
        tuple(_parameter(name, entry, places, mistakes) for name, entry in table.parameters.items()),
        places,
    )
    if any(step) and all(map(_NAME.fullmatch, names)):  # what was meant by a bad name is not called unknown as well
        check_names(cell, step, mistakes)
    return cell


def _check_class(
    class_name: str, cell: str, table: _CellTable, places: Places, name_span: Span, mistakes: Mistakes
) -> None:
    if not table.class_name:
        if _is_reserved(class_name, "class"):
            message = f"The class of this cell would be called '{class_name}', and this name is reserved."
            hint = f'add a line: class = "My{class_name}"'
            mistakes.add("reserved-name", message, name_span, hints=(hint,))
        return
    _check_name(class_name, "class", places.value("class"), mistakes)
    if _is_part(class_name, cell):
        message = f"The name '{class_name}' is that of a function of this cell."
        mistakes.add("reserved-name", message, places.value("class"), hints=("give it another name.",))


def class_name_of(name: str) -> str:
    """The class of a cell or model that names none: `leaky_unit` becomes `LeakyUnit`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _activations(table: Any, places: Places, mistakes: Mistakes) -> dict[str, str]:
    """The functions of a table of activations by their names there, one of ours in the place of one that is none."""
    found = {}
    for name, function in islice(table.items() if isinstance(table, dict) else (), MOST_ACTIVATIONS):
        found[name] = "tanh"
        if not isinstance(function, str):
            continue  # `_validated` says so
        span = places.value("activations", name)
        if function not in FUNCTIONS:
            hint = _activation_meant(function)
            mistakes.add("unknown-function", f"There is no function {function!a}.", span, "unknown", hints=(hint,))
        elif function not in _ACTIVATIONS:
            message = f"An activation has one argument, and '{function}' takes {OPS[function].arity}."
            mistakes.add("wrong-arity", message, span, hints=("write the function itself into the equations.",))
        else:
            found[name] = function
    return found


def _activation_meant(function: str) -> str:
    """The hint for a function of a table of activations that is none of ours."""
    name = function.lower()
    if (renamed := idioms.RENAMED.get(name)) in _ACTIVATIONS:
        return f"here it is called {renamed}."
    if renamed:
        return f"here it is called {renamed}, and takes {OPS[renamed].arity} arguments: write it into the equations."
    if written := idioms.WRITTEN_OUT.get(name):
        letters = sorted({part.name for part in parse_expression(written).names()})
        return f"{function}({', '.join(letters)}) is {written}, to be written into the equations."
    known = f"the functions of one argument are {', '.join(_ACTIVATIONS)}."
    return idioms.ABSENT.get(name) or did_you_mean(function, _ACTIVATIONS) or known


def _step(text: Any, activations: dict[str, str], places: Places, mistakes: Mistakes) -> Step:
    if not isinstance(text, str):
        return Step([], [], set())

    def report(code: str, message: str, offset: int, length: int, label: str = "", *hints: str) -> None:
        mistakes.add(code, message, places.text(offset, length), label, hints=hints)

    before = len(mistakes)
    step = parse_step(text, report, activations)
    if not step.equations and len(mistakes) == before:
        hint = "write one equation a line, one of them for the new value of each state."
        mistakes.add("no-equations", "The step has no equations.", places.value("step"), hints=(hint,))
    return step


def _parameter(name: str, table: _ParameterTable, places: Places, mistakes: Mistakes) -> Parameter:
    if table.heads and table.shape != ["hidden", "hidden"]:
        message = f"A block-diagonal parameter is hidden by hidden, and '{name}' is not."
        hint = 'write shape = ["hidden", "hidden"], or leave out heads.'
        mistakes.add("wrong-shape", message, places.value("parameters", name, "shape"), hints=(hint,))
    inits = _initialisers(name, table, places, mistakes)
    bias = name in ("b", "bias") or name.startswith("bias_") if table.bias is None else table.bias
    return Parameter(name, tuple(table.shape), tuple(table.blocks), inits, table.heads, bias)


def _initialisers(name: str, table: _ParameterTable, places: Places, mistakes: Mistakes) -> tuple[str | float, ...]:
    """The initialiser of each block."""
    path = ("parameters", name, "init")
    if not isinstance(table.init, dict):
        _check_initialiser(table.init, len(table.shape), places.value(*path), mistakes)
        return (_as_float(table.init),) * len(table.blocks)
    for block, init in table.init.items():
        _check_initialiser(init, len(table.shape), places.value(*path, block), mistakes)
        if block not in table.blocks:
            hint = did_you_mean(block, table.blocks) or f"its blocks are {', '.join(table.blocks)}."
            message = f"The parameter '{name}' has no block {block!a}."
            mistakes.add("unknown-block", message, places.key(*path, block), hints=(hint,))
    return tuple(_as_float(table.init.get(block, "uniform")) for block in table.blocks)


def _as_float(init: Any) -> Any:
    """A number of an initialiser, which has no more digits than torch can take; anything else as it is."""
    return float(init) if type(init) is int and abs(init) <= LARGEST else init


def _check_initialiser(init: Any, rank: int, span: Span | None, mistakes: Mistakes) -> None:
    if isinstance(init, int | float) and not isinstance(init, bool):
        if not -LARGEST <= init <= LARGEST:
            mistakes.add("out-of-range", f"'init' must be {_FLOAT32}, not {init}.", span)
    elif not isinstance(init, str):
        message = f"'init' must be the name of an initialiser or a number, not {_kind(init)}."
        mistakes.add("wrong-type", message, span, _WRONG_TYPE)
    elif init not in INITIALISERS:
        hint = did_you_mean(init, INITIALISERS) or f"the initialisers are {', '.join(INITIALISERS)}."
        mistakes.add("wrong-value", f"There is no initialiser {init!a}.", span, "unknown", hints=(hint,))
    elif init in _MATRIX_INITIALISERS and rank < 2:
        message = f"The initialiser '{init}' is for matrices only."
        hint = "for a vector or a scalar, use uniform, zeros, ones or a number."
        mistakes.add("wrong-value", message, span, "not for this shape", hints=(hint,))


# ---- Names ----

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_ACTIVATIONS = sorted(name for name, op in FUNCTIONS.items() if op.arity == 1)
# Words that an equation, or the function it becomes, has another meaning for.
_WORDS = frozenset(keyword.kwlist) | FUNCTIONS.keys() | {"print", "range", "self", "state", "tl", "torch", "x"}
_WORDS |= {PROJECTION}
_IMPORTED = PUBLISHED.keys() | {"torch", "nn", "F"}
# No file can have these names on some systems; a module is a file.
_DEVICES = {"aux", "con", "nul", "prn"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
# What a file would hide beside the standard library: torch and what it imports, and what rnngen does.
_IMPORTED_BY_TORCH = frozenset(
    """
    annotated_types click distutils filelock fsspec functorch jinja2 markupsafe mpmath networkx numpy packaging
    pkg_resources psutil pydantic pydantic_core rnngen scipy setuptools sympy torch torchgen triton typing_extensions
    typing_inspection
    """.split()
)
_RUN_UNASKED = {
    re.compile(pattern, re.IGNORECASE): program  # a file is found by another case on some systems
    for pattern, program in {
        "sitecustomize|usercustomize": "Python runs it at every start",
        r"conftest|test_\w*|\w+_test": "pytest runs it",
        "setup": "pip runs it",
        "noxfile": "nox runs it",
        r"jupyter_(\w+_)?config": "Jupyter runs it",
    }.items()
}
# What stands behind a cell's name in the names of its functions, at least as the first word.
_PARTS = ("step", "adjoint", "gradients", "scan", "masked", "run", "equations", "reference", *SCHEDULE_NAMES)


def _check_name(name: str, kind: str, span: Span | None, mistakes: Mistakes) -> None:
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 40 else name[:37] + "..."
        points = dict.fromkeys(f"U+{ord(char):04X}" for char in name if not char.isascii())
        note = f"it holds {', '.join(list(points)[:4])}." if points else None
        hint = "a name is an ASCII letter, then at most 63 ASCII letters, digits or underscores."
        message = f"{shown!a} cannot be the name of a {kind}."
        mistakes.add("bad-name", message, span, notes=(note,), hints=(hint,))
    elif _is_reserved(name, kind):
        hint = f"call it {'my_' if kind != 'class' else 'My'}{name}, or something else."
        note = _taken_by(name) if kind in ("cell", "model") else None
        mistakes.add("reserved-name", f"The name '{name}' is reserved.", span, notes=(note,), hints=(hint,))


def _taken_by(name: str) -> str | None:
    """Why no file that Python may find can be called so."""
    for names, program in _RUN_UNASKED.items():
        if names.fullmatch(name):
            return f"{program}, wherever a file {name}.py lies."
    if name in sys.stdlib_module_names or name in _IMPORTED_BY_TORCH:
        return f"the file {name}.py would hide a module that Python or torch imports."
    return None


def _is_reserved(name: str, kind: str) -> bool:
    if kind == "model" and (class_name_of(name) in _IMPORTED or keyword.iskeyword(class_name_of(name))):
        return True
    if kind in ("cell", "model"):
        return _taken_by(name) is not None or name in _WORDS | _IMPORTED or name.lower() in _DEVICES
    return name in _IMPORTED or keyword.iskeyword(name) if kind == "class" else name in _WORDS


def _claim_names(
    cell: str, table: _CellTable, equations: list[Assignment], places: Places, mistakes: Mistakes
) -> Iterable[str]:
    """Every name of a cell means one thing. An equation of two meanings is found by `check_names`.

    Gives the names, but those of states with a prime.
    """
    owners: dict[str, str] = {}

    def claim(name: str, kind: str, span: Span | None) -> None:
        _check_name(name, kind, span, mistakes)
        if _is_part(name, cell):
            message = f"The name '{name}' is that of a function of this cell."
            mistakes.add("reserved-name", message, span, hints=("give it another name.",))
        if name in owners:
            article = "an" if owners[name][0] in "aeiou" else "a"
            message = f"'{name}' is already the name of {article} {owners[name]} of this cell."
            mistakes.add("duplicate-name", message, span, "second use", hints=("give it another name.",))
        owners[name] = kind

    for number, state in enumerate(table.states):
        claim(state, "state", places.value("states", number))
    for name in table.constants:
        claim(name, "constant", places.key("constants", name))
    for name in table.activations:
        claim(name, "activation", places.key("activations", name))
    for name in table.parameters:
        claim(name, "parameter", places.key("parameters", name))
    for name, parameter in table.parameters.items():
        for number, block in enumerate(parameter.blocks):
            if [block] != parameter.blocks or block != name:  # a parameter of one block may share its name
                claim(block, "block", places.value("parameters", name, "blocks", number))
    targets = {equation.target: equation.offset for equation in equations}
    for target, offset in targets.items():
        if not target.endswith("'") and target not in owners and target != "x":  # `check_names` says what x is
            claim(target, "value", places.text(offset, len(target)))
    return owners.keys()


def _is_part(name: str, cell: str) -> bool:
    """Whether a generated module may have a function of this name for the cell."""
    return name.startswith(f"{cell}_") and name.removeprefix(f"{cell}_").split("_")[0] in _PARTS


def _check_clashes(model: Any, cells: Iterable[Cell], places: Places, mistakes: Mistakes) -> None:
    """A module has one of each name at its top."""
    cells = list(cells)
    owners: dict[str, str] = {class_name_of(model): "the model"} if isinstance(model, str) else {}
    for cell in cells:
        span = places.key("cells", cell.name)
        if owner := owners.get(cell.class_name):
            message = f"The cell '{cell.name}' and {owner} would both be a class '{cell.class_name}'."
            hint = "give the cell a class of another name, with the key class."
            mistakes.add("duplicate-name", message, span, hints=(hint,))
        owners.setdefault(cell.class_name, f"the cell '{cell.name}'")
        for other in cells:
            for name in (cell.name, cell.class_name):
                if _is_part(name, other.name):
                    message = f"The cell '{other.name}' has a function whose name begins with '{name}'."
                    mistakes.add("reserved-name", message, span, hints=("give this cell another name.",))


# ---- From pydantic's errors to ours ----

_WRONG_TYPE = "wrong type"
_WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}


def _validated(schema: type[_Table], data: dict[str, Any], places: Places, mistakes: Mistakes) -> Any:
    """The table as a record, or None if it has mistakes. A key that is written wrong is not called missing
    as well.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        strangers: dict[KeyPath, list[str]] = defaultdict(list)
        for fault in faults[:MOST_MISTAKES]:
            if fault["type"] == "extra_forbidden":
                strangers[fault["loc"][:-1]].append(str(fault["loc"][-1]))
        swallowed = _swallowed(schema, data)
        for fault in faults:
            *table, key = fault["loc"]
            misspelt = fault["type"] == "missing" and any(
                did_you_mean(name, [key]) or f"'{key}'" in (_misplaced(schema, (*table, name), None) or "")
                for name in strangers[tuple(table)]
            )
            if table == ["parameters"] and key in swallowed:
                message = f"'{key}' stands in the table of the parameters, where every key is a parameter."
                hint = "move it above the line [parameters]: a table goes on until the next one begins."
                mistakes.add("misplaced-key", message, places.key("parameters", key), hints=(hint,))
            elif not misspelt and not (fault["type"] == "missing" and not table and key in swallowed):
                _add_schema_mistake(schema, fault, places, mistakes)
        return None


def _swallowed(schema: type[_Table], data: dict[str, Any]) -> set[str]:
    """Keys of a cell that its file has behind the line [parameters], so that TOML takes them for parameters."""
    parameters = data.get("parameters")
    inside = parameters if isinstance(parameters, dict) else {}
    return {key for key in schema.model_fields if key in inside and not isinstance(inside[key], dict)}


def _add_schema_mistake(schema: type[_Table], fault: Mapping[str, Any], places: Places, mistakes: Mistakes) -> None:
    kind, path, given, context = fault["type"], fault["loc"], fault["input"], fault.get("ctx", {})
    span = places.value(*path)
    subject = f"Entry {path[-1] + 1} of '{path[-2]}'" if isinstance(path[-1], int) else f"{path[-1]!a}"
    match kind:
        case "extra_forbidden":
            known = _keys_of(schema, path)
            hint = (
                _misplaced(schema, path, given)
                or did_you_mean(path[-1], known)
                or f"the keys here are {', '.join(known)}."
            )
            message = f"There is no key {subject} in {_title((*places.path, *path[:-1]))}."
            mistakes.add("unknown-key", message, places.key(*path), "unknown", hints=(hint,))
        case "missing":
            message = f"The key '{path[-1]}' is missing from {_title((*places.path, *path[:-1]))}."
            example = _EXAMPLES.get(path[-1]) or f'blocks = ["{path[-2]}"]'  # one block may share the parameter's name
            hint = f"add {'to it' if places.inline(*path) else 'a line'}: {example}"
            mistakes.add("missing-key", message, places.key(*path), hints=(hint,))
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            hint = did_you_mean(given, choices) if isinstance(given, str) else None
            if "shape" in path and not isinstance(given, str):
                hint = 'write "hidden" or "inputs"; the sizes are given when a layer is made.'
            message = f"{subject} must be {context['expected']}."
            mistakes.add("wrong-value", message, span, "not one of these", hints=(hint,))
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
            message = f"{subject} must be {_WANTED[kind]}, not {_kind(given)}."
            mistakes.add("wrong-type", message, span, _WRONG_TYPE, hints=(_rewritten(kind, path[-1], given),))


def _misplaced(schema: type[_Table], path: KeyPath, given: Any) -> str | None:
    """The hint for a key that belongs elsewhere, or is called otherwise here."""
    (*table, key) = path
    if table:
        return None
    elsewhere = None
    if schema is _ModelFile:
        if key == "cell" and isinstance(given, dict):
            return "did you mean 'cells'?"
        elsewhere = idioms.MODEL_KEYS.get(key.lower())
    elif schema is _CellLayer:
        elsewhere = idioms.LAYER_KEYS.get(key.lower())
    elif issubclass(schema, _CellTable):
        elsewhere = idioms.CELL_KEYS.get(key.lower())
    if elsewhere:
        return elsewhere
    if schema in (_ModelFile, _CellTable) and key in _CellLayer.model_fields:
        return "it belongs to a layer, below a line [[layers]]."
    if schema in (_ModelFile, _CellTable) and (hint := idioms.LAYER_KEYS.get(key.lower())):
        return f"it belongs to a layer, below a line [[layers]]; {hint}"
    if example := (_ARGUMENTS if schema is _CellFile else _MODEL_ARGUMENTS).get(key):
        return f"it is an argument of the class that comes out, in Python: {example}"
    if key == "name" and schema is _CellTable:
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
        case (*_, name):
            return f"the cell {name!a}"


def _keys_of(schema: type[_Table], path: KeyPath) -> list[str]:
    """The keys that the table has in which the last key of a path stands."""
    table = _ParameterTable if len(path) > 1 else schema
    return [info.alias or name for name, info in table.model_fields.items()]


def _range(schema: type[_Table], path: KeyPath) -> str:
    """What the numbers of a key must be. Keys within keys have no limits but those of float32."""
    limits = [m for m in schema.model_fields[path[0]].metadata if hasattr(m, "ge") or hasattr(m, "le")]
    if len(path) > 1 or not limits:
        return _FLOAT32
    low = next(m.ge for m in limits if hasattr(m, "ge"))
    high = next(m.le for m in limits if hasattr(m, "le"))
    return f"from {low} to {high}"


_FLOAT32 = f"a finite number of float32, at most {LARGEST:.7e}"


def _kind(value: Any) -> str:
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
    if key == "layers" and isinstance(given, dict):
        return "write [[layers]], in double brackets, above the keys of each layer."
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"write {int(given)}, without a point."
    if kind in ("int_type", "float_type") and isinstance(given, str) and re.fullmatch(r"[0-9.]{1,20}", given):
        return f"write {given}, without the quotes."
    if kind == "list_type" and isinstance(given, str):
        return "write it in square brackets."
    return None
