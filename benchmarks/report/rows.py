"""The rows of files, of each measurement the newest."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

KEY = ("machine", "suite", "part", "cell", "time", "batch", "hidden", "arithmetic", "threads", "contender")
KEY += ("direction", "cache", "layer")
"""By which two rows are of the same measurement."""


class NoRow(ValueError):
    """A line of a file is no row of `python -m benchmarks run`."""


def read(files: Iterable[Path]) -> list[Row]:
    """In the order in which they were first measured. Raises NoRow.

    A contender that was absent, wrong or failed has one row for both directions: a newer measurement takes its place.
    """
    found: dict[tuple[object, ...], Row] = {}
    for file in files:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                key, when = tuple(row.get(name) for name in KEY), row["when"]
                told = row["machine"], row["part"], row["contender"], row["suite"]
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise NoRow(f"{file}, line {number} is no row of python -m benchmarks run: {error!r}") from None
            if not all(isinstance(one, str) for one in told):
                raise NoRow(f"{file}, line {number} does not say what was measured")
            if key not in found or found[key]["when"] <= when:
                found[key] = row
    return [row for row in found.values() if not _outdated(row, found)]


def _outdated(row: Row, found: dict[tuple[object, ...], Row]) -> bool:
    """Whether a row without a direction is older than one that has a direction, or the other way about."""
    key = {name: row.get(name) for name in KEY}
    whole = row.get("direction") is None
    others = [None] if not whole else ["forward", "both"]
    rivals = (found.get(tuple((key | {"direction": other}).values())) for other in others)
    return any(rival and rival["when"] > row["when"] for rival in rivals)


class Rows:
    """Rows of one machine, found by what they say."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __bool__(self) -> bool:
        return bool(self.rows)

    def of(self, **facts: object) -> "Rows":
        """Those of which all of this is true."""
        return Rows(row for row in self.rows if all(row.get(name) == value for name, value in facts.items()))

    def one(self, **facts: object) -> Row | None:
        """The only one, if there is one."""
        return next(iter(self.of(**facts)), None)

    def all(self, name: str) -> list[Any]:
        """What they say of one thing, each once, in order if they are numbers."""
        found = list(dict.fromkeys(row[name] for row in self.rows if name in row))
        return sorted(found) if all(isinstance(value, int | float) for value in found) else found


def by_machine(rows: Iterable[Row]) -> dict[str, Rows]:
    """The machine that was measured last comes first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["machine"], []).append(row)
    newest = sorted(groups.values(), key=lambda group: max(row["when"] for row in group), reverse=True)
    return {group[0]["machine"]: Rows(group) for group in newest}
