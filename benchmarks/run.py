"""Tasks run one after another: the rows of each go to a file at once, and a line of every row to a reader."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kept import ATTEMPTS, Kept
from benchmarks.machine import sensors
from benchmarks.measure import said

if TYPE_CHECKING:
    import torch

    from benchmarks.suites import Task

INTERRUPTED = 130
UNFINISHED = 75  # as sysexits.h has it for what is to be tried again


class Lost(Exception):
    """The card answers no more: whatever this process asks of it from now on fails."""


def measure(
    tasks: Sequence[Task],
    kept: Kept,
    about: dict[str, Any],
    here: dict[str, Any],
    device: torch.device,
    minutes: float = math.inf,
) -> int:
    """Append the rows of the tasks that a file does not have yet, each task's when it is done; what is there stays,
    whatever happens then. One that twice took the process with it is a failure, and is not begun a third time.

    about, here: what all rows say. minutes: no task is begun that would take longer by its cost, but for the first.
    Gives 0, or 1 if something failed, INTERRUPTED, or UNFINISHED if there was no time for all, or the card was lost:
    then the same call goes on.
    """
    begun, count, task = time.monotonic(), 0, None
    left = sorted((task for task in tasks if str(task) not in kept.done), key=lambda task: kept.begun[str(task)])
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} tasks are in {shown(kept.path)} already", flush=True)
    later: list[Task] = []
    try:
        with progress(left) as steps:
            for number, (task, say) in enumerate(steps):
                if number and time.monotonic() - begun + task.cost > 60 * minutes:
                    later.append(task)
                    continue
                found = []
                for row in rows_of(task) if _may_begin(task, kept) else _never_ends(task):
                    found.append({"when": datetime.now(UTC).isoformat(timespec="seconds")} | about | row)
                    say(line(row))
                seen = sensors(device)  # which nvidia-smi takes its time for, so once a task
                kept.add(str(task), [row | seen | here for row in found])
                count += len(found)
                if any("failure" in row for row in found):
                    _still_there(device)
    except KeyboardInterrupt:
        kept.excuse(str(task))
        print(f"Interrupted. The {count} rows that were measured are in {shown(kept.path)}", flush=True)
        return INTERRUPTED
    except Lost as reason:
        print(
            f"{reason}. The {count} rows that were measured are in {shown(kept.path)}: the same command goes on there"
        )
        return UNFINISHED
    print(f"{count} rows are in {shown(kept.path)}" + (f"; {kept.failures} are failures" if kept.failures else ""))
    if later:
        names = "; ".join(map(str, later))
        print(f"{minutes:g} minutes were too few for {len(later)} tasks, which the same command goes on with: {names}")
        return UNFINISHED
    kept.close()
    return int(kept.failures > 0)


def _may_begin(task: Task, kept: Kept) -> bool:
    if kept.begun[str(task)] >= ATTEMPTS:
        return False
    kept.begin(str(task))
    return True


def _never_ends(task: Task) -> Iterator[dict[str, Any]]:
    why = f"{ATTEMPTS} times the process ended while this ran: it hangs, or takes longer than a process may"
    yield {"contender": "", **task.facts, "failure": why}


def _still_there(device: torch.device) -> None:
    """Raises Lost if what a kernel did has made the card useless to this process."""
    import torch

    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except Exception as error:
            raise Lost(f"The card answers no more ({said(error)})") from None


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
    what = f"{row['part']:8} {row.get('layer') or row.get('cell', '')} {size}, {row['contender'] or 'all'}"
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
    "gb_s": "{} GB/s",
    "tflops": "{} TF/s",
    "clock_ghz": "{} GHz",
    "step_us": "{} us a step",
    "estimated_us": "estimated {}",
    "host_us": "{} us of the host a launch",
    "card_us": "{} us of the card",
    "turn_us": "us a turn by the number of programs: {}",
    "passed": "{} checks are right",
    "left_out": "{} are not for this card",
}


def shown(path: Path) -> str:
    """From here, if it lies below."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
