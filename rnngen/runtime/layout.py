"""How time is cut into chunks, see `chunked`."""

from __future__ import annotations

from dataclasses import dataclass

NAME = "chunked"
_WARM_UP = 128  # steps
_LONGER = 4  # times the warm-up is a chunk at least, so that the warm-up is a fifth of the work at most
# Chunks times samples that one core runs as fast for each as it can; a warm-up costs less of fewer. An LSTM of 64 units
# takes 1.04 us a step of one sample on a Zen 5 core, 3.3 of 8 and 6.5 of 16; one of 512 units 55, 158 and 310.
OF_A_CORE = 8
OF_A_PROGRAM = 8  # of a resident kernel, which takes no fewer


def is_chunked(schedule: object) -> bool:
    """Whether a schedule of a layer is this one, with sizes or without."""
    return isinstance(schedule, str) and schedule.partition(" ")[0] == NAME


def sizes_of(schedule: str) -> tuple[int | None, int | None]:
    """The steps of a chunk and of its warm-up that "chunked", "chunked 512" or "chunked 512 128" names.

    Raises ValueError for anything else.
    """
    name, *numbers = schedule.split(" ")
    fine = name == NAME and len(numbers) <= 2 and all(n.isascii() and n.isdigit() and int(n) > 0 for n in numbers)
    chunk, warm_up = ([int(n) for n in numbers] + [None, None])[:2] if fine else (None, None)
    if not fine or (chunk and warm_up and warm_up > chunk):
        raise ValueError(
            f"schedule '{NAME}' takes the least steps of a chunk, and behind them those of its warm-up, which are no "
            f"more: '{NAME} 512 128'; got {schedule!r}"
        )
    return chunk, warm_up


@dataclass(frozen=True)
class Layout:
    """How time is cut: into so many chunks of so many steps each, behind some that come before them in the order of the
    scan. warm_up: steps.
    """

    count: int
    steps: int
    warm_up: int
    before: int

    @classmethod
    def of(cls, schedule: str, time: int, batch: int, at_once: int) -> Layout | None:
        """That of a call; None where there would be one chunk alone. at_once: chunks times samples that are enough."""
        chunk, warm_up = sizes_of(schedule)
        warm_up = warm_up or min(_WARM_UP, chunk or _WARM_UP)
        least = chunk or max(_LONGER * warm_up, -(-time * batch // at_once))
        if time < 2 * least:
            return None
        # Of those up to an eighth longer the steps that leave the fewest over.
        steps = min(range(least, min(least + least // 8, time // 2) + 1), key=lambda steps: time % steps)
        return cls(time // steps, steps, warm_up, time % steps)

    def start(self, place: int, backwards: bool) -> int:
        """The first step of the warm-up at the end of a chunk, by its place in the order of the scan."""
        if backwards:
            return (self.count - 1 - place) * self.steps
        return self.before + (place + 1) * self.steps - self.warm_up
