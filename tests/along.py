"""Stretches of time where a sequence is short: a linear scan by several programs along it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from rnngen.runtime.choose import choose
from rnngen.runtime.plan import Along
from rnngen.runtime.schedules import linear

CHUNK = 2  # steps: as few as kernels take


@contextmanager
def stretches(wanted: Callable[[int], int]) -> Iterator[list[int]]:
    """Chunks of two steps, and as many stretches of time as are wanted, or as there are chunks for. What is given is
    filled with the stretches of each launch.
    """
    found: list[int] = []

    def divided(self: Along, time: int) -> int:
        chunks = -(-time // self.chunk)
        each = -(-chunks // max(1, wanted(time)))
        found.append(-(-chunks // max(1, each)))
        return max(1, found[-1])

    choose.cache_clear()
    with mock.patch.object(linear, "CHUNK", CHUNK), mock.patch.object(Along, "stretches", divided):
        yield found
    choose.cache_clear()
