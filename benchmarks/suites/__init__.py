"""What is measured: of each suite the tasks in a row, of which each gives rows.

A task has a `cost`, about how many seconds it takes on one thread, and `rows()`; `facts` are what all of these say, and
`str()` of it names it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Task(Protocol):
    @property
    def cost(self) -> float: ...

    @property
    def facts(self) -> dict[str, object]: ...

    def rows(self) -> Iterator[dict[str, object]]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line; empty where the suite decides."""

    cells: tuple[str, ...] = ()
    hidden: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    time: tuple[int, ...] = ()
    dtype: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    device: str = "cuda"
    quick: bool = False
