"""Chunks of time until they agree: whatever runs them, each begins in the end with what the one before it ends with.

A row is a chunk of a sample; all samples of a chunk stand before those of the next. Two ends agree if they are no
further apart than rounding takes them: a few units in the last place, or twice as far as a warm-up ends from where it
would if it began one unit from there, each for its own sample. A unit in the last place is that of the largest of a
state; of an element that stays far below it, one of the largest that it has itself. Else what an element takes in over
a chunk would be lost beside the others, and be lost again in each chunk: a count of what is rare, beside a state of 1.
What a warm-up makes of a unit is in both held against its own: of an element that stays near zero one of its neighbours
makes a great many of its own units, by which anything would be right.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rnngen.runtime.launch import has_kernels

_PILOTS = 3  # chunks that tell how fast a cell forgets, and how far rounding takes it
# In the last place. One where states go from step to step in a wider type: there the plain scan rounds no more than
# what it gives, and four let a gradient in bfloat16 be 5 times as far from float64 as its own is.
_UNITS, _UNITS_OF_HALF = 4, 1
# Times the largest that an element has at any end, which is its scale if that is less than the largest of the state.
# Ends of LSTMs and GRUs of 64 and 256 units that forget are up to 6 units of that apart by rounding.
_OWN = 4
_NOISE = 2  # times what was seen of it in a few places


def most_work(device: str) -> float:
    """The passes over all chunks that take as long as step by step: on a CPU one takes two thirds of it, or a third."""
    return 4.0 if has_kernels(device) else 1.5


class Runs(Protocol):
    """What runs chunks, and has what they gave."""

    @property
    def ends(self) -> Sequence[Tensor]:
        """The last states of all rows, as they ran the last time."""

    @property
    def valid(self) -> Tensor | None:
        """(steps, rows, 1), 0 where a step is padding; None if there is none."""

    def last_steps(self, count: int, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """What so many steps at the end of some rows, of all if None, make of these states."""

    def whole(self, states: Sequence[Tensor]) -> None:
        """Run all rows from these states."""

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        """Run some rows once more."""


@dataclass
class Report:
    """What a scan in chunks did.

    sweep: "forward" or "adjoint". chunks: how many there were; one is the plain scan. steps: of each. warm_up: steps of
    that. passes: how often all that was not right yet ran. repaired: how many rows, chunks of a sample, ran once more.
    step_by_step: how many chunks ran one after another in the end.
    """

    sweep: str
    chunks: int
    steps: int
    warm_up: int
    passes: int = 1
    repaired: int = 0
    step_by_step: int = 0


@dataclass
class Chunks:
    """Chunks of a scan, or of its adjoint.

    begin: states, of which the rows of the first chunk in the order of the scan count. backwards: whether that is the
    last one. peaks: of an adjoint what gives states of each row, about the largest there are within it, of what comes
    in before it; None of a scan.
    """

    runs: Runs
    begin: Sequence[Tensor]
    count: int
    steps: int
    warm_up: int
    backwards: bool
    peaks: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None

    def __post_init__(self) -> None:
        self.rows = self.begin[0].shape[0]
        self.batch = self.rows // self.count
        self.most_work = most_work(self.begin[0].device.type)
        self.within: Sequence[Tensor | None] = [None] * len(self.begin)
        self.order = range(self.count)[::-1] if self.backwards else range(self.count)
        # Rows that are nothing but padding give on what they begin with; so do those that have nothing else ahead of
        # their warm-up, to that. Of those with some of it at their ends a warm-up does not tell how fast they forget.
        self.padding = self.padded = self.ahead = self.before = None
        if self.runs.valid is not None:
            padding = (self.runs.valid == 0).squeeze(-1)
            in_order = padding.flip(0) if self.backwards else padding
            ahead, ends = in_order.split([self.steps - self.warm_up, self.warm_up])
            self.padding, self.ahead = padding.all(0), ahead.all(0)
            self.before = self._before(self.padding)
            some = ends.any(0)[:, None]
            self.padded = shifted(some, some, self.count, self.backwards).flatten()

    def run(self) -> Sequence[Tensor]:
        """Run them until they agree; gives what they begin with."""
        report = Report("adjoint" if self.peaks else "forward", self.count, self.steps, self.warm_up)
        starts = self._linked(self.runs.last_steps(self.warm_up, None, self._anything()))
        self.runs.whole(starts)
        noise, left = [torch.zeros_like(scale[:, 0]) for scale in self._scales(self.runs.ends)], self.rows
        while True:
            wanted = self._linked(self.runs.ends)
            if self.padding is not None:  # it need not run again
                starts = [torch.where(self.padding[:, None], *pair) for pair in zip(wanted, starts, strict=True)]
            apart = self._apart(starts, wanted, noise)
            before, (left, more) = left, apart.outlook(self.warm_up)
            if left and report.passes == 1 and self.peaks:
                # What comes in before all chunks, as of a loss of the last state does, is at no end.
                self.within = self.peaks(self._linked([torch.zeros_like(end) for end in self.runs.ends]))
                apart = self._apart(starts, wanted, noise)
                left, more = apart.outlook(self.warm_up)
            if left and report.passes == 1 and more < math.inf:
                noise = self._noise()
                apart = self._apart(starts, wanted, noise)
                left, more = apart.outlook(self.warm_up)
            if not left:
                break
            rows = apart.open().nonzero().flatten()
            # Repairs take no longer than step by step would from the first chunk that is not right.
            passes = math.ceil(more / self.steps) if more < math.inf else math.inf
            place = self._place_of_first(rows)
            work = (report.repaired + passes * left) / self.rows
            if work > self.most_work * (1 - place / self.count) or (report.passes > 1 and 2 * left > before):
                report.step_by_step = self._one_by_one(starts, place, noise)
                break
            self._again(rows, starts, wanted)
            report.passes += 1
            report.repaired += left
        if self.padding is not None:
            for end, start in zip(self.runs.ends, starts, strict=True):
                end[self.padding] = start[self.padding]
        record(report)
        return starts

    def _anything(self) -> list[Tensor]:
        """What a warm-up begins with: what the first chunk does, in an adjoint zero; there what comes in before all
        chunks does so where nothing but padding is between.
        """
        if self.peaks:
            zeros = [torch.zeros_like(state) for state in self.begin]
            if self.ahead is None:
                return zeros
            return [state.masked_fill(~self.ahead[:, None], 0) for state in self._linked(zeros)]
        return [state[self._of(self.order[0])].repeat(self.count, 1) for state in self.begin]

    def _linked(self, ends: Sequence[Tensor]) -> list[Tensor]:
        """What chunks begin with if those before them end so."""
        pairs = zip(self.begin, ends, strict=True)
        if self.before is None:
            return [shifted(*pair, self.count, self.backwards) for pair in pairs]
        first = self._of(self.order[0])
        return [torch.cat((begin[first], end))[self.before] for begin, end in pairs]

    def _before(self, padding: Tensor) -> Tensor:
        """Of each row the place of what it begins with, among the samples where the first chunk does and behind them
        the ends of all rows: that of the last chunk before it that is not nothing but padding. All at once, since to
        link chunk by chunk takes 4 ms of 400 of them, and each that runs alone is linked anew.
        """
        in_order = ~padding.view(self.count, self.batch)
        in_order = in_order.flip(0) if self.backwards else in_order
        places = torch.arange(1, self.count + 1, device=padding.device)[:, None] * in_order
        last = torch.cat((torch.zeros_like(places[:1]), places.cummax(0).values[:-1]))  # 0 is the beginning
        if self.backwards:
            last = torch.where(last > 0, self.count + 1 - last, 0).flip(0)
        return (last * self.batch + torch.arange(self.batch, device=padding.device)).flatten()

    def _of(self, chunk: int) -> slice:
        """The rows of a chunk."""
        return slice(chunk * self.batch, (chunk + 1) * self.batch)

    def _rows_of(self, chunks: Sequence[int]) -> Tensor:
        """The rows of some chunks."""
        every = torch.arange(self.rows, device=self.begin[0].device)
        return torch.cat([every[self._of(chunk)] for chunk in chunks])

    def _again(self, rows: Tensor, starts: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        """Some rows once more, from what is wanted there."""
        for start, want in zip(starts, wanted, strict=True):
            start[rows] = want[rows]
        self.runs.again(rows, [start[rows] for start in starts])

    def _place_of_first(self, rows: Tensor) -> int:
        """Of the chunks of some rows that of the first in the order of the scan."""
        return self.order.index(int((rows.max() if self.backwards else rows.min()) // self.batch))

    def _one_by_one(self, starts: Sequence[Tensor], place: int, noise: Sequence[Tensor]) -> int:
        """Chunk after chunk, from the one at a place in the order of the scan: of each the samples that are not right
        when it is its turn. Gives how many chunks ran.
        """
        ran = 0
        for chunk in self.order[place:]:
            wanted = self._linked(self.runs.ends)
            rows = self._rows_of([chunk])
            rows = rows[self._apart(starts, wanted, noise).open()[rows]]
            if rows.numel():
                self._again(rows, starts, wanted)
                ran += 1
        return ran

    # Judging.

    def _apart(self, starts: Sequence[Tensor], wanted: Sequence[Tensor], noise: Sequence[Tensor]) -> Apart:
        """How far what chunks began with is from what those before them end with."""
        found = gaps(starts, wanted, self._scales(wanted))
        return Apart([eps(end) for end in self.runs.ends], found, noise, self.padded)

    def _scales(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Of each state, see `scales`. The largest of an adjoint is that of the sample, within chunks too: it may well
        fade to nothing, as it does behind a loss of the last step alone, and is added to what others have made.
        """
        of_sample = self.peaks is not None
        return [scales(state, self.batch, of_sample, within) for state, within in zip(states, self.within, strict=True)]

    def _noise(self) -> list[Tensor]:
        """How far rounding takes each state, for each row: the most that was seen of its sample in a few chunks."""
        rows = self._rows_of([self.order[place] for place in pilots(self.count)])
        sizes = [scale[rows] for scale in self._scales(self.runs.ends)]
        states = [end[rows] for end in self.runs.ends]
        there, beside = (
            self.runs.last_steps(self.warm_up, rows, begin) for begin in (states, neighbours(states, sizes))
        )
        seen = gaps(there, beside, sizes)
        return [one.view(2, -1, self.batch).amax(1).repeat(1, self.count) for one in seen]


@dataclass
class Apart:
    """Of each state, and of some rows: how far two are apart, as `gaps` has it, and how far rounding takes it, alike.

    eps: one unit in the last place of what is 1. padded: the rows whose warm-up was padding, in part or as a whole.
    """

    eps: Sequence[float]
    gaps: Sequence[Tensor]
    noise: Sequence[Tensor]
    padded: Tensor | None

    def _limits(self) -> Iterator[Tensor]:
        """What counts as the same."""
        for unit, noise in zip(self.eps, self.noise, strict=True):
            units = _UNITS_OF_HALF if unit > torch.finfo(torch.float32).eps else _UNITS
            yield (_NOISE * noise).clamp(max=math.sqrt(unit)).clamp(min=units * unit)

    def open(self) -> Tensor:
        """Which rows are not the same, or no numbers."""
        return torch.cat([~(gap <= limit) for gap, limit in zip(self.gaps, self._limits(), strict=True)]).any(0)

    def outlook(self, warm_up: int) -> tuple[int, float]:
        """How many rows are not the same, and in about how many steps more they would be, as fast as so many have
        forgotten. It is the one look at them that a pass takes.
        """
        steps = []
        for gap, limit in zip(self.gaps, self._limits(), strict=True):
            forgotten = gap.log() / warm_up  # in a step, of the logarithm
            more = torch.where(forgotten < 0, (limit / gap).log() / forgotten, math.inf)
            if self.padded is not None:  # some may be enough
                more = more.masked_fill(self.padded, 1.0)
            steps.append(torch.where(gap <= limit, 0.0, more))
        left, most = torch.stack((self.open().sum(), torch.stack(steps).amax())).tolist()
        return int(left), math.inf if math.isnan(most) else most


def shifted(begin: Tensor, ends: Tensor, count: int, backwards: bool) -> Tensor:
    """The ends of chunks as the beginnings of those behind them, and the first one's own."""
    batch = ends.shape[0] // count
    if backwards:
        return torch.cat((ends[batch:], begin[-batch:]))
    return torch.cat((begin[:batch], ends[:-batch]))


def pilots(count: int) -> Sequence[int]:
    """The places of a few chunks, not of the last one, in the order of the scan."""
    return sorted({(count - 1) * number // _PILOTS for number in range(_PILOTS)})


def neighbours(states: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
    """States one unit further. scales: of each, as `scales` gives them."""
    return [state + (eps(state) * scale).to(state.dtype) for state, scale in zip(states, scales, strict=True)]


def scales(state: Tensor, batch: int, of_sample: bool = False, within: Tensor | None = None) -> Tensor:
    """What one is for each element of a state of chunks, (rows, width): the largest of its row, or of its sample; if
    that is less, `_OWN` times the largest that it has in any chunk of the sample. within: others of the same rows that
    count for these.
    """
    sizes = state.abs().to(torch.promote_types(state.dtype, torch.float32))
    every = sizes if within is None else torch.maximum(sizes, within.abs())
    finite = torch.where(every.isfinite(), every, 0)  # one chunk that overflows does not hide what others are
    own = finite.view(-1, batch, state.shape[-1]).amax(0).repeat(state.shape[0] // batch, 1)
    return torch.minimum((own if of_sample else sizes).amax(-1, keepdim=True), _OWN * own)


def gaps(states: Sequence[Tensor], others: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
    """How far two of each state are apart at most, (2, rows): in the scales of the elements, and in the largest one.
    What is no number is the same as what is none either.
    """

    def gap(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
        same = (one == other) | (one.isnan() & other.isnan())
        apart, largest = (other - one).abs(), scale.amax(-1, keepdim=True)
        return torch.stack([torch.where(same, 0, apart / of).amax(-1) for of in (scale, largest)])

    return list(map(gap, states, others, scales))


def eps(state: Tensor) -> float:
    """One unit in the last place of what is 1."""
    return torch.finfo(state.dtype).eps


# Reports, which the scans of a call add to a list: an operator can give nothing but tensors.


class _Lists(threading.local):
    reports: list[Report] | None = None


_lists = _Lists()


@contextmanager
def reporting(to: list[Report] | None) -> Iterator[None]:
    """Within it reports of this thread are added to a list."""
    before, _lists.reports = _lists.reports, to
    try:
        yield
    finally:
        _lists.reports = before


def reported() -> list[Report] | None:
    """The list that reports are added to."""
    return _lists.reports


def record(report: Report) -> None:
    """Add it."""
    if _lists.reports is not None:
        _lists.reports.append(report)
