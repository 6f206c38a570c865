"""The loop around a cell's reference step, and what that needs beside torch's functions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def loop(
    step: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    x: Tensor | tuple[Tensor, ...],
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    valid: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    first: Sequence[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Apply y_t, states = step(x_t, states, weights) over x (time, batch, inputs), or a tuple of x and other rows.

    Where valid, (time, batch, 1), is 0 no step is taken: the states stay as they are, and the output is zero. Where a
    boundary of resets, (time + 1, batch, 1), is crossed the states are those of `first`, (batch, width) each.
    """
    rows = x if isinstance(x, tuple) else (x,)
    time = len(rows[0])

    def at(t: int, on: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        found = tuple(one[t] if on is None else one[t][on] for one in rows)
        return found if isinstance(x, tuple) else found[0]

    order = range(time - 1, -1, -1) if reverse else range(time)
    outputs: dict[int, Tensor] = {}
    states = tuple(states)
    for t in order:
        if resets is not None and first is not None:
            anew = resets[t + reverse] > 0
            states = tuple(torch.where(anew, f.to(s.dtype), s) for f, s in zip(first, states, strict=True))
        if valid is None:
            outputs[t], new = step(at(t), states, weights)
            states = tuple(map(like_state, new, states))
            continue
        on = valid[t, :, 0] > 0
        old = tuple(state[on] for state in states)
        y, new = step(at(t, on), old, weights)
        outputs[t] = y.new_zeros(len(on), y.shape[-1]).index_put((on,), y)
        like_old = map(like_state, new, old)
        states = tuple(s.index_put((on,), n.to(s.dtype)) for s, n in zip(states, like_old, strict=True))
    return torch.stack([outputs[t] for t in range(time)]), states


def like_state(new: Tensor, old: Tensor) -> Tensor:
    """A new state for the whole batch, even one that is a parameter."""
    return new if new.dim() == old.dim() else new.expand_as(old)


class _Cut(torch.autograd.Function):
    """A gradient that is cut off. By autograd it would get the derivative of another function: what passes back through
    the steps a second time would be cut off too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, bound: Tensor) -> Tensor:
        return torch.clamp(gradient, -bound, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        raise NotImplementedError("A gradient that was clipped has no derivative: 'clip' allows a first one.")


class _Clipped(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, bound: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        cut: Callable[..., Tensor] = _Cut.apply
        return cut(gradient, *ctx.saved_tensors), None


class _WithTangent(_Clipped):
    """What can be differentiated in forward mode, and not be compiled by torch 2.11."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Tensor | None) -> Tensor:
        return tangent.view_as(tangent)


def clip_gradient(tensor: Tensor, bound: Tensor) -> Tensor:
    """The tensor. The gradient that passes back through it is cut off, element by element, at -bound and bound, and can
    not be differentiated once more. In forward mode it is the identity.
    """
    if not tensor.requires_grad:
        return tensor
    function: Callable[..., Tensor] = _Clipped.apply if torch.compiler.is_compiling() else _WithTangent.apply
    return function(tensor, bound)
