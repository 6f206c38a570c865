"""What a scan keeps in memory for its backward pass, as a model says it: `save = "gates"`, "states" or "every N".

The compiler reads it too, so nothing here imports torch.
"""

import re
from dataclasses import dataclass
from math import isqrt

KINDS = ("gates", "states")  # what the steps of a module are compiled for; the first is the usual one
EVERY = "every"
MOST_STEPS = 999_999_999
PATTERN = "^(" + "|".join((*KINDS, rf"{EVERY}( [1-9][0-9]{{0,8}})?")) + ")$"  # of a text that says it, for editors
_EVERY = re.compile(r"every(?: (0|[1-9][0-9]{0,30}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Memory:
    """kind: one of `KINDS`, "" where nothing is said of it. every: how many steps lie between states that are kept, the
    steps between them being run again; 0 for about the root of how many there are, None where all steps are kept.
    """

    kind: str = ""
    every: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What names of cells and classes end in that are made with it; the usual one has none."""
        if self.every is not None:
            return (f"{EVERY}_{self.every}" if self.every else EVERY,)
        return (self.kind,) if self.kind not in ("", KINDS[0]) else ()


def mistake_of(text: str) -> str | None:
    """What can be said, where a text says nothing that can be kept."""
    found = _EVERY.fullmatch(text)
    if text not in KINDS and found is None:
        return 'it keeps "gates", "states", "every" or "every N" with a number of steps, as "every 256".'
    if found and found[1] and not 1 <= int(found[1]) <= MOST_STEPS:
        return f'the steps of "every N" are from 1 to {MOST_STEPS:,}; "every" alone takes their root.'
    return None


def memory_of(text: str) -> Memory:
    """What a text says. Raises ValueError, whose text says what can be said."""
    if reason := mistake_of(text):
        raise ValueError(reason)
    if text in KINDS:
        return Memory(text)
    _, _, steps = text.partition(" ")
    return Memory(every=int(steps or 0))


def steps_of(every: int, time: int) -> int:
    """How many steps lie between states that are kept, of `time`."""
    return every or max(1, isqrt(max(0, time - 1)) + 1)
