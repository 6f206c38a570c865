"""What a layer gives its cell by rates: what is drawn at random, and bounds."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

Rate = float | Mapping[str, float]


def probability(name: str, value: float) -> float:
    """A probability as torch's modules take it. Raises ValueError for anything else."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(
            f"{name} should be a number in range [0, 1], the probability of an element being zeroed, got {value!r}"
        )
    return float(value)


def bound(name: str, value: float) -> float:
    """A limit of what is cut off, infinity for none. Raises ValueError for anything else."""
    if not _is_number(value) or not value > 0:
        raise ValueError(f"{name} should be a number above 0, which may be math.inf, got {value!r}")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Kind:
    """What may be a rate: `checked` by its name raises ValueError for what may not.

    none: the rate that does nothing, which parts have that are not named. some: one to begin with. needed: whether a
    class has to be given it.
    """

    checked: Callable[[str, float], float]
    none: float
    some: float
    needed: bool = False


PROBABILITY, BOUND = Kind(probability, none=0.0, some=0.1), Kind(bound, none=math.inf, some=1.0, needed=True)
# Arguments of a class, each the name of the wrapper that asks for it.
RATES: Mapping[str, Kind] = {
    "zoneout": PROBABILITY,
    "recurrent_dropout": PROBABILITY,
    "drop_connect": PROBABILITY,
    "clip": BOUND,
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is 0 with a probability, the rate, and else 1, drawn for each number of a tensor in training; or what never
    is drawn, a number that is the rate itself.

    In evaluation it is what is expected of it, and nothing is drawn.

    name: of an input of the step, as wide as the dimension `width`, "" of a number; of the parameter whose entries
    are multiplied by it; or of a parameter of the step that is that number. rate: the argument of the class that is
    its rate, or has it by `part`. each: what it is drawn anew for: "step", "call" or "parameter", which is once a
    call too; "never" of a number. scaled: what is not 0 is 1 / (1 - rate), so that 1 is expected. blocks: which of a
    parameter's are multiplied, all if there are none.
    """

    name: str
    rate: str
    each: str
    part: str = ""
    scaled: bool = False
    blocks: tuple[bool, ...] = ()
    width: str = "hidden"


def rate_of(drawn: Drawn, rate: Rate) -> float:
    """Its rate, by what the argument of its name was given."""
    return rate.get(drawn.part, RATES[drawn.rate].none) if isinstance(rate, Mapping) else rate


def checked_rates(given: Mapping[str, Any], drawn: Sequence[Drawn], title: str) -> dict[str, Rate]:
    """The rates by the names of arguments; of those that are not given what does nothing.

    Raises TypeError for an argument that the class does not take, or needs, ValueError for what is no rate.
    """
    parts: dict[str, dict[str, None]] = {}
    for one in drawn:
        parts.setdefault(one.rate, {}).update(dict.fromkeys([one.part] if one.part else []))
    for name in given:
        if name not in parts:
            remedy = f"; `rnngen compile NAME --with {name}` makes a class that takes it" if name in RATES else ""
            raise TypeError(f"{title}: got an unexpected keyword argument {name!r}{remedy}")
    for name in parts:
        if name not in given and RATES[name].needed:
            raise TypeError(f"{title}: missing {name!r}, as {name}={RATES[name].some}; {name}=math.inf does nothing")
    return {name: _checked(name, given.get(name, RATES[name].none), known) for name, known in parts.items()}


def _checked(name: str, rate: Any, parts: Collection[str]) -> Rate:
    if not (parts and isinstance(rate, Mapping)):
        return RATES[name].checked(name, rate)
    for part in rate:
        if part not in parts:
            raise ValueError(f"{name}: there is no state {part!r}; there are {', '.join(parts)}")
    return {part: RATES[name].checked(f"{name}[{part!r}]", value) for part, value in rate.items()}
