"""From tensors to kernels: the arguments of a scan, and the launchers of the schedules."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from rnngen.runtime.language import MISSING, WANTED, OutOfResources, interpreting, tl
from rnngen.runtime.linear import product, product_transposed
from rnngen.runtime.machine import MACHINES, Choice, Facts, Machine, NotPossible, Sizes, choose, row_of


@dataclass(frozen=True)
class Arguments:
    """The tensors of one direction of a scan, all contiguous.

    inputs and outputs (time, batch, blocks * hidden), a mask (time, batch, 1), states and last (batch, hidden).
    backwards: time runs from T - 1 to 0. save: whether the output "saved" is wanted. keep: whether outputs are that are
    a state's new value. heads: of the block-diagonal parameters.
    """

    inputs: Sequence[Tensor]
    states: Sequence[Tensor]
    parameters: Sequence[Tensor]
    outputs: Sequence[Tensor]
    last: Sequence[Tensor]
    backwards: bool
    save: bool
    keep: bool
    heads: int

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor in the order of a kernel's arguments."""
        return [*self.inputs, *self.states, *self.parameters, *self.outputs, *self.last]

    @property
    def sizes(self) -> Sizes:
        batch, hidden = self.states[0].shape
        return Sizes(batch, hidden, self.heads, self.states[0].element_size())

    @property
    def time(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def accumulator(self) -> torch.dtype:
        """What states and sums are kept in: float32, or float64 for float64."""
        return torch.float64 if self.states[0].dtype == torch.float64 else torch.float32

    def steps(self) -> Iterator[int]:
        """The time steps in the order of the scan."""
        return iter(range(self.time - 1, -1, -1) if self.backwards else range(self.time))

    def buffer(self, blocks: int) -> Tensor:
        """Room for blocks of every element of the batch: (batch, blocks * hidden)."""
        batch, hidden = self.states[0].shape
        return self.states[0].new_empty(batch, blocks * hidden)


Launcher = Callable[[Arguments, Choice], None]


def resident(kernel) -> Launcher:
    """A launcher of a kernel that keeps its matrices on the chip: a program for each head and tile of the batch."""

    def launch(scan: Arguments, choice: Choice) -> None:
        batch, hidden = scan.states[0].shape
        _launch(
            kernel,
            (-(-batch // choice.constants["BB"]), scan.heads),  # the first dimension is the one without a limit
            scan,
            choice,
            scan.tensors,
            scan.time,
            HEADS=scan.heads,
            D=hidden // scan.heads,
            PRECISION="tf32" if scan.states[0].dtype == torch.float32 and _tf32_is_wanted() else "ieee",
            BACKWARDS=scan.backwards,
        )

    return launch


def _tf32_is_wanted() -> bool:
    """Whether torch's own switch for float32 products asks for it, on hardware that has it."""
    return torch.version.hip is None and torch.backends.cuda.matmul.fp32_precision == "tf32"


def elementwise(kernel) -> Launcher:
    """A launcher of a kernel without products: a program for each element of the batch and block of units."""

    def launch(scan: Arguments, choice: Choice) -> None:
        batch, hidden = scan.states[0].shape
        grid = (batch, -(-hidden // choice.constants["BLOCK"]))
        _launch(kernel, grid, scan, choice, scan.tensors, scan.time, H=hidden, BACKWARDS=scan.backwards)

    return launch


def stage(kernel, scan: Arguments, choice: Choice, tensors: Sequence[Tensor], step: int) -> None:
    """Run one pointwise stage of one time step."""
    batch, hidden = scan.states[0].shape
    grid = (batch, -(-hidden // choice.constants["BLOCK"]))
    _launch(kernel, grid, scan, choice, tensors, step, H=hidden)


def _launch(
    kernel, grid: tuple[int, int], scan: Arguments, choice: Choice, tensors: Sequence[Tensor], time: int, **constants
) -> None:
    """Launch with what every kernel takes. time: the number of steps, or the step that is meant.

    Raises NotPossible for a kernel that Triton finds too large for the GPU.
    """
    device = scan.states[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # Triton launches on the current one
        try:
            kernel[grid](
                *tensors,
                time,
                scan.states[0].shape[0],
                **constants,
                **choice.constants,
                SAVE=scan.save,
                KEEP=scan.keep,
                ACC=tl.float64 if scan.accumulator == torch.float64 else tl.float32,
                **choice.options,
                enable_fp_fusion=True,
            )
        except OutOfResources as error:
            reason = f"{kernel.__name__} needs {error.required} of {error.name}, and {error.limit} are there"
            raise NotPossible(f"The schedule '{choice.schedule}' cannot run here: {reason}.") from error


def product_into(out: Tensor, stack: Tensor, vector: Tensor) -> None:
    """M @ v for each matrix of the stack, (batch, columns) to (batch, k * rows)."""
    if stack.dim() == 2:
        torch.mm(vector, stack.T, out=out)
    else:
        out.copy_(product(stack, vector))


def product_transposed_into(out: Tensor, stack: Tensor, pack: Tensor, count: int) -> None:
    """The sum of M.T @ v over the `count` matrices of the stack, (batch, count * rows) to (batch, columns)."""
    if stack.dim() == 2:
        torch.mm(pack, stack, out=out)
    else:
        out.copy_(product_transposed(stack, pack, count))


def run(launchers: Mapping[str, Launcher], facts: Facts, scan: Arguments, schedule: str) -> None:
    """Run a scan by the schedule that suits its sizes and device, or by the one that is named.

    A name is for the directions that have kernels of it: the adjoint of a cell may have no product where the cell has
    one. A kernel that was not asked for and that Triton finds too large for the GPU gives way to `stepwise`, with a
    warning. Raises NotPossible if the schedule cannot run these sizes here.
    """
    wanted = schedule if schedule in launchers else "auto"
    machine = machine_of(scan.states[0].device)
    choice = choose(facts, scan.sizes, machine, wanted)
    try:
        launchers[choice.schedule](scan, choice)
    except NotPossible as error:  # before anything was written: only `stepwise` launches more than once
        if wanted != "auto" or choice.schedule == "stepwise":
            raise
        _warn_once(f"{error} It gives way to 'stepwise', which is slower.")
        launchers["stepwise"](scan, choose(facts, scan.sizes, machine, "stepwise"))


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
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        known = row_of("hip", properties.gcnArchName.split(":")[0])
        return replace(known, processors=properties.multi_processor_count)
    known = row_of("cuda", "sm_{}{}".format(*torch.cuda.get_device_capability(device)))
    shared = properties.shared_memory_per_block_optin
    return replace(known, shared_bytes=shared, processors=properties.multi_processor_count)
