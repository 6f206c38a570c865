"""Rates of the wrappers of a layer that are random."""

from collections.abc import Collection, Iterable
from typing import Any

from rnngen.cell import Cell
from rnngen.description.tables import LayerTable
from rnngen.description.validate import WRONG_TYPE, kind_of
from rnngen.document import Places
from rnngen.errors import Mistakes, did_you_mean
from rnngen.runtime.drawn import RATES, Rate
from rnngen.wrappers import WRAPPERS


def described_rates(
    layer: LayerTable, wrappers: Collection[str], cell: Cell | None, places: Places, mistakes: Mistakes
) -> dict[str, Rate]:
    """The rates that the table has, by their keys."""
    found: dict[str, Rate] = {}
    for key in RATES:
        if key not in layer.model_fields_set:
            continue
        rate = getattr(layer, key)
        if key not in wrappers:
            message = f"The key '{key}' is the rate of a wrapper that is not around this layer's cell."
            names = ", ".join(f'"{name}"' for name in (*filter(WRAPPERS.__contains__, wrappers), key))
            mistakes.add("no-effect", message, places.key(key), hints=(f"write with = [{names}] beside it.",))
        if isinstance(rate, dict):
            found[key] = {state: _checked(value, places, (key, state), mistakes) for state, value in rate.items()}
            if cell and key in wrappers:
                _check_states(cell, rate, key, places, mistakes)
        else:
            found[key] = _checked(rate, places, (key,), mistakes)
    return found


def _checked(rate: Any, places: Places, path: tuple[str, ...], mistakes: Mistakes) -> float:
    """The rate as a number, 0 if it is none."""
    if not isinstance(rate, int | float) or isinstance(rate, bool):
        of_states = ", or a table of numbers by the names of states" if len(path) == 1 else ""
        message = f"{path[-1]!a} must be a number{of_states}, not {kind_of(rate)}."
        mistakes.add("wrong-type", message, places.value(*path), WRONG_TYPE)
        return 0.0
    if not 0 <= rate <= 1:
        message = f"{path[-1]!a} must be from 0 to 1, not {rate}."
        mistakes.add("out-of-range", message, places.value(*path), "out of range")
        return 0.0
    return float(rate)


def _check_states(cell: Cell, names: Iterable[str], key: str, places: Places, mistakes: Mistakes) -> None:
    for state in names:
        if state not in cell.states:
            message = f"The cell '{cell.name}' has no state {state!a}."
            hint = did_you_mean(state, cell.states) or f"its states are {', '.join(cell.states)}."
            mistakes.add("unknown-name", message, places.key(key, state), hints=(hint,))
