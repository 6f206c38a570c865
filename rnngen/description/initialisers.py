"""Initialisers of parameters: a name or a number."""

from typing import Any

from rnngen.description.validate import WRONG_TYPE, kind_of
from rnngen.equations import FLOAT32, LARGEST
from rnngen.errors import Mistakes, did_you_mean
from rnngen.source import Span

_MATRIX_INITIALISERS = (
    "orthogonal",
    "eye",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
)
INITIALISERS = ("uniform", "zeros", "ones", *_MATRIX_INITIALISERS)


def as_float(init: Any) -> Any:
    """A number of an initialiser, which has no more digits than torch can take; anything else as it is."""
    return float(init) if type(init) is int and abs(init) <= LARGEST else init


def check_initialiser(init: Any, rank: int, span: Span | None, mistakes: Mistakes) -> None:
    """rank: how many dimensions a block of the parameter has."""
    if isinstance(init, int | float) and not isinstance(init, bool):
        if not -LARGEST <= init <= LARGEST:
            mistakes.add("out-of-range", f"'init' must be {FLOAT32}, not {init}.", span)
    elif not isinstance(init, str):
        message = f"'init' must be the name of an initialiser or a number, not {kind_of(init)}."
        mistakes.add("wrong-type", message, span, WRONG_TYPE)
    elif init not in INITIALISERS:
        hint = did_you_mean(init, INITIALISERS) or f"the initialisers are {', '.join(INITIALISERS)}."
        mistakes.add("wrong-value", f"There is no initialiser {init!a}.", span, "unknown", hints=(hint,))
    elif init in _MATRIX_INITIALISERS and rank < 2:
        message = f"The initialiser '{init}' is for matrices only."
        hint = "for a vector or a scalar, use uniform, zeros, ones or a number."
        mistakes.add("wrong-value", message, span, "not for this shape", hints=(hint,))
