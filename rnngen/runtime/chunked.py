"""chunked: time is cut into chunks that run side by side, as a batch, on whatever schedule there is.

Most trained recurrences forget: two runs that begin apart come together. So each chunk begins with what the last steps
before it make of some state, its warm-up. Where it begins with what the one before it ends with, it is right; where
not, it runs again from there, until all do, see `agreement`. After n passes the first n chunks are right whatever the
cell does. An adjoint is a scan too, and forgets as well. A cell that does not forget runs step by step.

    chunk    0          1          2          3
             0 … L-1    L … 2L-1   2L … 3L-1  3L … 4L-1     L steps; all of them are one batch
                 └─W─►      └─W─►      └─W─►                W of them, from anywhere, give what the next begins with
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnngen.runtime import agreement
from rnngen.runtime.agreement import (
    Apart,
    Chunks,
    Report,
    eps,
    gaps,
    neighbours,
    pilots,
    record,
    scales,
)
from rnngen.runtime.launch import has_kernels, machine_of
from rnngen.runtime.layout import OF_A_CORE, OF_A_PROGRAM, Layout, sizes_of
from rnngen.runtime.native import is_watched
from rnngen.runtime.node import tensors_of, wants_gradient
from rnngen.runtime.side_by_side import (
    Call,
    Found,
    OfCall,
    Some,
    cut,
    cut_between,
    joined,
    named,
    refuse_capture,
)

# Times as many steps of a warm-up as a few chunks have needed: at least, and where there is room. 250 more take 1.5 ms
# of the 70 that a GRU of 128 units trains on 16384 characters, and to repair two of its 8 chunks takes 30.
_LEAST, _ENOUGH = 1.5, 3


def run_in_chunks(call: Call, schedule: str) -> Found:
    """What the call gives, by a layer's schedule that is this one.

    Raises RuntimeError while a CUDA graph is captured: whether chunks agree is looked at while it runs.
    """
    some, time, batch, reverse = call.states[0], call.time, call.batch, call.reverse
    layout = None
    if _is_fixed(time) and (sizes_of(schedule)[0] or _is_fixed(batch)) and batch:
        layout = Layout.of(schedule, int(time), batch, _at_once(some.device))
    if layout and not is_watched():
        refuse_capture(some)
        layout = _worth_while(call, layout, fixed=sizes_of(schedule)[1] is not None)
    if layout is None:
        record(Report("forward", 1, time, 0))
        return call.run()
    outputs: list[Tensor] = []
    if layout.before:
        steps = layout.before, time - layout.before
        outputs, states = call.picked(Some.at(time, steps[0], not reverse), call.states).run()
        call = call.picked(Some.at(time, steps[1], reverse), states)
    count = layout.count
    side_by_side = call.changed(
        partial(cut, count=count),
        partial(cut_between, count=count),
        lambda one: one.repeat(count, 1),
        [_at_first(state, count, reverse) for state in call.states],
    )
    tensors = (*tensors_of(call.streams), *call.states, *call.parameters, *(call.first or ()))
    if is_watched() or wants_gradient(tensors):
        found, last = side_by_side.run(named(count, layout.warm_up))
    else:
        runs = OfCall(side_by_side)
        sizes = (count, layout.steps, layout.warm_up)
        Chunks(runs, side_by_side.states, *sizes, reverse).run()
        found, last = runs.outputs, tuple(runs.ends)
    ends = slice(batch) if reverse else slice((count - 1) * batch, None)
    last = tuple(state[ends] for state in last)
    if call.last_only:
        return [output[ends] for output in found], last
    whole = [joined(output, count) for output in found]
    if layout.before:
        whole = [torch.cat(pair[::-1] if reverse else pair) for pair in zip(outputs, whole, strict=True)]
    return whole, last


def _is_fixed(size: int) -> bool:
    """Whether a call has this size whenever it runs: a trace, and a graph of any length, run with others too."""
    if not torch.compiler.is_compiling():
        return not torch.jit.is_tracing()
    from torch.fx.experimental.symbolic_shapes import has_static_value  # which imports sympy

    return has_static_value(size)


def _at_first(state: Tensor, count: int, backwards: bool) -> Tensor:
    """A state for all chunks, of which the first in the order of the scan begins with it."""
    others = state.detach().repeat(count - 1, 1)
    return torch.cat((others, state) if backwards else (state, others))


def _at_once(device: torch.device) -> int:
    """Chunks times samples that fill a machine."""
    if not has_kernels(device.type):
        return OF_A_CORE * torch.get_num_threads()
    return OF_A_PROGRAM * machine_of(device).processors


_at_once._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as `Scan.takes_both` is


@torch.no_grad()
def _worth_while(call: Call, layout: Layout, fixed: bool) -> Layout | None:
    """The layout with as long a warm-up as the cell needs to forget, unless that is fixed; None if it takes too long. A
    few chunks tell: where they end after a warm-up, and where they would if it began elsewhere.
    """
    starts = [layout.start(place, call.reverse) for place in pilots(layout.count)]
    call = replace(call, last_only=True)

    def rows_of(rows: Tensor, more: int = 0) -> Tensor:
        return torch.cat([rows[start : start + layout.warm_up + more] for start in starts], 1)

    states = [state.repeat(len(starts), 1) for state in call.states]
    windows = call.changed(rows_of, lambda one: rows_of(one, 1), lambda one: one.repeat(len(starts), 1), states)
    _, ends = windows.run()
    sizes = [scales(end, call.batch) for end in ends]
    elsewhere = [end.roll(call.batch, 0) for end in ends]
    _, there = replace(windows, states=elsewhere).run()
    found, noise = gaps(ends, there, sizes), [torch.zeros_like(size[:, 0]) for size in sizes]
    padded = None if windows.valid is None else (windows.valid == 0).any(0).flatten()
    if padded is not None:  # what is not known is hoped
        found = [gap.masked_fill(padded, 0) for gap in found]
    apart = Apart([eps(end) for end in ends], found, noise, padded)
    left, more = apart.outlook(layout.warm_up)
    if left and more < math.inf:
        moved = neighbours(elsewhere, [size.roll(call.batch, 0) for size in sizes])
        noise = gaps(there, replace(windows, states=moved).run()[1], sizes)
        left, more = replace(apart, noise=noise).outlook(layout.warm_up)
    if not left:
        return layout
    most_work = agreement.most_work(ends[0].device.type)
    most = min(1, most_work - 1) * layout.steps
    if not fixed and layout.warm_up + more * _LEAST <= most:
        return replace(layout, warm_up=int(min(math.ceil(layout.warm_up + more * _ENOUGH), most)))
    passes = math.inf if more == math.inf else math.ceil(more / layout.steps)
    return layout if 1 + passes * left / len(ends[0]) <= most_work else None
