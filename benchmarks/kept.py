"""The file that a run appends its rows to, task by task: a run that was cut off, however that was, goes on in it.

The rows of a task are written at once, each with the name of the task and how many there are: a task is there, or it is
not. What was begun is noted beside the file, so that a task that never ends does not keep all others from their turn.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ATTEMPTS = 2  # that ended with the process, after which a task counts as one that cannot be measured


class OtherOrigin(ValueError):
    """A file has rows of another origin, or something that is no row."""


class Kept:
    """A file of rows, a line of JSON each.

    origin: what all of its rows must say; without it the file is appended to, whatever is in it. done: the tasks whose
    rows are there. begun: how often each other one was begun. failures: how many rows are.

    Raises OtherOrigin, and OSError if the file cannot be read or written.
    """

    def __init__(self, path: Path, origin: Mapping[str, object] | None = None) -> None:
        self.path = path
        self.done: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.failures = 0
        self._goes_on = origin is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        if origin is not None and path.exists():
            self._go_on(origin)

    @property
    def _notes(self) -> Path:
        return self.path.with_name(f"{self.path.name}.begun")

    def _go_on(self, origin: Mapping[str, object]) -> None:
        text = self.path.read_text("utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)  # what is behind was cut off
        rows = [self._row(line, number) for number, line in enumerate(lines, 1)]
        for row in rows:
            if others := {name: row.get(name) for name, value in origin.items() if row.get(name) != value}:
                found = ", ".join(f"{name} {value}, here {origin[name]}" for name, value in others.items())
                raise OtherOrigin(f"{self.path} has rows of another origin ({found})")
        counts = Counter(row.get("task") for row in rows)
        whole = [counts[row.get("task")] == row.get("of") for row in rows]
        self.done = {row["task"] for row, there in zip(rows, whole, strict=True) if there}
        self.failures = sum("failure" in row for row, there in zip(rows, whole, strict=True) if there)
        kept = "".join(line for line, there in zip(lines, whole, strict=True) if there)
        if text != kept:
            fresh = self.path.with_name(f"{self.path.name}.new")
            fresh.write_text(kept, "utf-8")
            fresh.replace(self.path)
        if self._notes.exists():
            self.begun = Counter(self._notes.read_text("utf-8").splitlines())

    def _row(self, line: str, number: int) -> Row:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise OtherOrigin(f"{self.path}, line {number} is no row ({error})") from None
        if not isinstance(row, dict):
            raise OtherOrigin(f"{self.path}, line {number} is no row")
        return row

    def begin(self, task: str) -> None:
        """Note that its turn has come, before it can take the process with it."""
        if self._goes_on:
            self.begun[task] += 1
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(f"{task}\n")

    def excuse(self, task: str) -> None:
        """It was somebody else who ended it."""
        if self._goes_on:
            self.begun[task] -= 1
            self._notes.write_text("".join(f"{one}\n" for one in self.begun.elements()), "utf-8")

    def add(self, task: str, rows: Sequence[Row]) -> None:
        """All rows of a task."""
        text = "".join(json.dumps({**row, "task": task, "of": len(rows)}) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.done.add(task)
        self.failures += sum("failure" in row for row in rows)

    def close(self) -> None:
        """All tasks have had their turn: nothing is left to be noted."""
        self._notes.unlink(missing_ok=True)
