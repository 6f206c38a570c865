"""Which schedule runs a cell, and why the others do not, in words."""

from collections.abc import Iterator

from rnngen.compile import programs_of
from rnngen.description import CellLayer, Description, describe
from rnngen.emit.module import facts_of
from rnngen.ir import Program
from rnngen.runtime.machine import Facts, Machine, NotPossible, Sizes, choose
from rnngen.source import Source

ITEM_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def explain_model(source: Source, machine: Machine, hidden: int, heads: int, batch: int, dtype: str) -> list[str]:
    """The choice for each recurrent layer of a model, or for its only cell at the given sizes.

    Raises ModelError if the model is rejected.
    """
    description = describe(source)
    programs = dict(zip((cell.name for cell in description.cells), programs_of(description.cells), strict=True))
    lines = []
    for name, sizes, wanted in _scans(description, programs, hidden, heads, batch, ITEM_SIZES[dtype]):
        by_heads = f" in {sizes.heads} heads" if sizes.heads > 1 else ""
        lines.append(f"{name}: {sizes.hidden} units{by_heads}, batch {batch}, {dtype}, on {machine.name}")
        for direction, graph in (("forward", programs[name].scan), ("adjoint", programs[name].adjoint)):
            facts = Facts(**facts_of(graph))
            lines.append(f"  {direction}")
            try:
                chosen = choose(facts, sizes, machine, wanted).schedule
            except NotPossible as reason:
                lines.append(f"    {reason}")
                chosen = ""
            for schedule, reason in choose(facts, sizes, machine).reasons.items():
                mark = "" if schedule != chosen else "chosen" if wanted == "auto" else "named"
                lines.append(f"    {schedule:12}{mark:8}{reason}")
    return lines


def _scans(
    description: Description, programs: dict[str, Program], hidden: int, heads: int, batch: int, itemsize: int
) -> Iterator[tuple[str, Sizes, str]]:
    """Each scan: its cell, its sizes, and the schedule that the file names for it."""
    if not description.layers:
        (name,) = programs
        can_have_heads = any(parameter.heads for parameter in programs[name].parameters)
        yield name, Sizes(batch, hidden, heads if can_have_heads else 1, itemsize), "auto"
    for layer in description.layers:
        if isinstance(layer, CellLayer):
            yield layer.cell.name, Sizes(batch, layer.hidden, layer.heads, itemsize), layer.schedule
