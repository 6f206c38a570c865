"""What a step takes in beside x, as its cell declares it. In a layer x and the others are a tuple of rows over time,
each (time, batch, width). All have one type, but that numbers have the accumulators': in half precision a time of day
would have three digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Input = Tensor | PackedSequence


@dataclass  # not frozen: torch.compile of torch 2.11 cannot trace how such a one is made
class Given:
    """What a call of a layer or of a stack gives beside x.

    hx: the state to begin with. resets: where sequences begin, None if nowhere; or the flags that say so. reset_to:
    what they begin with, in the form of hx. inputs: what steps take in beside x, by name.
    """

    hx: Any = None
    resets: Any = None
    reset_to: Any = None
    inputs: Mapping[str, Input] = field(default_factory=dict)


def others_of(given: Mapping[str, object], input: Input, widths: Mapping[str, int], title: str) -> list[Tensor]:
    """What a call gives beside x, in the shape of the input but for its features; of a packed one the data.

    widths: of what there has to be, by name, 0 of a number, which has no dimension of its own. Raises TypeError for
    others than these, or of another kind than the input, RuntimeError for those of another shape.
    """
    if strangers := [name for name in given if name not in widths]:
        known = f"it takes {', '.join(widths)}" if widths else "the cell has none but x"
        raise TypeError(f"{title}: got an unexpected input {strangers[0]!r}; {known}")
    if missing := [name for name in widths if given.get(name) is None]:
        raise TypeError(f"{title}: missing {', '.join(map(repr, missing))}: what each step is given beside x, by name")
    found = []
    for name, width in widths.items():
        tensor, x = rows_alike(given[name], input, name, title), rows_of(input)
        wanted = (*x.shape[:-1], width) if width else tuple(x.shape[:-1])
        if tuple(tensor.shape) != wanted:
            raise RuntimeError(f"{title}: Expected {name} size {wanted}, got {tuple(tensor.shape)}")
        found.append(tensor if width else tensor.unsqueeze(-1))
    return found


def rows_of(rows: Input) -> Tensor:
    """The tensor itself, or what is packed."""
    return rows.data if isinstance(rows, PackedSequence) else rows


def rows_alike(value: object, input: Input, name: str, title: str) -> Tensor:
    """The rows of what is of the kind of the input, and packed as it is.

    Raises TypeError for another kind, RuntimeError for one that is packed otherwise.
    """
    if isinstance(input, PackedSequence):
        if not isinstance(value, PackedSequence):
            kind = type(value).__name__
            raise TypeError(f"{title}: Expected {name} to be a PackedSequence, as the input is, got {kind}")
        same = torch.equal(input.batch_sizes, value.batch_sizes)
        if not same or not _same(input.sorted_indices, value.sorted_indices):
            raise RuntimeError(f"{title}: Expected {name} of the same lengths and order as the packed input")
        return value.data
    if not isinstance(value, Tensor):
        raise TypeError(f"{title}: Expected {name} to be a Tensor, as the input is, got {type(value).__name__}")
    return value


def _same(order: Tensor | None, other: Tensor | None) -> bool:
    return order is other or (order is not None and other is not None and torch.equal(order, other))
