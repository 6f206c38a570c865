"""What a schedule is asked, and what it answers: facts of a sweep, the sizes of a call, a machine; a plan.

This is arithmetic on a few numbers, without torch: a generated module asks when it is called, and the compiler asks the
same functions when it explains a model. The figures behind the rules are counts of compiled kernels (registers,
spills, shared memory) and a scoreboard estimate of their cycles, not measurements on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from rnngen.runtime.machine import Machine

if TYPE_CHECKING:
    from torch import Tensor

# What a scan stores for its adjoint, only where a gradient is wanted: its label, and in front of the others. Numbers
# have the type of the accumulators: they cost next to nothing, and of two bytes a thread Triton makes no asynchronous
# copy, without which an LSTM's adjoint with layer norms takes four times as long.
SAVED, SAVED_NUMBERS = "saved", "saved_numbers"
MOST_PROGRAMS = 65535  # in the second dimension of a grid, on CUDA and ROCm


@dataclass(frozen=True, slots=True)
class Across:
    """What looks across units at each step: a row of `rnngen.across`, how many matrices it applies, and whether they
    are block-diagonal over heads.
    """

    op: str
    matrices: int = 0
    heads: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choice needs to know of one sweep.

    backwards: whether it is an adjoint. streams, outputs: of each tensor that a step reads and writes, its blocks that
    are vectors. numbers: how many numbers it reads. levels: how many in a row of `across` depend on one another.
    dimensions: those that a value of it has. uneven: whether its states have several. linear: whether every state's new
    value is a * old + b, with an a and a b that are known before it. rounds: how often in a row states of such a scan
    wait for others; totals: how many more it has that are sums over time.
    """

    backwards: bool = False
    across: tuple[Across, ...] = ()
    streams: tuple[int, ...] = (1,)
    outputs: tuple[int, ...] = (1,)
    numbers: int = 0
    levels: int = 0
    dimensions: tuple[str, ...] = ("hidden",)
    uneven: bool = False
    linear: bool = False
    rounds: int = 0
    totals: int = 0

    @property
    def products(self) -> tuple[Across, ...]:
        """What applies matrices."""
        return tuple(across for across in self.across if across.matrices)

    @property
    def matrices(self) -> int:
        return sum(across.matrices for across in self.across)

    @property
    def sums(self) -> int:
        """How many reductions in a row depend on one another."""
        return max(1, self.levels - len(self.products)) if len(self.products) < len(self.across) else 0

    @property
    def mixed(self) -> bool:
        """Whether dense and block-diagonal matrices occur together."""
        return len({across.heads for across in self.products}) > 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """One call: batch, hidden units (0 where nothing is as wide), heads of the block-diagonal matrices, bytes of an
    element, whether masked.

    both: whether the second half of the units and heads runs the other way in time. resets: whether sequences
    may begin within it. others: the dimensions beside the hidden units, by name.
    """

    batch: int
    hidden: int
    heads: int = 1
    itemsize: int = 4
    masked: bool = False
    both: bool = False
    resets: bool = False
    others: tuple[tuple[str, int], ...] = ()

    def widths(self, facts: Facts) -> list[int]:
        """The dimensions that values of a sweep have, as far as they are known; of several heads all units."""
        known = {"hidden": self.hidden, **dict(self.others)}
        return [known[name] for name in facts.dimensions if name in known] or [self.hidden]

    def widest(self, facts: Facts) -> int:
        """The largest of them."""
        return max(self.widths(facts))


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a plan takes of a machine. It is for people: no launch rests on it.

    programs: of one launch. at_once: how many the machine runs at a time, 0 where the plan does not ask. tile: what a
    program has at hand, by name: units, sequences, steps. matrix_bytes: of the matrices of a program that stay on the
    chip for the whole sequence; held_in: where, "registers" or "shared memory". shared_bytes: all that it takes of the
    shared memory. moved_bytes: what a step moves through memory, 0 where that is what it reads and writes. launches: of
    kernels for each step, 0 where one runs the whole sequence. exchanges: how often in a step programs wait for others.
    """

    programs: int
    at_once: int = 0
    tile: Mapping[str, int] = field(default_factory=dict)
    matrix_bytes: int = 0
    held_in: str = ""
    shared_bytes: int = 0
    moved_bytes: int = 0
    launches: int = 0
    exchanges: int = 0


@dataclass(frozen=True, slots=True)
class Along:
    """How the steps of a sequence may be divided among programs; how many these are its length decides.

    chunk: the steps that a program takes at once, chunk_us: for how long; map_us: for how long where it only finds what
    they make of the states of the first round; memory_us: how long memory takes for them, however many programs there
    are. most: the stretches that the machine has room for beside one another.
    rounds, totals: as in `Facts`. begins: whether the gradient of what resets return to is a sum over time as well.
    launch_us: of one more launch.
    """

    chunk: int
    chunk_us: float
    map_us: float
    memory_us: float
    most: int
    rounds: int
    totals: int
    begins: bool
    launch_us: float

    def stretches(self, time: int) -> int:
        """How many stretches a sequence is divided into, none of them empty; 1 unless that takes a fifth off, which is
        as far as the estimates can be trusted.
        """
        chunks = -(-time // self.chunk)
        each = -(-chunks // self.most)
        return -(-chunks // each) if self._apart(each, chunks) < 0.8 * chunks * self.chunk_us else 1

    def steps(self, time: int) -> int:
        """How many each of them has, but for the last one."""
        return -(-time // (self.stretches(time) * self.chunk)) * self.chunk

    def launches(self, time: int) -> int:
        """How many there are for a sequence. All steps are run once for each round, and once more."""
        sums = self.totals + self.begins  # each is added up, and copied
        return 1 if self.stretches(time) == 1 else 1 + self.rounds + 2 * sums

    def total_us(self, time: int) -> float:
        """How long a sequence takes, by the estimates."""
        chunks = -(-time // self.chunk)
        if self.stretches(time) == 1:
            return chunks * self.chunk_us
        return self._apart(self.steps(time) // self.chunk, chunks)

    def _apart(self, each: int, chunks: int) -> float:
        """The time of all chunks in stretches of `each`."""
        memory = chunks * self.memory_us
        time = max(each * self.map_us, memory) + self.rounds * max(each * self.chunk_us, memory)
        return time + (self.rounds + 2 * (self.totals + self.begins)) * self.launch_us


@dataclass(frozen=True, slots=True)
class Plan:
    """How a schedule would run a call: microseconds a step, estimated; the constants of its kernel; launch options.

    footprint: what that takes of the machine, None where the schedule does not say. along: how the steps of a long
    sequence are divided among programs, None where they are not; `time` is that of a step of one program then.
    """

    time: float
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]
    footprint: Footprint | None = None
    along: Along | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A schedule, the constants of its kernel and the options of its launch, by Triton's names.

    reasons: what speaks for or against every schedule. along: as in a plan.
    """

    schedule: str
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]
    reasons: Mapping[str, str] = field(default_factory=dict)
    along: Along | None = None


def letter_of(dimension: str) -> str:
    """A dimension as a constant of a kernel."""
    return {"hidden": "H", "inputs": "I"}.get(dimension, f"N_{dimension}")


def saved_as(shape: tuple[str | int, ...]) -> str:
    """The label of the output that stores blocks of a shape."""
    if shape == ():
        return SAVED_NUMBERS
    return SAVED if shape == ("hidden",) else "_".join((SAVED, "as", *map(str, shape)))


def is_saved(label: str) -> bool:
    """Whether an output is written only where a gradient is wanted."""
    return label in (SAVED, SAVED_NUMBERS) or label.startswith(f"{SAVED}_as_")


class NotPossible(ValueError):
    """The schedule that was asked for cannot run this scan here."""


class Kernel(Protocol):
    """A function of Triton's: kernel[grid](...) launches it."""

    __name__: str
    arg_names: list[str]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        """What launches as many programs as the grid has."""


class Run(Protocol):
    """The arguments of a sweep, `launch.Arguments`, as far as a schedule may ask."""

    @property
    def time(self) -> int:
        """The number of steps."""

    @property
    def batch(self) -> int:
        """The elements of the batch."""

    @property
    def hidden(self) -> int:
        """The hidden units, 0 where nothing is as wide."""

    @property
    def heads(self) -> int:
        """Of the block-diagonal parameters."""

    @property
    def widest(self) -> int:
        """The largest dimension that a value has."""

    @property
    def letters(self) -> Mapping[str, int]:
        """The dimensions as constants of a kernel."""

    @property
    def backwards(self) -> bool:
        """Whether time runs from T - 1 to 0."""

    @property
    def both(self) -> bool:
        """Whether the second half of the units and heads runs the other way."""

    @property
    def precision(self) -> str:
        """How float32 is multiplied."""

    @property
    def tensors(self) -> Sequence[Tensor | None]:
        """Every tensor in the order of a kernel's arguments; None for a mask that is not there."""

    def maps(self, stretches: int, states: int) -> Sequence[Tensor]:
        """Room for what each stretch of time makes of the first states, (stretches, 3, batch, width) for each of them,
        in the type of the accumulators.
        """

    def in_parts(self, stretches: int, totals: int, begins: bool) -> AbstractContextManager[Run]:
        """Within it the sweep with room for a part of each stretch, (stretches, batch, width), in the place of its
        last states `totals`, and where `begins` in that of `first`. Behind it the parts of each are added up.
        """

    @property
    def states(self) -> Sequence[Tensor]:
        """The states before the first step."""

    def exchange(self, room: Mapping[str, int], counters: int) -> Sequence[Tensor]:
        """Memory through which the programs of a launch exchange what they compute: a tensor for each kind that is not
        empty, "numbers" in the type of the accumulators and others in that of the tensors, and counters that are 0.
        """

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        choice: Choice,
        tensors: Sequence[Tensor | None],
        time: int,
        **constants: int | bool | str,
    ) -> object:
        """Launch a kernel with these, and with what every kernel takes. time: the number of steps, or the one meant.

        Raises NotPossible for a kernel that Triton finds too large for the GPU.
        """

    def bound(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        choice: Choice,
        tensors: Sequence[Tensor | None],
        **constants: int | bool | str,
    ) -> Callable[[int], None]:
        """The same as a function of the step that is meant, to be called again and again within `on_device`."""

    def on_device(self) -> AbstractContextManager[object]:
        """Within it the device of the tensors is the current one."""


Steps = Callable[[Run, Choice], None]  # a module's loop over time, which knows the tensors that it asks for
_Launched = TypeVar("_Launched", contravariant=True)


class Schedule(Protocol[_Launched]):
    """What a file in `schedules` has. It launches a `Kernel` or `Steps`, as its template makes them."""

    def refusal(self, facts: Facts) -> str:
        """Why it cannot run a sweep, whatever the sizes; "" if it can."""

    def plan(self, facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
        """How it would run a call there, or why it cannot."""

    def launch(self, launched: _Launched, scan: Run, choice: Choice, /) -> None:
        """Run a sweep."""


def streamed_bytes(facts: Facts, sizes: Sizes) -> int:
    """What a step reads and writes in memory, with what it stores for its adjoint."""
    blocks = (sum(facts.streams) + sum(facts.outputs)) * sizes.widest(facts) * sizes.itemsize
    return (blocks + facts.numbers * max(4, sizes.itemsize)) * sizes.batch


def power_of_two(least: int, number: int) -> int:
    """The smallest that is no less than either."""
    return max(least, 1 << (number - 1).bit_length())
