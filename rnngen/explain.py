"""Which schedule runs a cell, and why the others do not, in words."""

from collections.abc import Iterator, Sequence

from rnngen.compile import compiled
from rnngen.description import CellLayer, Description, describe
from rnngen.runtime.choose import choose
from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import NotPossible, Sizes
from rnngen.source import Source

HIDDEN = 128  # units of a cell for which no number is given
ITEM_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class NothingToDo(ValueError):
    """A size was given that the model has no use for, or cannot have. `str()` of it is a sentence to print."""


def explain_model(
    source: Source,
    machine: Machine,
    hidden: int | None,
    heads: int | None,
    batch: int,
    dtype: str,
    wrappers: Sequence[str] = (),
) -> list[str]:
    """The choice for each recurrent layer of a model, or for its only cell at the given sizes.

    Without `hidden` and `heads` a cell has 128 units and one head; the layers of a stack have their own. Raises
    ModelError if the model is rejected, NothingToDo where a size would be ignored or there is no choice.
    """
    description = describe(source, wrappers)
    _check_sizes(description, hidden, heads)
    programs = dict(zip((cell.name for cell in description.cells), compiled(description.cells), strict=True))
    lines = []
    for name, sizes, wanted in _scans(description, hidden or HIDDEN, heads or 1, batch, ITEM_SIZES[dtype]):
        by_heads = f" in {sizes.heads} heads" if sizes.heads > 1 else ""
        lines.append(f"{name}: {sizes.hidden} units{by_heads}, batch {batch}, {dtype}, on {machine.name}")
        for direction, chain in (("forward", programs[name].forward), ("adjoint", programs[name].backward)):
            lines.append(f"  {direction}")
            try:
                chosen = choose(chain.facts, sizes, machine, wanted).schedule
            except NotPossible as refusal:
                lines.append(f"    {refusal}")
                chosen = ""
            for schedule, reason in choose(chain.facts, sizes, machine).reasons.items():
                mark = "" if schedule != chosen else "chosen" if wanted == "auto" else "named"
                lines.append(f"    {schedule:12}{mark:8}{reason}")
    return lines


def _check_sizes(description: Description, hidden: int | None, heads: int | None) -> None:
    if description.layers:
        if not description.cells:
            raise NothingToDo(f"No layer of '{description.name}' is recurrent, so there is no schedule to choose.")
        for option, given in (("--hidden", hidden), ("--heads", heads)):
            if given is not None:
                raise NothingToDo(f"The layers of a stack have sizes of their own, so {option} would do nothing.")
        return
    (cell,) = description.cells
    if (heads or 1) > 1 and not any(parameter.heads for parameter in cell.parameters):
        raise NothingToDo(f"The cell '{cell.name}' has no block-diagonal parameter, so --heads would do nothing.")
    if (hidden or HIDDEN) % (heads or 1):
        raise NothingToDo(f"{hidden or HIDDEN} hidden units cannot be divided evenly among {heads} heads.")


def _scans(
    description: Description, hidden: int, heads: int, batch: int, itemsize: int
) -> Iterator[tuple[str, Sizes, str]]:
    """Each scan: its cell, its sizes, and the schedule that the file names for it."""
    if not description.layers:
        (cell,) = description.cells
        others = (("inputs", hidden), *cell.sizes.items())  # an x as wide, where that matters
        yield cell.name, Sizes(batch, hidden, heads, itemsize, others=others), "auto"
    for layer in description.layers:
        if isinstance(layer, CellLayer):
            sizes = Sizes(batch, layer.hidden, layer.heads, itemsize, others=layer.others)
            yield layer.cell.name, sizes, layer.schedule
