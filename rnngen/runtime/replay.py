"""A scan that keeps its states every N steps alone, and runs the steps between them again in its backward pass.

It is a function from a `run` of a cell to a `run`, and needs no kernel: forwards the cell runs chunk by chunk without a
gradient; backwards, from the last chunk to the first, each runs once more with one, which is differentiated at once.
What is kept for a backward pass is then the states of T / N chunks and what one chunk of N steps keeps. A training step
has the forward pass twice.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnngen.runtime.memory import steps_of
from rnngen.runtime.native import is_transformed
from rnngen.runtime.node import independent, summed, wants_gradient

Rows = Tensor | tuple[Tensor, ...]
Result = tuple[Tensor, tuple[Tensor, ...]]
Run = Callable[..., Result]


def replayed(run: Run, every: int) -> Run:
    """A cell's `run` with states kept every so many steps, 0 for about the root of how many there are.

    Where nothing is to be differentiated, or by another way than torch's backward pass, it is the run itself.
    """

    def replaying(
        x: Rows, states: Sequence[Tensor], weights: Sequence[Tensor], valid: Tensor | None = None, **options: Any
    ) -> Result:
        rows = x if isinstance(x, tuple) else (x,)
        first = options.get("first") or ()
        tensors = (*rows, *states, *weights, *first)
        steps = steps_of(every, rows[0].shape[0])
        if steps >= rows[0].shape[0] or not wants_gradient(tensors) or _is_recorded():
            return run(x, states, weights, valid, **options)
        outside = torch.compiler.is_compiling() and _compiler_is_told()
        replay = _outside_graphs["replayed"] if outside else _replayed
        return replay(run, steps, (len(rows), len(states), len(weights)), tensors, valid, options)

    return replaying


def _is_recorded() -> bool:
    """Whether a call is written down, to be run with other lengths and without a gradient."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _replayed(
    run: Run,
    steps: int,
    counts: tuple[int, int, int],
    tensors: tuple[Tensor, ...],
    valid: Tensor | None,
    options: Mapping[str, Any],
) -> Result:
    own = {name: value for name, value in options.items() if name not in ("first", "resets")}
    call = _Call(run, steps, *counts, own)
    if is_transformed():
        return call.run(tensors, valid, options.get("resets"))
    y, *last = _Replay.apply(call, valid, options.get("resets"), *tensors)  # type: ignore[no-untyped-call]
    return y, tuple(last)


_outside_graphs: dict[str, Callable[..., Result]] = {}


def _compiler_is_told() -> bool:
    """Makes what a compiled graph calls instead of `_replayed`, when the first one is traced: to do it before imports
    torch's whole compiler.
    """
    if not _outside_graphs:
        _outside_graphs["replayed"] = torch.compiler.disable(
            _replayed,
            reason="steps that are run again in the backward pass are no part of a compiled graph; torch.compile "
            "without fullgraph=True leaves them out of it, and a layer with save='gates' runs none again",
        )
    return True


_compiler_is_told._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Chunk(NamedTuple):
    """The steps from `start` up to `stop`. final: whether the scan ends with it."""

    start: int
    stop: int
    final: bool


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of a run. steps: of a chunk. rows, states, weights: how many there are of each; behind them stand what
    resets return to, if there are any. options: those of the run but for resets.
    """

    run_: Run
    steps: int
    rows: int
    states: int
    weights: int
    options: Mapping[str, Any]

    def run(self, tensors: Sequence[Tensor], valid: Tensor | None, resets: Tensor | None) -> Result:
        """All of these steps."""
        rows, states, weights, first = self.apart(tensors)
        options = dict(self.options)
        if resets is not None:
            options |= {"resets": resets, "first": list(first)}
        return self.run_(tuple(rows) if len(rows) > 1 else rows[0], states, weights, valid, **options)

    def apart(self, every: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[Any]]:
        """What there is one of for each tensor, as rows, states, weights and what resets return to."""
        states = self.rows + self.states
        weights = states + self.weights
        return every[: self.rows], every[self.rows : states], every[states:weights], every[weights:]

    @property
    def over_time(self) -> bool:
        """Whether the output is that of every step."""
        return not self.options.get("last_only")

    def chunks(self, time: int) -> list[_Chunk]:
        """In the order of the scan."""
        starts = range(0, time, self.steps)
        backwards = bool(self.options.get("reverse"))
        ordered = reversed(starts) if backwards else starts
        end = starts[0] if backwards else starts[-1]
        return [_Chunk(start, min(start + self.steps, time), start == end) for start in ordered]

    def of_chunk(
        self, chunk: _Chunk, tensors: Sequence[Tensor], states: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """What the run takes for a chunk from these states: its tensors, the mask, and the resets."""
        start, stop, _ = chunk
        valid, resets = masks
        rows, _, weights, first = self.apart(tensors)
        given = [*(one[start:stop] for one in rows), *states, *weights, *first]
        counts = None if valid is None else valid[start:stop]
        return given, counts, None if resets is None else resets[start : stop + 1]


class _Autocast:
    """How autocast was when the forward pass ran, for what runs again."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.known = device != "meta"
        self.enabled = self.known and torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if self.known else None

    def __call__(self) -> AbstractContextManager[Any]:
        if not self.known:
            return nullcontext()
        return torch.autocast(self.device, self.dtype, self.enabled, cache_enabled=False)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, valid: Tensor | None, resets: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        rows, states, *_ = call.apart(tensors)
        time = rows[0].shape[0]
        ctx.call, ctx.autocast = call, _Autocast(rows[0].device.type)
        ctx.set_materialize_grads(False)
        y: Tensor | None = None
        begins: list[Tensor] = []
        for number, chunk in enumerate(call.chunks(time)):
            begins += states if number else ()
            with ctx.autocast():
                found, states = call.run(*call.of_chunk(chunk, tensors, states, (valid, resets)))
            if not call.over_time:
                y = found
                continue
            y = found.new_empty(time, *found.shape[1:]) if y is None else y
            y[chunk.start : chunk.stop] = found
        ctx.save_for_backward(valid, resets, *tensors, *begins)
        assert y is not None
        return (y, *(state.clone() for state in states))  # which may be a part of x, or be y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        valid, resets, *saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        tensors, begins = saved[: len(needs)], saved[len(needs) :]
        if torch.is_grad_enabled():
            with torch.enable_grad(), ctx.autocast():
                leaves = [independent(tensor) for tensor in tensors]
                y, last = call.run(leaves, valid, resets)
            return (None, None, None, *_differentiated((y, *last), gradients, leaves, create_graph=True))
        return (None, None, None, *_chunk_by_chunk(ctx, tensors, begins, (valid, resets), gradients, needs))


def _chunk_by_chunk(
    ctx: Any,
    tensors: Sequence[Tensor],
    begins: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradient of each tensor that needs one, None of others. begins: the states of each chunk but the first."""
    call: _Call = ctx.call
    d_y, *d_states = gradients
    rows, states, _, _ = call.apart(tensors)
    chunks = call.chunks(rows[0].shape[0])
    of_states = call.apart(needs)[1]
    found: list[Tensor | None] = [None] * len(tensors)
    for number in reversed(range(len(chunks))):
        chunk = chunks[number]
        begin = states if number == 0 else begins[(number - 1) * call.states :][: call.states]
        given, *options = call.of_chunk(chunk, tensors, begin, masks)
        asked = list(needs)
        if number:
            asked[call.rows : call.rows + call.states] = [True] * len(of_states)
        with torch.enable_grad(), ctx.autocast():
            leaves = [one.detach().requires_grad_(need) for one, need in zip(given, asked, strict=True)]
            y, last = call.run(leaves, *options)
        of_y = d_y if d_y is None or not call.over_time else d_y[chunk.start : chunk.stop]
        of_y = of_y if call.over_time or chunk.final else None
        d = _differentiated((y, *last), (of_y, *d_states), leaves)
        d_rows, d_states, d_weights, d_first = map(list, call.apart(d))
        for place, of_chunk in enumerate(d_rows):
            if of_chunk is not None:
                if found[place] is None:
                    found[place] = of_chunk.new_zeros(rows[place].shape)  # a batch of them, where that is one
                found[place][chunk.start : chunk.stop] = of_chunk  # type: ignore[index]
        for place, of_chunk in enumerate((*d_weights, *d_first), call.rows + call.states):
            found[place] = summed(found[place], of_chunk)
    found[call.rows : call.rows + call.states] = d_states
    return [None if d is None else d.to(t.dtype) for d, t in zip(found, tensors, strict=True)]


def _differentiated(
    results: Sequence[Tensor], gradients: Sequence[Tensor | None], leaves: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor | None]:
    """The gradient of each leaf, None where there is none."""
    pairs = [(r, d.to(r.dtype)) for r, d in zip(results, gradients, strict=True) if d is not None and r.requires_grad]
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    if not (pairs and asked):
        return [None] * len(leaves)
    found = iter(
        torch.autograd.grad(
            [r for r, _ in pairs], asked, [d for _, d in pairs], create_graph=create_graph, allow_unused=True
        )
    )
    return [next(found) if leaf.requires_grad else None for leaf in leaves]
