"""The loop around a cell's reference step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def loop(
    step: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    valid: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    first: Sequence[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Apply y_t, states = step(x_t, states, weights) over x (time, batch, inputs).

    Where valid, (time, batch, 1), is 0 no step is taken: the states stay as they are, and the output is zero. Where a
    boundary of resets, (time + 1, batch, 1), is crossed the states are those of `first`, (batch, width) each.
    """
    order = range(len(x) - 1, -1, -1) if reverse else range(len(x))
    outputs: dict[int, Tensor] = {}
    states = tuple(states)
    for t in order:
        if resets is not None and first is not None:
            anew = resets[t + reverse] > 0
            states = tuple(torch.where(anew, f.to(s.dtype), s) for f, s in zip(first, states, strict=True))
        if valid is None:
            outputs[t], new = step(x[t], states, weights)
            states = tuple(map(like_state, new, states))
            continue
        on = valid[t, :, 0] > 0
        old = tuple(state[on] for state in states)
        y, new = step(x[t][on], old, weights)
        outputs[t] = y.new_zeros(len(on), y.shape[-1]).index_put((on,), y)
        like_old = map(like_state, new, old)
        states = tuple(s.index_put((on,), n.to(s.dtype)) for s, n in zip(states, like_old, strict=True))
    return torch.stack([outputs[t] for t in range(len(x))]), states


def like_state(new: Tensor, old: Tensor) -> Tensor:
    """A new state for the whole batch, even one that is a parameter."""
    return new if new.dim() == old.dim() else new.expand_as(old)
