"""What a scan keeps for its backward pass, in bytes, by each kind of `save`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from rnngen.chain import Chained
from rnngen.ir import Shape
from rnngen.runtime.memory import EVERY, KINDS, Memory, steps_of
from rnngen.runtime.plan import Sizes


@dataclass(frozen=True, slots=True)
class Kept:
    """By the name of a kind the bytes of a step: of what the forward pass leaves in memory because the backward pass
    reads it, its output too, but not x. states: of all states at one step. memory: what the layer says.
    """

    kinds: Mapping[str, int]
    states: int
    memory: Memory

    @property
    def chosen(self) -> str:
        """The kind that the layer has: one of `kinds`, or "every"."""
        return self.memory.kind or (KINDS[0] if self.memory.every is None else EVERY)

    def every(self, time: int) -> tuple[int, int]:
        """For a sequence, with states every so many steps, how many steps that are, and the bytes of it all: states,
        and what those steps keep while they run again.
        """
        steps = steps_of(self.memory.every or 0, time)
        chunks = -(-time // steps)
        return steps, self.states * (chunks - 1) + self.kinds[KINDS[0]] * min(steps, time)


def kept_of(programs: Mapping[str, Chained], sizes: Sizes, memory: Memory) -> Kept:
    """programs: one cell, compiled for each kind."""
    kinds = {kind: _bytes(program, sizes) for kind, program in programs.items()}
    scan = programs[KINDS[0]].scan
    states = sum(_of(scan.by_name()[state.name].shape, sizes) for state in scan.states)
    return Kept(kinds, states, memory)


def _bytes(program: Chained, sizes: Sizes) -> int:
    """Of all tensors over time that the adjoint and the gradients read, but for what comes in from outside."""
    values, outputs = program.scan.by_name(), dict(program.scan.outputs)
    given = {leaf.name for leaf in program.described.leaves("input")}
    found = set()
    for binding in program.bindings:
        if binding.kind == "stream" and binding.name not in given:
            found.add(binding.name)
        elif binding.kind in ("output", "previous", "saved"):
            found.add(outputs[binding.name])
    return sum(_of(values[name].shape, sizes) for name in found)


def _of(shape: Shape, sizes: Sizes) -> int:
    """Bytes of a value at a step; numbers have the type of the accumulators."""
    known = {"hidden": sizes.hidden, **dict(sizes.others)}
    vector = any(isinstance(name, str) for name in shape)
    elements = prod(known[name] if isinstance(name, str) else name for name in shape)
    return elements * sizes.batch * (sizes.itemsize if vector else max(4, sizes.itemsize))
