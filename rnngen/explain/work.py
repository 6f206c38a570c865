"""What a step of a sweep takes, counted from its chain: operations, bytes, and the least time that a machine needs."""

from dataclasses import dataclass
from math import prod

from rnngen.chain import Chain, unique
from rnngen.ops import OPS
from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Sizes


@dataclass(frozen=True, slots=True)
class Work:
    """One step of the whole batch.

    products, pointwise: operations; a multiplication with the addition behind it is two, and an operation of the
    equation language, tanh too, is one for each number. read, written, saved: bytes of streams, of outputs, and of what
    the forward sweep stores for its adjoint. weights: bytes of what is the same at every step. states: bytes of what is
    carried from step to step, in the type of the accumulators.
    """

    products: int
    pointwise: int
    read: int
    written: int
    saved: int
    weights: int
    states: int

    @property
    def operations(self) -> int:
        return self.products + self.pointwise

    @property
    def moved(self) -> int:
        """Bytes that pass through memory, if weights and states stay on the chip."""
        return self.read + self.written + self.saved


@dataclass(frozen=True, slots=True)
class Floor:
    """The least time of a step, in microseconds, and what takes it: "memory", "products" or "pointwise work"."""

    time: float
    by: str


def work_of(chain: Chain, sizes: Sizes) -> Work:
    """What a step of a sweep takes for a call of these sizes, without a mask and without resets."""
    known = {"hidden": sizes.hidden, **dict(sizes.others)}
    number = max(4, sizes.itemsize)

    def width(name: str) -> int:
        return prod(known[dimension] for dimension in chain.width(name))

    def stored(name: str, blocks: int) -> int:
        """Bytes of blocks of a tensor; numbers have the type of the accumulators."""
        return blocks * width(name) * (sizes.itemsize if chain.width(name) else number) * sizes.batch

    def matrix(name: str) -> int:
        """Numbers of one matrix; both directions of a layer are heads of it."""
        return width(name) // (sizes.heads if sizes.both or name in chain.graph.heads else 1)

    def written(*when: str) -> int:
        return sum(stored(write.atoms[0].value, len(write.atoms)) for write in chain.writes if write.when in when)

    pointwise = [value.name for link in chain.links for value in link.stage.values if value.op in OPS]
    summed = [atom.value for across in chain.across if not across.matrices for atom in across.operand]
    applied = [across.matrices for across in chain.across if across.matrices]
    matrices = unique((m.parameter, m.start + place) for m in applied for place in range(m.count))
    weights = sum(matrix(name) for name, _ in matrices) + sum(width(atom.value) for atom in chain.vectors)
    return Work(
        products=2 * sizes.batch * sum(one.count * matrix(one.parameter) for one in applied),
        pointwise=sizes.batch * sum(map(width, (*pointwise, *summed))),
        read=sum(stored(name, len(blocks)) for name, blocks in chain.streams),
        written=written("always", "keep"),
        saved=written("save"),
        weights=weights * sizes.itemsize,
        states=sum(width(name) for name, _ in chain.states) * number * sizes.batch,
    )


def floor_of(work: Work, machine: Machine, itemsize: int) -> Floor:
    """A machine moves bytes, multiplies and does pointwise work at the same time: whichever takes longest. Steps wait
    for one another, which takes longer still: that is not in it.
    """
    times = {
        "memory": work.moved / machine.memory_gb_s / 1e3,
        "products": work.products / machine.tflops(itemsize) / 1e6,
        "pointwise work": work.pointwise / machine.tflops(max(4, itemsize)) / 1e6,
    }
    by = max(times, key=lambda name: times[name])
    return Floor(times[by], by)
