"""One direction of a scan: what a module says of it, and how it is run: by kernels, or by the torch steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from rnngen.runtime.both import half, half_of_parameter
from rnngen.runtime.launch import Arguments, accumulator_of, has_kernels, run
from rnngen.runtime.plan import Facts, Kernel, NotPossible, Steps

Step = Callable[..., tuple[tuple[Tensor, ...], tuple[tuple[Tensor, ...], ...]]]
Shape = tuple[int | str, ...]  # the dimensions by name, after the number of blocks of a pack


@dataclass(frozen=True)
class Sweep:
    """One direction of a scan: forwards, or the adjoint.

    inputs: of each per-step input, (time, batch, blocks * width), its shape. states: of each, (batch, width).
    parameters: those of the scan that this direction uses, in the order of its arguments, each with its shape.
    outputs: of each per-step output, by its label; "saved" is written only when a gradient is wanted.
    step: step(*inputs_t, *states, *parameters, valid_t) gives the new states and, for each output, its blocks.
    facts: what the choice of a schedule rests on. kernels: for each schedule what it launches.
    carried: for an output that is a state's new value, that state.
    """

    inputs: Mapping[str, Shape]
    states: Mapping[str, Shape]
    parameters: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    facts: Facts
    step: Step
    kernels: Mapping[str, Kernel | Steps]
    carried: Mapping[str, str] = field(default_factory=dict)

    def sizes(self, inputs: Sequence[Tensor], states: Sequence[Tensor], parameters: Sequence[Tensor]) -> dict[str, int]:
        """The dimensions of tensors, by name."""
        found: dict[str, int] = {}
        known = zip(self.states.values(), states, strict=False)  # an adjoint's own states have no tensors yet
        for shape, tensor in (*known, *zip(self.inputs.values(), inputs, strict=True)):
            for name in shape:
                if isinstance(name, str):
                    found.setdefault(name, tensor.shape[-1] // blocks_of(shape))
        for shape, tensor in zip(self.parameters.values(), parameters, strict=True):
            names = [name for name in shape if isinstance(name, str)]
            if len(names) == tensor.dim():  # else it is block-diagonal, or numbers
                for name, size in zip(names, (tensor.shape[0] // blocks_of(shape), *tensor.shape[1:]), strict=True):
                    found.setdefault(name, size)
        return found


def blocks_of(shape: Shape) -> int:
    """How many blocks a value of this shape packs."""
    return shape[0] if shape and isinstance(shape[0], int) else 1


def row_of(shape: Shape, sizes: Mapping[str, int]) -> int:
    """The elements of a row."""
    return prod(name if isinstance(name, int) else sizes[name] for name in shape)


def is_number(shape: Shape) -> bool:
    """Whether a value is a number, or a pack of numbers: then it has the type of the accumulators."""
    return all(isinstance(name, int) for name in shape)


def uses_kernels(tensor: Tensor) -> bool:
    """Whether a scan of tensors on this device runs kernels."""
    return has_kernels(tensor.device.type)


@dataclass(frozen=True)
class Given:
    """What a sweep is given, as an operator has it; first: as in `Arguments`."""

    inputs: Sequence[Tensor]
    valid: Tensor | None
    resets: Tensor | None
    first: Tensor | None
    states: Sequence[Tensor]
    parameters: Sequence[Tensor]


def run_sweep(
    which: Sweep,
    given: Given,
    results: Sequence[Tensor],
    direction: str,
    schedule: str,
    save: bool = True,
    keep: bool = True,
) -> None:
    """Fill `results`, the outputs and then the last states; without `save` and `keep` some outputs are not wanted."""
    outputs, last = results[: len(which.outputs)], results[len(which.outputs) :]
    backwards = (direction == "backwards") != which.facts.backwards
    states = given.states
    with torch.autocast(states[0].device.type, enabled=False):
        if uses_kernels(states[0]) and states[0].shape[0] > 0:
            sizes = which.sizes(given.inputs, states, given.parameters)
            arguments = Arguments(
                inputs=[tensor.contiguous() for tensor in given.inputs],
                mask=None if given.valid is None else given.valid.contiguous(),
                resets=None if given.resets is None else given.resets.contiguous(),
                first=None if given.first is None else given.first.contiguous(),
                states=[tensor.contiguous() for tensor in states],
                parameters=[tensor.contiguous() for tensor in given.parameters],
                outputs=outputs,
                last=last,
                sizes=sizes,
                backwards=backwards,
                both=direction == "both",
                save=save,
                keep=keep,
                heads=_heads(given.parameters, sizes.get("hidden", 0)),
            )
            try:
                run(which.kernels, which.facts, arguments, schedule)
            except NotPossible:
                if direction != "both":
                    raise
                _run_apart(which, given, results, schedule, save, keep)
            return
        dtype = accumulator_of(states[0].dtype)
        wide = [[tensor.to(dtype) for tensor in group] for group in (given.inputs, states, given.parameters)]
        first = None if given.first is None else given.first.to(dtype)
        own = replace(given, inputs=wide[0], first=first, states=wide[1], parameters=wide[2])
        rows, found, firsts = torch_steps(which, own, backwards)
        for output, blocks in zip(outputs, rows, strict=False):
            if output.numel() > 0:  # else it is not wanted, or there are no steps
                _write(output, blocks, dtype)
        for into, value in zip(last, found, strict=False):
            into.copy_(value)
        if which.facts.backwards and given.first is not None:
            given.first.copy_(torch.cat(firsts, -1))


def _run_apart(which: Sweep, given: Given, results: Sequence[Tensor], schedule: str, save: bool, keep: bool) -> None:
    """`run_sweep` for both directions, one after the other."""
    units = given.states[0].shape[-1] // 2
    shapes = (*which.outputs.values(), *which.states.values())
    for number, direction in enumerate(("forwards", "backwards")):
        found = [
            result.new_empty(result.shape if result.dim() == 1 else (*result.shape[:-1], result.shape[-1] // 2))
            for result in results
        ]
        first = None
        if given.first is not None:
            returned = half(given.first, given.first.shape[-1] // (2 * units), number)
            first = returned.flatten(-2).clone()  # an adjoint writes to it
        own = replace(
            given,
            inputs=[
                half(tensor, blocks_of(shape), number).flatten(-2)
                for tensor, shape in zip(given.inputs, which.inputs.values(), strict=True)
            ],
            states=[half(state, 1, number).flatten(-2) for state in given.states],
            first=first,
            parameters=[half_of_parameter(parameter, units, number) for parameter in given.parameters],
        )
        run_sweep(which, own, found, direction, schedule, save, keep)
        if which.facts.backwards and first is not None:
            returned.copy_(first.unflatten(-1, (-1, units)))
        for result, part, shape in zip(results, found, shapes, strict=True):
            if result.dim() > 1:  # else it is not wanted
                blocks = blocks_of(shape)
                half(result, blocks, number).copy_(part.unflatten(-1, (blocks, -1)))


def _heads(parameters: Sequence[Tensor], hidden: int) -> int:
    """Heads of the block-diagonal parameters, 1 if there are none."""
    widths = [parameter.shape[-1] for parameter in parameters if parameter.dim() == 3]
    return hidden // widths[0] if widths else 1


def _write(output: Tensor, rows: list[tuple[Tensor, ...]], dtype: torch.dtype) -> None:
    if len(rows[0]) == 1 and output.dtype == dtype:
        torch.stack([blocks[0] for blocks in rows], out=output)
        return
    for into, blocks in zip(output.unbind(0), rows, strict=False):
        if output.dtype == dtype:
            torch.cat(blocks, -1, out=into)
        else:
            into.copy_(torch.cat(blocks, -1))


def torch_steps(
    which: Sweep, given: Given, backwards: bool
) -> tuple[list[list[tuple[Tensor, ...]]], tuple[Tensor, ...], list[Tensor]]:
    """The torch steps over time: for each output its blocks at every step, the last states, and in an adjoint the
    gradients of what resets return to.
    """
    steps = list(zip(*(tensor.unbind(0) for tensor in given.inputs), strict=False))
    order = range(len(steps) - 1, -1, -1) if backwards else range(len(steps))
    counts = [None] * len(steps) if given.valid is None else (given.valid > 0).unbind(0)
    rows: list[list[tuple[Tensor, ...]]] = [[()] * len(steps) for _ in which.outputs]
    states = tuple(given.states)
    adjoint = which.facts.backwards
    resets: Sequence[Tensor] = ()
    firsts: list[Tensor] = []
    if given.resets is not None and given.first is not None:
        resets = (given.resets > 0).unbind(0)
        widths = [state.shape[-1] for state in states]
        ends = zip(widths, accumulate(widths), strict=True)  # an adjoint may have states that return to nothing
        firsts = list(given.first.split([width for width, end in ends if end <= given.first.shape[-1]], -1))
    for t in order:
        if resets and not adjoint:
            states = tuple(torch.where(resets[t + backwards], *pair) for pair in zip(firsts, states, strict=True))
        states, outputs = which.step(*steps[t], *states, *given.parameters, counts[t])
        if resets and adjoint:  # the boundary that the step forwards had crossed before
            crossed, cut = resets[t + (not backwards)], states[: len(firsts)]
            firsts = [first + d.masked_fill(~crossed, 0) for first, d in zip(firsts, cut, strict=True)]
            states = (*(d.masked_fill(crossed, 0) for d in cut), *states[len(firsts) :])
        for row, blocks in zip(rows, outputs, strict=False):
            row[t] = blocks
    return rows, states, firsts
