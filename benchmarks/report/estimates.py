"""What the cost model says of an LSTM of any width on two cards, beside what others have published: a picture of the
time of a step, and a table of where another schedule takes over, and why.

Estimates, of the model that chooses the schedule at a call; nothing in it was measured on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from rnngen.chain import Chain
from rnngen.compile import compiled
from rnngen.description import describe, library
from rnngen.runtime.choose import answers_of, choose
from rnngen.runtime.machine import MACHINES, Machine
from rnngen.runtime.plan import Choice, Plan, Sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.report.pictures import Theme

CELL = "lstm"
CARDS = ("sm_80", "sm_90")
TYPES = {"bfloat16": 2, "float32": 4}
BATCHES = (1, 16, 128)
WIDTHS = range(16, 2049, 16)
DIRECTIONS = ("forward", "adjoint")


@dataclass(frozen=True)
class Published:
    """A time that others have published: microseconds a step forwards, of 16 sequences in a half type on an H100."""

    name: str
    hidden: int
    time: float


# The figure in the README of FlashRNN (NX-AI), H100 SXM: an LSTM, 16 sequences of 1024 steps, 768 units; ms for all
# steps, the product of the input included, divided by 1024. cuDNN in float16, the others in bfloat16. The points of
# heads are of 768 units in heads of that width.
PUBLISHED = (
    Published("cuDNN, dense", 768, 2.01e3 / 1024),
    Published("FlashRNN fused, dense", 768, 4.87e3 / 1024),
    Published("FlashRNN alternating, dense", 768, 10.8e3 / 1024),
    *(
        Published("FlashRNN Triton, 768 units in heads", width, ms * 1e3 / 1024)
        for width, ms in ((16, 1.97), (32, 1.44), (64, 1.99), (128, 3.23))
    ),
)


@dataclass(frozen=True)
class Region:
    """Widths in a row that one schedule runs. reason: why the one before it does not run the first of them."""

    schedule: str
    first: int
    last: int
    reason: str


def chains() -> dict[str, Chain]:
    """The two directions."""
    (program,) = compiled(describe(library()[CELL]).cells)
    return {"forward": program.forward, "adjoint": program.backward}


def times(chain: Chain, machine: Machine, batch: int, itemsize: int) -> list[tuple[int, float]]:
    """Microseconds a step by width."""
    found = []
    for width in WIDTHS:
        sizes = Sizes(batch, width, itemsize=itemsize)
        plan = answers_of(chain.facts, sizes, machine)[choose(chain.facts, sizes, machine).schedule]
        assert isinstance(plan, Plan)
        found.append((width, plan.time))
    return found


def regions(chain: Chain, machine: Machine, batch: int, itemsize: int) -> list[Region]:
    """The schedules by width."""
    choices = {width: choose(chain.facts, Sizes(batch, width, itemsize=itemsize), machine) for width in WIDTHS}
    runs = [(name, list(group)) for name, group in groupby(choices, key=lambda width: choices[width].schedule)]
    found = [Region(runs[0][0], runs[0][1][0], runs[0][1][-1], "")]
    for (before, _), (name, widths) in pairwise(runs):
        found.append(Region(name, widths[0], widths[-1], _reason(choices[widths[0]], before)))
    return found


def _reason(choice: Choice, before: str) -> str:
    """Why another schedule does not run it any more."""
    reason = choice.reasons[before]
    estimated = re.match(r"(\S+) us a step, estimated", reason)
    return f"{before} would take {estimated[1]} µs" if estimated else f"{before}: {reason}"


def table(found: dict[str, Chain]) -> list[list[str]]:
    """A line for each card, type, batch and direction: its schedules by width, and the reason of each change."""
    lines = [["", "by hidden units"]]
    for card in CARDS:
        for dtype, itemsize in TYPES.items():
            for batch in BATCHES:
                for direction in DIRECTIONS:
                    parts = regions(found[direction], MACHINES[card], batch, itemsize)
                    name = f"{MACHINES[card].card}, {dtype}, batch {batch}, {direction}"
                    lines.append([name, "; ".join(map(_shown, parts))])
    return lines


def _shown(region: Region) -> str:
    width = f"to {region.last}" if region.first == WIDTHS[0] else f"from {region.first}"
    return f"`{region.schedule}` {width}" + (f" ({region.reason})" if region.reason else "")


# The picture.


def picture(found: dict[str, Chain], theme: Theme) -> Figure:
    """A panel for each card and type."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(10.2, 7.6), layout="constrained")
    grid = figure.subplots(len(CARDS), len(TYPES), sharex=True, sharey=True)
    colours = dict(zip(BATCHES, theme.contenders.values(), strict=False))
    for line, card in zip(grid, CARDS, strict=True):
        for axes, (dtype, itemsize) in zip(line, TYPES.items(), strict=True):
            for batch in BATCHES:
                for direction, style in zip(DIRECTIONS, ("-", "--"), strict=True):
                    points = times(found[direction], MACHINES[card], batch, itemsize)
                    name = f"batch {batch}, {direction}"
                    axes.plot(*zip(*points, strict=True), style, color=colours[batch], label=name, linewidth=1.6)
                for region in regions(found["forward"], MACHINES[card], batch, itemsize)[1:]:
                    axes.axvline(region.first - WIDTHS.step / 2, color=colours[batch], linewidth=0.7, linestyle=":")
            if card == "sm_90" and itemsize == 2:
                for name, marker, points in _points():
                    axes.plot(*zip(*points, strict=True), marker, color=theme.text, label=name, markersize=6)
            axes.set_title(f"{MACHINES[card].card}, {dtype}")
            axes.set(xscale="log", yscale="log")
            axes.xaxis.set_major_locator(FixedLocator([2**power for power in range(4, 12)]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_major_formatter(ScalarFormatter())
        line[0].set_ylabel("µs a step, estimated")
    for axes in grid[-1]:
        axes.set_xlabel("hidden units")
    every = [axes.get_legend_handles_labels() for axes in grid.flat]
    named = {name: handle for handles, names in every for handle, name in zip(handles, names, strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


def _points() -> Iterator[tuple[str, str, Sequence[tuple[int, float]]]]:
    """What was published, by name, each with a marker."""
    markers = iter("s^vD")
    for name, group in groupby(PUBLISHED, key=lambda one: one.name):
        yield f"published: {name}", next(markers), [(one.hidden, one.time) for one in group]
