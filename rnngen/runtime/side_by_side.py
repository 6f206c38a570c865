"""What runs chunks of time side by side, as a batch: a call without gradients, a node of autograd by native code, and a
sweep of the operators. Rows are as `agreement` has them, and tensors over time have the steps of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnngen.runtime import agreement, native, node
from rnngen.runtime.agreement import Chunks, shifted
from rnngen.runtime.layout import NAME
from rnngen.runtime.linear import Projection
from rnngen.runtime.node import Gradients, Part, tensors_of
from rnngen.runtime.sweep import Given, Sweep, run_sweep

if TYPE_CHECKING:
    from rnngen.runtime.scan import Scan

_CUT = "chunks"  # the schedule of the operators, behind it the chunks and the steps of the warm-up
_FEW = 0.25  # of all rows: to run so many twice, with gradients of weights, takes half as long as all once
_NEAR = 0.01
Found = tuple[list[Tensor], tuple[Tensor, ...]]


def named(count: int, warm_up: int) -> str:
    """The schedule of the operators that means so many chunks, and so many steps of a warm-up."""
    return f"{_CUT} {count} {warm_up}"


def is_cut(schedule: str) -> bool:
    """Whether a schedule of the operators is that of chunks."""
    return schedule.partition(" ")[0] == _CUT


def chunks_of(schedule: str) -> int:
    """How many chunks a schedule of the operators means."""
    return int(schedule.split(" ")[1]) if is_cut(schedule) else 1


def _sizes(schedule: str) -> tuple[int, int]:
    count, warm_up = map(int, schedule.split(" ")[1:])
    return count, warm_up


def refuse_capture(some: Tensor) -> None:
    """Raises RuntimeError while a CUDA graph is captured."""
    if some.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{NAME} looks at its chunks while it runs, which the capture of a graph does not allow; "
            "take schedule='auto' there"
        )


# Both of operations that torch's older vmap knows too, by which it takes batches of gradients: no flatten.


def cut(rows: Tensor, count: int) -> Tensor:
    """Rows over time, (time, batch, width), side by side: (steps, chunks * batch, width)."""
    time, batch, width = rows.shape
    return rows.reshape(count, time // count, batch, width).transpose(0, 1).reshape(time // count, count * batch, width)


def cut_between(resets: Tensor, count: int) -> Tensor:
    """The same of resets, (time + 1, batch, 1), which are between steps: (steps + 1, chunks * batch, 1)."""
    starts, ends = (cut(part, count) for part in (resets[:-1], resets[1:]))
    return torch.cat((starts, ends[-1:]))


def joined(rows: Tensor, count: int) -> Tensor:
    """Rows of chunks, (steps, chunks * batch, width), one behind another: (chunks * steps, batch, width)."""
    steps, both, width = rows.shape
    batch = both // count
    return rows.reshape(steps, count, batch, width).transpose(0, 1).reshape(count * steps, batch, width)


@dataclass(frozen=True)
class Some:
    """Some of the steps, and some rows of them, all if None."""

    part: Part
    rows: Tensor | None = None

    @classmethod
    def all(cls, time: int, rows: Tensor | None = None) -> Some:
        """All steps of them."""
        return cls(Part(0, time, time), rows)

    @classmethod
    def at(cls, time: int, steps: int, first: bool, rows: Tensor | None = None) -> Some:
        """The first steps, or the last ones."""
        return cls(Part(0, steps, time) if first else Part(time - steps, time, time), rows)

    def over_time(self, whole: Any, more: int = 0) -> Any:
        """Those of a tensor over time. more: of its steps behind the last one."""
        steps = self.part.of(whole, more)
        return steps if self.rows is None or steps is None else steps.index_select(1, self.rows)

    def between(self, resets: Any) -> Any:
        """Those of resets."""
        return self.over_time(resets, 1)

    def of_each(self, one: Any) -> Any:
        """Those of what there is one of for each row."""
        return one if self.rows is None or one is None else one.index_select(0, self.rows)


@dataclass(frozen=True)
class OneOfEach:
    """One step of each row."""

    steps: Tensor

    @classmethod
    def of_most(
        cls, incoming: Sequence[Tensor], states: Sequence[Tensor], valid: Tensor | None, time: int, backwards: bool
    ) -> tuple[OneOfEach, list[Tensor]]:
        """Those where most comes in: (time, rows, width) each, or states in front of the first step that counts; and
        the states, zero where that is another step.
        """
        counts = states[0].new_ones(time, len(states[0])) if valid is None else (valid.squeeze(-1) > 0).int()
        first = time - 1 - counts.flip(0).argmax(0) if backwards else counts.argmax(0)
        sizes = [torch.linalg.vector_norm(one, math.inf, -1) for one in (*states, *incoming)]
        before = torch.stack(sizes[: len(states)]).amax(0)
        most = before.new_zeros(counts.shape).scatter_(0, first[None], before[None])
        for size in sizes[len(states) :]:
            most = torch.where(counts > 0, torch.maximum(most, size), most)
        steps = most.argmax(0)
        return cls(steps), [torch.where((steps == first)[:, None], state, 0) for state in states]

    def over_time(self, whole: Any) -> Any:
        """Those of a tensor over time."""
        return whole if whole is None else whole.take_along_dim(self.steps[None, :, None], 0)

    def between(self, resets: Any) -> Any:
        """Those of resets."""
        return resets if resets is None else torch.cat((self.over_time(resets[:-1]), self.over_time(resets[1:])))

    def of_each(self, one: Any) -> Any:
        """What there is one of for each row."""
        return one


@dataclass(frozen=True)
class Call:
    """What `Scan.__call__` is asked; places and schedule are settled."""

    scan: Scan
    streams: Sequence[Tensor | Projection]
    states: Sequence[Tensor]
    parameters: Sequence[Tensor]
    valid: Tensor | None
    resets: Tensor | None
    first: Sequence[Tensor] | None
    reverse: bool
    last_only: bool

    def run(self, schedule: str = "auto") -> Found:
        options: dict[str, Any] = {"resets": self.resets, "first": self.first, "schedule": schedule}
        options |= {"reverse": self.reverse, "last_only": self.last_only}
        found: Found = self.scan(self.streams, self.states, self.parameters, self.valid, **options)
        return found

    @property
    def time(self) -> int:
        return (s.rows if isinstance(s := self.streams[0], Projection) else s).shape[0]

    @property
    def batch(self) -> int:
        return self.states[0].shape[0]

    def changed(
        self,
        rows: Callable[[Tensor], Tensor],
        boundaries: Callable[[Tensor], Tensor],
        samples: Callable[[Tensor], Tensor],
        states: Sequence[Tensor],
    ) -> Call:
        """With other rows over time, boundaries between steps, and rows of samples, each made of the old ones, and with
        these states. What has the same rows has the same ones then.
        """
        found: dict[int, Tensor] = {}

        def new(old: Tensor) -> Tensor:
            return found[id(old)] if id(old) in found else found.setdefault(id(old), rows(old))

        return replace(
            self,
            streams=[s._replace(rows=new(s.rows)) if isinstance(s, Projection) else new(s) for s in self.streams],
            states=states,
            valid=None if self.valid is None else new(self.valid),
            resets=None if self.resets is None else boundaries(self.resets),
            first=None if self.first is None else list(map(samples, self.first)),
        )

    def picked(self, some: Some, states: Sequence[Tensor]) -> Call:
        """Some of it, from these states."""
        return self.changed(some.over_time, some.between, some.of_each, states)


@dataclass
class OfCall:
    """The chunks of a call. call: over chunks. outputs: what `run` gives of each step, (steps, rows, width)."""

    call: Call
    outputs: list[Tensor] = field(init=False)
    ends: Sequence[Tensor] = field(init=False)

    @property
    def valid(self) -> Tensor | None:
        return self.call.valid

    def last_steps(self, count: int, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        some = Some.at(self.call.time, count, self.call.reverse, rows)
        return replace(self.call.picked(some, states), last_only=True).run()[1]

    def whole(self, states: Sequence[Tensor]) -> None:
        self.outputs, self.ends = self.run(replace(self.call, states=states))

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        outputs, ends = self.run(self.call.picked(Some.all(self.call.time, rows), states))
        for result, found in zip((*self.outputs, *self.ends), (*outputs, *ends), strict=True):
            result.index_copy_(result.dim() - 2, rows, found)

    def run(self, call: Call) -> Found:
        """What it gives."""
        return call.run()


# Of a node.


def run_node(common: node.Call, tensors: Sequence[Tensor | None], schedule: str) -> tuple[Tensor, ...]:
    """`node.run` of chunks, by a schedule of the operators that means them. All tensors have those of a `Layout` for a
    batch, and the states of the first one in the order of the scan are where it begins.
    """
    found: tuple[Tensor, ...] = _Node.apply(common, schedule, *tensors)  # type: ignore[no-untyped-call]
    return found


def by_steps(
    common: node.Call, schedule: str, tensors: Sequence[Any], gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradients of what chunks were given by the torch steps of the whole, which torch can differentiate again."""
    count = chunks_of(schedule)
    if count == 1:
        return node.by_steps(common, tensors, gradients)
    streams, states, parameters, (valid, resets, first) = common.apart(tensors)
    batch = states[0].shape[0] // count
    begin, end = (slice(0, batch), slice(-batch, None))[:: -1 if common.direction == "backwards" else 1]

    def whole(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else joined(rows, count)

    def apart(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else cut(rows, count)

    def at_begin(one: Tensor | None) -> Tensor | None:
        if one is None:
            return None
        others = one.new_zeros(one.shape[0] * (count - 1), *one.shape[1:])
        return torch.cat((one, others) if begin.start == 0 else (others, one))

    given = [
        *tensors_of([_of_rows(stream, whole) for stream in streams]),
        *(state[begin] for state in states),
        *parameters,
        whole(valid),
        None if resets is None else torch.cat((joined(resets[:-1], count), resets[-1:, -batch:])),
        None if first is None else first[begin],
    ]
    outputs = len(gradients) - len(states)
    of_ends = (None if d is None else d[end] for d in gradients[outputs:])
    found = node.by_steps(common, given, (*map(whole, gradients[:outputs]), *of_ends))
    d_streams, d_states, d_parameters, (*_, d_first) = common.apart(found)
    d_rows = tensors_of([_of_rows(d, apart) for d in d_streams])
    return (*d_rows, *map(at_begin, d_states), *d_parameters, None, None, at_begin(d_first))


def _of_rows(stream: Any, change: Callable[[Any], Any]) -> Any:
    """A stream, or what there is for each of its tensors, with other rows over time."""
    return stream._replace(rows=change(stream.rows)) if isinstance(stream, Projection) else change(stream)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, common: node.Call, schedule: str, *tensors: Any) -> tuple[Tensor, ...]:
        streams, states, parameters, (valid, resets, first) = common.apart(tensors)
        backwards = common.direction == "backwards"
        begins = None if first is None else [first]
        call = Call(common.scan, streams, states, parameters, valid, resets, begins, backwards, last_only=False)
        count, warm_up = _sizes(schedule)
        runs = _OfNode(call, common)
        sizes = (count, call.time, warm_up)
        Chunks(runs, states, *sizes, backwards).run()
        results = runs.results
        begun = [shifted(*pair, count, backwards) for pair in zip(states, runs.ends, strict=True)]
        ctx.common, ctx.schedule, ctx.reports = common, schedule, agreement.reported()
        ctx.set_materialize_grads(False)
        kept = [results[place] for place in common.scan.kept.values()]
        ctx.save_for_backward(*tensors, *begun, *kept, *runs.made)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        common: node.Call = ctx.common
        keys: tuple[str | int, ...] = (*common.scan.kept, *common.read)
        saved, inputs = ctx.saved_tensors, len(ctx.needs_input_grad) - 2
        tensors, begun, kept = saved[:inputs], saved[inputs : len(saved) - len(keys)], saved[len(saved) - len(keys) :]
        if torch.is_grad_enabled() or not native.plain((*tensors, *gradients)):
            return (None, None, *by_steps(common, ctx.schedule, tensors, gradients))
        count, warm_up = _sizes(ctx.schedule)
        streams, _, parameters, masks = common.apart(tensors)
        tensors = (*tensors_of(streams), *begun, *parameters, *masks)
        given = Gradients(common, tensors, dict(zip(keys, kept, strict=True)), gradients)
        streams, states, *others = common.apart(ctx.needs_input_grad[2:])
        needs = [*tensors_of(streams), *[True] * len(states), *(need for part in others for need in part)]
        runs = _OfGradients(given, needs)
        pairs = zip(given.ends, given.states, strict=True)
        begin = [torch.zeros_like(state) if d is None else d for d, state in pairs]
        sizes = (count, given.time, warm_up)
        with agreement.reporting(ctx.reports):
            chunks = Chunks(runs, begin, *sizes, runs.backwards, runs.peaks)
            starts = chunks.run()
        return (None, None, *runs.settled(starts))


@dataclass
class _OfNode(OfCall):
    """The chunks of a node. common: what its calls have in common."""

    common: node.Call

    def run(self, call: Call) -> Found:
        """All outputs, and the projections that a backward pass reads."""
        results, made = node.forward(self.common, self._tensors(call))
        count = len(self.common.outputs)
        return [*results[:count], *made.values()], results[count:]

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        super().again(rows, states)
        for output, (_, state) in zip(self.outputs, self.common.outputs, strict=False):
            if state is not None and (before := node.before_each(output, self.common.direction)) is not None:
                before[-1 if self.call.reverse else 0].index_copy_(0, rows, states[state])

    def last_steps(self, count: int, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        call = self.call.picked(Some.at(self.call.time, count, self.call.reverse, rows), states)
        common = node.Call.of(
            call.scan, call.streams, call.states, call.parameters, self.common.direction, save=False, keep=False
        )
        return node.forward(common, self._tensors(call))[0][len(common.outputs) :]

    @property
    def results(self) -> list[Tensor]:
        """The outputs and the last states."""
        return [*self.outputs[: len(self.common.outputs)], *self.ends]

    @property
    def made(self) -> list[Tensor]:
        """The projections."""
        return self.outputs[len(self.common.outputs) :]

    def _tensors(self, call: Call) -> list[Tensor | None]:
        first = call.first[0] if call.first else None
        return [*tensors_of(call.streams), *call.states, *call.parameters, call.valid, call.resets, first]


@dataclass
class _OfGradients:
    """The chunks of a node's backward pass. Gradients of weights are sums over all rows. So a few rows that were nearly
    right run twice more, as they did and as they should, and the sums change by the difference; else rows run again for
    their states alone, and `settled` has all gradients once more.
    """

    given: Gradients
    needs: Sequence[bool]
    found: list[Tensor | None] = field(default_factory=list)
    ends: Sequence[Tensor] = ()
    begun: Sequence[Tensor] = ()
    corrected: int = 0
    is_settled: bool = False

    @property
    def backwards(self) -> bool:
        return self.given.call.direction != "backwards"

    @property
    def valid(self) -> Tensor | None:
        valid: Tensor | None = self.given.valid
        return valid

    def last_steps(self, count: int, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        some = Some.at(self.given.time, count, self.backwards, rows)
        return self._picked(some, states).of_states()

    def whole(self, states: Sequence[Tensor]) -> None:
        self.found = list(self._picked(Some.all(self.given.time), states).found(self.needs))
        self.ends, self.is_settled = self.given.call.apart(self.found)[1], True
        self.begun = [state.clone() for state in states]

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        some, begun = Some.all(self.given.time, rows), [state[rows] for state in self.begun]
        self.corrected += len(rows)
        if self.is_settled and self.corrected <= self.given.batch * _FEW and _is_near(begun, states):
            self._correct(rows, *(self._picked(some, one).found(self.needs) for one in (begun, states)))
        else:
            self.is_settled = False
            for into, new in zip(self.ends, self._picked(some, states).of_states(), strict=True):
                into.index_copy_(0, rows, new)
        for state, new in zip(self.begun, states, strict=True):
            state.index_copy_(0, rows, new)

    def _correct(self, rows: Tensor, old: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> None:
        """What was found with some rows as they should have been. old, new: what they gave, and give."""
        apart = self.given.call.apart
        every = zip(apart(self.found), apart(old), apart(new), strict=True)
        of_streams, of_states, of_parameters, of_masks = (list(zip(*group, strict=True)) for group in every)
        for total, before, after in of_streams:
            if isinstance(total, Projection):
                _put(total.rows, rows, after.rows)
                of_parameters += [(total.stack, before.stack, after.stack), (total.bias, before.bias, after.bias)]
            else:
                _put(total, rows, after)
        for total, _, after in (*of_states, *of_masks):
            _put(total, rows, after)
        for total, before, after in of_parameters:
            if total is not None:
                total.add_(after - before)

    def peaks(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states one step from zero, of each row that at which most comes in; these do before it."""
        come = [d for d in self.given.incoming.values() if d is not None]
        return self._picked(*OneOfEach.of_most(come, states, self.valid, self.given.time, self.backwards)).of_states()

    def settled(self, states: Sequence[Tensor]) -> list[Tensor | None]:
        """All gradients, of rows that begin with these states."""
        if not self.is_settled:
            self.whole(states)
        return self.found

    def _picked(self, some: Some | OneOfEach, ends: Sequence[Tensor]) -> Gradients:
        """The backward pass of some of it, from these states."""
        call, given = self.given.call, self.given
        streams = [_of_rows(stream, some.over_time) for stream in given.streams]
        tensors = [
            *tensors_of(streams),
            *map(some.of_each, given.states),
            *given.parameters,
            some.over_time(given.valid),
            some.between(given.resets),
            some.of_each(given.first),
        ]
        kept = {key: some.over_time(one) for key, one in given.kept.items()}
        sources = call.scan.sources.values()
        before = {where[0]: given.before(*where) for kind, *where in sources if kind == "previous"}
        previous = {label: some.over_time(rows) for label, rows in before.items()}
        return Gradients(call, tensors, kept, (*map(some.over_time, given.incoming.values()), *ends), previous)


def _put(total: Tensor | None, rows: Tensor, some: Tensor | None) -> None:
    """Some rows of what there is one of for each, or of each step."""
    if total is not None and some is not None:
        total.index_copy_(total.dim() - 2, rows, some)


def _is_near(states: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether states are so little apart that a sum with what they make loses no digit if that is taken off again."""
    pairs = zip(states, others, strict=True)
    return all(bool((one - other).abs().amax() <= _NEAR * other.abs().amax()) for one, other in pairs)


# Of the operators.


def run(
    which: Sweep,
    given: Given,
    results: Sequence[Tensor],
    direction: str,
    schedule: str,
    carried: int,
    incoming: Sequence[int] = (),
    save: bool = True,
    keep: bool = True,
) -> None:
    """`run_sweep`, where a schedule of the operators may be that of chunks: then all tensors have those of a `Layout`
    for a batch, and the states of the first one in the order of the scan are where it begins. carried: how many of the
    states go from step to step, and are not sums. incoming: which of the inputs of an adjoint come from outside.
    """
    if not is_cut(schedule) or not given.states[0].shape[0]:
        run_sweep(which, given, results, direction, schedule, save, keep)
        return
    refuse_capture(results[-1])
    count, warm_up = _sizes(schedule)
    backwards = (direction == "backwards") != which.facts.backwards
    runs = _OfSweep(which, given, results, direction, backwards, carried, incoming, save, keep)
    sizes = (count, given.inputs[0].shape[0], warm_up)
    Chunks(runs, given.states[:carried], *sizes, backwards, runs.peaks if which.facts.backwards else None).run()


def starts_of(states: Sequence[Tensor], last: Sequence[Tensor], direction: str, schedule: str) -> Sequence[Tensor]:
    """What all chunks began with, for the adjoint. states: what the operator was given; last: what it gave."""
    if not is_cut(schedule):
        return states
    count, backwards = chunks_of(schedule), direction == "backwards"
    return [shifted(begin, ends, count, backwards) for begin, ends in zip(states, last, strict=False)]


@dataclass
class _OfSweep:
    """The chunks of a sweep; the arguments are those of `run`."""

    which: Sweep
    given: Given
    results: Sequence[Tensor]
    direction: str
    backwards: bool
    carried: int
    incoming: Sequence[int]
    save: bool
    keep: bool

    @property
    def ends(self) -> Sequence[Tensor]:
        return self.results[len(self.which.outputs) :][: self.carried]

    @property
    def valid(self) -> Tensor | None:
        return self.given.valid

    def last_steps(self, count: int, rows: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
        some = Some.at(self.given.inputs[0].shape[0], count, self.backwards, rows)
        return self._ends_of(self._picked(some, states))

    def whole(self, states: Sequence[Tensor]) -> None:
        given = replace(self.given, states=[*states, *self.given.states[self.carried :]])
        self._sweep(given, self.results, self.save, self.keep)

    def again(self, rows: Tensor, states: Sequence[Tensor]) -> None:
        given = self._picked(Some.all(self.given.inputs[0].shape[0], rows), states)
        found = [
            one if one.dim() == 1 else one.new_empty(*one.shape[:-2], len(rows), one.shape[-1]) for one in self.results
        ]
        self._sweep(given, found, self.save, self.keep)
        for result, one in zip(self.results, found, strict=True):
            if one.dim() > 1:  # else it is not wanted
                result.index_copy_(result.dim() - 2, rows, one)
        if self.which.facts.backwards and given.first is not None and self.given.first is not None:
            self.given.first.index_copy_(0, rows, given.first)

    def peaks(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states of an adjoint one step from zero, of each row that at which most comes in; these do before it."""
        come = [self.given.inputs[place] for place in self.incoming]
        time = self.given.inputs[0].shape[0]
        return self._ends_of(self._picked(*OneOfEach.of_most(come, states, self.valid, time, self.backwards)))

    def _ends_of(self, given: Given) -> Sequence[Tensor]:
        """What a sweep over some of it ends with."""
        unwanted, (time, rows, _) = self.which.unwanted(False, False), given.inputs[0].shape
        found = [
            one.new_empty(0 if one.dim() == 1 or label in unwanted else (time, rows, one.shape[-1]))
            for label, one in zip(self.which.outputs, self.results, strict=False)
        ]
        last = [torch.empty_like(state, memory_format=torch.contiguous_format) for state in given.states]
        self._sweep(given, [*found, *last], False, False)
        return last[: self.carried]

    def _picked(self, some: Some | OneOfEach, states: Sequence[Tensor]) -> Given:
        """Some of what it is given, from these states, and what is a sum from zero: an adjoint adds to `first` too."""
        given = self.given
        first = some.of_each(given.first)
        return replace(
            given,
            inputs=list(map(some.over_time, given.inputs)),
            valid=some.over_time(given.valid),
            resets=some.between(given.resets),
            first=torch.zeros_like(first) if first is not None and self.which.facts.backwards else first,
            states=[*states, *map(some.of_each, given.states[self.carried :])],
        )

    def _sweep(self, given: Given, results: Sequence[Tensor], save: bool, keep: bool) -> None:
        run_sweep(self.which, given, results, self.direction, "auto", save, keep)
