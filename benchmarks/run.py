"""Tasks run one after another: their rows go to a file as they come, and a line for a reader."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import sensors
from benchmarks.measure import said

if TYPE_CHECKING:
    import torch

    from benchmarks.suites import Task

INTERRUPTED = 130


def measure(tasks: Sequence[Task], out: Path, about: dict[str, Any], here: dict[str, Any], device: torch.device) -> int:
    """Append the rows of tasks to a file as they come; what was measured stays there, whatever happens then.

    about, here: what all rows say. Gives 0, or 1 if something failed, or INTERRUPTED.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    count = failures = 0
    try:
        with progress(tasks) as steps:
            for task, say in steps:
                for row in rows_of(task):
                    when = {"when": datetime.now(UTC).isoformat(timespec="seconds")}
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(when | about | row | sensors(device) | here) + "\n")
                    count += 1
                    failures += "failure" in row
                    say(line(row))
    except KeyboardInterrupt:
        print(f"Interrupted. The {count} rows that were measured are in {shown(out)}", flush=True)
        return INTERRUPTED
    print(f"{count} rows are in {shown(out)}" + (f"; {failures} of them are failures" if failures else ""))
    return int(failures > 0)


def rows_of(task: Task) -> Iterator[dict[str, Any]]:
    """Those of a task; whatever it raises is one, and the next task has its turn."""
    try:
        yield from task.rows()
    except Exception as error:  # out of memory, say: all are findings
        yield {"contender": "", **task.facts, "failure": said(error)}


@contextmanager
def progress(tasks: Sequence[Task]) -> Iterator[Iterator[tuple[Task, Callable[[str], None]]]]:
    """Each task, with a function that prints a line; on a terminal a bar below says what runs and how long it takes."""
    if not sys.stderr.isatty() or importlib.util.find_spec("tqdm") is None:
        yield ((task, print) for task in tasks)
        return
    from tqdm import tqdm

    form = "{percentage:3.0f} %|{bar}| {elapsed}, {remaining} left, {desc}"
    with tqdm(total=sum(task.cost for task in tasks), bar_format=form, leave=False) as bar:

        def steps() -> Iterator[tuple[Task, Callable[[str], None]]]:
            for task in tasks:
                bar.set_description_str(str(task))
                yield task, bar.write
                bar.update(task.cost)

        yield steps()


def line(row: dict[str, Any]) -> str:
    """A row for a reader."""
    sizes = {"time": "T", "batch": "B", "hidden": "H"}
    size = " ".join(f"{letter} {row[name]}" for name, letter in sizes.items() if name in row)
    what = f"{row['part']:8} {row.get('cell', '')} {size}, {row['contender'] or 'all'}"
    what += f" {row['direction']}" if "direction" in row else ""
    what += f" {row['arithmetic']}" if row.get("arithmetic", "float32") != "float32" else ""
    what += f" with {row['threads']} threads" if row.get("threads", 1) > 1 else ""
    if reason := row.get("failure") or row.get("skipped"):
        return f"{what}: {'FAILED, ' if 'failure' in row else 'not measured, '}{reason}"
    facts = []
    if "ms" in row:
        facts.append(f"{row['ms'][1]:.3f} ms")
    if "ratio" in row and row["contender"] != row["over"]:
        low, middle, high = row["ratio"]
        facts.append(f"{middle:.2f} of {row['over']} ({low:.2f} to {high:.2f})")
    if row.get("error") is not None:
        facts.append(f"error {row['error']:.1e}")
    facts += (form.format(row[name]) for name, form in OTHERS.items() if row.get(name) is not None)
    return f"{what}: {', '.join(facts)}"


OTHERS = {
    "seconds": "{} s",
    "cache": "{} cache",
    "peak_mb": "{} MB at the most",
    "saved_mb": "{} MB kept",
    "gflops": "{} GF/s",
}


def shown(path: Path) -> str:
    """From here, if it lies below."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
