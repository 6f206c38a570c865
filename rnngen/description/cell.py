"""A cell of a file or of the library: its table, its step and its parameters."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from rnngen.cell import Cell, check_names
from rnngen.description.activations import read_activations
from rnngen.description.initialisers import as_float, check_initialiser
from rnngen.description.names import NAME, check_name, claim_names, class_name_of, is_part, is_reserved
from rnngen.description.size import check_operations
from rnngen.description.tables import DIMENSIONS, MOST_OUTPUTS, CellFile, CellTable, ParameterTable
from rnngen.description.validate import WRONG_TYPE, kind_of, validated
from rnngen.document import Places, parse
from rnngen.equations import Step, parse_step
from rnngen.errors import Mistakes, did_you_mean
from rnngen.ir import Parameter
from rnngen.lag import check_lags
from rnngen.library import library
from rnngen.source import Span


def cell_alone(places: Places, mistakes: Mistakes) -> Cell | None:
    """The cell that a file is."""
    data = places.document.data
    cell = described_cell(data.get("name"), CellFile, data, places, mistakes)
    if cell:
        check_operations([cell], mistakes)
    return cell


@cache
def library_cell(name: str) -> Cell:
    """A cell of the library."""
    source = library()[name]
    mistakes = Mistakes(source)
    return mistakes.checked(cell_alone(Places(parse(source), ()), mistakes))


def described_cell(
    name: Any, schema: type[CellTable], data: dict[str, Any], places: Places, mistakes: Mistakes
) -> Cell | None:
    """The cell of a table, by its name."""
    before = len(mistakes)
    table = validated(schema, data, places, mistakes)
    span = places.value("name") if schema is CellFile else places.key()
    if isinstance(name, str):
        check_name(name, "cell", span, mistakes)
    activations = read_activations(data.get("activations"), places, mistakes)
    step = _step(data.get("step"), activations, places, mistakes)
    known = _knows_dimensions(data, places, mistakes)
    if table is None or not known:
        _check_all_initialisers(data.get("parameters"), places, mistakes)
        return None
    class_name = table.class_name or class_name_of(name)
    _check_class(class_name, name, table, places, span, mistakes)
    inputs = _inputs(table, places, mistakes)
    states = _states(table, inputs["x"])
    names = claim_names(name, table, [*step.equations, *step.faulty], places, mistakes)
    cell = Cell(
        name,
        class_name,
        table.about,
        " ".join(table.paper.split()),
        table.year,
        " ".join(table.note.split()),
        states,
        inputs,
        table.sizes,
        _outputs(table, places, mistakes),
        table.constants,
        activations,
        tuple(step.equations),
        tuple(_parameter(name, entry, inputs["x"], places, mistakes) for name, entry in table.parameters.items()),
        places,
    )
    if any(step) and all(map(NAME.fullmatch, names)):  # what was meant by a bad name is not called unknown as well
        check_names(cell, step, mistakes)
        check_lags(cell, (*step.equations, *step.faulty), mistakes)
    if not cell.parameters and len(mistakes) == before:
        message = "This cell has no parameter, and a layer takes its type and its device from those that it has."
        hint = "make a number of the equations one, below [parameters]: a = { shape = [], init = 0.5, trained = false }"
        mistakes.add("no-parameters", message, places.key("parameters"), hints=(hint,))
    return cell


def _check_class(
    class_name: str, cell: str, table: CellTable, places: Places, name_span: Span, mistakes: Mistakes
) -> None:
    if not table.class_name:
        if is_reserved(class_name, "class"):
            message = f"The class of this cell would be called '{class_name}', and this name is reserved."
            hint = f'add a line: class = "My{class_name}"'
            mistakes.add("reserved-name", message, name_span, hints=(hint,))
        return
    check_name(class_name, "class", places.value("class"), mistakes)
    if is_part(class_name, cell):
        message = f"The name '{class_name}' is that of a function of this cell."
        mistakes.add("reserved-name", message, places.value("class"), hints=("give it another name.",))


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


def _states(table: CellTable, x: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The shapes of the states by name. x: the shape of the input."""
    if isinstance(table.states, list):
        return dict.fromkeys(table.states, ("hidden",))
    return {name: _as_wide(entry.shape, x) for name, entry in table.states.items()}


def _as_wide(shape: Iterable[str], x: tuple[str, ...]) -> tuple[str, ...]:
    """A shape whose "inputs" is the width of x, "hidden" where x is as wide as the states."""
    return tuple(x[0] if dimension == "inputs" else dimension for dimension in shape)


def _outputs(table: CellTable, places: Places, mistakes: Mistakes) -> tuple[str, ...]:
    """The equations that are given on."""
    given = table.output
    if isinstance(given, str):
        return (given or f"{next(iter(table.states))}'",)
    if not isinstance(given, list):
        message = f"'output' must be a text or a list of texts, not {kind_of(given)}."
        mistakes.add("wrong-type", message, places.value("output"), WRONG_TYPE)
        return ()
    if not 1 <= len(given) <= MOST_OUTPUTS:
        message = f"'output' must have from 1 to {MOST_OUTPUTS} entries."
        mistakes.add("wrong-length", message, places.value("output"))
    for number, name in enumerate(given):
        if not isinstance(name, str):
            message = f"Entry {number + 1} of 'output' must be a text, not {kind_of(name)}."
            mistakes.add("wrong-type", message, places.value("output", number), WRONG_TYPE)
        elif name in given[:number]:
            message = f"{name!a} is already an output."
            mistakes.add("duplicate-name", message, places.value("output", number), "second use")
    return tuple(name for name in given[:MOST_OUTPUTS] if isinstance(name, str))


def _knows_dimensions(data: dict[str, Any], places: Places, mistakes: Mistakes) -> bool:
    """Whether shapes are made of dimensions that every layer has, and of the cell's sizes, all of which are used.

    data: a table of a cell, which may have other mistakes.
    """
    before = len(mistakes)
    sizes = _table(data, "sizes")
    known, used = (*DIMENSIONS, *sizes), set()
    tables = [(key, *entry) for key in ("states", "parameters") for entry in _table(data, key).items()]
    for key, name, table in tables:
        shape = table.get("shape") if isinstance(table, dict) else None
        for number, dimension in enumerate(shape if isinstance(shape, list) else ()):
            if not isinstance(dimension, str):
                continue
            used.add(dimension)
            if dimension not in known:
                message = f"There is no dimension {dimension!a}: a shape is made of {', '.join(known)}."
                hint = did_you_mean(dimension, known)
                used |= {size for size in sizes if hint and f"'{size}'" in hint}  # what was meant
                if not hint and NAME.fullmatch(dimension):
                    hint = f"a dimension of the cell's own is one of its sizes: sizes = {{ {dimension} = 16 }}"
                span = places.value(key, name, "shape", number)
                mistakes.add("unknown-name", message, span, "unknown", hints=(hint,))
    for name in sizes:
        span = places.key("sizes", name)
        check_name(name, "size", span, mistakes)
        if name not in used:
            hint = f'write it in a shape, as shape = ["{name}", "hidden"], or leave it out.'
            mistakes.add("unused", f"No shape uses the size {name!a}.", span, hints=(hint,))
    return len(mistakes) == before


def _table(data: dict[str, Any], key: str) -> dict[str, Any]:
    """The table of a key, empty if there is none."""
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _inputs(table: CellTable, places: Places, mistakes: Mistakes) -> dict[str, tuple[str, ...]]:
    """The shapes of the inputs by name, x first. One that is as wide as x is hidden wide if x is."""
    shapes: dict[str, tuple[str, ...]] = {name: tuple(entry.shape) for name, entry in table.inputs.items()}
    x = shapes.get("x") or ("inputs",)
    if shapes.get("x") == ():
        message = "The input 'x' is a vector at each step, so it has a width."
        hint = 'write shape = ["inputs"], or ["hidden"] if it is as wide as the states.'
        mistakes.add("wrong-shape", message, places.value("inputs", "x", "shape"), hints=(hint,))
    return {"x": x} | {name: _as_wide(shape, x) for name, shape in shapes.items() if name != "x"}


def _parameter(name: str, table: ParameterTable, x: tuple[str, ...], places: Places, mistakes: Mistakes) -> Parameter:
    """x: the shape of the input, whose width a shape calls "inputs" in any case."""
    if table.heads and table.shape != ["hidden", "hidden"]:
        message = f"A block-diagonal parameter is hidden by hidden, and '{name}' is not."
        hint = 'write shape = ["hidden", "hidden"], or leave out heads.'
        mistakes.add("wrong-shape", message, places.value("parameters", name, "shape"), hints=(hint,))
    inits = _initialisers(name, table, places, mistakes)
    bias = name in ("b", "bias") or name.startswith("bias_") if table.bias is None else table.bias
    blocks, shape = tuple(table.blocks or [name]), _as_wide(table.shape, x)
    return Parameter(name, shape, blocks, inits, table.heads, bias, table.trained)


def _initialisers(name: str, table: ParameterTable, places: Places, mistakes: Mistakes) -> tuple[str | float, ...]:
    """The initialiser of each block."""
    blocks = table.blocks or [name]
    _check_initialisers(name, table.init, len(table.shape), blocks, places, mistakes)
    if not isinstance(table.init, dict):
        return (as_float(table.init),) * len(blocks)
    return tuple(as_float(table.init.get(block, "uniform")) for block in blocks)


def _check_initialisers(name: str, init: Any, rank: int, blocks: list[str], places: Places, mistakes: Mistakes) -> None:
    """blocks: those of the parameter; none where they are not known."""
    path = ("parameters", name, "init")
    if not isinstance(init, dict):
        check_initialiser(init, rank, places.value(*path), mistakes)
        return
    for block, one in init.items():
        check_initialiser(one, rank, places.value(*path, block), mistakes)
        if blocks and block not in blocks:
            hint = did_you_mean(block, blocks) or f"its blocks are {', '.join(blocks)}."
            message = f"The parameter '{name}' has no block {block!a}."
            mistakes.add("unknown-block", message, places.key(*path, block), hints=(hint,))


def _check_all_initialisers(parameters: Any, places: Places, mistakes: Mistakes) -> None:
    """Those of a table of parameters that has other mistakes: what is there of each is looked at."""
    for name, table in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(table, dict) and "init" in table:
            shape, blocks = table.get("shape"), table.get("blocks")
            rank = len(shape) if isinstance(shape, list) else 2  # of which all initialisers are
            known = blocks if isinstance(blocks, list) and all(isinstance(block, str) for block in blocks) else []
            _check_initialisers(name, table["init"], rank, known, places, mistakes)
