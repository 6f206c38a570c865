"""One direction of a scan: what a module says of it, and how it is run: by kernels, or by the torch steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, repeat
from typing import Protocol

import torch
from torch import Tensor

from rnngen.runtime.both import half, half_of_parameter
from rnngen.runtime.launch import Arguments, accumulator_of, has_kernels, run
from rnngen.runtime.native import Native, call, compiled
from rnngen.runtime.plan import Facts, Kernel, NotPossible, Steps, is_saved
from rnngen.runtime.seal import native_text

Ahead = Callable[..., tuple[Tensor, ...]]
Step = Callable[..., tuple[tuple[Tensor, ...], tuple[tuple[Tensor, ...], ...]]]
_AHEAD = 1 << 18  # elements of the inputs of the steps whose part that needs no state is computed at once
Shape = tuple[int | str, ...]  # the dimensions by name, after the number of blocks of a pack


@dataclass(frozen=True)
class Sweep:
    """One direction of a scan: forwards, or the adjoint.

    inputs: of each per-step input, (time, batch, blocks * width), its shape. states: of each, (batch, width).
    parameters: those of the scan that this direction uses, in the order of its arguments, each with its shape.
    outputs: of each per-step output, by its label; "saved" is written only when a gradient is wanted.
    ahead: ahead(*inputs, *parameters, valid) gives what a step in torch takes in, of as many steps as it is given.
    step: step(*taken_t, *states, *parameters, valid_t) gives the new states and, for each output, its blocks.
    facts: what the choice of a schedule rests on. kernels: for each schedule what it launches. native: the name of a
    function of the module's C.
    carried: for an output that is a state's new value, that state.
    """

    inputs: Mapping[str, Shape]
    states: Mapping[str, Shape]
    parameters: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    facts: Facts
    ahead: Ahead
    step: Step
    kernels: Mapping[str, Kernel | Steps]
    native: str = ""
    carried: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self._c_text  # that of the module which is being imported: another of its name may come later

    @cached_property
    def _c_text(self) -> bytes | None:
        return native_text(self.step.__module__) if self.native else None

    @cached_property
    def _functions(self) -> dict[torch.dtype, Native]:
        return {}

    def function(self, dtype: torch.dtype) -> Native | None:
        """Its function in the module's C, for tensors of a type; None where there is none, or nothing compiles it."""
        found = self._functions.get(dtype)
        if found is None and self._c_text:
            found = compiled(self._c_text, self.native, dtype, self.step.__module__.rpartition(".")[2])
            if found is not None:
                self._functions[dtype] = found
        return found

    def unwanted(self, save: bool, keep: bool) -> set[str]:
        """The outputs that a call leaves out. save: whether a gradient is wanted; keep: whether outputs are that are a
        state's new value.
        """
        saved = set() if save else {label for label in self.outputs if is_saved(label)}
        return saved if keep else saved | self.carried.keys()

    @cached_property
    def _places(self) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]], bool]:
        """Of dimensions by name the first input, and the first state, that has them, with its blocks; and whether a
        parameter has one more.
        """
        inputs, states = (
            {
                str(name): (place, blocks_of(shape))
                for place, shape in reversed([*enumerate(shapes.values())])
                for name in shape
                if isinstance(name, str)
            }
            for shapes in (self.inputs, self.states)
        )
        others = {name for shape in self.parameters.values() for name in shape if isinstance(name, str)}
        return inputs, states, not others <= inputs.keys() | states.keys()

    def sizes(
        self, inputs: Sequence["HasShape"], states: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> dict[str, int]:
        """The dimensions of tensors, by name."""
        of_inputs, of_states, more = self._places
        found = {name: inputs[place].shape[-1] // blocks for name, (place, blocks) in of_inputs.items()}
        for name, (place, _) in of_states.items():
            if name not in found and place < len(states):  # an adjoint's own states have no tensors yet
                found[name] = states[place].shape[-1]
        more = more or not found.keys() >= of_states.keys()
        for shape, tensor in zip(self.parameters.values(), parameters, strict=True) if more else ():
            names = [name for name in shape if isinstance(name, str)]
            if len(names) == tensor.dim():  # else it is block-diagonal, or numbers
                for name, size in zip(names, (tensor.shape[0] // blocks_of(shape), *tensor.shape[1:]), strict=True):
                    found.setdefault(name, size)
        return found


class HasShape(Protocol):
    """A tensor, or what will be one."""

    @property
    def shape(self) -> Sequence[int]:
        """Its dimensions."""


def blocks_of(shape: Shape) -> int:
    """How many blocks a value of this shape packs."""
    return shape[0] if shape and isinstance(shape[0], int) else 1


def row_of(shape: Shape, sizes: Mapping[str, int]) -> int:
    """The elements of a row."""
    row = 1
    for name in shape:
        row *= name if isinstance(name, int) else sizes[name]
    return row


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
        if native_of(which, states[0]):
            sizes = which.sizes(given.inputs, states, given.parameters)
            options = (given.valid, given.resets, given.first)
            run_native(
                which, states[0].shape[0], given.inputs, options, states, given.parameters, results, backwards, sizes
            )
            return
        dtype = accumulator_of(states[0].dtype)
        rows, found, firsts = torch_steps(which, given, backwards)
        for output, blocks in zip(outputs, rows, strict=False):
            if output.numel() > 0:  # else it is not wanted, or there are no steps
                _write(output, blocks, dtype)
        for into, value in zip(last, found, strict=False):
            into.copy_(value)
        if which.facts.backwards and given.first is not None:
            given.first.copy_(torch.cat(firsts, -1))


def is_native(sweeps: Sequence[Sweep], tensor: Tensor) -> bool:
    """Whether all these run native code for tensors of this device and type."""
    return not uses_kernels(tensor) and all(native_of(which, tensor) is not None for which in sweeps)


def native_of(which: Sweep, state: Tensor) -> Native | None:
    """The native code of a sweep, for a scan on a CPU in a type that it has."""
    if not state.is_cpu or not state.shape[0]:
        return None
    return which.function(state.dtype)


def run_native(
    which: Sweep,
    batch: int,
    inputs: Sequence[Tensor],
    options: Sequence[Tensor | None],
    states: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    results: Sequence[Tensor | None],
    backwards: bool,
    sizes: Mapping[str, int],
) -> None:
    """Fill `results` by native code, which there has to be. options: the mask, the resets, and what they return to.

    None stands for states of zeros.
    """
    found = which.function(inputs[0].dtype)
    assert found is not None
    valid, resets, first = options
    read = [*inputs, _flags(valid), _flags(resets), first, *states, *parameters]
    call(
        found,
        inputs[0].shape[0],
        batch,
        [sizes.get(name, 0) for name in which.facts.dimensions],
        _heads(parameters, sizes.get("hidden", 0)),
        backwards,
        [*(None if tensor is None else tensor.contiguous() for tensor in read), *results],
    )


def _flags(given: Tensor | None) -> Tensor | None:
    """As C reads them, 32 bits each."""
    return given if given is None or given.dtype == torch.int32 else (given > 0).to(torch.int32)


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
    """The torch steps over time, in the accumulators' type: for each output its blocks at every step, the last states,
    and in an adjoint the gradients of what resets return to.
    """
    dtype, time = accumulator_of(given.states[0].dtype), len(given.inputs[0])
    inputs, states, parameters = (
        tuple(tensor.to(dtype) for tensor in group) for group in (given.inputs, given.states, given.parameters)
    )
    counts = None if given.valid is None else given.valid > 0
    rows: list[list[tuple[Tensor, ...]]] = [[()] * time for _ in which.outputs]
    adjoint = which.facts.backwards
    resets: Sequence[Tensor] = ()
    firsts: list[Tensor] = []
    if given.resets is not None and given.first is not None:
        resets = (given.resets > 0).unbind(0)
        widths = [state.shape[-1] for state in states]
        ends = zip(widths, accumulate(widths), strict=True)  # an adjoint may have states that return to nothing
        first = given.first.to(dtype)
        firsts = list(first.split([width for width, end in ends if end <= first.shape[-1]], -1))
    for t, taken, valid in _taken(which, inputs, parameters, counts, backwards):
        if resets and not adjoint:
            states = tuple(torch.where(resets[t + backwards], *pair) for pair in zip(firsts, states, strict=True))
        states, outputs = which.step(*taken, *states, *parameters, valid)
        if resets and adjoint:  # the boundary that the step forwards had crossed before
            crossed, cut = resets[t + (not backwards)], states[: len(firsts)]
            firsts = [first + d.masked_fill(~crossed, 0) for first, d in zip(firsts, cut, strict=True)]
            states = (*(d.masked_fill(crossed, 0) for d in cut), *states[len(firsts) :])
        for row, blocks in zip(rows, outputs, strict=False):
            row[t] = blocks
    return rows, states, firsts


def previous(output: Tensor, state: Tensor, direction: str, resets: Tensor | None, first: Tensor | None) -> Tensor:
    """The value of a state before each step, from its value after each: shifted by one, that of the call in front; or
    `first`, (batch, width), where a sequence begins.
    """
    if direction == "both":
        wide = [[None] * 2 if t is None else t.chunk(2, -1) for t in (output, state, first)]
        halves = zip(*wide, ("forwards", "backwards"), strict=True)
        return torch.cat([previous(o, s, way, resets, f) for o, s, f, way in halves], -1)
    backwards = direction == "backwards"
    before = state[None][: output.shape[0]]  # none without steps
    rows = torch.cat((output[1:], before) if backwards else (before, output[:-1]))
    if resets is None or first is None:
        return rows
    return torch.where((resets[1:] if backwards else resets[:-1]) > 0, first, rows)


def _taken(
    which: Sweep, inputs: Sequence[Tensor], parameters: Sequence[Tensor], valid: Tensor | None, backwards: bool
) -> Iterator[tuple[int, tuple[Tensor, ...], Tensor | None]]:
    """Each step in its turn: which it is, what it takes in, and who has it. What many steps take in lies in memory for
    a part of them at a time.
    """
    time = len(inputs[0])
    count = max(1, _AHEAD // max(1, sum(tensor[:1].numel() for tensor in inputs)))
    starts = range(0, time, count)
    for start in reversed(starts) if backwards else starts:
        part = slice(start, start + count)
        mask = None if valid is None else valid[part]
        found = which.ahead(*(tensor[part] for tensor in inputs), *parameters, mask)
        steps = zip(*(tensor.unbind(0) for tensor in found), strict=True) if found else repeat(())
        counts = repeat(None) if mask is None else mask.unbind(0)
        every = list(zip(range(time)[part], steps, counts, strict=False))
        yield from reversed(every) if backwards else every
