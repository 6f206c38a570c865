"""Rates of the wrappers of a layer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rnngen.cell import Cell
from rnngen.description.tables import LayerTable
from rnngen.description.validate import WRONG_TYPE, kind_of
from rnngen.document import Places
from rnngen.equations import FLOAT32, LARGEST
from rnngen.errors import Mistakes, did_you_mean
from rnngen.runtime.drawn import BOUND, RATES, Drawn, Rate
from rnngen.wrappers import WRAPPERS


def described_rates(
    layer: LayerTable, wrappers: Sequence[str], cell: Cell | None, places: Places, mistakes: Mistakes
) -> dict[str, Rate]:
    """The rates that the table has, by their keys. One that is not there would do nothing, and is a mistake."""
    found: dict[str, Rate] = {}
    for number, key in enumerate(wrappers):
        if key in RATES and key not in layer.model_fields_set and key not in wrappers[:number]:
            hint = f"write {key} = {RATES[key].some} beside it."
            message = f"The wrapper '{key}' needs a rate, the key '{key}' of the layer."
            mistakes.add("missing-key", message, places.value("with", number), hints=(hint,))
    for key in RATES:
        if key not in layer.model_fields_set:
            continue
        rate = getattr(layer, key)
        if key not in wrappers:
            message = f"The key '{key}' is the rate of a wrapper that is not around this layer's cell."
            names = ", ".join(f'"{name}"' for name in (*filter(WRAPPERS.__contains__, wrappers), key))
            mistakes.add("no-effect", message, places.key(key), hints=(f"write with = [{names}] beside it.",))
        if isinstance(rate, dict):
            found[key] = {state: _checked(value, key, places, (key, state), mistakes) for state, value in rate.items()}
            if cell and key in wrappers:
                _check_states(cell, rate, key, places, mistakes)
        else:
            found[key] = _checked(rate, key, places, (key,), mistakes)
    return found


def _checked(rate: Any, key: str, places: Places, path: tuple[str, ...], mistakes: Mistakes) -> float:
    """The rate as a number, 0 if it is none."""
    if not isinstance(rate, int | float) or isinstance(rate, bool):
        of_states = ", or a table of numbers by the names of states" if len(path) == 1 else ""
        message = f"{path[-1]!a} must be a number{of_states}, not {kind_of(rate)}."
        mistakes.add("wrong-type", message, places.value(*path), WRONG_TYPE)
        return 0.0
    limits = f"above 0 and {FLOAT32}" if RATES[key] is BOUND else "from 0 to 1"
    if not (0 < rate <= LARGEST if RATES[key] is BOUND else 0 <= rate <= 1):
        message = f"{path[-1]!a} must be {limits}, not {rate}."
        mistakes.add("out-of-range", message, places.value(*path), "out of range")
        return 0.0
    return float(rate)


def _check_states(cell: Cell, names: Iterable[str], key: str, places: Places, mistakes: Mistakes) -> None:
    for state in names:
        if state not in cell.states:
            message = f"The cell '{cell.name}' has no state {state!a}."
            hint = did_you_mean(state, cell.states) or f"its states are {', '.join(cell.states)}."
            mistakes.add("unknown-name", message, places.key(key, state), hints=(hint,))


def check_rated(rates: Mapping[str, Rate], drawn: Sequence[Drawn], places: Places, mistakes: Mistakes) -> None:
    """The states that have a rate of a wrapper are some that it acts on. drawn: what the wrapped cell has."""
    for key, rate in rates.items():
        rated = dict.fromkeys(one.part for one in drawn if one.rate == key and one.part)
        for state in rate if isinstance(rate, Mapping) else ():
            if state not in rated:
                message = (
                    f"The wrapper '{key}' does nothing to the state '{state}', which only remembers what it was given."
                )
                hint = f"it acts on {', '.join(rated)}."
                mistakes.add("no-effect", message, places.key(key, state), hints=(hint,))
