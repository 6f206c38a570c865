"""What a layer draws at random for its cell, and the rates at which it does."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

Rate = float | Mapping[str, float]

# Arguments of a class, each the name of the wrapper that asks for it.
RATES = ("zoneout", "recurrent_dropout", "drop_connect")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is 0 with a probability, the rate, and else 1, drawn for each number of a tensor in training.

    In evaluation it is what is expected of it, and nothing is drawn.

    name: of an input of the step that is as wide as a state; or of the parameter whose entries are multiplied by it.
    rate: the argument of the class that is its rate, or has it by `part`. each: what it is drawn anew for: "step",
    "call" or "parameter", which is once a call too. scaled: what is not 0 is 1 / (1 - rate), so that 1 is expected.
    """

    name: str
    rate: str
    each: str
    part: str = ""
    scaled: bool = False


def rate_of(drawn: Drawn, rate: Rate) -> float:
    """Its rate, by what the argument of its name was given; 0 of a part that is not named."""
    return rate.get(drawn.part, 0.0) if isinstance(rate, Mapping) else rate


def checked_rates(given: Mapping[str, Any], drawn: Sequence[Drawn], title: str) -> dict[str, Rate]:
    """The rates by the names of arguments, 0 of those that are not given.

    Raises TypeError for an argument that the class does not take, ValueError for what is no rate.
    """
    parts: dict[str, dict[str, None]] = {}
    for one in drawn:
        parts.setdefault(one.rate, {}).update(dict.fromkeys([one.part] if one.part else []))
    for name in given:
        if name not in parts:
            remedy = f"; `rnngen compile NAME --with {name}` makes a class that takes it" if name in RATES else ""
            raise TypeError(f"{title}: got an unexpected keyword argument {name!r}{remedy}")
    return {name: _checked(name, given.get(name, 0.0), known) for name, known in parts.items()}


def _checked(name: str, rate: Any, parts: Collection[str]) -> Rate:
    if not (parts and isinstance(rate, Mapping)):
        return probability(name, rate)
    for part in rate:
        if part not in parts:
            raise ValueError(f"{name}: there is no state {part!r}; there are {', '.join(parts)}")
    return {part: probability(f"{name}[{part!r}]", value) for part, value in rate.items()}


def probability(name: str, value: float) -> float:
    """A probability as torch's modules take it. Raises ValueError for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(
            f"{name} should be a number in range [0, 1], the probability of an element being zeroed, got {value!r}"
        )
    return float(value)
