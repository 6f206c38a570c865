"""What a schedule is asked, and what it answers: facts of a sweep, the sizes of a call, a machine; a plan.

This is arithmetic on a few numbers, without torch: a generated module asks when it is called, and the compiler asks the
same functions when it explains a model. The figures behind the rules are counts of compiled kernels (registers,
spills, shared memory) and a scoreboard estimate of their cycles, not measurements on a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rnngen.runtime.machine import Machine

LETTERS = {"hidden": "H", "inputs": "I"}  # the dimensions, as constants of a kernel
MOST_PROGRAMS = 65535  # in the second dimension of a grid, on CUDA and ROCm


@dataclass(frozen=True, slots=True)
class Product:
    """Matrices that are applied at each step: how many, whether transposed, whether block-diagonal over heads."""

    count: int
    transposed: bool = False
    heads: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choice needs to know of one sweep.

    backwards: whether it is an adjoint. streams, outputs: of each tensor that a step reads and writes, its blocks.
    levels: products in a row that depend on one another. dimensions: those that a value of it has.
    """

    backwards: bool = False
    products: tuple[Product, ...] = ()
    streams: tuple[int, ...] = (1,)
    outputs: tuple[int, ...] = (1,)
    levels: int = 0
    dimensions: tuple[str, ...] = ("hidden",)

    @property
    def matrices(self) -> int:
        return sum(product.count for product in self.products)

    @property
    def mixed(self) -> bool:
        """Whether dense and block-diagonal matrices occur together."""
        return len({product.heads for product in self.products}) > 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """One call: batch, hidden units, heads of the block-diagonal matrices, bytes of an element, whether masked."""

    batch: int
    hidden: int
    heads: int = 1
    itemsize: int = 4
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a schedule would run a call: microseconds a step, estimated; the constants of its kernel; launch options."""

    time: float
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """A schedule, the constants of its kernel and the options of its launch, by Triton's names.

    reasons: what speaks for or against every schedule.
    """

    schedule: str
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]
    reasons: Mapping[str, str] = field(default_factory=dict)


class NotPossible(ValueError):
    """The schedule that was asked for cannot run this scan here."""


class Schedule(Protocol):
    """What a file in `schedules` has."""

    def refusal(self, facts: Facts) -> str:
        """Why it cannot run a sweep, whatever the sizes; "" if it can."""

    def plan(self, facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
        """How it would run a call there, or why it cannot."""

    def launch(self, kernel: Callable, scan: "Run", choice: Choice) -> None:
        """Run a sweep."""


class Run(Protocol):
    """What a schedule is given to launch: see `launch.Arguments`."""


def power_of_two(least: int, number: int) -> int:
    """The smallest that is no less than either."""
    return max(least, 1 << (number - 1).bit_length())
