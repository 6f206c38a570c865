"""How large a description is: its parameters and its operations, and how many of them are too many."""

import math

from rnngen.cell import Cell
from rnngen.description.records import CellLayer, DenseLayer, Layer
from rnngen.document import Places
from rnngen.errors import Mistakes

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
    return layer.proj_size * layer.hidden + sum(
        len(parameter.blocks)
        * math.prod(sizes[dimension] for dimension in parameter.shape)
        // (layer.heads if parameter.heads else 1)
        for parameter in layer.cell.parameters
        if layer.bias or not parameter.bias
    )


def check_operations(cells: list[Cell], mistakes: Mistakes) -> None:
    """The passes take time for each operation, however short the text is in which it was written.

    A cell counts once for each choice of its activations and wrappers.
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
