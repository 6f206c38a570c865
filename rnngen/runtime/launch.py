"""From tensors to kernels: the arguments of a sweep, which schedule runs it, and where there are kernels at all."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from rnngen.runtime.choose import choose
from rnngen.runtime.language import MISSING, WANTED, OutOfResources, again_launched, interpreting, tl
from rnngen.runtime.machine import MACHINES, Machine, row_of
from rnngen.runtime.plan import Choice, Facts, Kernel, NotPossible, Sizes, Steps, letter_of
from rnngen.runtime.schedules import SCHEDULES


@dataclass(frozen=True)
class Arguments:
    """The tensors of one sweep, all contiguous.

    inputs and outputs (time, batch, blocks * width), states and last (batch, width). mask (time, batch, 1) and resets
    (time + 1, batch, 1) in int32, or None. first: what resets return to, state by state (batch, states * width), or
    where its gradient goes, zero and in the type of the accumulators; None without resets. sizes: of the dimensions, by
    name. backwards: time runs from T - 1 to 0. both: in the second half of the units it runs the other way. save:
    whether the output "saved" is wanted. keep: whether outputs are that are a state's new value. heads: of the
    block-diagonal parameters.
    """

    inputs: Sequence[Tensor]
    mask: Tensor | None
    resets: Tensor | None
    first: Tensor | None
    states: Sequence[Tensor]
    parameters: Sequence[Tensor]
    outputs: Sequence[Tensor]
    last: Sequence[Tensor]
    sizes: Mapping[str, int]
    backwards: bool
    both: bool
    save: bool
    keep: bool
    heads: int

    @property
    def tensors(self) -> list[Tensor | None]:
        """Every tensor in the order of a kernel's arguments."""
        optional = (self.mask, self.resets, self.first)
        return [*self.inputs, *optional, *self.states, *self.parameters, *self.outputs, *self.last]

    @property
    def call(self) -> Sizes:
        itemsize = self.states[0].element_size()
        masked, resets = self.mask is not None, self.resets is not None
        others = tuple((name, size) for name, size in self.sizes.items() if name != "hidden")
        return Sizes(self.batch, self.hidden, self.heads, itemsize, masked, self.both, resets, others)

    @property
    def time(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def batch(self) -> int:
        return self.states[0].shape[0]

    @property
    def hidden(self) -> int:
        return self.sizes.get("hidden", 0)

    @property
    def widest(self) -> int:
        return max(self.sizes.values())

    @property
    def letters(self) -> dict[str, int]:
        """The dimensions as constants of a kernel."""
        return {letter_of(dimension): size for dimension, size in self.sizes.items()}

    @property
    def precision(self) -> str:
        """How float32 is multiplied: by torch's own switch for it, on hardware that has another way."""
        tf32 = torch.version.hip is None and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return "tf32" if self.states[0].dtype == torch.float32 and tf32 else "ieee"

    @property
    def accumulator(self) -> torch.dtype:
        return accumulator_of(self.states[0].dtype)

    def steps(self) -> Iterator[int]:
        """The time steps in the order of the scan."""
        return iter(range(self.time - 1, -1, -1) if self.backwards else range(self.time))

    def _firsts(self, states: Sequence[tuple[Tensor, ...]]) -> Sequence[Tensor]:
        """Views of `first`, state by state."""
        return () if self.first is None else self.first.split([tensors[0].shape[-1] for tensors in states], -1)

    def begin(self, step: int, *states: tuple[Tensor, ...]) -> None:
        """Before a step, return the states of sequences that begin with it; of each all tensors that it lies in."""
        if self.resets is not None:
            reset = self.resets[step + self.backwards] > 0
            for first, tensors in zip(self._firsts(states), states, strict=True):
                for tensor in tensors:
                    torch.where(reset, first.to(tensor.dtype), tensor, out=tensor)

    def cut(self, step: int, *states: tuple[Tensor, ...]) -> None:
        """Behind a step of an adjoint, give `first` the gradient of the states that `begin` returned before it."""
        if self.resets is not None:
            reset = self.resets[step + (not self.backwards)] > 0
            for first, tensors in zip(self._firsts(states), states, strict=True):
                first += tensors[0].masked_fill(~reset, 0)
                for tensor in tensors:
                    tensor.masked_fill_(reset, 0)

    def buffer(self, blocks: int, *width: str) -> Tensor:
        """Room for blocks of every element of the batch, in the type of the tensors: (batch, blocks * width)."""
        return self.states[0].new_empty(self.batch, blocks * self._units(width))

    def carry(self, *width: str) -> Tensor:
        """Room for one block of every element of the batch, in the type of the accumulators: (batch, width)."""
        return self.states[0].new_empty(self.batch, self._units(width), dtype=self.accumulator)

    def maps(self, stretches: int, states: int) -> list[Tensor]:
        """Room for what each stretch of time makes of the first states, (stretches, 3, batch, width) for each of them,
        in the type of the accumulators.
        """
        shapes = ((stretches, 3, *state.shape) for state in self.states[:states])
        return [self.states[0].new_empty(shape, dtype=self.accumulator) for shape in shapes]

    @contextmanager
    def in_parts(self, stretches: int, totals: int, begins: bool) -> Iterator["Arguments"]:
        """Within it the sweep with room for a part of each stretch, (stretches, batch, width), in the place of its
        last states `totals`, and where `begins` in that of `first`. Behind it the parts of each are added up.
        """
        whole = [*self.last[len(self.last) - totals :], *([self.first] if begins and self.first is not None else [])]
        parts = [tensor.new_empty((stretches, *tensor.shape), dtype=self.accumulator) for tensor in whole]
        last = [*self.last[: len(self.last) - totals], *parts[:totals]]
        yield replace(self, last=last, first=parts[totals] if len(parts) > totals else self.first)
        for tensor, found in zip(whole, parts, strict=True):
            tensor.copy_(found.sum(0))

    def exchange(self, room: Mapping[str, int], counters: int) -> list[Tensor]:
        """Memory through which the programs of a launch exchange what they compute: a tensor for each kind that is not
        empty, "numbers" in the type of the accumulators and others in that of the tensors, and counters that are 0. So
        are "sums" of float16: what programs add up may pass 65504 where the sum does not.
        """
        state = self.states[0]
        exact = {"numbers", "sums"} if state.dtype == torch.float16 else {"numbers"}
        kinds = {name: self.accumulator if name in exact else state.dtype for name in room}
        found = [state.new_empty(size, dtype=kinds[name]) for name, size in room.items() if size]
        return [*found, state.new_zeros(counters, dtype=torch.int32)]

    def _units(self, width: Sequence[str]) -> int:
        return prod(self.sizes[name] for name in width)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        choice: Choice,
        tensors: Sequence[Tensor | None],
        time: int,
        **constants: int | bool | str,
    ) -> Any:
        """Launch with what every kernel takes, and give what Triton has compiled, None in the interpreter. time: the
        number of steps, or the step that is meant.

        Raises NotPossible for a kernel that Triton finds too large for the GPU.
        """
        with self.on_device():
            try:
                named = self._constants(choice, constants)
                return kernel[grid](*tensors, time, self.batch, **named, **choice.options, enable_fp_fusion=True)
            except OutOfResources as error:
                reason = f"{kernel.__name__} needs {error.required} of {error.name}, and {error.limit} are there"
                raise NotPossible(f"The schedule '{choice.schedule}' cannot run here: {reason}.") from error

    def bound(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        choice: Choice,
        tensors: Sequence[Tensor | None],
        **constants: int | bool | str,
    ) -> Callable[[int], None]:
        """A function that launches a kernel with these tensors for a time step, to be called on the device.

        Only the first launch goes the whole way of `launch`; the others are of what it has compiled, with arguments
        that lie ready: 1.0 us of host time, not 16 to 20.
        """
        named = self._constants(choice, constants)
        again: Callable[[int], object] | None = None

        def run(step: int) -> None:
            nonlocal again
            if again is not None:
                again(step)
                return
            made = self.launch(kernel, grid, choice, tensors, step, **constants)
            if made is not None:
                rest = self.batch, *(named[name] for name in kernel.arg_names[len(tensors) + 2 :])
                again = again_launched(made[(*grid, 1)[:3]], tensors, rest)

        return run

    def on_device(self) -> AbstractContextManager[object]:
        """Triton launches on the current device: here on that of the tensors."""
        device = self.states[0].device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def _constants(self, choice: Choice, constants: Mapping[str, int | bool | str]) -> dict[str, Any]:
        accumulator = tl.float64 if self.accumulator == torch.float64 else tl.float32
        return {**constants, **choice.constants, "SAVE": self.save, "KEEP": self.keep, "ACC": accumulator}


def accumulator_of(dtype: torch.dtype) -> torch.dtype:
    """What states and sums are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def run(kernels: Mapping[str, Kernel | Steps], facts: Facts, scan: Arguments, schedule: str) -> None:
    """Run a sweep by the schedule that suits its sizes and device, or by the one that is named.

    kernels: of each schedule that can run it, what its launcher is given. A name is for the sweeps that have kernels of
    it: the adjoint of a cell may have no product where the cell has one. A kernel that was not asked for and that
    Triton finds too large for the GPU gives way to `stepwise`, with a warning. Raises NotPossible if the schedule
    cannot run these sizes here, or none can run both directions at once.
    """
    wanted = schedule if schedule in kernels else "auto"
    machine = machine_of(scan.states[0].device)
    choice = choose(facts, scan.call, machine, wanted)
    try:
        SCHEDULES[choice.schedule].launch(kernels[choice.schedule], scan, choice)
    except NotPossible as error:  # before anything was written: only `stepwise` launches more than once
        if wanted != "auto" or choice.schedule == "stepwise" or scan.both:
            raise
        _warn_once(f"{error} It gives way to 'stepwise', which is slower.")
        choice = choose(facts, scan.call, machine, "stepwise")
        SCHEDULES["stepwise"].launch(kernels["stepwise"], scan, choice)


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@cache
def has_kernels(kind: str) -> bool:
    """Whether scans on this type of device run kernels; warns, once, of a device where they do not and could matter."""
    if kind == "cpu":
        if WANTED and MISSING:
            _warn_once(
                f"TRITON_INTERPRET is set, and scans on 'cpu' run step by step in torch all the same: {MISSING}."
            )
        return interpreting()
    if kind == "meta":  # nothing runs there
        return True
    lacking = MISSING if kind == "cuda" else f"there are kernels for CUDA and ROCm devices, and none for '{kind}'"
    if lacking:
        _warn_once(f"Scans on '{kind}' run step by step in torch, which is slow: {lacking}.")
    return not lacking


@cache
def machine_of(device: torch.device) -> Machine:
    """The limits of a device that has kernels; the interpreter has those of sm_90."""
    if device.type == "cpu":
        return MACHINES["sm_90"]
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stubs have not all of them
    if torch.version.hip:
        known = row_of("hip", properties.gcnArchName.split(":")[0])
        return replace(known, processors=properties.multi_processor_count)
    known = row_of("cuda", "sm_{}{}".format(*torch.cuda.get_device_capability(device)))
    shared = properties.shared_memory_per_block_optin
    return replace(known, shared_bytes=shared, processors=properties.multi_processor_count)
