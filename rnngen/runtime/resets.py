"""Sequences one behind another: where they begin within a batch, and with which states."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnngen.runtime.both import side_by_side
from rnngen.runtime.inputs import rows_alike, rows_of


@dataclass  # not frozen: torch.compile of torch 2.11 cannot trace how such a one is made
class Resets:
    """What a call says of them.

    boundaries: (time + 1, batch, 1) in int32, 1 where a sequence ends and another begins: before the first step,
    between two, behind the last. A scan in either direction returns to `states` where it crosses one. states: those of
    all layers and directions, (num_layers * directions, batch, width) each, or of one, (batch, width).
    """

    boundaries: Tensor
    states: Sequence[Tensor]

    def of(self, place: int | slice) -> "Resets":
        """Those of one scan; both directions of a layer, as a slice, can be one."""
        rows = [state[place] for state in self.states]
        return Resets(self.boundaries, rows if isinstance(place, int) else list(map(side_by_side, rows)))


def boundaries_of(flags: Tensor) -> Tensor:
    """The boundaries of sequences that begin where flags, (time, batch), are not 0."""
    return F.pad((flags != 0).to(torch.int32), (0, 0, 0, 1))[..., None]


def flags_of(resets: object, input: Tensor | PackedSequence, title: str) -> Tensor:
    """The flags of a call, in the shape of an input without its features; of a packed one padded to (time, batch)
    and in the order of its lengths.

    Raises TypeError for what cannot be flags, RuntimeError for those of another shape or device.
    """
    flags = _checked(rows_alike(resets, input, "resets", title), rows_of(input), title)
    if not isinstance(input, PackedSequence):
        return flags
    flags = (flags != 0).to(torch.int32)
    padded, _ = pad_packed_sequence(PackedSequence(flags[:, None], input.batch_sizes))
    return padded.squeeze(-1)


def _checked(flags: Tensor, x: Tensor, title: str) -> Tensor:
    if flags.is_floating_point() or flags.is_complex():
        raise TypeError(f"{title}: resets should be bool or integers, got {flags.dtype}; give resets != 0")
    if flags.shape != x.shape[:-1]:
        raise RuntimeError(f"{title}: Expected resets size {tuple(x.shape[:-1])}, got {tuple(flags.shape)}")
    if flags.device != x.device:
        raise RuntimeError(
            f"{title}: Input and resets are not at the same device, found input tensor at {x.device} and resets at "
            f"{flags.device}"
        )
    return flags


def without_resets(title: str) -> ValueError:
    """What to raise for something to return to, and nothing that does."""
    return ValueError(f"{title}: reset_to is what resets return to, and there are no resets; give resets, or hx")
