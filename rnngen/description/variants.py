"""Names for cells that are compiled otherwise than they are described: with other activations, with wrappers, or to
keep something else for a backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import count
from typing import Any

from rnngen.cell import Cell
from rnngen.description.names import LONGEST_NAME, class_name_of, is_part, is_reserved
from rnngen.description.records import CellLayer, Layer
from rnngen.runtime.memory import memory_of


def words_of(cell: Cell) -> tuple[str, ...]:
    """What a cell is compiled with beside its own equations, in words."""
    return (*cell.wrappers, *(memory_of(cell.save).words if cell.save else ()))


def variant(cell: Cell, words: Sequence[str], taken: AbstractSet[str]) -> Cell:
    """The cell with words behind its name and that of its class, and a number behind them where that is needed."""
    own = {
        *cell.states,
        *cell.inputs,
        *cell.constants,
        *cell.activations,
        *(target for equation in cell.equations for target in equation.targets),
    }
    own |= {name for parameter in cell.parameters for name in (parameter.name, *parameter.blocks)}

    def free(name: str, class_name: str) -> bool:
        reserved = is_reserved(name, "cell") or is_reserved(class_name, "class")
        return not reserved and taken.isdisjoint((name, class_name)) and not any(is_part(one, name) for one in own)

    name, class_name = next(names for names in _numbered(cell, words) if free(*names))
    return replace(cell, name=name, class_name=class_name)


def _numbered(cell: Cell, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of the variant and its class, the first without a number, and none longer than a name may be."""
    whole, class_whole = "_".join((cell.name, *words)), cell.class_name + class_name_of("_".join(words))
    for number in count(1):
        behind = str(number) if number > 1 else ""
        tail = f"_{behind}" if behind else ""
        yield whole[: LONGEST_NAME - len(tail)] + tail, class_whole[: LONGEST_NAME - len(behind)] + behind


def named_apart(layers: list[Layer | None], others: Mapping[str, Cell], model: Any) -> list[Layer | None]:
    """The layers with a name and a class for each cell that is not as its description has it, which `others` has by its
    name.
    """
    taken = {name for cell in others.values() for name in (cell.name, cell.class_name)}
    taken |= {class_name_of(model)} if isinstance(model, str) else set()
    made: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Cell] = {}

    def named(cell: Cell) -> Cell:
        functions = tuple(cell.activations.values())
        key = (cell.name, functions, words_of(cell))
        words = (*(functions if cell.activations != others[cell.name].activations else ()), *words_of(cell))
        if not words:
            return cell
        if key not in made:
            made[key] = variant(cell, words, taken)
            taken.update((made[key].name, made[key].class_name))
        return made[key]

    return [replace(layer, cell=named(layer.cell)) if isinstance(layer, CellLayer) else layer for layer in layers]
