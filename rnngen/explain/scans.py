"""The scans of a model: of each recurrent layer, or of the only cell, at the sizes of a call."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rnngen.cell import Cell
from rnngen.chain import Chain, Chained
from rnngen.compile import compiled
from rnngen.description import CellLayer, Description
from rnngen.emit.layer import can_be_doubled
from rnngen.explain.kept import Kept, kept_of
from rnngen.runtime.choose import answers_of
from rnngen.runtime.machine import Machine
from rnngen.runtime.memory import KINDS, Memory, memory_of
from rnngen.runtime.plan import Plan, Sizes
from rnngen.runtime.schedules import possible

HIDDEN = 128  # units of a cell for which no number is given
ITEM_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


USUAL = Memory(KINDS[0])


class NothingToDo(ValueError):
    """A size was given that the model has no use for, or cannot have. `str()` of it is a sentence to print."""


@dataclass(frozen=True)
class Scan:
    """Of one cell, as a call of it has it.

    layer: its number in the file, from 1 on, and 0 for a cell alone. count: of layers like it, one above another.
    schedule: what the file names, or "auto". kinds: the same cell compiled for each kind of memory. memory: what the
    layer keeps. in_heads: whether it has a block-diagonal matrix. x_alike: whether x is to
    be as wide as the hidden units, whatever they are.
    """

    cell: str
    program: Chained
    sizes: Sizes
    layer: int = 0
    count: int = 1
    schedule: str = "auto"
    x_alike: bool = False
    kinds: Mapping[str, Chained] = field(default_factory=dict)
    memory: Memory = USUAL

    @property
    def kept(self) -> Kept:
        return kept_of(self.kinds, self.sizes, self.memory)

    @property
    def sweeps(self) -> Mapping[str, Chain]:
        return {"forward": self.program.forward, "adjoint": self.program.backward}

    @property
    def directions(self) -> int:
        """How many directions of a layer it has: then the sizes are those of both together."""
        return 2 if self.sizes.both else 1

    @property
    def in_heads(self) -> bool:
        return any(parameter.heads for parameter in self.program.parameters)

    def wanted(self, chain: Chain) -> str:
        """The schedule that is insisted on for a sweep: the adjoint of a cell may not have what the cell has."""
        return self.schedule if self.schedule in possible(chain.facts) else "auto"

    def resized(self, **changes: Any) -> Sizes:
        """Other sizes, by their names, of which only these change."""
        if self.x_alike and "hidden" in changes:
            changes["others"] = tuple(({**dict(self.sizes.others), "inputs": changes["hidden"]}).items())
        return replace(self.sizes, **changes)


def scans_of(
    description: Description, machine: Machine | None, hidden: int | None, heads: int | None, batch: int, itemsize: int
) -> Iterator[Scan]:
    """Each scan, in the order of the layers. machine: None for a CPU. Raises ModelError if the model is rejected, and
    NothingToDo where a size would be ignored, or there is no scan.
    """
    _check_sizes(description, hidden, heads)
    cells = description.cells
    kinds = {
        kind: dict(zip((c.name for c in cells), compiled([replace(c, save=kind) for c in cells]), strict=True))
        for kind in KINDS
    }
    programs = {cell.name: kinds[memory_of(cell.save or KINDS[0]).kind or KINDS[0]][cell.name] for cell in cells}

    def of_kinds(cell: Cell, save: str) -> dict[str, Any]:
        memory = memory_of(save or cell.save or KINDS[0])
        return {"kinds": {kind: found[cell.name] for kind, found in kinds.items()}, "memory": memory}

    if not description.layers:
        (cell,) = description.cells
        units = hidden or HIDDEN
        others = (("inputs", units), *cell.sizes.items())
        sizes, more = Sizes(batch, units, heads or 1, itemsize, others=others), of_kinds(cell, "")
        yield Scan(cell.name, programs[cell.name], sizes, x_alike=True, **more)
    for number, layer in enumerate(description.layers, 1):
        if isinstance(layer, CellLayer):
            sizes = Sizes(batch, layer.hidden, layer.heads, itemsize, others=layer.others)
            program = programs[layer.cell.name]
            more = of_kinds(layer.cell, layer.save)
            scan = Scan(layer.cell.name, program, sizes, number, layer.num_layers, layer.schedule, **more)
            yield _together(scan, machine) if machine and layer.bidirectional and not layer.proj_size else scan


def _together(scan: Scan, machine: Machine) -> Scan:
    """Both directions of a layer as one scan where they run as one: see `runtime.both`."""
    sizes = replace(scan.sizes, hidden=2 * scan.sizes.hidden, heads=2 * scan.sizes.heads, both=True)
    for chain in scan.sweeps.values():
        answers, wanted = answers_of(chain.facts, replace(sizes, batch=1), machine), scan.wanted(chain)
        plans = {name for name, answer in answers.items() if isinstance(answer, Plan)}
        if not plans or wanted not in (*plans, "auto"):
            return scan
    return replace(scan, sizes=sizes) if can_be_doubled(scan.program) else scan


def _check_sizes(description: Description, hidden: int | None, heads: int | None) -> None:
    if description.layers:
        if not description.cells:
            raise NothingToDo(f"No layer of '{description.name}' is recurrent, so there is no schedule to choose.")
        _check_unused(("--hidden", hidden), ("--heads", heads))
        return
    (cell,) = description.cells
    if (heads or 1) > 1 and not any(parameter.heads for parameter in cell.parameters):
        raise NothingToDo(f"The cell '{cell.name}' has no block-diagonal parameter, so --heads would do nothing.")
    if (hidden or HIDDEN) % (heads or 1):
        raise NothingToDo(f"{hidden or HIDDEN} hidden units cannot be divided evenly among {heads} heads.")


def _check_unused(*options: tuple[str, int | None]) -> None:
    for option, given in options:
        if given is not None:
            raise NothingToDo(f"The layers of a stack have sizes of their own, so {option} would do nothing.")
