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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    shifted,
)
from rnngen.runtime.launch import has_kernels, machine_of
from rnngen.runtime.layout import NAME, OF_A_CORE, OF_A_PROGRAM, Layout, sizes_of
from rnngen.runtime.linear import Projection
from rnngen.runtime.native import is_watched
from rnngen.runtime.node import tensors_of, wants_gradient
from rnngen.runtime.sweep import Given, Sweep, run_sweep, uses_kernels

if TYPE_CHECKING:
    from rnngen.runtime.scan import Scan

_CUT = "chunks"  # the schedule of the operators, behind it the chunks and the steps of the warm-up
_SURE = 1.5  # times as many steps as a few chunks have needed
Found = tuple[list[Tensor], tuple[Tensor, ...]]


def is_cut(schedule: str) -> bool:
    """Whether a schedule of the operators is that of chunks."""
    return schedule.partition(" ")[0] == _CUT


def chunks_of(schedule: str) -> int:
    """How many chunks a schedule of the operators means."""
    return int(schedule.split(" ")[1]) if is_cut(schedule) else 1


@dataclass(frozen=True)
class Call:
    """What `Scan.__call__` is asked; places and schedule are settled."""

    scan: Scan
    streams: Sequence[Tensor | Projection]
    states: Sequence[Tensor]
    parameters: Sequence[Tensor]
    valid: Tensor | None
    resets: Tensor | None
    first: Sequence[Tensor] | None
    reverse: bool
    last_only: bool

    def run(self, schedule: str = "auto") -> Found:
        options: dict[str, Any] = {"resets": self.resets, "first": self.first, "schedule": schedule}
        options |= {"reverse": self.reverse, "last_only": self.last_only}
        found: Found = self.scan(self.streams, self.states, self.parameters, self.valid, **options)
        return found

    @property
    def time(self) -> int:
        return (s.rows if isinstance(s := self.streams[0], Projection) else s).shape[0]

    @property
    def batch(self) -> int:
        return self.states[0].shape[0]

    def changed(
        self,
        rows: Callable[[Tensor], Tensor],
        boundaries: Callable[[Tensor], Tensor],
        samples: Callable[[Tensor], Tensor],
        states: Sequence[Tensor],
    ) -> Call:
        """With other rows over time, boundaries between steps, and rows of samples, each made of the old ones, and with
        these states. What has the same rows has the same ones then.
        """
        found: dict[int, Tensor] = {}

        def new(old: Tensor) -> Tensor:
            return found[id(old)] if id(old) in found else found.setdefault(id(old), rows(old))

        return replace(
            self,
            streams=[s._replace(rows=new(s.rows)) if isinstance(s, Projection) else new(s) for s in self.streams],
            states=states,
            valid=None if self.valid is None else new(self.valid),
            resets=None if self.resets is None else boundaries(self.resets),
            first=None if self.first is None else list(map(samples, self.first)),
        )

    def some(self, rows: Tensor, states: Sequence[Tensor]) -> Call:
        """Some of the samples."""

        def chosen(one: Tensor) -> Tensor:
            return one.index_select(1, rows)

        return self.changed(chosen, chosen, lambda one: one.index_select(0, rows), states)

    def part(self, start: int, stop: int, states: Sequence[Tensor]) -> Call:
        """Some of the steps."""
        steps, between = slice(start, stop), slice(start, stop + 1)
        return self.changed(itemgetter(steps), itemgetter(between), lambda one: one, states)


def run_in_chunks(call: Call, schedule: str) -> Found:
    """What the call gives, by a layer's schedule that is this one.

    Raises RuntimeError while a CUDA graph is captured: whether chunks agree is looked at while it runs.
    """
    some, time, batch, reverse = call.states[0], call.time, call.batch, call.reverse
    layout = None
    if _is_fixed(time) and (sizes_of(schedule)[0] or _is_fixed(batch)) and batch:
        layout = Layout.of(schedule, int(time), batch, _at_once(some.device))
    if layout and not is_watched():
        _refuse_capture(some)
        layout = _worth_while(call, layout, fixed=sizes_of(schedule)[1] is not None)
    if layout is None:
        record(Report("forward", 1, time, 0))
        return call.run()
    outputs: list[Tensor] = []
    if layout.before:
        start = time - layout.before if reverse else 0
        outputs, states = call.part(start, start + layout.before, call.states).run()
        call = replace(call, states=states)
    side_by_side = call.changed(
        lambda rows: cut(layout, rows, reverse),
        lambda resets: boundaries(layout, resets, reverse),
        lambda one: one.repeat(layout.count, 1),
        [_at_first(state, layout.count, reverse) for state in call.states],
    )
    tensors = (*tensors_of(call.streams), *call.states, *call.parameters, *(call.first or ()))
    if is_watched() or wants_gradient(tensors):
        found, last = side_by_side.run(f"{_CUT} {layout.count} {layout.warm_up}")
    else:
        runs = _OfCall(side_by_side, layout.warm_up)
        sizes = (layout.count, layout.steps, layout.warm_up)
        Chunks(runs, side_by_side.states, *sizes, reverse, adjoint=False, most_work=_most_work(some)).run()
        found, last = runs.outputs, tuple(runs.ends)
    ends = slice(batch) if reverse else slice((layout.count - 1) * batch, None)
    last = tuple(state[ends] for state in last)
    if call.last_only:
        return [output[ends] for output in found], last
    whole = [joined(layout, output) for output in found]
    if layout.before:
        whole = [torch.cat(pair[::-1] if reverse else pair) for pair in zip(outputs, whole, strict=True)]
    return whole, last


def cut(layout: Layout, rows: Tensor, backwards: bool) -> Tensor:
    """Rows over time, (time, batch, width), side by side: (steps, chunks * batch, width), without those before."""
    rows = rows[: len(rows) - layout.before] if backwards else rows[layout.before :]
    chunks: Tensor = rows.unflatten(0, (layout.count, layout.steps))
    return chunks.transpose(0, 1).flatten(1, 2)


def boundaries(layout: Layout, resets: Tensor, backwards: bool) -> Tensor:
    """The same of resets, (time + 1, batch, 1), which are between steps: (steps + 1, chunks * batch, 1)."""
    starts, ends = (cut(layout, part, backwards) for part in (resets[:-1], resets[1:]))
    return torch.cat((starts, ends[-1:]))


def joined(layout: Layout, rows: Tensor) -> Tensor:
    """Rows of chunks, (steps, chunks * batch, width), one behind another: (chunks * steps, batch, width)."""
    chunks: Tensor = rows.unflatten(1, (layout.count, -1))
    return chunks.transpose(0, 1).flatten(0, 1)


def _is_fixed(size: int) -> bool:
    """Whether a call has this size whenever it runs: a trace, and a graph of any length, run with others too."""
    if not torch.compiler.is_compiling():
        return not torch.jit.is_tracing()
    from torch.fx.experimental.symbolic_shapes import has_static_value  # which imports sympy

    return has_static_value(size)


def _refuse_capture(some: Tensor) -> None:
    if some.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{NAME} looks at its chunks while it runs, which the capture of a graph does not allow; "
            "take schedule='auto' there"
        )


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


def _most_work(some: Tensor) -> float:
    """In passes over all chunks, beyond which step by step is faster: on a CPU one takes half as long, or a third."""
    return 4.0 if uses_kernels(some) else 1.5


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
    longer = layout.warm_up + more * _SURE
    if not fixed and 1 + longer / layout.steps <= _most_work(ends[0]) and longer <= layout.steps:
        return replace(layout, warm_up=math.ceil(longer))
    passes = math.inf if more == math.inf else math.ceil(more / layout.steps)
    return layout if 1 + passes * left / len(found[0]) <= _most_work(ends[0]) else None


@dataclass
class _OfCall:
    """The chunks of a call without gradients. call: over chunks."""

    call: Call
    warm_up: int
    outputs: list[Tensor] = field(init=False)
    ends: Sequence[Tensor] = field(init=False)

    @property
    def valid(self) -> Tensor | None:
        return self.call.valid

    def last_steps(self, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        time = self.call.time
        steps = (0, self.warm_up) if self.call.reverse else (time - self.warm_up, time)
        call = replace(self.call.part(*steps, states), last_only=True)
        return (call if rows is None else call.some(rows, states)).run()[1]

    def whole(self, states: Sequence[Tensor]) -> None:
        self.outputs, self.ends = replace(self.call, states=states).run()

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        outputs, ends = self.call.some(rows, states).run()
        for result, found in zip((*self.outputs, *self.ends), (*outputs, *ends), strict=True):
            result.index_copy_(result.dim() - 2, rows, found)


# Of the operators.


def run(
    which: Sweep,
    given: Given,
    results: Sequence[Tensor],
    direction: str,
    schedule: str,
    carried: int,
    save: bool = True,
    keep: bool = True,
) -> None:
    """`run_sweep`, where a schedule of the operators may be that of chunks: then all tensors have those of a `Layout`
    for a batch, and the states of the first one in the order of the scan are where it begins. carried: how many of the
    states go from step to step, and are not sums.
    """
    if not is_cut(schedule) or not given.states[0].shape[0]:
        run_sweep(which, given, results, direction, schedule, save, keep)
        return
    _refuse_capture(results[-1])
    count, warm_up = map(int, schedule.split(" ")[1:])
    backwards, adjoint = (direction == "backwards") != which.facts.backwards, which.facts.backwards
    runs = _OfSweep(which, given, results, direction, backwards, warm_up, carried, save, keep)
    sizes = (count, given.inputs[0].shape[0], warm_up)
    Chunks(runs, given.states[:carried], *sizes, backwards, adjoint, _most_work(results[-1])).run()


def starts_of(states: Sequence[Tensor], last: Sequence[Tensor], direction: str, schedule: str) -> Sequence[Tensor]:
    """What all chunks began with, for the adjoint. states: what the operator was given; last: what it gave."""
    if not is_cut(schedule):
        return states
    count, backwards = chunks_of(schedule), direction == "backwards"
    return [shifted(begin, ends, count, backwards) for begin, ends in zip(states, last, strict=False)]


@dataclass
class _OfSweep:
    """The chunks of a sweep; the arguments are those of `run`."""

    which: Sweep
    given: Given
    results: Sequence[Tensor]
    direction: str
    backwards: bool
    warm_up: int
    carried: int
    save: bool
    keep: bool

    @property
    def ends(self) -> Sequence[Tensor]:
        return self.results[len(self.which.outputs) :][: self.carried]

    @property
    def valid(self) -> Tensor | None:
        return self.given.valid

    def last_steps(self, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        given, time = self.given, self.given.inputs[0].shape[0]
        start = 0 if self.backwards else time - self.warm_up
        steps, between = slice(start, start + self.warm_up), slice(start, start + self.warm_up + 1)
        valid = None if given.valid is None else given.valid[steps]
        resets = None if given.resets is None else given.resets[between]
        given = replace(given, inputs=[one[steps] for one in given.inputs], valid=valid, resets=resets)
        given = self._from(given, states) if rows is None else self._some(given, rows, states)
        unwanted, count = self.which.unwanted(False, False), states[0].shape[0]
        found = [
            one.new_empty(0 if one.dim() == 1 or label in unwanted else (self.warm_up, count, one.shape[-1]))
            for label, one in zip(self.which.outputs, self.results, strict=False)
        ]
        last = [torch.empty_like(state, memory_format=torch.contiguous_format) for state in given.states]
        self._sweep(given, [*found, *last], False, False)
        return last[: self.carried]

    def whole(self, states: Sequence[Tensor]) -> None:
        given = replace(self.given, states=[*states, *self.given.states[self.carried :]])
        self._sweep(given, self.results, self.save, self.keep)

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        given = self._some(self.given, rows, states)
        found = [
            one if one.dim() == 1 else one.new_empty(*one.shape[:-2], len(rows), one.shape[-1]) for one in self.results
        ]
        self._sweep(given, found, self.save, self.keep)
        for result, one in zip(self.results, found, strict=True):
            if one.dim() > 1:  # else it is not wanted
                result.index_copy_(result.dim() - 2, rows, one)
        if self.which.facts.backwards and given.first is not None and self.given.first is not None:
            self.given.first.index_copy_(0, rows, given.first)

    def _some(self, given: Given, rows: Tensor, states: Sequence[Tensor]) -> Given:
        """What some rows are given, with their states."""
        return self._from(
            replace(
                given,
                inputs=[one.index_select(1, rows) for one in given.inputs],
                valid=None if given.valid is None else given.valid.index_select(1, rows),
                resets=None if given.resets is None else given.resets.index_select(1, rows),
                first=None if given.first is None else given.first.index_select(0, rows),
                states=[one.index_select(0, rows) for one in given.states],
            ),
            states,
        )

    def _from(self, given: Given, states: Sequence[Tensor]) -> Given:
        """From these states, and what is a sum from zero: an adjoint adds to `first` as well."""
        first = given.first
        if first is not None and self.which.facts.backwards:
            first = torch.zeros_like(first)
        return replace(given, first=first, states=[*states, *given.states[self.carried :]])

    def _sweep(self, given: Given, results: Sequence[Tensor], save: bool, keep: bool) -> None:
        run_sweep(self.which, given, results, self.direction, "auto", save, keep)
