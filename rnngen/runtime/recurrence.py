"""A cell that somebody wrote in Python, over time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map

from rnngen.runtime.direction import Lengths, filled
from rnngen.runtime.inputs import Given, Input, rows_alike, rows_of
from rnngen.runtime.layer import Layer
from rnngen.runtime.resets import flags_of, without_resets
from rnngen.runtime.stack import Stack


class Recurrence(nn.Module):
    """Wraps a cell `y_t, state = cell(x_t, state)`, a function or a module, and calls it step by step.

    A call and a step are those of a generated layer, with none of its speed. A generated layer or stack can be the
    cell, through its `step`, and so can torch.nn.RNNCell, GRUCell and LSTMCell, whose output is their state (its first
    part).

    Args:
        cell: x_t is (batch, features), or (features,) without a batch; a state is a tensor (..., batch, features), or
            tuples, lists and dicts of such. A call without a state begins with `cell.initial_state(batch)` if the cell
            has this method, or else with None.
        batch_first: input and output are (batch, time, features) rather than (time, batch, features).
        return_state: give the output and the state; else the output alone.
    """

    def __init__(
        self, cell: Callable[[Tensor, Any], tuple[Tensor, Any]], batch_first: bool = False, return_state: bool = True
    ):
        super().__init__()
        if not callable(cell):
            raise TypeError(f"Recurrence: Expected a cell that can be called, got {type(cell).__name__}")
        if isinstance(cell, nn.RNNBase):
            kind = type(cell).__name__
            raise TypeError(f"Recurrence: nn.{kind} takes whole sequences already; its cell is nn.{kind}Cell")
        for layer in [cell] if isinstance(cell, Layer) else cell.recurrent if isinstance(cell, Stack) else []:
            if layer.reverse or layer.last_only:
                option = "reverse" if layer.reverse else "last_only"
                raise ValueError(f"Recurrence: a {type(layer).__name__} with {option} needs the whole sequence")
        self.cell = cell
        self.batch_first, self.return_state = batch_first, return_state

    def forward(
        self, input: Input, hx: Any = None, *, resets: Input | None = None, reset_to: Any = None, **inputs: Input
    ) -> tuple[Input, Any] | Input:
        """The output at every step and the state after the last one.

        resets, reset_to: as those of a generated layer; without reset_to the state returns to what a call without one
        begins with. inputs: what the cell takes in beside x_t, by name, with the time and the batch as the input has
        them; it is called with those of a step.

        Raises TypeError if the cell gives no pair, ValueError or RuntimeError for an input that is no sequence, or for
        resets where the cell does not say what a state begins with.
        """
        y: Input
        flags = None if resets is None else flags_of(resets, input, "Recurrence")
        if resets is None and reset_to is not None:
            raise without_resets("Recurrence")
        others = {name: rows_alike(rows, input, name, "Recurrence") for name, rows in inputs.items()}
        for name, rows in others.items():
            wanted = rows_of(input).shape[:-1]
            if rows.shape[: len(wanted)] != wanted:
                begins = ", ".join(map(str, wanted))
                raise RuntimeError(f"Recurrence: Expected {name} size ({begins}, ...), got {tuple(rows.shape)}")
        given = Given(hx, flags, reset_to, others)
        if isinstance(input, PackedSequence):
            y, state = self._packed(input, given)
        else:
            if input.dim() not in (2, 3):
                raise ValueError(f"Recurrence: Expected input to be 2D or 3D, got {input.dim()}D instead")
            turned = self.batch_first and input.dim() == 3
            if turned:
                others = {name: rows.transpose(0, 1) for name, rows in others.items()}
                given = replace(given, resets=None if flags is None else flags.transpose(0, 1), inputs=others)
            rows, state = self._loop(input.transpose(0, 1) if turned else input, given)
            y = rows.transpose(0, 1) if turned else rows
        return (y, state) if self.return_state else y

    def step(
        self, input: Tensor, hx: Any = None, *, resets: Tensor | None = None, reset_to: Any = None, **inputs: Tensor
    ) -> tuple[Tensor, Any]:
        """One step, as the cell takes it; resets (batch,), or () without a batch, and inputs alike."""
        if resets is None and reset_to is not None:
            raise without_resets("Recurrence.step")
        flags = None if resets is None else flags_of(resets, input, "Recurrence.step")
        if isinstance(self.cell, Layer | Stack):
            return self.cell.step(input, hx, resets=flags, reset_to=reset_to, **inputs)
        if flags is not None:
            hx = self._returned(flags, input, hx, reset_to)
        if hx is None:
            hx = self.initial_state(len(input) if input.dim() == 2 else None)
        found = self.cell(input, hx, **inputs)
        if isinstance(self.cell, nn.RNNCellBase):
            return (found[0] if isinstance(found, tuple) else found), found
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"Recurrence: Expected the cell to give a pair (output, state), got {_kind(found)}")
        return found

    def initial_state(self, batch: int | None = None) -> Any:
        """The state that a call without one begins with, as the cell says; None if it does not."""
        return self.cell.initial_state(batch) if hasattr(self.cell, "initial_state") else None

    def _returned(self, flags: Tensor, x: Tensor, state: Any, begin: Any) -> Any:
        """A state, with what it begins with where flags, (batch,) or (), are not 0; x: the input of the step.

        Raises ValueError where the one or the other is not known.
        """
        own = self.initial_state(len(x) if x.dim() == 2 else None) if state is None or begin is None else None
        known = begin if state is None else state
        if own is None and known is not None and isinstance(self.cell, nn.RNNCellBase):
            own = tree_map(torch.zeros_like, known)
        state, begin = (own if s is None else s for s in (state, begin))
        if state is None and begin is None:
            return None
        if state is None or begin is None:
            lacking = "hx" if state is None else "reset_to"
            raise ValueError(f"Recurrence: the cell has no initial_state, so resets need {lacking}")
        return tree_map(lambda old, first: torch.where(flags[..., None] != 0, first, old), state, begin)

    def _loop(self, x: Tensor, given: Given, valid: Tensor | None = None) -> tuple[Tensor, Any]:
        """Step by step: x, and what is given beside it, with the time first."""
        state, flags = given.hx, given.resets
        if len(x) == 0:
            raise RuntimeError("Recurrence: Expected sequence length to be larger than 0")
        outputs = []
        for t, x_t in enumerate(x):
            options: dict[str, Any] = {name: rows_of(rows)[t] for name, rows in given.inputs.items()}
            options |= {} if flags is None else {"resets": flags[t], "reset_to": given.reset_to}
            y_t, new = self.step(x_t, state, **options)
            if valid is not None and t:  # the first step counts for every sequence
                new = tree_map(lambda one, old, now=valid[t]: torch.where(now, one, old), new, state)
            outputs.append(y_t)
            state = new
        return torch.stack(outputs), state

    def _packed(self, input: PackedSequence, given: Given) -> tuple[PackedSequence, Any]:
        """Sequences of different lengths: each keeps its state when it has ended."""
        x, lengths = pad_packed_sequence(input)
        valid = Lengths(lengths, len(x)).valid(x.device)
        flags, longest = given.resets, int(lengths.argmax())
        if flags is not None and input.unsorted_indices is not None:
            flags = flags.index_select(1, input.unsorted_indices)
        others = {}
        for name, packed in given.inputs.items():
            rows, _ = pad_packed_sequence(PackedSequence(rows_of(packed), *input[1:]))
            others[name] = filled(rows.reshape(*rows.shape[:2], -1), valid, longest).view_as(rows)
        y, state = self._loop(filled(x, valid, longest), replace(given, resets=flags, inputs=others), valid > 0)
        order = input.sorted_indices
        y = y if order is None else y.index_select(1, order)
        lengths = lengths if order is None else lengths[order.cpu()]
        return PackedSequence(pack_padded_sequence(y, lengths).data, *input[1:]), state


def _kind(found: Any) -> str:
    return f"a tuple of {len(found)}" if isinstance(found, tuple) else f"a {type(found).__name__}"
