"""States that need no loop: their old value at each step is a value that is known for all steps, one step earlier."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rnngen.runtime.scan import autocasting


def delayed(
    rows: Tensor,
    states: Sequence[Tensor],
    place: int,
    valid: Tensor | None = None,
    *,
    resets: Tensor | None = None,
    first: Sequence[Tensor] | None = None,
    reverse: bool = False,
    both: bool = False,
    **others: object,
) -> tuple[Tensor, Tensor]:
    """The old values of a state at every step, (time, batch, width), and its value after the last one, (batch, width).

    rows: its new values, (time, batch, width). place: which of `states`, and of `first`, it is. Where valid is 0 it
    stays as it is. The options are those of a scan, `Scan.__call__`; others than these change nothing here.
    """
    if autocasting(rows.device.type) and rows.dtype != torch.float64:  # as a scan does
        rows = rows.to(torch.get_autocast_dtype(rows.device.type))
    begin, returned = states[place].to(rows.dtype), None if first is None else first[place].to(rows.dtype)
    if not both:
        return _one_way(rows, begin, valid, resets, returned, reverse)
    shared = begin.shape[-1] > rows.shape[-1]  # both directions have the same inputs, and earlier ones of their own
    inputs, begins = [rows] * 2 if shared else rows.chunk(2, -1), begin.chunk(2, -1)
    firsts = [None] * 2 if returned is None else returned.chunk(2, -1)
    halves = zip(inputs, begins, firsts, (False, True), strict=True)
    ways = [_one_way(r, b, valid, resets, f, way) for r, b, f, way in halves]
    old, last = (torch.cat(parts, -1) for parts in zip(*ways, strict=True))
    return old, last


def _one_way(
    rows: Tensor, begin: Tensor, valid: Tensor | None, resets: Tensor | None, first: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """`delayed` in one direction. begin, first: of this state, (batch, width)."""
    if reverse:
        valid, resets = (None if tensor is None else tensor.flip(0) for tensor in (valid, resets))
        old, last = _one_way(rows.flip(0), begin, valid, resets, first, False)
        return old.flip(0), last
    values = torch.cat((begin[None], rows))  # before each step, and after the last
    if valid is None and resets is None:
        return values[:-1], values[-1].clone()  # which is kept for longer than the others
    # By its number, 0 for none: the last step up to there that counted, and the one behind which a sequence began.
    counts = torch.ones_like(values[..., :1], dtype=torch.int64).cumsum(0) - 1
    step = counts
    if valid is not None:
        step = (counts * F.pad(valid > 0, (0, 0, 0, 0, 1, 0))).cummax(0).values
        values = values.gather(0, step.expand_as(values))
    if resets is not None and first is not None:
        crossed = F.pad(resets[:-1] > 0, (0, 0, 0, 0, 0, 1))  # one behind the last step is not crossed
        start = ((counts + 1) * crossed).cummax(0).values - 1
        values = torch.where(start >= step, first, values)
    return values[:-1], values[-1].clone()
