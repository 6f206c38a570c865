"""A layer of a stack: its kind, its cell, and whether its keys can stand together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rnngen import idioms
from rnngen.cell import Cell
from rnngen.description.activations import with_activations
from rnngen.description.cell import library_cell
from rnngen.description.initialisers import as_float, check_initialiser
from rnngen.description.names import PROJECTION
from rnngen.description.rates import described_rates
from rnngen.description.records import CellLayer, DenseLayer, DropoutLayer, Layer
from rnngen.description.tables import LAYERS, DenseTable, DropoutTable, LayerTable
from rnngen.description.validate import keys_of, validated
from rnngen.document import Places
from rnngen.errors import Mistakes, did_you_mean
from rnngen.ir import Parameter
from rnngen.lag import delay_lines
from rnngen.library import library
from rnngen.runtime.drawn import RATES
from rnngen.runtime.memory import memory_of
from rnngen.source import Span
from rnngen.wrappers import WRAPPERS

_KINDS = "a layer has one of the keys cell, dropout and dense."


def described_layer(
    table: dict[str, Any], width: int, cells: Mapping[str, Cell | None], places: Places, mistakes: Mistakes
) -> Layer | None:
    """The layer of a table, `width` features being what comes in."""
    kinds = [kind for kind in table if kind in LAYERS and not (kind == "dropout" and "cell" in table)]
    if len(kinds) != 1:
        _reject_kind(table, kinds, cells, places, mistakes)
        return None
    cell = None
    if isinstance(table.get("cell"), str):
        cell = _find_cell(table["cell"], cells, places.value("cell"), mistakes)
    layer = validated(LAYERS[kinds[0]], table, places, mistakes, _sizes_meant(table, cell) if cell else {})
    match layer:
        case DropoutTable():
            return DropoutLayer(layer.dropout)
        case DenseTable():
            return DenseLayer(width, layer.dense, layer.bias)
        case LayerTable():
            _check_heads(layer, cell, places, mistakes)
            _check_keys(layer, places, mistakes)
            wrappers = _known_wrappers(layer.wrappers, places, mistakes)
            save = memory_of(layer.save)
            rates = described_rates(layer, layer.wrappers, cell, places, mistakes)
            if cell:
                _check_bias(layer, cell, places, mistakes)
                check_init(layer, cell.name, cell.parameters, places, mistakes, more=bool(wrappers))
                _check_sizes(layer, cell, places, mistakes)
                cell = with_activations(cell, layer.activations, places, mistakes)
                spans = tuple(places.value("with", number) for number in range(len(wrappers)))
                cell = replace(cell, wrappers=wrappers, named_at=spans, save=save.kind)
            init = {name: as_float(value) for name, value in layer.init.items()}
            options = layer.model_dump(exclude={"cell", "activations", "wrappers", *RATES})
            options |= {"init": init, "rates": rates, "save": "" if save.kind else layer.save}
            found = CellLayer(cell, width, **options) if cell else None
            if found:
                _check_inputs(found, places, mistakes)
            return found
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
    keys = [key for key in table if all(key not in keys_of(schema, (key,)) for schema in LAYERS.values())]
    if keys:
        known = {*cells, *library()}
        wanted = () if mistakes.enough else keys
        remedies = ((key, meant) for key in wanted if (meant := _kind_meant(key, table[key], known)))
        key, remedy = next(remedies, (keys[0], _KINDS))
        message = f"There is no kind of layer {key!a}."
        mistakes.add("unknown-layer", message, places.key(key), "unknown", hints=(remedy,))
        return
    mistakes.add("unknown-layer", "This layer has no kind.", places.value(), hints=(_KINDS,))


def _kind_meant(key: str, value: Any, cells: Collection[str]) -> str | None:
    """The hint for a key that stands where the kind of a layer should."""
    if hint := idioms.LAYER_KINDS.get(key.lower()) or did_you_mean(key, LAYERS):
        return hint
    names = [name.lower() for name in (key, value) if isinstance(name, str)]
    return next((f'a layer names its cell: cell = "{name}"' for name in names if name in cells), None)


def _sizes_meant(table: dict[str, Any], cell: Cell) -> dict[str, str]:
    """Hints for keys of the layer that are called as sizes of its cell are."""
    numbers = {name: table[name] if type(table.get(name)) is int else size for name, size in cell.sizes.items()}
    return {name: f"it is a size of the cell: sizes = {{ {name} = {size} }}" for name, size in numbers.items()}


def _find_cell(name: str, cells: Mapping[str, Cell | None], span: Span | None, mistakes: Mistakes) -> Cell | None:
    if name in cells:
        return cells[name]
    if name in library():
        return library_cell(name)
    hint = did_you_mean(name.rpartition(".")[2], [*cells, *library()]) or "'rnngen cells' lists the library."
    message = f"There is no cell {name!a} in this file or in the library."
    note = "a cell of another file is not found from here; copied to this one, it stands under [cells.NAME]."
    mistakes.add("unknown-cell", message, span, notes=(note,), hints=(hint,))
    return None


def _known_wrappers(names: Sequence[str], places: Places, mistakes: Mistakes) -> tuple[str, ...]:
    """The names, but those of nothing."""
    for number, name in enumerate(names):
        if name not in WRAPPERS:
            hint = did_you_mean(name, WRAPPERS) or f"the wrappers are {', '.join(WRAPPERS)}."
            message = f"There is no wrapper {name!a}."
            mistakes.add("unknown-wrapper", message, places.value("with", number), hints=(hint,))
    return tuple(name for name in names if name in WRAPPERS)


def _check_heads(layer: LayerTable, cell: Cell | None, places: Places, mistakes: Mistakes) -> None:
    if layer.hidden % layer.heads:
        message = f"The {layer.hidden} hidden units cannot be divided evenly among {layer.heads} heads."
        mistakes.add("not-divisible", message, places.value("heads"))
    elif layer.heads > 1 and cell and not any(parameter.heads for parameter in cell.parameters):
        message = f"The cell '{cell.name}' has no block-diagonal parameter, so it has no heads."
        hint = "leave the key out, or give heads = true to a parameter of the cell."
        mistakes.add("no-heads", message, places.key("heads"), hints=(hint,))


def _check_keys(layer: LayerTable, places: Places, mistakes: Mistakes) -> None:
    """Keys of a layer that cannot stand together."""
    if layer.reverse and layer.bidirectional:
        message = "A bidirectional layer runs in both directions, so it cannot also be reversed."
        mistakes.add("conflict", message, places.key("reverse"), hints=("leave out one of the two keys.",))
    if layer.dropout and layer.num_layers == 1:
        message = "This dropout would do nothing: it stands between the layers of num_layers, and there is one."
        hint = "for a dropout behind this layer, put the key under a [[layers]] of its own."
        mistakes.add("no-effect", message, places.key("dropout"), hints=(hint,))
    steps = [int(number) for number in layer.schedule.split(" ")[1:]]  # of a chunk, and of its warm-up
    if steps != sorted(steps, reverse=True):
        message = f"A warm-up is a part of a chunk, and {steps[1]} steps are more than {steps[0]}."
        mistakes.add("conflict", message, places.value("schedule"), hints=("write the longer one first.",))
    if layer.proj_size >= layer.hidden:
        message = f"'proj_size' must be smaller than 'hidden': from 0 to {layer.hidden - 1}, not {layer.proj_size}."
        mistakes.add("out-of-range", message, places.value("proj_size"), "out of range")


def _check_bias(layer: LayerTable, cell: Cell, places: Places, mistakes: Mistakes) -> None:
    if layer.bias or any(parameter.bias for parameter in cell.parameters):
        return
    message = f"The cell '{cell.name}' has no biases, so this would do nothing."
    hint = "leave the key out, or write bias = true in the table of a parameter that is one."
    mistakes.add("no-effect", message, places.key("bias"), hints=(hint,))


def _check_inputs(layer: CellLayer, places: Places, mistakes: Mistakes) -> None:
    """What is as wide as x by what its cell declares; of other states the shapes are found later."""
    cell = layer.cell
    wide = [f"input '{name}'" for name, shape in cell.inputs.items() if name != "x" and shape == ("inputs",)]
    wide += [f"state '{name}'" for name, shape in cell.states.items() if shape == ("inputs",)]
    shapes = {**cell.inputs, **cell.states}
    wide += [f"state 'lag({name})'" for name in delay_lines(cell, cell.equations) if shapes.get(name) == ("inputs",)]
    check_shared(layer, wide, places, mistakes)


def check_shared(layer: CellLayer, wide: Sequence[str], places: Places, mistakes: Mistakes) -> None:
    """`wide`, what is as wide as x, is one tensor for all layers of num_layers: each needs an x of one width."""
    if wide and layer.num_layers > 1 and layer.outputs != layer.inputs:
        message = f"The {wide[0]} of the cell '{layer.cell.name}' is as wide as x, which these layers do not share."
        note = f"the x of the first has {layer.inputs} features, that of the second {layer.outputs}."
        hint = "put each of them under a [[layers]] of its own, with a cell that fits."
        mistakes.add("conflict", message, places.key("num_layers"), notes=(note,), hints=(hint,))


def _check_sizes(layer: LayerTable, cell: Cell, places: Places, mistakes: Mistakes) -> None:
    """The layer's sizes are those of its cell."""
    for name in layer.sizes:
        if name not in cell.sizes:
            hint = did_you_mean(name, cell.sizes)
            hint = hint or (f"its sizes are {', '.join(cell.sizes)}." if cell.sizes else "leave it out.")
            message = f"The cell '{cell.name}' has no size {name!a}."
            mistakes.add("unknown-name", message, places.key("sizes", name), hints=(hint,))


def check_init(
    layer: LayerTable | CellLayer,
    cell: str,
    parameters: Sequence[Parameter],
    places: Places,
    mistakes: Mistakes,
    more: bool = False,
) -> None:
    """The layer's initialisers are of parameters, or of blocks, of the cell of that name. more: whether it will have
    others too, which wrappers make.
    """
    owners = {parameter.name: parameter for parameter in parameters}
    owners |= {block: parameter for parameter in parameters for block in parameter.blocks}
    if layer.proj_size:
        owners[PROJECTION] = Parameter(PROJECTION, ("hidden", "hidden"), (PROJECTION,), ("uniform",))
    for name, init in layer.init.items():
        parameter = owners.get(name)
        rank = len(parameter.shape) if parameter else 2
        check_initialiser(init, rank, places.value("init", name), mistakes)
        if parameter is None and not more:
            known = dict.fromkeys(parameter.name for parameter in owners.values())
            hint = did_you_mean(name, owners) or f"its parameters are {', '.join(known)}."
            message = f"The cell '{cell}' has no parameter and no block {name!a}."
            mistakes.add("unknown-block", message, places.key("init", name), hints=(hint,))
        elif parameter and parameter.bias and not layer.bias:
            message = f"This layer has no biases, and {name!a} is one."
            hint = "leave it out here, or leave out bias = false."
            mistakes.add("conflict", message, places.key("init", name), hints=(hint,))
