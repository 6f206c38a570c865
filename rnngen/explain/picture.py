"""Time a step against the hidden units, with the regions of the schedules and the floor, as a picture."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import groupby
from math import sqrt
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from rnngen.chain import Chain
from rnngen.explain.changes import UNITS, chosen
from rnngen.explain.report import Explained
from rnngen.explain.scans import Scan
from rnngen.explain.work import floor_of, work_of
from rnngen.runtime.choose import answers_of
from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Plan
from rnngen.runtime.schedules import SCHEDULES

KINDS = ("svg", "png")
WIDEST = 2048  # hidden units of one direction
# That colour-blind people can tell apart (Okabe and Ito 2008), one for each schedule in the order of the registry.
_COLOURS = ("#009E73", "#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#6e5d00")
# A light page of its own, so that it can be read on a dark one. Any: matplotlib's type lists every name that there is.
_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), "#1f2328"),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "#ffffff"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d1d9e0",
    "grid.linewidth": 0.6,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "rnngen",
    "svg.fonttype": "path",
}


def picture(explained: Explained, kind: str) -> bytes:
    """A row for each scan, beside each other its two sweeps. kind: one of KINDS. The same values give the same bytes.

    There has to be a machine: for a CPU there is no estimate.
    """
    assert explained.machine is not None
    rows = len(explained.scans)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10.0, 3.4 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False, sharey="row")
        for line, (scan, sweeps) in zip(grid, explained.scans, strict=True):
            for axes, sweep in zip(line, sweeps, strict=True):
                _draw(axes, scan, scan.sweeps[sweep.direction], explained.machine)
                axes.set_title(f"{scan.cell}, {sweep.direction}")
            line[0].set_ylabel("µs a step, estimated")
        for axes in grid[-1]:
            axes.set_xlabel("hidden units")
        batch = explained.scans[0][0].sizes.batch
        figure.suptitle(f"{explained.machine.card} ({explained.target}), batch {batch}, {explained.dtype}")
        _legend(figure, list(grid.flat))
        drawn = BytesIO()
        # Without a date, so that the same values are the same bytes.
        figure.savefig(drawn, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return drawn.getvalue()


def widths(scan: Scan) -> Sequence[int]:
    """Hidden units at which there is a point, of one direction: those whose heads have a multiple of UNITS."""
    unit = UNITS * scan.sizes.heads // scan.directions
    return range(unit, max(WIDEST, 2 * unit) + 1, unit)


def regions(scan: Scan, chain: Chain, machine: Machine) -> Iterator[tuple[str, int, int]]:
    """The schedules by hidden units, as (schedule, first, last), "" where what the file names cannot run."""
    both, wanted = scan.directions, scan.wanted(chain)
    runs = [(w, chosen(chain, scan.resized(hidden=w * both), machine, wanted).schedule) for w in widths(scan)]
    for name, group in groupby(runs, key=lambda run: run[1]):
        members = [width for width, _ in group]
        yield name, members[0], members[-1]


def _draw(axes: Axes, scan: Scan, chain: Chain, machine: Machine) -> None:
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(SCHEDULES)}
    points, unit = widths(scan), widths(scan)[0]
    sizes = {width: scan.resized(hidden=width * scan.directions) for width in points}
    times: dict[str, list[tuple[int, float]]] = {}
    for width in points:
        for name, answer in answers_of(chain.facts, sizes[width], machine).items():
            if isinstance(answer, Plan):
                times.setdefault(name, []).append((width, answer.time))
    for name, found in times.items():
        axes.plot(*zip(*found, strict=True), color=colours[name], linewidth=1.8, label=name, zorder=3)
    floors = [floor_of(work_of(chain, sizes[width]), machine, scan.sizes.itemsize).time for width in points]
    axes.plot(points, floors, color="#1f2328", linestyle=":", linewidth=1.6, label="floor", zorder=4)
    axes.set(yscale="log", xlim=(points[0], points[-1]))
    axes.set_ylim(top=3 * axes.get_ylim()[1])  # room for names
    _scales(axes, points[0], points[-1])
    for name, first, last in regions(scan, chain, machine):
        # A region reaches half-way to the next point, on an axis of logarithms.
        start = first if first == points[0] else sqrt(first * (first - unit))
        end = min(sqrt(last * (last + unit)), points[-1])
        axes.axvspan(start, end, color=colours.get(name, "#8c959f"), alpha=0.13, linewidth=0)
        if end > 1.4 * start:  # else there is no room for its name, and its colour says it
            _name(axes, sqrt(start * end), name or "none")
    here = scan.sizes.hidden // scan.directions
    if points[0] <= here <= points[-1]:
        axes.axvline(here, color="#1f2328", linewidth=0.8)


def _name(axes: Axes, where: float, name: str) -> None:
    paper = {"facecolor": "#ffffff", "alpha": 0.7, "linewidth": 0, "pad": 1}
    place = axes.get_xaxis_transform()
    axes.text(where, 0.98, name, transform=place, ha="center", va="top", fontsize=8, bbox=paper)


def _scales(axes: Axes, first: int, last: int) -> None:
    """Logarithmic axes with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([first * 2**n for n in range(16) if first * 2**n <= last]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_major_locator(LogLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One for all axes, below them; the floor behind what is estimated."""
    found: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    found = dict(sorted(found.items(), key=lambda pair: pair[0] == "floor"))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found))
