"""A scan of plain tensors by native code, as one node of autograd: its projections, the loop, and all gradients.

It does what a `Scan`'s operators do, past torch's dispatcher: that takes 12 us of a call, and 36 where a gradient is
wanted, and an LSTM of 16 units runs 64 steps in 8. A projection that only the loop reads, and its gradient, are there
for some steps at a time, so that they take no memory of their own; one that the adjoint reads too is kept for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rnngen.runtime import native
from rnngen.runtime.launch import accumulator_of
from rnngen.runtime.linear import Projection
from rnngen.runtime.sweep import Given, previous, row_of, run_native, torch_steps

if TYPE_CHECKING:
    from rnngen.runtime.scan import Scan

Stream = Tensor | Projection
# Elements of a projection, or of its gradient, that are there at once: 4 MB in float32. Of an LSTM of 256 units and 64
# sequences on a Zen 5 core, 1 MB takes 1.14 times as long, and 16 MB 1.2 times as long backwards.
AT_ONCE = 2**20
# Elements of an output up to which its old values are copied, which takes up to 3 us; to have them in front of it 13.
COPIED = 2**14


@dataclass(frozen=True, eq=False)
class Call:
    """What calls of a scan have in common that differ in time, batch and numbers alone.

    projected: of the streams, which are projections. direction: "forwards" or "backwards". save: whether a gradient is
    wanted. keep: whether outputs are that are a state's new value. sizes: the dimensions by name.
    """

    scan: "Scan"
    projected: tuple[bool, ...]
    direction: str
    save: bool
    keep: bool
    sizes: Mapping[str, int]

    @classmethod
    def of(
        cls,
        scan: "Scan",
        streams: Sequence[Stream],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        direction: str,
        save: bool,
        keep: bool,
    ) -> "Call":
        """That of these tensors; it is made once for those of the same widths."""
        projected = tuple([isinstance(stream, Projection) for stream in streams])
        widths = [
            stream.width if isinstance(stream, Projection) else stream.shape[-1] for stream in (*streams, *states)
        ]
        key = projected, direction, save, keep, *widths, *[parameter.shape for parameter in parameters]
        found = scan.calls.get(key)
        if found is None:
            native.keep_what_is_freed()
            sizes = scan.forward.sizes(streams, states, scan.used(scan.forward, parameters))
            found = scan.calls[key] = cls(scan, projected, direction, save, keep, sizes)
        return found

    @cached_property
    def outputs(self) -> list[tuple[int, int | None]]:
        """Of each output the elements of a row, 0 where it is not wanted, and the state that it is the new value of if
        a gradient needs the old one.
        """
        which = self.scan.forward
        unwanted = which.unwanted(self.save, self.keep)
        shifted = self.scan.shifted if self.save else {}
        return [
            (0 if label in unwanted else row_of(shape, self.sizes), shifted.get(label))
            for label, shape in which.outputs.items()
        ]

    @cached_property
    def gradients(self) -> dict[str, tuple[int, bool]]:
        """Of each output of the adjoint the elements of a row, and whether it is the gradient of projections alone: of
        it only some steps are there at once.
        """
        labels = zip(self.scan.stream_gradients, self.projected, strict=True)
        whole = {label for label, projected in labels if not projected}
        shapes = self.scan.adjoint.outputs
        return {label: (row_of(shape, self.sizes), label not in whole) for label, shape in shapes.items()}

    @cached_property
    def carried(self) -> list[int]:
        """Of each state of the adjoint the elements of a row."""
        return [row_of(shape, self.sizes) for shape in self.scan.adjoint.states.values()]

    @cached_property
    def read(self) -> list[int]:
        """The projections that are kept, since the adjoint reads them and they are not to be made once more."""
        names = {where[0] for kind, *where in self.scan.sources.values() if kind == "stream"} - self.scan.not_kept
        streams = enumerate(zip(self.scan.forward.inputs, self.projected, strict=True))
        return [n for n, (name, projected) in streams if self.save and projected and name in names]

    @cached_property
    def widest(self) -> tuple[int, int]:
        """The elements of a row of the widest projection, and of the widest gradient of one, or of what is made again;
        0 where there is none.
        """
        shapes = zip(self.scan.forward.inputs.values(), self.projected, strict=True)
        forwards = max((row_of(shape, self.sizes) for shape, projected in shapes if projected), default=0)
        in_parts = (row for row, in_parts in self.gradients.values() if in_parts)
        return forwards, max(self.scan.width_of_made(self.sizes), *in_parts, 0)

    def apart(self, tensors: Sequence[Any]) -> tuple[list[Any], Sequence[Any], Sequence[Any], Sequence[Any]]:
        """What there is one of for each tensor, as streams, states, parameters, and (mask, resets, what they return
        to); of a projection three in a `Projection`.
        """
        streams, place = [], 0
        for projected in self.projected:
            streams.append(Projection(*tensors[place : place + 3]) if projected else tensors[place])
            place += 3 if projected else 1
        states = place + len(self.scan.forward.states)
        return streams, tensors[place:states], tensors[states:-3], tensors[-3:]


def run(call: Call, tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """The outputs, and the last states. tensors: of the streams, states, parameters, and (mask, resets, what they
    return to).
    """
    if not call.save:
        return forward(call, tensors)[0]
    found: tuple[Tensor, ...] = _Node.apply(call, *tensors)  # type: ignore[no-untyped-call]
    return found


def wants_gradient(arguments: Sequence[object]) -> bool:
    """Whether torch is to differentiate what is made of these."""
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)


def tensors_of(streams: Sequence[Stream]) -> Iterator[Tensor | None]:
    """What streams consist of."""
    for stream in streams:
        if isinstance(stream, Projection):
            yield from stream
        else:
            yield stream


def forward(call: Call, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], Mapping[int, Tensor]]:
    """The outputs, None for those that are not wanted, and the last states; and the projections of `call.read`."""
    streams, states, parameters, (valid, resets, first) = call.apart(tensors)
    which, direction = call.scan.forward, call.direction
    used = call.scan.used(which, parameters)
    some, time, batch = states[0], _time(streams[0]), states[0].shape[0]
    outputs: list[Tensor | None] = []
    for row, state in call.outputs:
        if state is not None and resets is None and time * batch * row > COPIED:
            outputs.append(_behind(states[state], (time, batch, row), direction))
        else:
            outputs.append(some.new_empty(time, batch, row) if row else None)
    last = [state.new_empty(*state.shape) for state in states]
    made = {n: some.new_empty(time, batch, streams[n].width) for n in call.read}
    for part in parts_of(time, batch * call.widest[0], direction, AT_ONCE):
        inputs = [_rows(stream, part, n, made.get(n)) for n, stream in enumerate(streams)]
        results = [*map(part.of, outputs), *last]
        flags = part.of(valid), part.of(resets, 1), first
        run_native(which, batch, inputs, flags, states, used, results, direction == "backwards", call.sizes)
        states = last
    return (*outputs, *last), made


def _time(stream: Stream) -> int:
    """The steps that there are."""
    return (stream.rows if isinstance(stream, Projection) else stream).shape[0]


def _behind(state: Tensor, shape: tuple[int, ...], direction: str) -> Tensor:
    """An output that is a state's new value at each step, (time, batch, width), with the state itself before the first
    step in memory: what the state was before each step is the same memory, one step earlier.
    """
    time, *row = shape
    whole = state.new_empty(time + 1, *row)
    forwards = direction == "forwards"
    whole[0 if forwards else time] = state
    step = whole.stride(0)
    # No view, which torch would not let be changed in place.
    return state.new_empty(0).set_(whole.untyped_storage(), step if forwards else 0, shape, whole.stride())


def _has_before(output: Tensor, direction: str) -> bool:
    """Whether an output lies in memory as `_behind` has made it: hooks of saved tensors may have made another of it."""
    time, step = output.shape[0], output.shape[1:].numel()
    whole = output.untyped_storage().nbytes() == (time + 1) * step * output.itemsize
    return whole and output.is_contiguous() and output.storage_offset() == (step if direction == "forwards" else 0)


def before_each(output: Tensor, direction: str) -> Tensor | None:
    """What a state was before each step, of an output that is its new value, where that lies in memory beside it."""
    if not _has_before(output, direction):
        return None
    step = output.stride(0)
    start = output.storage_offset() + (-step if direction == "forwards" else step)
    return output.as_strided(output.shape, output.stride(), start)


class Part(NamedTuple):
    """The steps from `start` up to `stop`, of `time`."""

    start: int
    stop: int
    time: int

    @property
    def whole(self) -> bool:
        return self.stop - self.start == self.time

    def of(self, rows: Any, more: int = 0) -> Any:
        """Those of a tensor over time; more: of its steps behind the last one."""
        return rows if rows is None or self.whole else rows[self.start : self.stop + more]


def parts_of(time: int, step: int, direction: str, most: int) -> list[Part]:
    """The steps in the order of a loop, so many at a time that they fit. step: the elements of one. most: at once."""
    if step * time <= most:
        return [Part(0, time, time)]
    count = max(1, most // step)
    parts = [Part(start, min(start + count, time), time) for start in range(0, time, count)]
    return parts if direction == "forwards" else parts[::-1]


def _rows(stream: Stream, part: Part, place: int, whole: Tensor | None) -> Any:
    """Some steps of a stream. whole: where those of a projection are kept, if they are."""
    if not isinstance(stream, Projection):
        return part.of(stream)
    stack, rows, bias = stream
    x = part.of(rows)
    out = part.of(whole)
    if out is None:
        out = native.room(("stream", place), (*x.shape[:2], stream.width), x.dtype)
    return native.product(stack, x, bias, out)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        results, made = forward(call, tensors)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(results[place] for place in call.scan.kept.values()), *made.values())
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        saved = ctx.saved_tensors
        keys: tuple[str | int, ...] = (*call.scan.kept, *call.read)
        count = len(saved) - len(keys)
        tensors, kept = saved[:count], dict(zip(keys, saved[count:], strict=True))
        if torch.is_grad_enabled() or not native.plain((*tensors, *gradients)):
            return (None, *by_steps(call, tensors, gradients))
        return (None, *Gradients(call, tensors, kept, gradients).found(ctx.needs_input_grad[1:]))


class Gradients:
    """The backward pass of one call. kept: outputs by label, projections by place. previous: of some outputs what they
    were one step earlier, by label; the others are found.
    """

    def __init__(
        self,
        call: Call,
        tensors: Sequence[Any],
        kept: dict[str | int, Tensor],
        gradients: Sequence[Tensor | None],
        previous: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.call, self.scan, self.kept = call, call.scan, kept
        self.streams, self.states, self.parameters, (self.valid, self.resets, self.first) = call.apart(tensors)
        count = len(call.outputs)
        self.incoming = dict(zip(self.scan.forward.outputs, gradients, strict=False))
        self.ends = gradients[count:]
        self.time, self.batch = _time(self.streams[0]), self.states[0].shape[0]
        self._previous = dict(previous or {})
        self._of_part: dict[str, Any] = {}  # inputs of the adjoint and of the gradients by name, of the steps at hand

    def found(self, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Of each tensor that the node was given its gradient, None where it needs none."""
        call, scan, some = self.call, self.scan, self.states[0]
        of_streams, of_states, of_parameters, _ = call.apart(needs)
        outputs = {
            label: None if in_parts else some.new_empty(self.time, self.batch, row)
            for label, (row, in_parts) in call.gradients.items()
        }
        carried = [
            some.new_empty(self.batch, row)
            if n >= len(of_states) or of_states[n]
            else self._room(("carried", n), 0, row)
            for n, row in enumerate(call.carried)
        ]
        first = None if self.first is None else torch.zeros_like(self.first, memory_format=torch.contiguous_format)
        sums: list[Tensor | None] = [None] * len(self.parameters)
        d_streams: list[Any] = [None] * len(self.streams)
        for part, results, final in self._swept(outputs, call.widest[1], carried, first):
            for n, (label, stream) in enumerate(zip(scan.stream_gradients, self.streams, strict=True)):
                if label and call.projected[n]:
                    d_streams[n] = self._of_projection(results[label], stream, of_streams[n], d_streams[n], part)
            if any(of_parameters):
                sums = self._of_parameters(sums, results, carried if final else None, part)
        flat: list[Tensor | None] = []
        shapes = scan.forward.inputs.values()
        for label, projected, shape, d in zip(scan.stream_gradients, call.projected, shapes, d_streams, strict=True):
            if projected:
                flat += d or (None, None, None)
            else:
                whole = outputs[label] if label else None
                flat.append(whole.sum(-1, keepdim=True) if whole is not None and shape == () else whole)
        d_states = (d if need else None for d, need in zip(carried, of_states, strict=False))
        return (*flat, *d_states, *sums, None, None, first)

    def of_states(self) -> list[Tensor]:
        """The gradients of the states alone."""
        some = self.states[0]
        carried = [some.new_empty(self.batch, row) for row in self.call.carried]
        first = None if self.first is None else torch.zeros_like(self.first, memory_format=torch.contiguous_format)
        widest = max(self.call.widest[1], *(row for row, _ in self.call.gradients.values()), 0)
        for _ in self._swept(dict.fromkeys(self.call.gradients), widest, carried, first):
            pass
        return carried[: len(self.states)]

    def _swept(
        self, outputs: Mapping[str, Tensor | None], widest: int, carried: Sequence[Tensor], first: Tensor | None
    ) -> Iterator[tuple[Part, dict[str, Tensor], bool]]:
        """Run the adjoint, as many steps at a time as fit, and give what it makes of them; and whether they are the
        last ones. outputs: those for all steps, None for what is there for some alone, of `widest` elements a row at
        most. They are filled, and `carried`, and `first`, which is added to.
        """
        call, which = self.call, self.scan.adjoint
        used = self.scan.used(which, self.parameters)
        states: Sequence[Tensor | None] = [*self.ends, *[None] * (len(carried) - len(self.ends))]
        backwards = call.direction != "backwards"
        order = "backwards" if backwards else "forwards"
        parts = parts_of(self.time, self.batch * widest, order, AT_ONCE)
        for part in parts:
            inputs: list[Any] = []  # what was made again goes before there is more of it
            self._of_part = {}
            inputs = [self._value(name, part) for name in which.inputs]
            results = {label: self._result(label, output, part) for label, output in outputs.items()}
            flags = part.of(self.valid), part.of(self.resets, 1), first
            into = [*results.values(), *carried]
            run_native(which, self.batch, inputs, flags, states, used, into, backwards, call.sizes)
            states = carried
            yield part, results, part is parts[-1]

    def _room(self, of: object, steps: int, row: int) -> Tensor:
        """Memory for so many steps, or for a state if there are none."""
        shape = (steps, self.batch, row) if steps else (self.batch, row)
        return native.room(of, shape, self.states[0].dtype)

    def _value(self, name: str, part: Part) -> Any:
        """Some steps of an input of the adjoint, or of the gradients."""
        if name not in self._of_part:
            self._of_part |= self._found(name, part)
        return self._of_part[name]

    def _found(self, name: str, part: Part) -> dict[str, Any]:
        """The same, with what comes with it."""
        if self.scan.sources[name][0] == "made":
            return self.scan.made_again(lambda one: self._value(one, part), self.parameters, part.of(self.valid))
        return {name: self._steps(name, part)}

    def _steps(self, name: str, part: Part) -> Any:
        kind, *where = self.scan.sources[name]
        if kind == "stream":
            place = list(self.scan.forward.inputs).index(where[0])
            return _rows(self.kept.get(place, self.streams[place]), part, place, None)
        if kind == "output":
            return part.of(self.kept[where[0]])
        if kind == "previous":
            return part.of(self.before(*where))
        come = self.incoming[where[0]]
        if come is not None:
            return part.of(come)
        row = row_of(self.scan.forward.outputs[where[0]], self.call.sizes)
        return self._room(("gradient", where[0]), part.stop - part.start, row).zero_()

    def before(self, label: str, state: str) -> Tensor:
        """What an output, the new value of a state, was one step earlier."""
        found = self._previous.get(label)
        if found is not None:
            return found
        output = self.kept[label]
        if label in self.scan.shifted and self.first is None:
            found = before_each(output, self.call.direction)
        if found is None:
            place = list(self.scan.forward.states).index(state)
            widths = [one.shape[-1] for one in self.states]
            first = None if self.first is None else self.first.split(widths, -1)[place]
            found = previous(output, self.states[place], self.call.direction, self.resets, first)
        self._previous[label] = found
        return found

    def _result(self, label: str, output: Tensor | None, part: Part) -> Any:
        if output is not None:
            return part.of(output)
        return self._room(("adjoint", label), part.stop - part.start, self.call.gradients[label][0])

    def _of_projection(
        self, d: Tensor, stream: Projection, needs: Projection, before: Any, part: Part
    ) -> tuple[Tensor | None, ...]:
        """The gradients of a projection, with those of the steps before."""
        stack, rows, _ = stream
        d_stack, d_rows, d_bias = before or (None, None, None)
        if needs[0]:
            d_bias = d.new_empty(d.shape[-1]) if needs[2] and d_bias is None else d_bias
            d_stack = native.outer(d, part.of(rows), stack, more=d_stack, total=d_bias)
        elif needs[2]:
            total = d.sum((0, 1))
            d_bias = total if d_bias is None else d_bias.add_(total)
        if needs[1]:
            d_rows = torch.empty_like(rows, memory_format=torch.contiguous_format) if d_rows is None else d_rows
            native.product_transposed(stack, d, part.of(d_rows))
        return d_stack, d_rows, d_bias

    def _of_parameters(
        self, sums: list[Tensor | None], results: dict[str, Tensor], carried: list[Tensor] | None, part: Part
    ) -> list[Tensor | None]:
        """The gradients of the scan's parameters, with those of the steps before. carried: what the adjoint has summed
        up, None before its last step: until then it counts as nothing.
        """
        scan = self.scan
        if carried is None:
            carried = [self.states[0].new_zeros(1, 1).expand(self.batch, row) for row in self.call.carried]
        found = results | dict(zip(scan.adjoint.states, carried, strict=True))
        values = [found[name] if name in found else self._value(name, part) for name in scan.gradient_inputs]
        counts = None if self.valid is None else part.of(self.valid) > 0
        new = scan.gradients(*values, *self.parameters, counts)
        return [a if b is None else b if a is None else a.add_(b) for a, b in zip(sums, new, strict=True)]


def independent(tensor: Tensor) -> Tensor:
    """A tensor to differentiate by as if it had nothing to do with others: one may come in twice, or a state be made of
    the weights. A derivative is differentiable by the tensor itself.
    """
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def summed(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """The sum of gradients of some steps and of others, which in half precision is of float32."""
    if more is None:
        return total
    if total is None:  # a copy: two parameters that are added have one gradient
        return more.to(accumulator_of(more.dtype), copy=True)
    return total.add_(more)


def by_steps(call: Call, tensors: Sequence[Any], gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The same gradients by differentiating the torch steps, which torch can differentiate once more."""
    with torch.enable_grad():
        leaves = [t if t is None or not t.is_floating_point() else independent(t) for t in tensors]
        streams, states, parameters, options = call.apart(leaves)
        inputs = [stream.tensor if isinstance(stream, Projection) else stream for stream in streams]
        valid, resets, first = options
        given = Given(inputs, valid, resets, first, states, call.scan.used(call.scan.forward, parameters))
        blocks, last, _ = torch_steps(call.scan.forward, given, call.direction == "backwards")
        outputs = (torch.stack([torch.cat(row, -1) for row in rows]) for rows in blocks)
        every = zip((*outputs, *last), gradients, strict=True)
        pairs = [(r.to(g.dtype), g) for r, g in every if g is not None and r.requires_grad]
        asked = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        found = iter(
            torch.autograd.grad(
                [r for r, _ in pairs], asked, [g for _, g in pairs], create_graph=True, materialize_grads=True
            )
        )
        return tuple(None if leaf is None or not leaf.requires_grad else next(found) for leaf in leaves)
