"""A stack of layers, and the cells that its file has for them."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from rnngen.cell import Cell
from rnngen.description.cell import described_cell, library_cell
from rnngen.description.layer import described_layer
from rnngen.description.names import check_clashes, check_name
from rnngen.description.records import CellLayer, DenseLayer, Description, Layer
from rnngen.description.size import check_operations, check_size
from rnngen.description.tables import MOST_CELLS, MOST_LAYERS, CellTable, ModelFile
from rnngen.description.validate import validated
from rnngen.description.variants import named_apart
from rnngen.document import Places
from rnngen.errors import Mistakes
from rnngen.library import library

_Key = TypeVar("_Key", str, str | int)


def described_stack(places: Places, mistakes: Mistakes) -> Description | None:
    """The stack of layers that a file is."""
    data = places.document.data
    model = validated(ModelFile, data, places, mistakes)
    if isinstance(data.get("name"), str):
        check_name(data["name"], "model", places.value("name"), mistakes)
    # What is within a table is looked at even if the file around it has a mistake of its own.
    key = "cells" if "cells" in data else "cell"  # which `validated` calls a mistake, without one for each use
    cells = {
        name: described_cell(name, CellTable, table, Places(places.document, (key, name)), mistakes)
        for name, table in _tables(_items(data.get(key)), MOST_CELLS)
    }
    layers: list[Layer | None] = []
    width = model.inputs if model else 1
    tables = list(_tables(_entries(data.get("layers")), MOST_LAYERS))
    for number, table in tables:
        layer = described_layer(table, width, cells, Places(places.document, ("layers", number)), mistakes)
        layers.append(layer)
        if isinstance(layer, CellLayer | DenseLayer):
            width = layer.outputs
    named = {table["cell"] for _, table in tables if isinstance(table.get("cell"), str)}
    layers = named_apart(layers, _as_described(named, cells), data.get("name"))
    used = {layer.cell.name: layer.cell for layer in layers if isinstance(layer, CellLayer)}
    for name in cells:
        if name not in named:
            hint = f'write cell = "{name}" in a layer, or leave the cell out.'
            mistakes.add("unused", f"No layer uses the cell {name!a}.", places.key(key, name), hints=(hint,))
    _check_time(layers, places, mistakes)
    if model:
        _check_widths(layers, places, mistakes)
        _check_inputs(layers, places, mistakes)
    check_size(layers, places, mistakes)
    own = {name: cell for name, cell in cells.items() if cell}
    chosen = [cell for name, cell in used.items() if name not in named]
    check_operations([*own.values(), *chosen], mistakes)
    check_clashes(data.get("name"), used.values(), places, mistakes)
    found = tuple(layer for layer in layers if layer)
    if model is None or len(found) < len(layers):
        return None
    return Description(model.name, model.inputs, found, tuple(used.values()), places.document.source)


def _items(table: Any) -> Iterable[tuple[str, Any]]:
    """What is in a table, if it is one."""
    return table.items() if isinstance(table, dict) else ()


def _entries(container: Any) -> Iterable[tuple[str | int, Any]]:
    """What is in a list or in a table, if it is one."""
    return enumerate(container) if isinstance(container, list) else _items(container)


def _tables(entries: Iterable[tuple[_Key, Any]], most: int) -> Iterator[tuple[_Key, dict[str, Any]]]:
    """Those of the first entries that are tables."""
    return ((key, table) for key, table in islice(entries, most) if isinstance(table, dict))


def _as_described(names: set[str], cells: Mapping[str, Cell | None]) -> dict[str, Cell]:
    """The cells of this file or of the library that have these names."""
    own = {name: cell for name, cell in cells.items() if cell and name in names}
    return {name: library_cell(name) for name in names if name in library()} | own


def _check_widths(layers: list[Layer | None], places: Places, mistakes: Mistakes) -> None:
    """A cell whose input is as wide as its states takes no other width, in none of its layers."""
    for number, layer in enumerate(layers):
        if layer is None:  # what comes in to the layers behind it is not known
            return
        if not isinstance(layer, CellLayer) or layer.cell.inputs["x"] != ("hidden",):
            continue
        says = f"The input of the cell '{layer.cell.name}' is as wide as its states"
        if layer.inputs != layer.hidden:
            message = f"{says}, and here {layer.inputs} features come in to {layer.hidden} units."
            hint = f"write hidden = {layer.inputs}, or put a layer with dense = {layer.hidden} in front."
            mistakes.add("wrong-width", message, places.value("layers", number, "hidden"), hints=(hint,))
        elif layer.num_layers > 1 and layer.outputs != layer.hidden:
            message = f"{says}, and its second layer would get {layer.outputs} features for {layer.hidden} units."
            key, remedy = "bidirectional", "or write each layer under a [[layers]] of its own."
            key = "proj_size" if layer.proj_size else key
            hint = f"leave out {key} or num_layers, {remedy}"
            if not layer.proj_size and layer.given_on != layer.hidden:
                key = "num_layers"
                hint = f"leave out num_layers, or give the cell one output that is as wide as its states, {remedy}"
            mistakes.add("wrong-width", message, places.key("layers", number, key), hints=(hint,))


def _check_inputs(layers: list[Layer | None], places: Places, mistakes: Mistakes) -> None:
    """What comes in beside x goes by its name to all layers that ask for it, so that it has one width."""
    first: dict[str, tuple[int, int]] = {}  # by its name the layer that asks first, and the width, 0 of a number
    for number, layer in enumerate(layers):
        if layer is None:  # what comes in to the layers behind it is not known
            return
        if not isinstance(layer, CellLayer):
            continue
        widths = {(): 0, ("hidden",): layer.hidden, ("inputs",): layer.inputs}
        for name, shape in layer.cell.inputs.items():
            other, width = first.setdefault(name, (number, widths[shape])) if name != "x" else (number, widths[shape])
            if width != widths[shape]:
                texts = [f"{size} features" if size else "a number" for size in (widths[shape], width)]
                message = f"The input '{name}' is {texts[0]} for this layer and {texts[1]} for layer {other + 1}."
                note = "a call of the stack gives it once, by its name."
                hint = "give them one width, or one of the cells another name for it."
                mistakes.add("wrong-width", message, places.key("layers", number, "cell"), notes=(note,), hints=(hint,))


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
