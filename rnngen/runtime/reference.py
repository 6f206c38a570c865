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
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Apply y_t, states = step(x_t, states, weights) over x (time, batch, inputs).

    Where valid, (time, batch, 1), is 0 the states stay as they are.
    """
    order = range(len(x) - 1, -1, -1) if reverse else range(len(x))
    outputs: dict[int, Tensor] = {}
    states = tuple(states)
    for t in order:
        outputs[t], new = step(x[t], states, weights)
        new = tuple(map(like_state, new, states))
        if valid is not None:
            new = tuple(torch.where(valid[t] > 0, one, old) for one, old in zip(new, states, strict=True))
        states = new
    return torch.stack([outputs[t] for t in range(len(x))]), states


def like_state(new: Tensor, old: Tensor) -> Tensor:
    """A new state for the whole batch, even one that is a parameter."""
    return new if new.dim() == old.dim() else new.expand_as(old)
