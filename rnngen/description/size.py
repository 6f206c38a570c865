"""How large a description is: its parameters and its operations, and how many of them are too many."""

import math
from collections.abc import Mapping

from rnngen.cell import Cell
from rnngen.description.records import CellLayer, DenseLayer, Layer
from rnngen.document import Places
from rnngen.equations import Assignment
from rnngen.errors import Mistakes
from rnngen.lag import delay_lines

MOST_PARAMETERS = 2**31  # elements of a whole model
MOST_OPERATIONS = 384  # in the equations of a file; a compile takes more than a millisecond for each


def check_size(layers: list[Layer | None], places: Places, mistakes: Mistakes) -> None:
    """Reports a stack that has more parameters than a machine will hold."""
    counts = [parameter_count(layer) for layer in layers]
    if sum(counts) > MOST_PARAMETERS:
        largest = counts.index(max(counts))
        message = f"The model has {sum(counts):,} parameters; at most {MOST_PARAMETERS:,} are allowed."
        notes = (f"they would take {4 * sum(counts) / 2**30:,.0f} GiB in float32.",)
        key = "dense" if isinstance(layers[largest], DenseLayer) else "hidden"
        label = f"{counts[largest]:,} of them are here"
        mistakes.add("too-large", message, places.value("layers", largest, key), label, notes=notes)


def parameter_count(layer: Layer | None) -> int:
    """The elements of all parameters of a layer, at least."""
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
    sizes = layer.widths | {"inputs": inputs}
    return layer.proj_size * layer.given_on + sum(
        len(parameter.blocks)
        * math.prod(sizes[dimension] for dimension in parameter.shape)
        // (layer.heads if parameter.heads else 1)
        for parameter in layer.cell.parameters
        if layer.bias or not parameter.bias
    )


def check_operations(cells: list[Cell], mistakes: Mistakes) -> None:
    """The passes take time for each operation, however short the text is in which it was written.

    A cell counts once for each choice of its activations and wrappers, an operation once for each block, a lag once for
    each state of its line.
    """
    count = 0
    for cell in cells:
        blocks, delayed = _blocks(cell), dict[str, int]()
        for equation in cell.equations:
            operations = sum(bool(part.operands) for part in equation.expression.parts())
            lines = {stem: steps for stem, (steps, _) in delay_lines(cell, [equation]).items()}
            count += operations * _most(equation, blocks)
            count += sum(max(steps - delayed.get(stem, 0), 0) for stem, steps in lines.items())
            delayed |= {stem: max(steps, delayed.get(stem, 0)) for stem, steps in lines.items()}
            if count > MOST_OPERATIONS:
                message = f"The equations of this file have more than {MOST_OPERATIONS:,} operations."
                note = "each state that lag makes counts as one." if delayed else None
                place, source = cell.place_of(equation), cell.places.document.source
                mistakes.add("too-large", message, place, "the limit is passed here", notes=(note,), source=source)
                return


def _blocks(cell: Cell) -> dict[str, int]:
    """Of each name that may stand for several blocks how many, at most: parameters, and what is made of such names."""
    found = {parameter.name: len(parameter.blocks) for parameter in cell.parameters if len(parameter.blocks) > 1}
    waiting = [equation for equation in cell.equations if len(equation.targets) == 1] if found else []
    while True:
        known = {equation.targets[0]: most for equation in waiting if (most := _most(equation, found)) > 1}
        if known.items() <= found.items():
            return found
        found |= known


def _most(equation: Assignment, blocks: Mapping[str, int]) -> int:
    return max((blocks.get(name.name, 1) for name in equation.expression.names()), default=1)
