"""Whether kernels compile to the same before and after a change, from two files of the static suite.

    python -m benchmarks.compare BEFORE.jsonl AFTER.jsonl [--bound 3] [--markdown]

A kernel is the same by its cell, direction, mask, resets, schedule, sizes, target and version of Triton, whatever it is
called in a module. Ratios are after by before: below 1 is better. The exit status is 1 if a figure differs by more than
the bound, a kernel spills more than before, or is on one side only; and 2 if a file cannot be read.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

import click


@dataclass(frozen=True, slots=True)
class Kernel:
    """Which kernel of which cell, compiled for what.

    stage counts from 1 the kernels of one step; None where one kernel is the whole scan.
    """

    cell: str
    direction: str
    masked: bool
    resets: bool
    schedule: str
    stage: int | None
    target: str
    dtype: str
    batch: int
    hidden: int
    heads: int
    triton: str

    def __str__(self) -> str:
        mask = " masked" if self.masked else " with resets" if self.resets else ""
        stage = f" {self.stage}" if self.stage is not None else ""
        heads = f" in {self.heads} heads" if self.heads != 1 else ""
        sizes = f"{self.dtype} {self.batch} x {self.hidden}{heads}"
        return f"{self.cell} {self.direction}{mask}, {self.schedule}{stage}, {self.target} {sizes}, {self.triton}"


Figure = float | None
"""None where a kernel has no such figure: cycles without a loop over time, or on a target without an estimate."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What is compared of a row: its figures, and its spills in bytes and instructions."""

    figures: Mapping[str, Figure]
    spills: tuple[int, int]


FIGURES = ("registers", "a step", "in all", "cycles", "shared bytes")
"""Registers a thread, instructions and cycles of a time step; in all: of a kernel without a loop over time."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One kernel on both sides."""

    kernel: Kernel
    before: Compiled
    after: Compiled

    def sides(self, figure: str) -> tuple[Figure, Figure]:
        """A figure before and after."""
        return self.before.figures[figure], self.after.figures[figure]

    def ratio(self, figure: str) -> float | None:
        """After by before; None where a side has no such figure, or has a zero before and not after."""
        before, after = self.sides(figure)
        if before is None or after is None:
            return None
        return after / before if before else None if after else 1.0

    def differs(self, figure: str, bound: float) -> bool:
        """Whether a figure has gone up or down by more than `bound` of it, or is on one side only."""
        before, after = self.sides(figure)
        if before is None or after is None:
            return before is not after
        return abs(after - before) > bound * before

    @property
    def spills_more(self) -> bool:
        """Whether bytes or instructions of spills have become more."""
        return any(after > before for before, after in zip(self.before.spills, self.after.spills, strict=True))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two recordings beside each other."""

    pairs: tuple[Pair, ...]
    only_before: tuple[Kernel, ...]
    only_after: tuple[Kernel, ...]

    def different(self, bound: float) -> list[Pair]:
        """The kernels of which a figure differs by more than `bound`, or that spill more."""
        return [pair for pair in self.pairs if pair.spills_more or any(pair.differs(one, bound) for one in FIGURES)]


def read(path: Path) -> dict[Kernel, Compiled]:
    """The kernels of a recording, in its order.

    Raises ValueError for a line that is no row, a kernel that is there twice, and a file without rows.
    """
    found: dict[Kernel, Compiled] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            kernel = Kernel(**{field.name: row[field.name] for field in fields(Kernel)})
            step = row["step"]
            figures = {
                "registers": row["registers"],
                "a step": step["instructions"] if step else None,
                "in all": None if step else row["instructions"],
                "cycles": step["cycles"] if step else None,
                "shared bytes": row["shared_bytes"],
            }
            compiled = Compiled(figures, (row["spill_bytes"], row["spill_instructions"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no row of the static suite: {error!r}") from None
        if kernel in found:
            raise ValueError(f"{path}, line {number} has a kernel for the second time: {kernel}")
        found[kernel] = compiled
    if not found:
        raise ValueError(f"{path} has no rows")
    return found


def compare(before: Mapping[Kernel, Compiled], after: Mapping[Kernel, Compiled]) -> Comparison:
    """Pair the kernels of two recordings."""
    return Comparison(
        tuple(Pair(kernel, before[kernel], after[kernel]) for kernel in before if kernel in after),
        tuple(kernel for kernel in before if kernel not in after),
        tuple(kernel for kernel in after if kernel not in before),
    )


# Tables: a head, and rows of as many words.

Table = list[list[str]]


def _number(figure: Figure) -> str:
    return "-" if figure is None else f"{figure:.6g}"


def _change(pair: Pair, figure: str, bound: float) -> str:
    """A figure once if it stayed; else both, with the change in percent where it is beyond the bound."""
    before, after = pair.sides(figure)
    if before == after:
        return _number(before)
    both = f"{_number(before)} -> {_number(after)}"
    if not pair.differs(figure, bound):
        return both
    ratio = pair.ratio(figure)
    return f"{both} (!)" if ratio is None else f"{both} ({100 * (ratio - 1):+.1f} %)"


def _spills(pair: Pair) -> str:
    """Bytes and instructions, twice where they changed."""
    before, after = (f"{size} B in {n}" if size or n else "0" for size, n in (pair.before.spills, pair.after.spills))
    if before == after:
        return before
    return f"{before} -> {after}" + (" (!)" if pair.spills_more else "")


def differences(comparison: Comparison, bound: float) -> Table:
    """A row for every kernel that differs."""
    rows = (
        [str(pair.kernel), *(_change(pair, name, bound) for name in FIGURES), _spills(pair)]
        for pair in comparison.different(bound)
    )
    return [["kernel", *FIGURES, "spills"], *rows]


def summary(comparison: Comparison, bound: float) -> Table:
    """For each version of Triton, target and figure: how many kernels have it, how they stand, mean and range."""
    table = [["Triton", "target", "figure", "kernels", "equal", "beyond", "mean ratio", "lowest", "highest"]]
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in comparison.pairs:
        groups.setdefault((pair.kernel.triton, pair.kernel.target), []).append(pair)
    for group, pairs in groups.items():
        for name in FIGURES:
            known = [pair for pair in pairs if pair.sides(name) != (None, None)]
            if not known:
                continue
            equal = sum(before == after for before, after in (pair.sides(name) for pair in known))
            beyond = sum(pair.differs(name, bound) for pair in known)
            ratios = [ratio for pair in known if (ratio := pair.ratio(name)) is not None]
            spread = (statistics.fmean(ratios), min(ratios), max(ratios)) if ratios else ()
            counts = [str(number) for number in (len(known), equal, beyond)]
            table.append([*group, name, *counts, *(f"{one:.3f}" for one in spread), *["-"] * (3 - len(spread))])
    return table


def as_text(table: Table) -> Iterator[str]:
    """Lines with columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table)


def as_markdown(table: Table) -> Iterator[str]:
    """Lines of a table in Markdown."""
    head, *rest = (f"| {' | '.join(row)} |" for row in table)
    return chain([head, "|" + "---|" * len(table[0])], rest)


def report(comparison: Comparison, bound: float, markdown: bool) -> Iterator[str]:
    """The lines of a report; a section that has nothing to say is left out."""
    lines = as_markdown if markdown else as_text
    different = comparison.different(bound)
    more = sum(pair.spills_more for pair in different)
    yield (
        f"{len(comparison.pairs)} kernels on both sides, {len(different)} of them with a figure beyond "
        f"{100 * bound:g} % or more spills ({more}); "
        f"{len(comparison.only_before)} only before, {len(comparison.only_after)} only after"
    )
    sections = [
        [["only before"], *([str(kernel)] for kernel in comparison.only_before)],
        [["only after"], *([str(kernel)] for kernel in comparison.only_after)],
        differences(comparison, bound),
        summary(comparison, bound),
    ]
    for table in sections:
        if len(table) > 1:
            yield ""
            yield from lines(table)


@click.command()
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--bound", type=click.FloatRange(0), default=3, show_default=True, help="In percent, up or down.")
@click.option("--markdown", is_flag=True, help="Print tables in Markdown.")
def main(before: Path, after: Path, bound: float, markdown: bool) -> None:
    """Print which kernels differ between two recordings, and how all of them stand."""
    try:
        comparison = compare(read(before), read(after))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for line in report(comparison, bound / 100, markdown):
        click.echo(line)
    sys.exit(bool(comparison.different(bound / 100) or comparison.only_before or comparison.only_after))


if __name__ == "__main__":
    main()
