"""Functions that a cell calls by names of its own, and others in their place."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from rnngen import idioms
from rnngen.across import ACROSS
from rnngen.cell import Cell
from rnngen.description.tables import MOST_ACTIVATIONS
from rnngen.document import Places
from rnngen.equations import parse_expression, parse_step
from rnngen.errors import Mistakes, did_you_mean
from rnngen.matrices import CALLS
from rnngen.ops import FUNCTIONS, OPS

OF_ONE_ARGUMENT = sorted(name for name, op in FUNCTIONS.items() if op.arity == 1)


def read_activations(table: Any, places: Places, mistakes: Mistakes) -> dict[str, str]:
    """The functions of a table of activations by their names there, one of ours in the place of one that is none."""
    found = {}
    for name, function in islice(table.items() if isinstance(table, dict) else (), MOST_ACTIVATIONS):
        found[name] = "tanh"
        if not isinstance(function, str):
            continue  # `validated` says so
        span = places.value("activations", name)
        if function in CALLS and function in ACROSS:
            message = f"An activation works unit by unit, and '{function}' looks across units."
            mistakes.add("not-supported", message, span, hints=("write the function itself into the equations.",))
        elif function not in FUNCTIONS:
            hint = _meant(function)
            mistakes.add("unknown-function", f"There is no function {function!a}.", span, "unknown", hints=(hint,))
        elif function not in OF_ONE_ARGUMENT:
            message = f"An activation has one argument, and '{function}' takes {OPS[function].arity}."
            mistakes.add("wrong-arity", message, span, hints=("write the function itself into the equations.",))
        else:
            found[name] = function
    return found


def _meant(function: str) -> str:
    """The hint for a function of a table of activations that is none of ours."""
    name = function.lower()
    if (renamed := idioms.RENAMED.get(name)) in OF_ONE_ARGUMENT:
        return f"here it is called {renamed}."
    if renamed in ACROSS:
        return f"here it is called {renamed}, and looks across units: write it into the equations."
    if renamed:
        return f"here it is called {renamed}, and takes {OPS[renamed].arity} arguments: write it into the equations."
    if written := idioms.WRITTEN_OUT.get(name):
        letters = sorted({part.name for part in parse_expression(written).names()})
        return f"{function}({', '.join(letters)}) is {written}, to be written into the equations."
    known = f"the functions of one argument are {', '.join(OF_ONE_ARGUMENT)}."
    return idioms.ABSENT.get(name) or did_you_mean(function, OF_ONE_ARGUMENT) or known


def with_activations(cell: Cell, chosen: Mapping[str, str], places: Places, mistakes: Mistakes) -> Cell:
    """The cell with other functions; it gets a name of its own in `named_apart`."""
    functions = read_activations(chosen, places, mistakes)
    for name in chosen:
        if name not in cell.activations:
            known = ", ".join(cell.activations)
            hint = did_you_mean(name, cell.activations) or (known and f"its activations are {known}.")
            hint = hint or f'in the cell, write activations = {{ {name} = "tanh" }} and {name}(...) in an equation.'
            message = f"The cell '{cell.name}' has no activation {name!a}."
            mistakes.add("unknown-activation", message, places.key("activations", name), hints=(hint,))
            return cell
    functions = dict(cell.activations) | functions
    if functions == cell.activations:
        return cell

    def silent(*_: object) -> None:
        """Mistakes in the equations have been reported with the cell."""

    step = parse_step(cell.places.table["step"], silent, functions)
    return replace(cell, activations=functions, equations=tuple(step.equations))
