"""A file: one cell alone, or a stack of layers."""

from collections.abc import Sequence
from dataclasses import replace

from rnngen.description.cell import cell_alone
from rnngen.description.records import Description
from rnngen.description.stack import described_stack
from rnngen.description.variants import variant, words_of
from rnngen.document import Places, parse
from rnngen.errors import Mistakes
from rnngen.source import Source, Span

LONGEST_FILE_NAME = 128  # it stands beside every equation in a module


def describe(source: Source, wrappers: Sequence[str] = (), save: str = "") -> Description:
    """Validate a file. wrappers: what a cell is to be compiled with, the first innermost; names of `WRAPPERS`. save:
    what its layers keep, a text of `runtime.memory`.

    Raises ModelError with every mistake in it that can be told apart, and for wrappers of a stack, and `save`.
    """
    places = Places(parse(source), ())
    mistakes = Mistakes(source)
    if len(source.file_name) > LONGEST_FILE_NAME:
        message = f"The file's name has {len(source.file_name):,} characters; at most {LONGEST_FILE_NAME} are allowed."
        mistakes.add("too-large", message, Span(1, 1, 1))
    data = places.document.data
    if data.keys() <= {"name"}:
        hint = "a cell has the keys name, states, step and parameters, a model name, inputs and layers; "
        hint += "rnngen cells gru --source prints a cell to begin with."
        mistakes.add("no-model", "This file describes neither a cell nor a model.", places.value(), hints=(hint,))
        mistakes.check()
    if not isinstance(data.get("layers"), list) and not data.keys().isdisjoint(("states", "step", "parameters")):
        cell = mistakes.checked(cell_alone(places, mistakes))
        cell = replace(cell, wrappers=tuple(wrappers), save=save)
        if words := words_of(cell):
            cell = variant(cell, words, {cell.name, cell.class_name})
        return Description(cell.name, 0, (), (cell,), source)
    stack = described_stack(places, mistakes)
    if wrappers:
        message = "A stack has no cell for --with: its layers name their wrappers themselves."
        names = ", ".join(f'"{name}"' for name in wrappers)
        hint = f"in the table of a layer with a cell, write with = [{names}]."
        mistakes.add("conflict", message, places.key("layers"), hints=(hint,))
    if save:
        message = "A stack has no cell for --save: its layers say themselves what they keep."
        hint = f'in the table of a layer with a cell, write save = "{save}".'
        mistakes.add("conflict", message, places.key("layers"), hints=(hint,))
    return mistakes.checked(stack)
