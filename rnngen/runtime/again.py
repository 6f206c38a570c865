"""A scan by its operators whose backward pass makes what it does not keep once more: projections, of x, and products of
states.

It is for cells that keep states alone. Of a long sequence it makes them some steps at a time, as `node` does for native
code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnngen.runtime.launch import accumulator_of
from rnngen.runtime.linear import Projection
from rnngen.runtime.native import is_transformed
from rnngen.runtime.node import (
    Call,
    Part,
    Stream,
    by_steps,
    independent,
    parts_of,
    summed,
    tensors_of,
    wants_gradient,
)
from rnngen.runtime.sweep import is_number, uses_kernels

if TYPE_CHECKING:
    from rnngen.runtime.scan import Scan

# Elements of a projection, or of its gradient, that are there at once in a backward pass: 256 MB in float32. Each part
# is a launch of its own.
AT_ONCE = 2**26
_OTHER_WAY = {"forwards": "backwards", "backwards": "forwards"}


def again(
    scan: "Scan",
    streams: Sequence[Stream],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    direction: str,
    schedule: str,
) -> tuple[Tensor, ...] | None:
    """What the forward operator gives; None where the scan makes nothing once more, where nothing is to be
    differentiated by a backward pass, and where types do not fit together. masks: the mask, the resets, and what they
    return to.
    """
    projected = tuple(isinstance(stream, Projection) for stream in streams)
    if not (scan.made or (scan.not_kept and any(projected))):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
        return None
    every = [*tensors_of(streams), *states, *parameters, *masks]
    if not wants_gradient(every):
        return None
    valid, resets, first = masks
    numbers = [is_number(shape) for shape in scan.forward.inputs.values()]
    call = _Call(Call(scan, projected, direction, True, True, {}), schedule)
    given = _cast([*tensors_of(streams), *states, *parameters, first], states[0].device.type)
    given_streams, *others = call.common.apart([*given[:-1], None, None, given[-1]])
    wide = accumulator_of(others[0][0].dtype)
    given_streams = [s.to(wide) if number else s for s, number in zip(given_streams, numbers, strict=True)]
    typed = [*(s for s, number in zip(given_streams, numbers, strict=True) if not number), *others[0], *others[1]]
    flat = [t for one in typed for t in (one if isinstance(one, Projection) else (one,)) if t is not None]
    if len({t.dtype for t in flat}) > 1 or (given[-1] is not None and given[-1].dtype != flat[0].dtype):
        return None
    tensors = [*tensors_of(given_streams), *others[0], *others[1], valid, resets, given[-1]]
    found: tuple[Tensor, ...] = _Again.apply(call, *tensors)  # type: ignore[no-untyped-call]
    return found


def _cast(tensors: list[Tensor | None], device: str) -> list[Tensor | None]:
    """The tensors as autocast has them, if it is on."""
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


@dataclass(frozen=True, eq=False)
class _Call:
    """common: the same as of native code, without sizes."""

    common: Call
    schedule: str

    def inputs(self, streams: Sequence[Tensor], tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of the forward operator."""
        _, states, parameters, masks = self.common.apart(tensors)
        return (*streams, *states, *parameters, *masks, self.common.direction, True, True, self.schedule)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        scan = call.common.scan
        streams, *_ = call.common.apart(tensors)
        with torch.autocast(_device(tensors), enabled=False):
            made = [stream.tensor if isinstance(stream, Projection) else stream for stream in streams]
            results: tuple[Tensor, ...] = scan.forward_op(*call.inputs(made, tensors))
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(results[place] for place in scan.kept.values()))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        common: Call = ctx.call.common
        scan, saved = common.scan, ctx.saved_tensors
        count = len(saved) - len(scan.kept)
        tensors, kept = saved[:count], dict(zip(scan.kept, saved[count:], strict=True))
        twice = torch.is_grad_enabled()
        if twice and not uses_kernels(next(t for t in tensors if t is not None)):
            return (None, *by_steps(common, tensors, gradients))
        found: list[Tensor | None] = [None] * count
        incoming = gradients[: len(scan.forward.outputs)]
        ends: Sequence[Any] = gradients[len(scan.forward.outputs) :]
        for part in _parts(common, tensors, twice):
            given = _of_part(common, part, tensors, kept)
            own = {label: part.of(value) for label, value in kept.items()}
            d = _gradients(ctx, given, own, (*map(part.of, incoming), *ends), twice)
            streams, ends, parameters, masks = common.apart(d)
            place = 0
            for stream in streams:
                over_time = (False, True, False) if isinstance(stream, Projection) else (True,)
                for long, of_part in zip(over_time, stream if len(over_time) > 1 else (stream,), strict=True):
                    found[place] = (_written if long else _summed)(found[place], of_part, part)
                    place += 1
            for at, of_part in enumerate((*parameters, *masks), place + len(ends)):
                found[at] = _summed(found[at], of_part, part)
        found[place : place + len(ends)] = ends
        return (None, *(d if d is None or t is None else d.to(t.dtype) for d, t in zip(found, tensors, strict=True)))


def _gradients(
    ctx: Any, given: Sequence[Tensor | None], kept: Mapping[str, Tensor], incoming: Sequence[Tensor | None], twice: bool
) -> list[Tensor | None]:
    """Of each tensor of a part its gradient. twice: whether torch is to differentiate it once more."""
    call, common = ctx.call, ctx.call.common
    scan = common.scan
    given = [t if t is None else independent(t) if twice else t.detach() for t in given]
    streams, *_ = common.apart(given)
    of_streams, of_states, of_parameters, _ = common.apart(ctx.needs_input_grad[1:])
    with torch.enable_grad(), torch.autocast(_device(given), enabled=False):
        if not twice:
            for stream, asked in zip(streams, of_streams, strict=True):
                for one, need in zip(stream, asked, strict=True) if isinstance(stream, Projection) else ():
                    if one is not None:
                        one.requires_grad_(need)
        made = [stream.tensor if isinstance(stream, Projection) else stream for stream in streams]
    own = _Kept((*[True] * len(streams), *of_states, *of_parameters))
    inputs = call.inputs([m if twice else m.detach() for m in made], given)
    scan._keep_for_backward(own, inputs, tuple(kept.get(label) for label in scan.forward.outputs))
    others = scan._backward(own, *incoming)
    found: list[Tensor | None] = []
    for d, stream, one in zip(others, streams, made, strict=False):
        found += _of_projection(d, stream, one, twice) if isinstance(stream, Projection) else [d]
    return [*found, *others[len(streams) : len(streams) + len(of_states) + len(of_parameters) + 3]]


def _parts(common: Call, tensors: Sequence[Tensor | None], whole: bool) -> list[Part]:
    """The steps in the order of the adjoint, so many at a time that their projections fit."""
    streams, states, parameters, _ = common.apart(tensors)
    time = streams[0].shape[0]
    if whole or common.direction == "both":
        return [Part(0, time, time)]
    scan = common.scan
    sizes = scan.forward.sizes(streams, states, scan.used(scan.forward, parameters))
    projections = (stream.width for stream in streams if isinstance(stream, Projection))
    widest = max(scan.width_of_made(sizes), *projections, 0)
    return parts_of(time, states[0].shape[0] * widest, _OTHER_WAY[common.direction], AT_ONCE)


def _of_part(common: Call, part: Part, tensors: Sequence[Tensor | None], kept: Mapping[str, Tensor]) -> list[Any]:
    """The tensors of some steps. States are those before them, where the backward pass reads them."""
    streams, states, parameters, (valid, resets, first) = common.apart(tensors)
    forwards = common.direction != "backwards"
    places = list(common.scan.forward.states)
    states = list(states)
    for kind, *where in common.scan.sources.values():
        if kind == "previous" and not part.whole and (part.start > 0 if forwards else part.stop < part.time):
            label, state = where
            states[places.index(state)] = kept[label][part.start - 1 if forwards else part.stop]
    cut = [
        stream._replace(rows=part.of(stream.rows)) if isinstance(stream, Projection) else part.of(stream)
        for stream in streams
    ]
    return [*tensors_of(cut), *states, *parameters, part.of(valid), part.of(resets, 1), first]


def _summed(total: Tensor | None, more: Tensor | None, part: Part) -> Tensor | None:
    """A gradient with that of some steps."""
    return more if part.whole else summed(total, more)


def _written(whole: Tensor | None, rows: Tensor | None, part: Part) -> Tensor | None:
    """A gradient over time with that of some steps."""
    if rows is None or part.whole:
        return rows
    whole = rows.new_empty(part.time, *rows.shape[1:]) if whole is None else whole
    part.of(whole).copy_(rows)
    return whole


def _of_projection(d: Tensor | None, parts: Projection, made: Tensor, create_graph: bool) -> list[Tensor | None]:
    """The gradients of what a projection was made of."""
    asked = [part for part in parts if part is not None and part.requires_grad]
    if d is None or not asked:
        return [None, None, None]
    found = iter(torch.autograd.grad(made, asked, d, create_graph=create_graph, allow_unused=True))
    return [next(found) if part is not None and part.requires_grad else None for part in parts]


def _device(tensors: Sequence[Tensor | None]) -> str:
    device = next(t for t in tensors if t is not None).device.type
    return device if device != "meta" else "cpu"


class _Kept:
    """What torch has for an operator between its passes, with what it keeps."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Nothing: gradients that do not come in are None already."""
