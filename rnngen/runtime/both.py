"""The two directions of a layer as one scan of twice the units.

A scan may run the second half of its units and heads the other way in time. With the matrices of both directions as the
blocks of block-diagonal ones, a bidirectional layer is such a scan: its programs run at the same time, in one launch,
and what it gives are already the two outputs side by side.
"""

import torch
from torch import Tensor

from rnngen.runtime.cell import Weight


def joined(weight: Weight, first: Tensor, second: Tensor) -> Tensor:
    """A weight of both directions, block by block, as a cell of twice the units has it.

    A matrix that is applied to hidden units, or to earlier inputs, of which each direction has its own, becomes
    block-diagonal, (blocks * 2, hidden, columns).
    """
    dense = not weight.heads and weight.shape[1:] in (("hidden",), ("output",), ("earlier",))
    parts = [tensor.unflatten(0, (len(weight.blocks), *([1] if dense else []), -1)) for tensor in (first, second)]
    return torch.stack(parts, dim=1).flatten(0, 2)


def side_by_side(states: Tensor) -> Tensor:
    """The states of both directions, (2, batch, hidden), as one of twice the units."""
    return states.transpose(0, 1).flatten(1)


def half(row: Tensor, blocks: int, which: int) -> Tensor:
    """A view of one direction, 0 or 1, of (..., blocks * 2 * hidden): (..., blocks, hidden)."""
    view: Tensor = row.unflatten(-1, (blocks, 2, -1))
    return view.select(-2, which)


def half_of_parameter(parameter: Tensor, units: int, which: int) -> Tensor:
    """One direction of what `joined` gives for twice so many units; a matrix that is its only block is dense again."""
    if parameter.dim() == 1:
        return half(parameter.view(1, -1), parameter.shape[0] // (2 * units), which).flatten()
    width = parameter.shape[-1]
    heads = units // width
    view: Tensor = parameter.unflatten(0, (-1, 2, heads))
    own = view.select(1, which).flatten(0, 1)
    return own.flatten(0, 1) if heads == 1 else own
