"""One direction of one layer, lengths and projection included, in terms of the scan that a module has kernels for.

A projection needs no kernel of its own. A matrix U that sees R @ h instead of h is U @ R applied to h, which is one
product of parameters a call; and the output R @ h is one product over all steps after the scan. Only where a state is
given as a projection, p, does the first step differ: there U is applied to p, so that it is a scan of one step with U
itself, its columns filled up with zeros.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rnngen.runtime.cell import Cell
from rnngen.runtime.linear import product
from rnngen.runtime.replay import replayed
from rnngen.runtime.resets import Resets
from rnngen.runtime.scan import autocasting

Result = tuple[Tensor, tuple[Tensor, ...]]
Rows = tuple[Tensor, ...]


@dataclass(frozen=True)
class Lengths:
    """The lengths of the sequences of a batch, on the CPU; the first is the longest."""

    lengths: Tensor
    time: int

    @property
    def _steps(self) -> Tensor:
        return torch.arange(self.time, device=self.lengths.device)[:, None]

    def valid(self, device: torch.device) -> Tensor:
        """1 where a step counts and 0 where it is padding: (time, batch, 1), integers of 32 bits."""
        return (self._steps < self.lengths).to(device, torch.int32)[..., None]

    def turned(self, rows: Tensor) -> Tensor:
        """Each sequence of (time, batch, features) from its last step to its first; the padding stays behind it."""
        steps = (self.lengths - 1 - self._steps).clamp(min=0).to(rows.device)
        return rows.gather(0, steps[..., None].expand(-1, -1, rows.shape[-1]))

    def turned_boundaries(self, boundaries: Tensor) -> Tensor:
        """Those of sequences that are turned, (time + 1, batch, 1); none behind the last step."""
        turned = Lengths(self.lengths + 1, self.time + 1).turned(boundaries)
        return turned * F.pad(self.valid(turned.device), (0, 0, 0, 0, 0, 1))

    def last(self, rows: Tensor) -> Tensor:
        """The last step of each sequence of (time, batch, features)."""
        return rows[self.lengths - 1, torch.arange(self.lengths.shape[0], device=self.lengths.device)]


def filled(rows: Tensor, valid: Tensor, longest: int = 0) -> Tensor:
    """The padding of (time, batch, features) filled with what the longest sequence has at the same step.

    valid: (time, batch, 1), 0 at padding. longest: where that sequence stands, first as a rule. What becomes of padding
    counts for nothing, but what is differentiated outside a scan has to be finite there, since zero is multiplied by
    it: log(W @ x) is not at zero, and neither is a quotient.
    """
    return torch.where(valid > 0, rows, rows[:, longest : longest + 1].detach())


@dataclass  # not frozen: torch.compile of torch 2.11 cannot trace how such a one is made
class Direction:
    """A scan as a layer asks for it.

    run: `cell.run` or `cell.reference`, with its options. weights: by name, those of `Cell.tensors`. projection:
    (proj_size, features) or None. both: weights and states are those of two directions, as `both.joined` makes them.
    valid: the mask of the lengths, if there are any. resets: the boundaries, and the states of this scan. every: of
    `memory.Memory`.
    """

    cell: Cell
    run: Callable[..., Result]
    options: Mapping[str, object]
    weights: Mapping[str, Tensor]
    projection: Tensor | None = None
    backwards: bool = False
    last_only: bool = False
    lengths: Lengths | None = None
    valid: Tensor | None = None
    both: bool = False
    resets: Resets | None = None
    every: int | None = None

    def __call__(self, rows: Rows, states: Sequence[Tensor], given: bool) -> Result:
        """From rows (time, batch, width), x first, and states (batch, width) to the output and the last states.

        given: whether the states may be other than zero.
        """
        projection = self.projection
        if projection is None:
            return self._scan(rows, states, self.weights)
        if not (self.cell.narrow and given):
            # A state of zeros is its own projection, but for its width.
            states = self._with_filled(states) if self.cell.narrow else states
            return self._projected(*self._scan(rows, states, self._seeing(projection)), projection)
        if self.backwards and self.lengths is not None:
            resets = self.resets
            if resets is not None:
                resets = replace(resets, boundaries=self.lengths.turned_boundaries(resets.boundaries))
            turned = tuple(map(self.lengths.turned, rows))
            y, last = replace(self, backwards=False, resets=resets)(turned, states, given)
            return (y if self.last_only else self.lengths.turned(y)), last
        return self._projected(*self._from_projection(rows, states, projection), projection)

    def _scan(self, rows: Rows, states: Sequence[Tensor], weights: Mapping[str, Tensor], skip: int = 0) -> Result:
        """The scan itself; skip: time steps that come before the rows."""
        options, x = dict(self.options), rows[0]
        if self.last_only and self.cell.output and self.run is self.cell.run:
            options["last_only"] = True
        if self.both:
            options["both"] = True
        if self.resets is not None:
            begins = list(self.resets.states)
            if self.projection is not None and self.cell.narrow:  # they are zero, see `Layer`
                begins = self._with_filled(begins)
            options["resets"] = self.resets.boundaries[skip : skip + x.shape[0] + 1]
            options["first"] = begins
        valid = None if self.valid is None else self.valid[skip : skip + x.shape[0]]
        tensors = [weights[name] for name in self.cell.tensors]
        run = self.run if self.every is None else replayed(self.run, self.every)
        y, last = run(rows if len(rows) > 1 else x, states, tensors, valid, reverse=self.backwards, **options)
        unlike = y.dtype != x.dtype or any(state.dtype != x.dtype for state in last)
        if unlike and not autocasting(x.device.type):  # numbers may have made other types of it, outside of kernels
            y, last = y.to(x.dtype), tuple(state.to(x.dtype) for state in last)
        if self.last_only and self.cell.output:
            y = last[self.cell.states.index(self.cell.output)].clone()  # to write into y must not change the state
        elif self.last_only:
            end = y[-1] if self.lengths is None else self.lengths.last(y)
            if self.both:
                y = torch.cat((end.chunk(2, -1)[0], y[0].chunk(2, -1)[1]), -1)
            else:
                y = y[0] if self.backwards else end
        return y, last

    def _from_projection(self, rows: Rows, states: Sequence[Tensor], projection: Tensor) -> Result:
        """The first step from a state that is a projection, then the others."""
        time = rows[0].shape[0]
        cut, before = (time - 1, time - 1) if self.backwards else (1, 0)
        parts = tuple(one[:cut] for one in rows), tuple(one[cut:] for one in rows)
        first, rest = parts[::-1] if self.backwards else parts
        filled = {name: _filled(w, projection) if name in self._sees else w for name, w in self.weights.items()}
        y, last = self._scan(first, self._with_filled(states), filled, skip=before)
        if time == 1 and not torch.jit.is_tracing():  # a trace runs with longer ones too
            return y, last
        others, last = self._scan(rest, last, self._seeing(projection), skip=0 if self.backwards else 1)
        if self.last_only:
            return others, last
        return torch.cat((others, y) if self.backwards else (y, others)), last

    def _with_filled(self, states: Sequence[Tensor]) -> list[Tensor]:
        """The states of a narrow cell, with zeros behind the one that is a projection."""
        assert self.projection is not None
        place = self.cell.states.index(self.cell.output)
        return [_filled(state, self.projection) if n == place else state for n, state in enumerate(states)]

    def _seeing(self, projection: Tensor) -> dict[str, Tensor]:
        """The weights, with U @ R for each matrix U that is to be applied to the projection."""
        return {name: _product(projection.T, w) if name in self._sees else w for name, w in self.weights.items()}

    @property
    def _sees(self) -> set[str]:
        """The matrices that are applied to the projection."""
        return {weight.name for weight in self.cell.weights if weight.shape[-1:] == ("output",)}

    def _projected(self, y: Tensor, last: tuple[Tensor, ...], projection: Tensor) -> Result:
        if not self.cell.narrow:
            return _product(projection, y), last
        place = self.cell.states.index(self.cell.output)
        projected = _product(projection, last[place])
        y = _product(projection, y)
        return y, (*last[:place], projected, *last[place + 1 :])


def _product(matrix: Tensor, rows: Tensor) -> Tensor:
    """M @ v for each row, as if they were steps: so its bits do not depend on threads."""
    return product(matrix, rows) if rows.dim() == 3 else product(matrix, rows[None])[0]


def _filled(tensor: Tensor, projection: Tensor) -> Tensor:
    """With as many zeros behind the last dimension as a state has features more."""
    return F.pad(tensor, (0, projection.shape[1] - tensor.shape[-1]))
