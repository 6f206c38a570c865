"""Pictures of the rows, each for a light and for a dark page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.report.floors import PRODUCTS, floor_ms
from benchmarks.report.rows import Row, Rows


@dataclass(frozen=True)
class Theme:
    """Colours of a page, and of the contenders, which colour-blind people can tell apart (Okabe and Ito 2008)."""

    text: str
    faint: str
    contenders: dict[str, str]


BOTH = {"torch steps": "#009E73", "loop": "#CC79A7"}
THEMES = {
    "light": Theme("#1f2328", "#d1d9e0", BOTH | {"rnngen": "#0072B2", "torch.nn": "#D55E00", "jax": "#6e5d00"}),
    "dark": Theme("#e6edf3", "#3d444d", BOTH | {"rnngen": "#56B4E9", "torch.nn": "#E69F00", "jax": "#F0E442"}),
}
MARKERS = {"rnngen": "o", "torch.nn": "s", "torch steps": "^", "loop": "v", "jax": "D"}
FLOOR = "floor: products alone, a model"
NAMES = {"torch steps": "rnngen, torch steps", "loop": "loop in Python"}


def draw(rows: Rows, folder: Path, prefix: str, names: Sequence[str]) -> Iterator[Path]:
    """Write these pictures; the names of their files begin with `prefix`."""
    for name in names:
        yield from draw_one(folder / f"{prefix}{name}", partial(PICTURES[name], rows))


def draw_one(stem: Path, drawn: Callable[[Theme], Figure]) -> Iterator[Path]:
    """Write a picture, one file for each theme."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        with mpl.rc_context(_style(colours)):
            path = stem.with_name(f"{stem.name}-{theme}.svg")
            # Without a date, so that the same rows are the same bytes.
            drawn(colours).savefig(path, transparent=True, metadata={"Date": None})
            yield path


def _style(theme: Theme) -> dict[str, object]:
    colours = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    return {
        **dict.fromkeys(colours, theme.text),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "font.size": 10,
        "axes.titlesize": 11,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "svg.hashsalt": "rnngen",
        "svg.fonttype": "path",
    }


def _line(axes: Axes, theme: Theme, contender: str, points: list[tuple[float, float]]) -> None:
    """The one that this is about lies above the others."""
    if not points:
        return
    first = contender == "rnngen"
    axes.plot(
        *zip(*points, strict=True),
        color=theme.contenders[contender],
        marker=MARKERS[contender],
        label=NAMES.get(contender, contender),
        zorder=4 if first else 3,
        linewidth=2.4 if first else 1.6,
    )


def _floor(axes: Axes, theme: Theme, points: list[tuple[float, float]]) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=theme.text, linestyle=":", linewidth=1.4, label=FLOOR)


def _powers(axes: Axes, values: list[int]) -> None:
    """A logarithmic axis with these ticks alone."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def _decades(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, some within a decade where there are few decades."""
    low, high = axes.get_ylim()
    steps = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


def _microseconds(row: Row) -> float:
    """Of a step."""
    return 1000 * row["ms"][1] / row["time"]


def _legend(figure: Figure, axes: list[Axes], columns: int) -> None:
    """One for all axes, above them."""
    found = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    found = dict(sorted(found.items(), key=lambda pair: pair[0] == FLOOR))  # behind what was measured
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns)


def sizes(rows: Rows, theme: Theme) -> Figure:
    """Time of a step forward and backward, against the width, by batch."""
    every = Rows(row for row in rows.of(part="sizes", direction="both") if "ms" in row)
    usual = every.of(time=max(every.all("time"), key=lambda time: len(every.of(time=time).rows)))
    cells, batches, hidden = usual.all("cell"), usual.all("batch"), usual.all("hidden")
    figure = Figure(figsize=(3.1 * len(batches) + 0.6, 2.7 * len(cells) + 0.7), layout="constrained")
    grid = figure.subplots(len(cells), len(batches), sharex=True, sharey="row", squeeze=False)
    for line, cell in zip(grid, cells, strict=True):
        for axes, batch in zip(line, batches, strict=True):
            here = usual.of(cell=cell, batch=batch)
            for contender in MARKERS:
                of = here.of(contender=contender)
                _line(axes, theme, contender, sorted((row["hidden"], _microseconds(row)) for row in of))
            floors = ((row, floor_ms(rows, row, PRODUCTS[cell], "both")) for row in here.of(contender="rnngen"))
            _floor(axes, theme, sorted((row["hidden"], 1000 * ms / row["time"]) for row, ms in floors if ms))
            axes.set(yscale="log", title=f"{cell.upper()}, batch {batch}")
            _decades(axes)
            _powers(axes, hidden)
        line[0].set_ylabel("µs a step,\nforward + backward")
    for axes in grid[-1]:
        axes.set_xlabel("units")
    _legend(figure, list(grid.flat), 3)
    return figure


def length(rows: Rows, theme: Theme) -> Figure:
    """Time of a step against the number of steps, and the memory of a training step."""
    times = Rows(row for row in rows.of(part="length", direction="both") if "ms" in row)
    memory = Rows(row for row in rows.of(part="memory") if "peak_mb" in row)
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for contender in MARKERS:
        of, alone = times.of(contender=contender), memory.of(contender=contender)
        _line(left, theme, contender, sorted((row["time"], _microseconds(row)) for row in of))
        _line(right, theme, contender, sorted((row["time"], row["peak_mb"]) for row in alone))
    floors = ((row, floor_ms(rows, row, PRODUCTS[row["cell"]], "both")) for row in times.of(contender="rnngen"))
    _floor(left, theme, sorted((row["time"], 1000 * ms / row["time"]) for row, ms in floors if ms))
    left.set(yscale="log", xlabel="steps", title="µs a step, forward + backward")
    right.set(yscale="log", xlabel="steps", title="MB that a training step adds at its highest")
    for axes, found in ((left, times), (right, memory)):
        _powers(axes, found.all("time"))
        axes.tick_params("x", labelrotation=45)
        _decades(axes)
    _legend(figure, [left, right], 3)
    return figure


def cells(rows: Rows, theme: Theme) -> Figure:
    """Every cell of the library: its time forward and backward by nn.LSTM's, the fastest above."""
    found = Rows(row for row in rows.of(part="library", direction="both") if "ratio" in row)
    names = [row["cell"] for row in sorted(found.of(contender="rnngen"), key=lambda row: -row["ratio"][1])]
    figure = Figure(figsize=(9.0, 1.4 + 0.19 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = {name: place for place, name in enumerate(names)}
    dots = {"rnngen": ("rnngen", "o", 34, True)}
    dots |= {"torchrecurrent": ("torch.nn", "D", 16, False), "loop": ("loop", "v", 16, False)}
    for contender, (colour, marker, size, filled) in dots.items():
        of = (row for row in found.of(contender=contender) if row["cell"] in places)
        points = [(row["ratio"][1], places[row["cell"]]) for row in of]
        if points:
            paint = theme.contenders[colour]
            axes.scatter(
                *zip(*points, strict=True),
                s=size,
                marker=marker,
                facecolor=paint if filled else "none",
                edgecolor=paint,
                zorder=4 if filled else 3,
                label=NAMES.get(contender, contender),
            )
    floors = []
    for row in found.of(contender="rnngen"):
        floor, scale = floor_ms(rows, row, row["products"], "both"), found.one(contender="nn.LSTM", cell=row["cell"])
        if floor and scale:
            floors.append((floor / scale["ms"][1], places[row["cell"]]))
    if floors:
        axes.scatter(*zip(*floors, strict=True), s=40, marker="|", color=theme.text, label=FLOOR, zorder=2)
    axes.axvline(1, color=theme.text, linewidth=1.2)
    axes.set(xscale="log", ylim=(-0.8, len(names) - 0.2), xlabel="time forward + backward, by nn.LSTM's")
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    low, high = axes.get_xlim()
    ticks = (2.0**power for power in range(-8, 9))
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.tick_params("y", length=0)
    axes.tick_params("x", labeltop=True)
    _legend(figure, [axes], 4)
    return figure


def chunks(rows: Rows, theme: Theme) -> Figure:
    """Long sequences in chunks: the time of each layer by the plain scan's, and torch.nn's by it."""
    every = Rows(row for row in rows.of(part="chunks") if "ratio" in row)
    layers = every.all("layer")[::-1]
    figure = Figure(figsize=(9.0, 1.5 + 0.24 * len(layers)), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, (direction, title) in zip(both, {"forward": "inference", "both": "training"}.items(), strict=True):
        for contender, name, filled in (("rnngen, chunked", "rnngen", True), ("torch.nn", "torch.nn", False)):
            here = every.of(contender=contender, direction=direction)
            colour = theme.contenders[name]
            axes.scatter(
                [row["ratio"][1] for row in here],
                [layers.index(row["layer"]) for row in here],
                s=38,
                marker=MARKERS[name],
                facecolor=colour if filled else "none",
                edgecolor=colour,
                zorder=4 if filled else 3,
                label=contender,
            )
        axes.axvline(1, color=theme.text, linewidth=1.2, label="rnngen, step by step")
        axes.set(xscale="log", title=f"{title}, time by the plain scan's")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.tick_params("y", length=0)
    both[0].set_yticks(range(len(layers)), layers)
    _legend(figure, list(both), 3)
    return figure


PICTURES: dict[str, Callable[[Rows, Theme], Figure]] = {
    "sizes": sizes,
    "library": cells,
    "length": length,
    "chunks": chunks,
}
