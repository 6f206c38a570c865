"""Cooperative kernels in Triton's interpreter, in random order, with every access held against a clock of vectors.

    with checked(seed) as found:
        layer(x)

Programs change places at their atomic operations, and now and then at any access. What one program writes another may
read, or write, only behind a release of the first and an acquire of the second; and what it reads others may write only
behind such a pair the other way. Whether they met by luck does not matter: a missing order is found in every schedule.

A program is many threads, which the interpreter does not show. So a release has to stand behind a barrier that stands
behind the stores, and what others wrote has to be read behind a barrier that stands behind the acquire.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from triton.runtime import interpreter

from rnngen.runtime import lockstep
from rnngen.runtime.lockstep import Deadlock, Launch, running

__all__ = ["Deadlock", "Found", "Race", "checked"]

_PAGE = 1 << 12  # addresses that are noted together
_NOBODY = -1


class Race(AssertionError):
    """Two programs, or two threads of one, touch the same memory in no order."""


@dataclass
class Found:
    """What was run: the programs of each launch, and how often they changed places."""

    programs: list[int] = field(default_factory=list)
    pauses: int = 0


class _Page:
    """Of each byte who wrote it last and when, by that program's own clock; and when each program read it last."""

    def __init__(self, programs: int):
        self.writer = np.full(_PAGE, _NOBODY)
        self.written = np.zeros(_PAGE, np.int64)
        self.read = np.zeros((programs, _PAGE), np.int64)


class _Clocks:
    """The order of what the programs of a launch do. now[p][q]: up to when p has seen what q did."""

    def __init__(self, programs: int):
        self.now = np.eye(programs, dtype=np.int64)
        self.released: dict[int, np.ndarray] = {}
        self.pages: dict[int, _Page] = {}
        self.unordered_stores = [False] * programs  # since the last barrier
        self.unordered_acquire = [False] * programs

    def places(self, pointers: np.ndarray) -> Iterator[tuple[_Page, np.ndarray]]:
        """The pages of some addresses, each with the places on it."""
        numbers = pointers // _PAGE
        for number in np.unique(numbers).tolist():
            if number not in self.pages:
                self.pages[number] = _Page(len(self.now))
            yield self.pages[number], (pointers[numbers == number] % _PAGE).astype(np.int64)

    def load(self, program: int, pointers: np.ndarray) -> None:
        for page, at in self.places(pointers):
            writer = page.writer[at]
            foreign = (writer != _NOBODY) & (writer != program)
            if (foreign & (page.written[at] > self.now[program][writer])).any():
                raise Race(f"program {program} reads what another writes")
            if foreign.any() and self.unordered_acquire[program]:
                raise Race(f"program {program} reads what another wrote, and no barrier is behind its acquire")
            page.read[program][at] = self.now[program][program]

    def store(self, program: int, pointers: np.ndarray) -> None:
        self.unordered_stores[program] = True
        for page, at in self.places(pointers):
            writer = page.writer[at]
            foreign = (writer != _NOBODY) & (writer != program)
            if (foreign & (page.written[at] > self.now[program][writer])).any():
                raise Race(f"program {program} writes what another writes")
            late = page.read[:, at] > self.now[program][:, None]
            late[program] = False
            if late.any():
                raise Race(f"program {program} writes what another reads")
            page.writer[at], page.written[at] = program, self.now[program][program]

    def atomic(self, program: int, pointer: np.ndarray, order: str) -> None:
        """An operation on a counter. To a plain store it is a read that others may not be in the middle of."""
        for page, at in self.places(pointer):
            writer = page.writer[at]
            if ((writer != _NOBODY) & (writer != program) & (page.written[at] > self.now[program][writer])).any():
                raise Race(f"program {program} counts where another writes")
            page.read[program][at] = self.now[program][program]
        (address,) = pointer.tolist()
        if "RELEASE" in order:
            if self.unordered_stores[program]:
                raise Race(f"program {program} releases what its other threads may not have stored yet")
            seen = self.released.get(address, np.zeros_like(self.now[program]))
            self.released[address] = np.maximum(seen, self.now[program])
            self.now[program][program] += 1
        if "ACQUIRE" in order and address in self.released:
            after = np.maximum(self.now[program], self.released[address])
            self.unordered_acquire[program] |= bool((after != self.now[program]).any())
            self.now[program] = after

    def barrier(self, program: int) -> None:
        self.unordered_stores[program] = self.unordered_acquire[program] = False


@contextmanager
def checked(seed: int, pause: float = 0.02) -> Iterator[Found]:
    """Run what is launched within in an order of its own. pause: how often a program stops at an access.

    Raises Race, Deadlock or what a kernel raises, within the InterpreterError that Triton makes of it.
    """
    order, found = random.Random(seed), Found()
    builder = type(interpreter.interpreter_builder)

    class Checked(Launch):
        def __init__(self, fn, calls):
            super().__init__(fn, calls)
            self.clocks = _Clocks(len(calls))
            found.programs.append(len(calls))

        def choose(self):
            found.pauses += 1
            return order.choice(self.alive)

    def access(name, note):
        usual = getattr(builder, name)

        def accessed(self, pointers, *rest):
            if launch := running():
                mask = rest[0 if name == "create_masked_load" else 1].data
                note(launch.clocks, launch.current, pointers.data[np.broadcast_to(mask, pointers.data.shape)])
                if order.random() < pause:
                    launch.pause()
            return usual(self, pointers, *rest)

        return accessed

    atomic, barrier = builder.create_atomic_rmw, builder.create_barrier

    def ordered(self, operation, pointer, value, mask, sem, scope):
        if launch := running():
            launch.pause()
            launch.clocks.atomic(launch.current, pointer.data.ravel(), sem.name)
        return atomic(self, operation, pointer, value, mask, sem, scope)

    def together(self):
        if launch := running():
            launch.clocks.barrier(launch.current)
        return barrier(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lockstep, "Launch", Checked)
        patch.setattr(builder, "create_masked_load", access("create_masked_load", _Clocks.load))
        patch.setattr(builder, "create_masked_store", access("create_masked_store", _Clocks.store))
        patch.setattr(builder, "create_atomic_rmw", ordered)
        patch.setattr(builder, "create_barrier", together)
        yield found
