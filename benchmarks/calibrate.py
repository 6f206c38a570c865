"""Fits the constants of a machine on the GPU that is here, in about two minutes.

    python -m benchmarks.calibrate [--json] [--out FILE] [--rows FILE ...]

Prints what was measured beside the table of `rnngen/runtime/machine.py`, the estimates of every schedule beside the
times of its sweeps, where `choose` would take another schedule, and the row to paste into that table: `choose` and
`rnngen explain` read it there, and multiply a schedule's estimates by its factor. --out keeps that as JSON. --rows fits
to rows that were measured before, by this or by `python -m benchmarks run --suite gpu`, and needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.fit import Fit, NothingToFit, as_python, changes, fit

Row = dict[str, Any]

VERSIONS = ("torch", "triton", "cuda", "python", "commit")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the constants were fitted, or if there is no GPU to fit them to; 1 if a gauge failed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON and no table; what is measured goes to stderr")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the same JSON is written")
    parser.add_argument("--rows", type=Path, nargs="+", metavar="FILE", help="fit to these, and measure nothing")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args(arguments)
    status, rows = (0, _read(given.rows, parser)) if given.rows else _measured(given.device)
    if not rows:
        return status
    try:
        found = fit(rows)
    except NothingToFit as error:
        parser.error(str(error))
    record = as_record(found, rows)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(json.dumps(record, indent=2) if given.json else as_text(record))
    return status


def _read(files: Sequence[Path], parser: argparse.ArgumentParser) -> list[Row]:
    """The rows of one card; the newest, if there are several."""
    from benchmarks.report.rows import NoRow, by_machine, read

    try:
        rows = [row for row in read(files) if row["part"] == "calibration"]
    except (NoRow, OSError) as error:
        parser.error(str(error))
    if not rows:
        names = ", ".join(map(str, files))
        parser.error(f"--rows: no calibration is in {names}; python -m benchmarks.calibrate measures one on a GPU")
    return next(iter(by_machine(rows).values())).rows


def _measured(device: str) -> tuple[int, list[Row]]:
    import torch

    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use, so there is nothing to calibrate.")
        return 0, []
    from benchmarks import gauges
    from benchmarks.kept import Kept
    from benchmarks.machine import surroundings
    from benchmarks.run import INTERRUPTED, measure

    here = torch.device(device)
    with tempfile.TemporaryDirectory(prefix="rnngen-") as folder, redirect_stdout(sys.stderr):
        kept = Kept(Path(folder) / "rows.jsonl")
        status = measure(gauges.tasks(device), kept, {"suite": "gpu", "quick": False}, surroundings(here), here)
        lines = kept.path.read_text("utf-8").splitlines() if kept.path.exists() else []
    return status, [] if status == INTERRUPTED else [json.loads(line) for line in lines]


def as_record(found: Fit, rows: Sequence[Row]) -> Row:
    """For JSON: the machine before and after, the sweeps, and where and when that was."""
    newest = max(rows, key=lambda row: row["when"])
    machine = {}
    for one in fields(found.machine):
        machine[one.name] = {"sheet": getattr(found.sheet, one.name), "fitted": getattr(found.machine, one.name)}
    return {
        "card": newest["machine"],
        "driver": newest.get("driver"),
        "versions": {name: newest.get(name) for name in VERSIONS},
        "when": newest["when"],
        "machine": machine,
        "gauges": [row for row in rows if "sheet" not in row and "step_us" not in row],
        "schedules": list(_schedules(found)),
        "changes": list(changes(found)),
        "python": as_python(found.machine),
    }


def _schedules(found: Fit) -> Iterator[Row]:
    for one in found.readings:
        sheet, fitted = one.estimate(found.sheet), one.estimate(found.machine)
        yield {
            "schedule": one.schedule,
            **{name: one.row[name] for name in ("cell", "direction", "time", "batch", "hidden", "arithmetic")},
            "both_directions": one.sizes.both,
            "step_us": one.step_us,
            "estimated_us": round(sheet, 3),
            "ratio": round(one.step_us / sheet, 3),
            "fitted_us": round(fitted, 3),
            "fitted_ratio": round(one.step_us / fitted, 3),
        }


def as_text(record: Row) -> str:
    """The same for a reader."""
    about = ", ".join(
        f"{name} {value}" for name, value in (record["versions"] | {"driver": record["driver"]}).items() if value
    )
    name = record["machine"]["name"]["sheet"]
    lines = [f"{record['card']} ({name}), {record['when'][:10]}, {about}", ""]
    shown = [(key, pair) for key, pair in record["machine"].items() if pair["sheet"] != pair["fitted"]]
    lines += _table(
        ["", "table", "measured"], [[key, word(pair["sheet"]), word(pair["fitted"])] for key, pair in shown]
    )
    head = ["us a step", "", "steps, batch, units", "", "measured", "estimated", "ratio", "fitted", "ratio"]
    keys = ("step_us", "estimated_us", "ratio", "fitted_us", "fitted_ratio")
    cells = []
    for row in record["schedules"]:
        size = f"{row['time']}, {row['batch']}, {row['hidden']}"
        sweep = f"{row['cell']} {row['direction']}{', both' if row['both_directions'] else ''}"
        what = [row["schedule"], sweep, size, row["arithmetic"]]
        cells.append([*what, *(f"{row[key]:.3g}" for key in keys)])
    lines += ["", *_table(head, cells)]
    lines.append("")
    for row in record["gauges"]:
        if "host_us" in row:
            lines.append(f"{row['contender']}: {row['host_us']:g} us of the host, {row['card_us']:g} of the card")
        if "turn_us" in row:
            turns = ", ".join(f"{us:g} us of {count}" for count, us in row["turn_us"].items())
            lines.append(f"programs that wait for one another and do nothing else: {turns}")
        if reason := row.get("skipped") or row.get("failure"):
            lines.append(f"not measured: {row['contender']} {row.get('cell', '')}: {reason}")
    lines += ["", "`choose` would take another schedule for:" if record["changes"] else "`choose` would take the same."]
    lines += record["changes"]
    lines += ["", f"The row for rnngen/runtime/machine.py, in the place of {name}:", "", record["python"]]
    return "\n".join(lines)


def word(value: object) -> str:
    """A constant for a reader."""
    if isinstance(value, tuple | list):
        return ", ".join(f"{name} {factor:g}" for name, factor in value) or "-"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Columns side by side, numbers on the right."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    right = [all(line[column][:1].isdigit() or line[column] == "-" for line in rows) for column in range(len(head))]
    found = []
    for line in (head, *rows):
        columns = zip(line, widths, right, strict=True)
        found.append(
            "  ".join(f"{text:>{width}}" if number else f"{text:{width}}" for text, width, number in columns).rstrip()
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
