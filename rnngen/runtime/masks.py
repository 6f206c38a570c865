"""What `Drawn` describes: zeros and ones at random, by torch's generator of the device, and numbers.

Masks are drawn in float32 whatever the type of a layer is, so that from one seed a layer has the same in every type.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rnngen.runtime.drawn import Drawn, Rate, rate_of


def drawn_inputs(
    x: Tensor, drawn: Sequence[Drawn], rates: Mapping[str, Rate], sizes: Mapping[str, int], training: bool
) -> Iterator[Tensor]:
    """The inputs that are drawn, each (time, batch, width) like x, in their order. sizes: of dimensions, by name."""
    time, batch, _ = x.shape
    for one in (one for one in drawn if one.each in ("step", "call")):
        rate, rows, width = rate_of(one, rates[one.rate]), time if one.each == "step" else 1, sizes.get(one.width, 1)
        if training and rate:
            mask = _mask((rows, batch, width), rate, one.scaled, x)
        else:
            mask = x.new_full((1, 1, 1), 1.0 if one.scaled else 1 - rate)
        yield mask.expand(time, batch, width)


def with_drops(weights: dict[str, Tensor], drawn: Sequence[Drawn], rates: Mapping[str, Rate]) -> dict[str, Tensor]:
    """Weights by name, those that are drawn with some of their entries zero, as they are in training."""
    found = dict(weights)
    for one in drawn:
        rate = rate_of(one, rates[one.rate])
        if one.each == "parameter" and rate:
            weight = weights[one.name]
            mask = _mask(weight.shape, rate, one.scaled, weight)
            if one.blocks:
                parts = zip(one.blocks, mask.chunk(len(one.blocks)), strict=True)
                mask = torch.cat([part if dropped else torch.ones_like(part) for dropped, part in parts])
            found[one.name] = weight * mask
    return found


def with_numbers(weights: dict[str, Tensor], drawn: Sequence[Drawn], rates: Mapping[str, Rate]) -> dict[str, Tensor]:
    """Weights by name, with the numbers that are rates themselves, each (1,)."""
    some = next(iter(weights.values()))
    numbers = (one for one in drawn if one.each == "never")
    return weights | {one.name: some.new_full((1,), rate_of(one, rates[one.rate])) for one in numbers}


def _mask(shape: Sequence[int], rate: float, scaled: bool, like: Tensor) -> Tensor:
    kept = (torch.rand(shape, device=like.device) >= rate).to(like.dtype)
    return kept / (1 - rate) if scaled and rate < 1 else kept
