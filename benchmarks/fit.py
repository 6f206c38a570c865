"""From the rows of `benchmarks.gauges` the constants of a machine: arithmetic, which needs no GPU.

What is measured by itself is taken as it is. The rest are constants of the model of `rnngen/runtime/schedules/`, which
is linear in each of them: they are found by asking the model itself. A schedule that has none of its own has a factor.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rnngen.runtime.choose import choose, plan_of
from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Across, Facts, NotPossible, Plan, Sizes

Row = Mapping[str, Any]

RATES = {"bfloat16": "half_tflops", "float16": "half_tflops", "float32": "single_tflops", "float64": "double_tflops"}
ALONE = {"gb_s": "memory_gb_s", "clock_ghz": "clock_ghz"}
WITH_FACTORS = ("elementwise", "linear", "resident")
FAR = 1e6  # cycles of an exchange: beside them nothing else takes time


@dataclass(frozen=True, slots=True)
class Reading:
    """A sweep by a schedule: microseconds a step, measured, and the row that says so."""

    schedule: str
    facts: Facts
    sizes: Sizes
    step_us: float
    row: Row

    def estimate(self, machine: Machine) -> float:
        """What the model says. Raises NothingToFit for a sweep that it believes impossible."""
        found = plan_of(self.schedule, self.facts, self.sizes, machine)
        if not isinstance(found, Plan):
            what = f"{self.row['cell']} {self.row['direction']} of {self.sizes.hidden} units by '{self.schedule}'"
            raise NothingToFit(f"a row is of another version: {what} ran, and now it cannot ({found}). Measure again")
        return found.time


@dataclass(frozen=True, slots=True)
class Fit:
    """A machine as the table has it and as it was measured, and the sweeps."""

    sheet: Machine
    machine: Machine
    readings: tuple[Reading, ...]


class NothingToFit(ValueError):
    """Rows have no calibration in them, or one of another version."""


def fit(rows: Iterable[Row]) -> Fit:
    """What was not measured stays as it is in the table. Raises NothingToFit."""
    rows = [row for row in rows if row.get("part") == "calibration"]
    sheets = [row["sheet"] for row in rows if "sheet" in row]
    if not sheets:
        raise NothingToFit("no row says of which machine they are: measure with python -m benchmarks.calibrate")
    sheet = Machine(**sheets[-1] | {"factors": tuple(map(tuple, sheets[-1].get("factors", ())))})
    readings = tuple(_readings(rows))
    machine = replace(sheet, factors=(), **_rates(rows))
    machine = replace(machine, **_launches([one for one in readings if one.schedule == "stepwise"], machine))
    machine = replace(machine, **_exchange([one for one in readings if one.schedule == "cooperative"], machine))
    return Fit(sheet, replace(machine, factors=tuple(_factors(readings, machine))), readings)


def _readings(rows: Sequence[Row]) -> Iterator[Reading]:
    for row in rows:
        if "step_us" in row:
            given = row["facts"]
            across = tuple(Across(**one) for one in given["across"])
            lists = {name: tuple(given[name]) for name in ("streams", "outputs", "dimensions")}
            others = tuple((name, size) for name, size in row["call"]["others"])
            facts = Facts(**{**given, **lists, "across": across})
            yield Reading(row["contender"], facts, Sizes(**{**row["call"], "others": others}), row["step_us"], row)


def _rates(rows: Sequence[Row]) -> dict[str, float]:
    """What is measured by itself."""
    found = {}
    for row in rows:
        found |= {key: row[name] for name, key in ALONE.items() if name in row}
        if "tflops" in row:
            found[RATES[row["arithmetic"]]] = row["tflops"]
    return found


def _launches(readings: Sequence[Reading], machine: Machine) -> dict[str, float]:
    """By least squares of relative errors, from sweeps that launches take most of the time of; both constants, or none
    where sweeps do not tell them apart.
    """
    none, stage, product = (
        replace(machine, stage_us=stage, product_us=product) for stage, product in ((0, 0), (1, 0), (0, 1))
    )
    aa = ab = bb = ay = by = 0.0
    for one in readings:
        rest = one.estimate(none)
        if rest > one.step_us / 2:
            continue
        a, b, y = (
            value / one.step_us
            for value in (one.estimate(stage) - rest, one.estimate(product) - rest, one.step_us - rest)
        )
        aa, ab, bb, ay, by = aa + a * a, ab + a * b, bb + b * b, ay + a * y, by + b * y
    determinant = aa * bb - ab * ab
    if determinant <= 1e-6 * aa * bb:
        return {}
    found = {"stage_us": (ay * bb - by * ab) / determinant, "product_us": (by * aa - ay * ab) / determinant}
    return {name: _four(max(0.0, value)) for name, value in found.items()}


def _exchange(readings: Sequence[Reading], machine: Machine) -> dict[str, float]:
    """The median of what is left for a turn."""
    once, twice = (replace(machine, exchange_cycles=cycles) for cycles in (FAR, 2 * FAR))
    found = []
    for one in readings:
        slope = (one.estimate(twice) - one.estimate(once)) / FAR
        found.append((one.step_us - one.estimate(once)) / slope + FAR)
    return {"exchange_cycles": _four(max(0.0, statistics.median(found)))} if found else {}


def _factors(readings: Sequence[Reading], machine: Machine) -> Iterator[tuple[str, float]]:
    for name in WITH_FACTORS:
        if ratios := [one.step_us / one.estimate(machine) for one in readings if one.schedule == name]:
            yield name, _four(statistics.median(ratios))


def _four(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def as_python(machine: Machine) -> str:
    """A row for the table of `rnngen/runtime/machine.py`."""
    plain, named = [], []
    for one in fields(machine):
        value = getattr(machine, one.name)
        text = f"{value // 1024} * 1024" if one.name == "shared_bytes" and value % 1024 == 0 else repr(value)
        text = f"{value:.10g}" if isinstance(value, float) else text.replace("'", '"')
        if one.name in ("stage_us", "product_us", "exchange_cycles", "factors"):
            named.append(f"{one.name}={text}")
        else:
            plain.append(text)
    return f"Machine({', '.join([*plain, *named])})"


def changes(found: Fit) -> Iterator[str]:
    """Where `choose` takes another schedule by the fitted machine: a sentence each, for the sweeps that were timed."""
    known: set[tuple[Facts, int]] = set()
    for one in found.readings:
        if one.sizes.both or (one.facts, one.sizes.itemsize) in known:
            continue
        known.add((one.facts, one.sizes.itemsize))
        for batch in (1, 16, 128):
            for hidden in (16, 32, 64, 128, 256, 512, 1024, 2048):
                sizes = replace(one.sizes, batch=batch, hidden=hidden)
                try:
                    before, after = (choose(one.facts, sizes, m).schedule for m in (found.sheet, found.machine))
                except NotPossible:
                    continue
                if before != after:
                    what = f"{one.row['cell']} {one.row['direction']}, {one.row['arithmetic']}"
                    yield f"{what}, batch {batch}, {hidden} units: {after}, not {before}"
