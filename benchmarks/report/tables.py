"""What the page says of one machine: its tables, in Markdown. The same rows are the same text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.calibrate import as_record, word
from benchmarks.contenders import CONTENDERS
from benchmarks.fit import NothingToFit, fit
from benchmarks.report.floors import PRODUCTS, floor_ms, rate_of
from benchmarks.report.rows import Row, Rows

DIRECTIONS = {"forward": "forward", "both": "forward + backward"}
HIGHLIGHTS = ((16, 1), (64, 1), (64, 16), (256, 16), (256, 64))
"""Units and batch of the sizes in the README."""
USUAL_TIME = 64
CACHES = ("empty", "filled")


@dataclass(frozen=True)
class Measured:
    """One machine. pictures: their files, as the page links to them. What was not measured is ""."""

    name: str
    rows: Rows
    pictures: Sequence[str] = ()

    # Where.

    @cached_property
    def _newest(self) -> Row:
        return max(self.rows, key=lambda row: row["when"])

    @property
    def machine(self) -> str:
        one = self._newest
        cores = f"{one['cores']} cores" if one["cores"] != 1 else "one core"
        return ", ".join(filter(None, (cores, one.get("capability"), one["system"])))

    @property
    def days(self) -> str:
        found = sorted({row["when"][:10] for row in self.rows})
        return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"

    @property
    def commits(self) -> str:
        return ", ".join(filter(None, self.rows.all("commit"))) or "unknown"

    @property
    def packages(self) -> str:
        one = self._newest
        names = (("torch", "torch"), ("CUDA", "cuda"), ("cuDNN", "cudnn"), ("Triton", "triton"), ("Python", "python"))
        own = [f"{name} {one[key]}" for name, key in names if one.get(key)]
        own += [f"C by {one['c']}"] if one.get("c") else []
        return ", ".join([*own, *sorted(self.rows.all("version"))])

    @property
    def without_native(self) -> str:
        """Why there was no native code."""
        return self._newest.get("no_c") or ""

    @property
    def load(self) -> float:
        return statistics.median(row.get("load") or 0.0 for row in self.rows)

    @property
    def quick(self) -> bool:
        return any(row.get("quick") for row in self.rows)

    @property
    def contenders(self) -> str:
        timed = {row["contender"] for row in self.rows if "ms" in row}
        known = ([f"`{name}`", one.about] for name, one in CONTENDERS.items() if name in timed)
        return markdown([["", "what it is"], *known])

    def picture(self, name: str, about: str) -> str:
        """Both files of a picture, of which a page shows the one that suits it."""
        by_theme = {theme: one for one in self.pictures for theme in THEMES if one.endswith(f"{name}-{theme}.svg")}
        return in_page(by_theme, about) if by_theme else ""

    # LSTM and GRU.

    @cached_property
    def _sizes(self) -> Rows:
        return Rows(row for row in self.rows.of(part="sizes") if "ratio" in row)

    @property
    def short(self) -> str:
        """Ours beside torch.nn at a few sizes."""
        lines = [["", *(f"{hidden} units, batch {batch}" for hidden, batch in HIGHLIGHTS)]]
        for cell in PRODUCTS:
            ours = self._sizes.of(cell=cell, time=USUAL_TIME, contender="rnngen")
            for direction, words in DIRECTIONS.items():
                found = [ours.one(direction=direction, hidden=hidden, batch=batch) for hidden, batch in HIGHLIGHTS]
                if any(found):
                    lines.append([f"{cell.upper()}, {words}", *map(ratio, found)])
        return markdown(lines)

    @property
    def peers(self) -> list[tuple[str, str, str]]:
        """A cell, a direction and a table for each."""
        cells = self._sizes.all("cell")
        tables = [
            (cell, words, self._peers(cell, direction)) for cell in cells for direction, words in DIRECTIONS.items()
        ]
        return [one for one in tables if one[-1]]

    def _peers(self, cell: str, direction: str) -> str:
        of = self._sizes.of(cell=cell)
        names = [name for name in CONTENDERS if name not in ("rnngen", "torch.nn") and of.of(contender=name)]
        lines = [["units, batch", "torch.nn, ms", "rnngen", *names, "floor"]]
        for row in of.of(direction=direction, contender="torch.nn"):
            same = of.of(direction=direction, **{key: row[key] for key in ("hidden", "batch", "time")})
            steps = f", {row['time']} steps" if row["time"] != USUAL_TIME else ""
            floor = floor_ms(self.rows, row, PRODUCTS[cell], direction)
            others = (ratio(same.one(contender=name)) for name in names)
            ours = ratio(same.one(contender="rnngen"), quartiles=True)
            of_floor = f"{floor / row['ms'][1]:.2f}" if floor else "-"
            size = f"{row['hidden']}, {row['batch']}{steps}"
            lines.append([size, number(row["ms"][1]), ours, *others, of_floor])
        return markdown(lines)

    @property
    def rate(self) -> Row | None:
        return rate_of(self.rows)

    @property
    def compared(self) -> int:
        return len(self._sizes.of(contender="rnngen").rows)

    @property
    def losses(self) -> list[str]:
        """Where ours is slower than torch.nn, worst first."""
        slower = [row for row in self._sizes.of(contender="rnngen") if round(row["ratio"][1], 2) > 1]
        return [
            f"{row['cell'].upper()} {DIRECTIONS[row['direction']]}, {row['hidden']} units, batch {row['batch']}"
            f"{', ' + steps(row['time']) if row['time'] != USUAL_TIME else ''}: {row['ratio'][1]:.2f}"
            for row in sorted(slower, key=lambda row: -row["ratio"][1])
        ]

    # The library.

    @cached_property
    def _library(self) -> Rows:
        return Rows(row for row in self.rows.of(part="library") if "ratio" in row)

    @property
    def library(self) -> str:
        names = ["torch.nn", "torch steps", "loop", "torchrecurrent"]
        both = DIRECTIONS["both"]
        lines = [["cell", "products", "rnngen, forward", f"rnngen, {both}", *(f"{name}, {both}" for name in names)]]
        ours = self._library.of(contender="rnngen", direction="both")
        for row in sorted(ours, key=lambda row: (row["ratio"][1], row["cell"])):
            of = self._library.of(cell=row["cell"])
            forward = ratio(of.one(contender="rnngen", direction="forward"))
            others = (ratio(of.one(contender=name, direction="both")) for name in names)
            lines.append([row["cell"], f"{row['products']:g}", forward, ratio(row, quartiles=True), *others])
        return markdown(lines)

    @property
    def counts(self) -> dict[str, object]:
        """How many cells there are, and how many of them are as fast as an LSTM; empty where none was measured."""
        both = sorted(self._library.of(contender="rnngen", direction="both"), key=lambda row: row["ratio"][1])
        if not both:
            return {}
        fast = [row for row in both if row["ratio"][1] <= 1]
        light = [row for row in both if row["products"] <= PRODUCTS["lstm"]]
        within = [row for row in light if row["ratio"][1] <= 1]
        counted = {"cells": both, "fast": fast, "light": light, "within": within}
        size = {"hidden": both[0]["hidden"], "batch": both[0]["batch"]}
        return {name: len(rows) for name, rows in counted.items()} | size | {"best": both[0], "worst": both[-1]}

    # Length and memory.

    @cached_property
    def _lengths(self) -> Rows:
        return Rows(row for row in self.rows.of(part="length", direction="both") if "ms" in row)

    @property
    def lengths_of(self) -> str:
        one = next(iter(self._lengths))
        return f"{one['cell'].upper()}, {one['hidden']} units, batch {one['batch']}"

    @property
    def lengths(self) -> str:
        names = [name for name in CONTENDERS if self._lengths.of(contender=name)]
        lines = [["µs a step, forward + backward", *names]]
        for time in self._lengths.all("time"):
            found = (self._lengths.one(time=time, contender=name) for name in names)
            lines.append([steps(time), *(number(1000 * row["ms"][1] / time) if row else "-" for row in found)])
        return markdown(lines)

    @property
    def memory(self) -> str:
        memory = Rows(row for row in self.rows.of(part="memory") if "peak_mb" in row)
        names = [name for name in CONTENDERS if memory.of(contender=name)]
        lines = [["MB at the most, and kept", *names]]
        lines += (
            [steps(time), *(megabytes(memory.one(time=time, contender=name)) for name in names)]
            for time in memory.all("time")
        )
        return markdown(lines)

    # The rest.

    @property
    def threads(self) -> str:
        timed = Rows(row for row in self.rows.of(part="threads") if "ms" in row)
        keys = ("cell", "time", "batch", "hidden", "contender", "direction")
        lines = [["units, batch", "", "", "one thread, ms", "two threads, ms", "faster by"]]
        for two in timed.of(threads=2):
            if one := timed.one(threads=1, **{key: two[key] for key in keys}):
                what = [f"{two['hidden']}, {two['batch']}", DIRECTIONS[two["direction"]], two["contender"]]
                times = [one["ms"][1], two["ms"][1]]
                lines.append([*what, *map(number, times), f"{times[0] / times[1]:.2f}"])
        return markdown([lines[0], *sorted(lines[1:], key=lambda line: [int(size) for size in line[0].split(", ")])])

    @cached_property
    def _first(self) -> Rows:
        return Rows(row for row in self.rows.of(part="first") if "seconds" in row)

    @property
    def first_of(self) -> str:
        one = next(iter(self._first))
        size = f"{one['hidden']} units, batch {one['batch']}, {one['time']} steps"
        return f"one {one['cell'].upper()} of {size}"

    @property
    def first(self) -> str:
        lines = [["", "with empty caches", "then"]]
        for name in self._first.all("contender"):
            found = (self._first.one(contender=name, cache=cache) for cache in CACHES)
            lines.append([f"`{name}`", *(number(row["seconds"]) if row else "-" for row in found)])
        return markdown(lines)

    @property
    def compile_s(self) -> str:
        row = self.rows.one(part="sizes", contender="loop, compiled", direction="both")
        return number(row["first_s"]) if row and "first_s" in row else ""

    @property
    def gpu(self) -> str:
        lines = [["cell", "arithmetic", "steps, batch, units", "", "", "ms", "ratio", "by"]]
        for row in self.rows.of(suite="gpu"):
            if "ms" in row:
                size = f"{row['time']}, {row['batch']}, {row['hidden']}"
                what = [row["cell"], row["arithmetic"], size, DIRECTIONS[row["direction"]], row["contender"]]
                lines.append([*what, number(row["ms"][1]), ratio(row, quartiles=True), row["over"]])
        return markdown(lines)

    @property
    def chunks(self) -> str:
        """Long sequences in chunks: what was done, and times and errors beside the plain scan's."""
        head = ["", "chunks, warm-up", "again", "inference, ms", "by plain", "by torch.nn", "error"]
        lines = [[*head, "training, ms", "by plain", "by torch.nn", "largest error of a gradient"]]
        every = self.rows.of(part="chunks")
        for layer in every.all("layer"):
            line = [layer]
            for direction in DIRECTIONS:
                here = every.of(layer=layer, direction=direction)
                ours, plain, theirs = (here.one(contender=name) for name in ("rnngen, chunked", "rnngen", "torch.nn"))
                if not (ours and plain):
                    break
                line += [*_done(ours["chunked"])] if direction == "forward" else []
                line += [number(ours["ms"][1]), ratio(ours), ratio_of(ours, theirs)]
                line.append(f"{ours['error']:.1e}, plain {plain['error']:.1e}")
            else:
                lines.append(line)
        return markdown(lines)

    @property
    def correctness(self) -> str:
        """Checks of kernels on the card, by type."""
        lines = [["checks of kernels", "right", "wrong", "not for this card"]]
        for row in self.rows.of(part="correctness"):
            if "passed" in row:
                counts = (row["passed"], row.get("wrong", 0), row["left_out"])
                lines.append([row["arithmetic"], *map(str, counts)])
        return markdown(lines)

    @cached_property
    def _calibration(self) -> Row:
        rows = self.rows.of(part="calibration").rows
        try:
            return as_record(fit(rows), rows)
        except NothingToFit:
            return {}

    @property
    def constants(self) -> str:
        """Of the machine: as its row says, and as they were measured."""
        found = self._calibration.get("machine", {})
        pairs = ((name, pair["sheet"], pair["fitted"]) for name, pair in found.items())
        lines = [[f"`{name}`", word(sheet), word(fitted)] for name, sheet, fitted in pairs if sheet != fitted]
        return markdown([["constant", "in the table", "measured"], *lines])

    @property
    def on_gpu(self) -> bool:
        return bool(self.gpu or self.correctness or self.estimates)

    @property
    def machine_row(self) -> str:
        return self._calibration.get("python", "")

    @property
    def estimates(self) -> str:
        """Of every schedule what the model says, and what was measured."""
        lines = [["schedule", "sweep", "arithmetic", "batch, units", "µs a step", "estimated", "ratio", "with these"]]
        for row in self._calibration.get("schedules", ()):
            sweep = f"{row['cell']} {row['direction']}{', both at once' if row['both_directions'] else ''}"
            what = [row["schedule"], sweep, row["arithmetic"]]
            times = (row["step_us"], row["estimated_us"])
            ratios = (f"{row[name]:.2f}" for name in ("ratio", "fitted_ratio"))
            lines.append([*what, f"{row['batch']}, {row['hidden']}", *map(number, times), *ratios])
        return markdown(lines)

    @property
    def absent(self) -> str:
        """Who did not take part, and why."""
        counts: dict[tuple[str, str], int] = {}
        for row in self.rows:
            for why in (row[kind] for kind in ("skipped", "failure") if kind in row):
                counts[row["contender"], why] = counts.get((row["contender"], why), 0) + 1
        found = ([f"`{name}`", why.replace("|", "\\|"), str(count)] for (name, why), count in sorted(counts.items()))
        return markdown([["", "why", "cases"], *found])


THEMES = ("light", "dark")


def markdown(lines: list[list[str]]) -> str:
    """A table, whose head is the first line, with numbers on the right; "" without another one."""
    head, *rest = lines
    if not rest:
        return ""
    right = [all(_numeric(line[column]) for line in rest) for column in range(len(head))]
    rule = ["---:" if numbers else "---" for numbers in right]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


def _numeric(text: str) -> bool:
    return text.strip("*")[:1].isdigit() or text == "-"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def ratio(row: Row | None, quartiles: bool = False) -> str:
    """The median, bold where ours is slower, and the quartiles if they are wanted."""
    if row is None or "ratio" not in row:
        return "-"
    low, middle, high = row["ratio"]
    text = f"{middle:.2f}" if middle < 10 else f"{middle:.0f}"
    text = f"**{text}**" if round(middle, 2) > 1 and row["contender"].startswith("rnngen") else text
    return f"{text} ({low:.2f} - {high:.2f})" if quartiles else text


def steps(time: int) -> str:
    return f"{time} steps" if time > 1 else "one step"


def megabytes(row: Row | None) -> str:
    if row is None:
        return "-"
    kept = f", {number(row['saved_mb'])}" if row.get("saved_mb") is not None else ""
    return f"{number(row['peak_mb'])}{kept}"


def ratio_of(one: Row, other: Row | None) -> str:
    """The ratio of two medians; bold if the first took longer."""
    if other is None:
        return ""
    found = one["ms"][1] / other["ms"][1]
    return f"**{found:.2f}**" if found > 1 else f"{found:.2f}"


def _done(reports: Sequence[Row]) -> tuple[str, str]:
    """The chunks of a training step, and how many ran more than once, forwards and backwards."""
    forward = reports[0]
    if forward["chunks"] == 1:
        return "plain", ""
    again = " + ".join(str(row["repaired"] + row["step_by_step"]) for row in reports)
    return f"{forward['chunks']} of {forward['steps']}, {forward['warm_up']}", again


def in_page(by_theme: dict[str, str], about: str) -> str:
    """Both files of a picture, of which a page shows the one that suits it."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{by_theme["dark"]}">\n'
        f'  <img alt="{about}" src="{by_theme["light"]}">\n</picture>'
    )
