"""A scan over time as two torch operators, one for each direction, with everything torch wants to know of them.

A generated module fills in a `Scan`: which tensors go in and come out, and a `Sweep` for each direction. What is here
is the same for every cell: registration, shapes, autograd, vmap and autocast rules.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnngen.runtime import agreement, chunked, side_by_side
from rnngen.runtime.again import again
from rnngen.runtime.choose import choose
from rnngen.runtime.launch import accumulator_of, has_kernels, machine_of
from rnngen.runtime.layout import is_chunked
from rnngen.runtime.linear import Projection
from rnngen.runtime.native import has_products, plain
from rnngen.runtime.node import Call, run, tensors_of, wants_gradient
from rnngen.runtime.plan import SAVED_NUMBERS, NotPossible, Sizes, is_saved
from rnngen.runtime.seal import edition
from rnngen.runtime.side_by_side import run_node
from rnngen.runtime.sweep import (
    Given,
    Sweep,
    is_native,
    is_number,
    previous,
    row_of,
    uses_kernels,
)

if TYPE_CHECKING:
    from torch._functorch.autograd_function import VmapInfo
    from torch.library import CustomOpDef

_Item = TypeVar("_Item")
_OPERATORS: dict[str, tuple["CustomOpDef", "CustomOpDef"]] = {}


class Scan:
    """The scan of one cell: `outputs, last_states = scan(streams, states, parameters)`.

    name: unique to the cell's description, since torch silently replaces an operator by another of its name.
    sources: where each input of the adjoint and of `gradients` comes from: ("stream", name), ("again", name) for one
    that is not to be kept if it can be made once more, ("output", label),
    ("previous", label, state) for an output one step earlier, ("gradient", label) for what comes in from outside,
    ("made", label) for what `again` gives, in the order in which it does.
    stream_gradients: for each stream the label of its adjoint, None if it has none; that of a number may have units.
    gradients: gradients(*gradient_inputs, *parameters) gives the gradient of each parameter, None of one that is not
    trained.
    again: again(*again_inputs, *parameters, valid) gives what is made once more for many steps at once, before the
    adjoint runs over them.
    """

    def __init__(
        self,
        name: str,
        *,
        parameters: tuple[str, ...],
        forward: Sweep,
        adjoint: Sweep,
        sources: Mapping[str, tuple[str, ...]],
        stream_gradients: tuple[str | None, ...],
        gradient_inputs: tuple[str, ...],
        gradients: Callable[..., tuple[Tensor | None, ...]],
        again_inputs: tuple[str, ...] = (),
        again: Callable[..., tuple[Tensor, ...]] | None = None,
    ):
        self.name = name
        self.parameters = parameters
        self.forward, self.adjoint = forward, adjoint
        self.not_kept = {source[1] for source in sources.values() if source[0] == "again"}
        self.sources = {name: (kind.replace("again", "stream"), *where) for name, (kind, *where) in sources.items()}
        self.stream_gradients = stream_gradients
        self.gradient_inputs, self.gradients = gradient_inputs, gradients
        self._again_inputs, self._again = again_inputs, again
        self.made = [source[1] for source in sources.values() if source[0] == "made"]
        self._states = len(forward.states)
        self._used = tuple([parameters.index(name) for name in sweep.parameters] for sweep in (forward, adjoint))
        wanted = {source[1] for source in sources.values() if source[0] in ("output", "previous")}
        self.kept = {label: place for place, label in enumerate(forward.outputs) if label in wanted}
        pairs = {source[1:] for source in sources.values() if source[0] == "previous"}
        places = list(forward.states).index
        labels = [label for label, _ in pairs]
        self.shifted = {label: places(state) for label, state in sorted(pairs) if labels.count(label) == 1}
        self.calls: dict[tuple[object, ...], Call] = {}  # by what they have in common
        self._given = [place for place, label in enumerate(forward.outputs) if not is_saved(label)]
        # A module that is imported again, or two files of one cell, share the operators: to register a name once more
        # would take it away from the layers that have it. One that was edited by hand has operators of its own.
        self._own_name = "_".join(filter(None, (name, edition(forward.step.__module__))))
        if self._own_name not in _OPERATORS:
            _OPERATORS[self._own_name] = self._registered()
        self.forward_op, self.adjoint_op = _OPERATORS[self._own_name]

    def __call__(
        self,
        streams: Sequence[Tensor | Projection],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        valid: Tensor | None = None,
        *,
        places: Sequence[int] | None = None,
        resets: Tensor | None = None,
        first: Sequence[Tensor] | None = None,
        reverse: bool = False,
        both: bool = False,
        last_only: bool = False,
        schedule: str = "auto",
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Run over a sequence.

        streams (time, batch, blocks * width), states (batch, width), all of one dtype and device; places: which of the
        states are those of this scan, None if all are, and which of `first`. Gives the outputs,
        (time, batch, blocks * width), and the states after the last step; with `reverse` time runs backwards.
        With `both` it does for the second half of the units and heads, on devices with kernels only.
        valid, (time, batch, 1) in int32, is 0 where a step does not count: there states stay as they are. With
        `last_only` outputs are those after the last step, (batch, width), and each must be a state's new value.
        resets, (time + 1, batch, 1) in int32, is 1 at a boundary between steps where another sequence begins: a scan
        that crosses it goes on from `first`, (batch, width) for each state; both or neither.
        Under autocast everything but float64 is cast to its dtype. Raises RuntimeError if dtypes differ, and
        NotImplementedError for derivatives in forward mode or by torch.func, which takes none of torch's custom
        operators.
        """
        if places is not None:
            states = [states[place] for place in places]
            first = None if first is None else [first[place] for place in places]
        if is_chunked(schedule):
            if both:
                raise ValueError(f"'{self._cell}': chunks are of one direction, so both cannot run at once")
            whole = side_by_side.Call(self, streams, states, parameters, valid, resets, first, reverse, last_only)
            return chunked.run_in_chunks(whole, schedule)
        direction = "both" if both else "backwards" if reverse else "forwards"
        cut = side_by_side.is_cut(schedule)
        if not both and (resets is None) == (first is None):
            begin = None if first is None else torch.cat(list(first), -1)
            every = [*tensors_of(streams), *states, *parameters, valid, resets, begin]
            if self._is_plain(every, states[0]):
                save = wants_gradient(every)
                call = Call.of(self, streams, states, parameters, direction, save, save or not last_only)
                return self._found(run_node(call, every, schedule) if cut else run(call, every), last_only)
        if not cut and (resets is None) == (first is None):
            masks = (valid, resets, None if first is None else torch.cat(list(first), -1))
            results = again(self, streams, states, parameters, masks, direction, schedule)
            if results is not None:
                return self._found(results, last_only)
        inputs = [stream.tensor if isinstance(stream, Projection) else stream for stream in streams]
        begins = [] if first is None else [torch.cat(list(first), -1)]
        tensors = [*inputs, *states, *parameters, *begins]
        device = tensors[0].device.type
        if autocasting(device):
            dtype = torch.get_autocast_dtype(device)
            tensors = [t if t.dtype == torch.float64 else t.to(dtype) for t in tensors]
        # Numbers have the accumulators' type, and give it to what is made of them before the scan.
        dtype, wide = tensors[len(inputs)].dtype, accumulator_of(tensors[len(inputs)].dtype)
        for place, (stream, shape) in enumerate(zip(inputs, self.forward.inputs.values(), strict=True)):
            if is_number(shape):
                tensors[place] = stream.to(wide)
            elif tensors[place].dtype == wide:
                tensors[place] = stream.to(dtype)
        if (resets is None) != (first is None):
            raise ValueError(f"'{self._cell}': resets need `first`, what they return to, and it needs them")
        shapes = (*self.forward.inputs.values(), *[("hidden",)] * (len(tensors) - len(inputs)))
        types = {tensor.dtype for tensor, shape in zip(tensors, shapes, strict=True) if not is_number(shape)}
        if len(types) > 1:
            names = " and ".join(sorted(str(dtype) for dtype in types))
            raise RuntimeError(f"'{self._cell}': inputs, states and weights must have one dtype, found {names}")
        if both and not torch.compiler.is_compiling() and not uses_kernels(tensors[0]):
            raise NotImplementedError(
                f"'{self._cell}' runs both directions at once by kernels, and '{device}' has none."
            )
        if not torch.compiler.is_compiling() and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            raise NotImplementedError(
                f"'{self._cell}' has no forward-mode derivative. Use the layer's `reference` method."
            )
        # A trace is checked, and may be used, in another mode than the one that it was made in.
        save = wants_gradient(tensors) or torch.jit.is_tracing()
        given = tensors[: len(tensors) - len(begins)]
        begin = tensors[-1] if begins else None
        try:
            results = self.forward_op(*given, valid, resets, begin, direction, save, save or not last_only, schedule)
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
            message = (
                f"'{self._cell}' has no derivative by torch.func. Use the layer's `reference` method; per-sample "
                "gradients also come from a backward pass through torch.func.vmap over a copy of the weights for each."
            )
            raise NotImplementedError(message) from error
        return self._found(results, last_only)

    def _is_native(self, state: Tensor) -> bool:
        """Whether there is native code for both directions, and for the products around them."""
        return is_native((self.forward, self.adjoint), state) and has_products(state.dtype)

    def _is_plain(self, tensors: Sequence[Tensor | None], state: Tensor) -> bool:
        """Whether native code runs it, in one type, see `node`. tensors: as there."""
        if torch.compiler.is_compiling() or autocasting("cpu") or not self._is_native(state):
            return False
        *typed, valid, resets, first = tensors
        return plain((*typed, first), state.dtype) and (valid is resets is None or plain((valid, resets)))

    def _found(self, results: tuple[Tensor, ...], last_only: bool) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """What a call gives, of what an operator gives."""
        count = len(self.forward.outputs)
        last = tuple(results[count:])
        if not last_only:
            return [results[place] for place in self._given], last
        outputs = dict(zip(self.forward.outputs, results[:count], strict=True))
        order = list(self.forward.states)
        outputs |= {label: last[order.index(state)] for label, state in self.forward.carried.items()}
        return [output for label, output in outputs.items() if not is_saved(label)], last

    @property
    def _cell(self) -> str:
        return self.name.rsplit("_", 1)[0]

    def _registered(self) -> tuple["CustomOpDef", "CustomOpDef"]:
        masks = "Tensor? valid, Tensor? resets, "
        forward = self._operator(
            "scan", self._forward, self.forward, f"{masks}Tensor? first, ", "bool save, bool keep, "
        )
        adjoint = self._operator("adjoint", self._adjoint, self.adjoint, masks, "")
        forward.register_fake(self._forward_outputs)
        adjoint.register_fake(self._adjoint_outputs)
        forward.register_autograd(self._backward, setup_context=self._keep_for_backward)
        adjoint.register_autograd(self._no_second_derivative)
        forward.register_vmap(lambda info, dims, *args: self._vmap(forward, self.forward, info, dims, args))
        adjoint.register_vmap(lambda info, dims, *args: self._vmap(adjoint, self.adjoint, info, dims, args))
        return forward, adjoint

    def _operator(
        self, suffix: str, function: Callable[..., tuple[Tensor, ...]], which: Sweep, optional: str, flags: str
    ) -> "CustomOpDef":
        count = len(which.inputs) + self._states + len(self.parameters)
        arguments = ", ".join(f"Tensor tensor_{number}" for number in range(count))
        results = ", ".join(["Tensor"] * (len(which.outputs) + len(which.states) + which.facts.backwards))
        schema = f"({arguments}, {optional}str direction, {flags}str schedule) -> ({results})"
        name = f"rnngen::{self._own_name}_{suffix}"
        return torch.library.custom_op(name, function, mutates_args=(), schema=schema)

    def _split(self, which: Sweep, args: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Any]]:
        """Arguments of an operator as inputs, states, parameters, and the others."""
        return self._parts(which, args)

    def _parts(self, which: Sweep, args: Sequence[_Item]) -> tuple[list[_Item], list[_Item], list[_Item], list[_Item]]:
        """The same of whatever there is one of for each argument."""
        inputs = len(which.inputs)
        states = inputs + self._states
        parameters = states + len(self.parameters)
        return list(args[:inputs]), list(args[inputs:states]), list(args[states:parameters]), list(args[parameters:])

    def used(self, which: Sweep, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The parameters of one direction, in the order of its arguments."""
        return [parameters[place] for place in self._used[which.facts.backwards]]

    def made_again(
        self, value: Callable[[str], Tensor], parameters: Sequence[Tensor], valid: Tensor | None
    ) -> dict[str, Tensor]:
        """What `again` gives for some steps, by label. value: gives an input of it by its name, of these steps."""
        assert self._again is not None
        counts = None if valid is None else valid > 0
        with torch.autocast(parameters[0].device.type, enabled=False):
            found = self._again(*map(value, self._again_inputs), *parameters, counts)
        return dict(zip(self.made, found, strict=True))

    def width_of_made(self, sizes: Mapping[str, int]) -> int:
        """The elements of a row of the widest of these, 0 if there is none."""
        return max((row_of(self.adjoint.inputs[label], sizes) for label in self.made), default=0)

    def takes_both(self, hidden: int, heads: int, dtype: torch.dtype, device: torch.device, schedule: str) -> bool:
        """Whether a scan there can run two directions of so many units at once, and its adjoint too."""
        if not has_kernels(device.type) or device.type == "meta":
            return False
        sizes = Sizes(1, 2 * hidden, 2 * heads, dtype.itemsize, both=True)
        machine = machine_of(device)
        try:
            for sweep in (self.forward, self.adjoint):
                choose(sweep.facts, sizes, machine, schedule if schedule in sweep.kernels else "auto")
        except NotPossible:
            return False
        return True

    # A compiled graph asks when it is made. `torch.compiler.assume_constant_result` says the same, and imports torch's
    # whole compiler for it, with Triton.
    vars()["takes_both"]._dynamo_marked_constant = True

    # The forward operator.

    def _forward_outputs(self, *args: Any) -> tuple[Tensor, ...]:
        streams, states, parameters, (*_, save, keep, _) = self._split(self.forward, args)
        sizes = self.forward.sizes(streams, states, self.used(self.forward, parameters))
        outputs = self._empty_outputs(self.forward, streams, states, sizes, save, keep)
        return (*outputs, *(torch.empty_like(state, memory_format=torch.contiguous_format) for state in states))

    def _forward(self, *args: Any) -> tuple[Tensor, ...]:
        streams, states, parameters, (valid, resets, first, direction, *flags) = self._split(self.forward, args)
        results = self._forward_outputs(*args)
        given = Given(streams, valid, resets, first, states, self.used(self.forward, parameters))
        save, keep, schedule = flags
        side_by_side.run(self.forward, given, results, direction, schedule, self._states, (), save, keep)
        return results

    def _empty_outputs(
        self,
        which: Sweep,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        sizes: Mapping[str, int],
        save: bool = True,
        keep: bool = True,
    ) -> list[Tensor]:
        time, batch = inputs[0].shape[0], states[0].shape[0]
        unwanted = which.unwanted(save, keep)
        wide = accumulator_of(states[0].dtype)
        shapes = {
            label: (time, batch, row_of(shape, sizes)) if label not in unwanted else (0,)
            for label, shape in which.outputs.items()
        }
        return [
            states[0].new_empty(shape, dtype=wide if label == SAVED_NUMBERS else None)
            for label, shape in shapes.items()
        ]

    # The adjoint operator.

    def _adjoint_outputs(self, *args: Any) -> tuple[Tensor, ...]:
        inputs, states, parameters, (_, resets, _, _) = self._split(self.adjoint, args)
        sizes = self.adjoint.sizes(inputs, states, self.used(self.adjoint, parameters))
        outputs = self._empty_outputs(self.adjoint, inputs, states, sizes)
        last = [states[0].new_empty(states[0].shape[0], row_of(shape, sizes)) for shape in self.adjoint.states.values()]
        first = states[0].new_empty((states[0].shape[0], sum(s.shape[-1] for s in states)) if resets is not None else 0)
        return (*outputs, *last, first)

    def _adjoint(self, *args: Any) -> tuple[Tensor, ...]:
        inputs, states, parameters, (valid, resets, direction, schedule) = self._split(self.adjoint, args)
        *results, first = self._adjoint_outputs(*args)
        used = self.used(self.adjoint, parameters)
        sizes = self.adjoint.sizes(inputs, states, used)
        accumulators = list(self.adjoint.states.values())[self._states :]
        states = [*states, *(states[0].new_zeros(states[0].shape[0], row_of(shape, sizes)) for shape in accumulators)]
        wide = None if resets is None else torch.zeros_like(first, dtype=accumulator_of(first.dtype))
        given = Given(inputs, valid, resets, wide, states, used)
        come = [place for place, name in enumerate(self.adjoint.inputs) if self.sources[name][0] == "gradient"]
        side_by_side.run(self.adjoint, given, results, direction, schedule, self._states, come)
        return (*results, first if wide is None else first.copy_(wide))

    # Autograd. ctx: torch's, with what is kept on it.

    def _keep_for_backward(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        streams, states, parameters, others = self._split(self.forward, inputs)
        valid, resets, first, ctx.direction, _, _, ctx.schedule = others
        ctx.time = streams[0].shape[0]
        ctx.sizes = self.forward.sizes(streams, states, self.used(self.forward, parameters))
        outputs = output[: len(self.forward.outputs)]
        # On the CPU the operator's own arguments are kept too: what a second derivative starts from.
        kept = {("stream", name): stream for name, stream in zip(self.forward.inputs, streams, strict=False)}
        kept |= {("output", label): value for label, value in zip(self.forward.outputs, outputs, strict=False)}
        wanted = {source[:2] for source in self.sources.values()}
        wanted |= {("output", source[1]) for source in self.sources.values() if source[0] == "previous"}
        ctx.differentiable = not uses_kernels(streams[0])
        ctx.kept = [key for key in kept if key in wanted or (ctx.differentiable and key[0] == "stream")]
        ctx.reports = agreement.reported()
        begun = side_by_side.starts_of(states, output[len(outputs) :], ctx.direction, ctx.schedule)
        tensors = (*states, *begun, *parameters, valid, resets, first)
        ctx.save_for_backward(*(kept[key] for key in ctx.kept), *tensors)

    def _backward(self, ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.kept)
        *saved, valid, resets, begin = ctx.saved_tensors
        kept = dict(zip(ctx.kept, saved[:count], strict=False))
        given = saved[count : count + self._states]
        states = saved[count + self._states : count + 2 * self._states]
        parameters = saved[count + 2 * self._states :]
        flags = (None, None, None, None)
        if torch.is_grad_enabled() and ctx.differentiable:
            streams = [kept["stream", name] for name in self.forward.inputs]
            call = Call(self, (False,) * len(streams), ctx.direction, True, True, ctx.sizes)
            tensors = (*streams, *given, *parameters, valid, resets, begin)
            return (*side_by_side.by_steps(call, ctx.schedule, tensors, gradients), *flags)

        outputs = dict(zip(self.forward.outputs, gradients, strict=False))
        values: dict[str, Tensor] = {}

        def value(name: str) -> Tensor:
            if name not in values:
                kind, *where = self.sources[name]
                if kind == "previous":
                    place = list(self.forward.states).index(where[1])
                    widths = [state.shape[-1] for state in states]
                    first = None if begin is None else begin.split(widths, -1)[place]
                    values[name] = previous(kept["output", where[0]], states[place], ctx.direction, resets, first)
                elif kind == "gradient":
                    come = outputs[where[0]]
                    shape = (ctx.time, states[0].shape[0], row_of(self.forward.outputs[where[0]], ctx.sizes))
                    values[name] = states[0].new_zeros(shape) if come is None else come
                else:
                    values[name] = kept[kind, where[0]]
            return values[name]

        if self.made:
            values |= self.made_again(value, parameters, valid)
        ends = gradients[len(self.forward.outputs) :]
        last = [torch.zeros_like(state) if g is None else g for g, state in zip(ends, states, strict=False)]
        inputs = [value(name) for name in self.adjoint.inputs]
        options = (valid, resets, ctx.direction, ctx.schedule)
        with agreement.reporting(ctx.reports):
            *results, d_begin = self.adjoint_op(*inputs, *last, *parameters, *options)
        values |= zip(self.adjoint.outputs, results, strict=False)
        first = results[len(self.adjoint.outputs) :]
        values |= zip(self.adjoint.states, first, strict=False)
        needs = ctx.needs_input_grad[len(self.forward.inputs) + self._states :][: len(parameters)]
        d_parameters: Sequence[Tensor | None] = [None] * len(parameters)
        if any(needs):
            counts = None if valid is None else valid > 0
            d_parameters = self.gradients(*(value(name) for name in self.gradient_inputs), *parameters, counts)
        d_streams = [
            None if label is None else values[label].sum(-1, keepdim=True) if shape == () else values[label]
            for label, shape in zip(self.stream_gradients, self.forward.inputs.values(), strict=True)
        ]
        d_begin = None if resets is None else d_begin
        return (*d_streams, *first[: self._states], *d_parameters, None, None, d_begin, *flags)

    def _no_second_derivative(self, ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(
            f"The kernels of '{self._cell}' have no second derivative. Use the layer's `reference` "
            "method, or move the module to the CPU: there torch differentiates the steps any number of times."
        )

    # vmap.

    def _vmap(
        self,
        operator: "CustomOpDef",
        which: Sweep,
        info: "VmapInfo",
        dims: tuple[int | None, ...],
        args: tuple[Any, ...],
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        inputs, states, parameters, flags = self._split(which, args)
        input_dims, state_dims, parameter_dims, flag_dims = self._parts(which, dims)
        size = info.batch_size
        if which is self.forward:  # the caller, inside vmap, could not see whether a gradient is wanted outside it
            *before, save, keep, schedule = flags
            wanted = wants_gradient(args)
            flags = [*before, save or wanted, keep or wanted, schedule]
            args = (*inputs, *states, *parameters, *flags)
        if size == 0:  # there is nothing to compute, and a sum of no weights has a gradient for none
            parameters = [p if d is None else p.sum(d) for p, d in zip(parameters, parameter_dims, strict=True)]
        elif any(dim is not None for dim in parameter_dims):  # an ensemble: each member has weights of its own
            members = []
            for member in range(size):
                pairs = zip(args, dims, strict=False)
                members.append(operator(*(a if d is None else a.select(d, member) for a, d in pairs)))
            return tuple(torch.stack(results) for results in zip(*members, strict=False)), (0,) * len(members[0])

        count = side_by_side.chunks_of(flags[-1])  # chunks of all samples stand before those of the next

        def folded(tensor: Tensor, dim: int | None, at: int) -> Tensor:
            moved = (
                tensor.unsqueeze(at).expand(*tensor.shape[:at], size, *tensor.shape[at:])
                if dim is None
                else (tensor.movedim(dim, at))
            )
            by_chunk: Tensor = moved.unflatten(at + 1, (count, -1))
            return by_chunk.transpose(at, at + 1).flatten(at, at + 2)

        batch = next(length for dim, length in enumerate(states[0].shape) if dim != state_dims[0])
        inputs = [folded(tensor, dim, 1) for tensor, dim in zip(inputs, input_dims, strict=False)]
        states = [folded(tensor, dim, 0) for tensor, dim in zip(states, state_dims, strict=False)]
        at_batch = (1, 1, 0) if which is self.forward else (1, 1)  # valid, resets, first
        for number, at in enumerate(at_batch):
            if flags[number] is not None:
                flags[number] = folded(flags[number], flag_dims[number], at)
        results = operator(*inputs, *states, *parameters, *flags)
        found, found_dims = [], []
        for number, result in enumerate(results):
            at = 1 if number < len(which.outputs) else 0
            empty = result.dim() == 1  # an output that was not wanted
            if not empty:
                result = result.unflatten(at, (count, size, batch // count)).transpose(at, at + 1)
            found.append(result if empty else result.flatten(at + 1, at + 2))
            found_dims.append(None if empty else at)
        return tuple(found), tuple(found_dims)


def autocasting(device: str) -> bool:
    """Whether autocast is on; some types of device, such as "meta", do not know it."""
    return device != "meta" and torch.is_autocast_enabled(device)
