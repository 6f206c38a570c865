"""A scan of plain tensors by native code, as one node of autograd: its projections, the loop, and all gradients.

It does what a `Scan`'s operators do, past torch's dispatcher: that takes 12 us of a call, and 36 where a gradient is
wanted, and an LSTM of 16 units runs 64 steps in 8. A projection that only the loop reads, and its gradient, are there
for some steps at a time, so that they take no memory of their own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rnngen.runtime import native
from rnngen.runtime.linear import Projection
from rnngen.runtime.sweep import Given, previous, row_of, run_native, torch_steps

if TYPE_CHECKING:
    from rnngen.runtime.scan import Scan

Stream = Tensor | Projection
# Elements of a projection, or of its gradient, that are there at once: 4 MB in float32. Of an LSTM of 256 units and 64
# sequences on a Zen 5 core, 1 MB takes 1.14 times as long, and 16 MB 1.2 times as long backwards.
AT_ONCE = 2**20


class Call(NamedTuple):
    """A call of a scan, less its tensors.

    shapes: of the streams that are projections, () of others. direction: "forwards" or "backwards". save: whether a
    gradient is wanted. keep: whether outputs are that are a state's new value.
    """

    scan: "Scan"
    shapes: tuple[tuple[int, ...], ...]
    direction: str
    save: bool
    keep: bool

    @classmethod
    def of(
        cls,
        scan: "Scan",
        streams: Sequence[Stream],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        options: Sequence[Tensor | None],
        direction: str,
        last_only: bool,
    ) -> "Call":
        """The call with these tensors."""
        shapes = tuple(stream.shape if isinstance(stream, Projection) else () for stream in streams)
        every = (*(tensor for stream in streams for tensor in tensors_of(stream)), *states, *parameters, *options)
        save = wants_gradient(every)
        return cls(scan, shapes, direction, save, save or not last_only)

    def apart(self, tensors: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        """What there is one of for each tensor, as streams, states, parameters, and (mask, resets, what they return
        to); of a projection three in a `Projection`.
        """
        rest, streams = list(tensors), []
        for shape in self.shapes:
            streams.append(Projection(rest[0], rest[1], rest[2], shape) if shape else rest[0])
            rest = rest[3 if shape else 1 :]
        states = len(self.scan.forward.states)
        return streams, rest[:states], rest[states:-3], rest[-3:]


def run(
    call: Call,
    streams: Sequence[Stream],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    options: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> tuple[Tensor, ...]:
    """The outputs, and the last states. options: the mask, the resets, and what they return to."""
    if not call.save:
        return _forward(call, streams, states, parameters, *options)
    flat = [tensor for stream in streams for tensor in tensors_of(stream)]
    found: tuple[Tensor, ...] = _Node.apply(call, *flat, *states, *parameters, *options)  # type: ignore[no-untyped-call]
    return found


def wants_gradient(arguments: Sequence[object]) -> bool:
    """Whether torch is to differentiate what is made of these."""
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)


def tensors_of(stream: Stream) -> tuple[Tensor | None, ...]:
    """What a stream consists of."""
    return stream.parts if isinstance(stream, Projection) else (stream,)


def _forward(
    call: Call,
    streams: Sequence[Stream],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    valid: Tensor | None,
    resets: Tensor | None,
    first: Tensor | None,
) -> tuple[Any, ...]:
    """The outputs, None for those that are not wanted, and the last states."""
    scan, which = call.scan, call.scan.forward
    used = scan.used(which, parameters)
    sizes = which.sizes(streams, states, used)
    unwanted = which.unwanted(call.save, call.keep)
    shifted = scan.shifted if call.save and resets is None else {}
    some, (time, batch) = states[0], streams[0].shape[:2]
    outputs: list[Tensor | None] = []
    for label, shape in which.outputs.items():
        size = time, batch, row_of(shape, sizes)
        if label in shifted:
            outputs.append(_behind(states[shifted[label]], size, call.direction))
        else:
            outputs.append(None if label in unwanted else some.new_empty(size))
    last = [state.new_empty(state.shape) for state in states]
    for part in _parts(time, [s.shape for s in streams if isinstance(s, Projection)], call.direction):
        inputs = [_rows(stream, part, ("stream", n)) for n, stream in enumerate(streams)]
        results = [*map(part.of, outputs), *last]
        flags = part.of(valid), part.of(resets, 1), first
        backwards = call.direction == "backwards"
        run_native(which, batch, inputs, flags, states, used, results, backwards, sizes)
        states = last
    return (*outputs, *last)


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


def _parts(time: int, shapes: Sequence[tuple[int, ...]], direction: str) -> list[Part]:
    """The steps in the order of the loop, so many at a time that each of what has these shapes fits."""
    step = max((batch * width for _, batch, width in shapes), default=0)
    if step * time <= AT_ONCE:
        return [Part(0, time, time)]
    count = max(1, AT_ONCE // step)
    parts = [Part(start, min(start + count, time), time) for start in range(0, time, count)]
    return parts if direction == "forwards" else parts[::-1]


def _rows(stream: Stream, part: Part, of: object) -> Any:
    """Some steps of a stream. of: what the room of a projection is known by."""
    if isinstance(stream, Projection):
        stack, rows, bias = stream.parts
        x = part.of(rows)
        return native.product(stack, x, bias, out=native.room(of, (*x.shape[:2], stream.shape[-1]), x.dtype))
    return part.of(stream)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        streams, states, parameters, options = call.apart(tensors)
        results = _forward(call, streams, states, parameters, *options)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(results[place] for place in call.scan.kept.values()))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        saved, labels = ctx.saved_tensors, call.scan.kept
        count = len(saved) - len(labels)
        tensors, kept = saved[:count], dict(zip(labels, saved[count:], strict=True))
        if torch.is_grad_enabled() or not native.plain((*tensors, *gradients)):
            return (None, *by_steps(call, tensors, gradients))
        return (None, *_Gradients(call, tensors, kept, gradients).found(ctx.needs_input_grad[1:]))


class _Gradients:
    """The backward pass of one call."""

    def __init__(
        self, call: Call, tensors: Sequence[Any], kept: dict[str, Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        self.call, self.scan, self.kept = call, call.scan, kept
        self.streams, self.states, self.parameters, (self.valid, self.resets, self.first) = call.apart(tensors)
        count = len(self.scan.forward.outputs)
        self.incoming = dict(zip(self.scan.forward.outputs, gradients, strict=False))
        self.ends = gradients[count:]
        self.time, self.batch = self.streams[0].shape[0], self.states[0].shape[0]
        used = self.scan.used(self.scan.forward, self.parameters)
        self.sizes = self.scan.forward.sizes(self.streams, self.states, used)
        self._previous: dict[str, Tensor] = {}

    def found(self, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Of each tensor that the node was given its gradient, None where it needs none."""
        which, scan = self.scan.adjoint, self.scan
        of_streams, _, of_parameters, _ = self.call.apart(needs)
        used = scan.used(which, self.parameters)
        labels = scan.stream_gradients
        own = {label for label, stream in zip(labels, self.streams, strict=True) if isinstance(stream, Tensor)}
        outputs = {
            label: self.states[0].new_empty(self.time, self.batch, row_of(shape, self.sizes)) if label in own else None
            for label, shape in which.outputs.items()
        }
        carried = [self.states[0].new_empty(self.batch, row_of(shape, self.sizes)) for shape in which.states.values()]
        states: Sequence[Tensor | None] = [*self.ends, *(None for _ in carried[len(self.ends) :])]
        first = None if self.first is None else torch.zeros_like(self.first, memory_format=torch.contiguous_format)
        sums: list[Tensor | None] = [None] * len(self.parameters)
        d_streams: list[Any] = [None] * len(self.streams)
        narrow = [self.streams[n].shape for n, label in enumerate(labels) if label and label not in own]
        if any(name in which.states for name in scan.gradient_inputs):
            narrow = []  # it is known after the last step
        other = "backwards" if self.call.direction == "forwards" else "forwards"
        for part in _parts(self.time, narrow, other):
            inputs = [self._value(name, part) for name in which.inputs]
            results = {label: self._result(label, output, part) for label, output in outputs.items()}
            flags = part.of(self.valid), part.of(self.resets, 1), first
            every = [*results.values(), *carried]
            backwards = self.call.direction != "backwards"
            run_native(which, self.batch, inputs, flags, states, used, every, backwards, self.sizes)
            states = carried
            for n, (label, stream) in enumerate(zip(labels, self.streams, strict=True)):
                if label and isinstance(stream, Projection):
                    d_streams[n] = self._of_projection(results[label], stream, of_streams[n], d_streams[n], part)
            if any(of_parameters):
                sums = self._of_parameters(sums, results, carried, part)
        flat: list[Tensor | None] = []
        for label, stream, shape, d in zip(labels, self.streams, scan.forward.inputs.values(), d_streams, strict=True):
            if isinstance(stream, Projection):
                flat += d or (None, None, None)
            else:
                whole = outputs[label] if label else None
                flat.append(whole.sum(-1, keepdim=True) if whole is not None and shape == () else whole)
        return (*flat, *carried[: len(self.ends)], *sums, None, None, first)

    def _value(self, name: str, part: Part) -> Any:
        """Some steps of an input of the adjoint, or of the gradients."""
        kind, *where = self.scan.sources[name]
        if kind == "stream":
            place = list(self.scan.forward.inputs).index(where[0])
            return _rows(self.streams[place], part, ("stream", place))
        if kind == "output":
            return part.of(self.kept[where[0]])
        if kind == "previous":
            return part.of(self._before(*where))
        come = self.incoming[where[0]]
        if come is not None:
            return part.of(come)
        shape = (part.stop - part.start, self.batch, row_of(self.scan.forward.outputs[where[0]], self.sizes))
        return native.room(("gradient", where[0]), shape, self.states[0].dtype).zero_()

    def _before(self, label: str, state: str) -> Tensor:
        output = self.kept[label]
        if label in self.scan.shifted and self.first is None and _has_before(output, self.call.direction):
            step = output.stride(0)
            start = output.storage_offset() + (-step if self.call.direction == "forwards" else step)
            return output.as_strided(output.shape, output.stride(), start)
        if label not in self._previous:
            place = list(self.scan.forward.states).index(state)
            widths = [one.shape[-1] for one in self.states]
            first = None if self.first is None else self.first.split(widths, -1)[place]
            self._previous[label] = previous(output, self.states[place], self.call.direction, self.resets, first)
        return self._previous[label]

    def _result(self, label: str, output: Tensor | None, part: Part) -> Any:
        if output is not None:
            return part.of(output)
        shape = (part.stop - part.start, self.batch, row_of(self.scan.adjoint.outputs[label], self.sizes))
        return native.room(("adjoint", label), shape, self.states[0].dtype)

    def _of_projection(
        self, d: Tensor, stream: Projection, needs: Projection, before: Any, part: Part
    ) -> tuple[Tensor | None, ...]:
        """The gradients of a projection, with those of the steps before."""
        stack, rows, _ = stream.parts
        d_stack, d_rows, d_bias = before or (None, None, None)
        if needs[0]:
            d_stack = native.outer(d, part.of(rows), stack, more=d_stack)
        if needs[1]:
            d_rows = torch.empty_like(rows, memory_format=torch.contiguous_format) if d_rows is None else d_rows
            native.product_transposed(stack, d, part.of(d_rows))
        if needs[2]:
            total = d.sum((0, 1))
            d_bias = total if d_bias is None else d_bias.add_(total)
        return d_stack, d_rows, d_bias

    def _of_parameters(
        self, sums: list[Tensor | None], results: dict[str, Tensor], carried: list[Tensor], part: Part
    ) -> list[Tensor | None]:
        """The gradients of the scan's parameters, with those of the steps before."""
        scan = self.scan
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
