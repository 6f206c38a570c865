"""How many products of a matrix with a vector a step of a cell takes: what it costs at the least."""

from math import prod

from rnngen.compile import programs_of
from rnngen.description import describe, library


def products(cell: str, hidden: int) -> float:
    """Of matrices as wide as the layer, which has as many features as units: 8 for an LSTM."""
    (described,) = describe(library()[cell]).cells
    (program,) = programs_of([described], "infer")
    sizes = {"hidden": hidden, "inputs": hidden, **described.sizes}
    values = program.cell.by_name()
    shapes = [values[value.operands[0]].shape for value in program.cell.values if value.op == "matmul"]
    weights = sum(prod(size if isinstance(size, int) else sizes[size] for size in shape) for shape in shapes)
    return weights / hidden**2
