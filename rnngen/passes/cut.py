"""cut: a scan's step as a chain of stages, in both directions.

A value belongs to a stage: no earlier than its operands are known, no later than its users want it. What is wanted
outside the stages - across units, by a state or an output - is computed as early as it can be, so that a schedule can
pass it on; all else as late as it may, so that little is carried from one stage to another. (Over the 116 graphs of
the tests' cells some 35 values are carried so, 84 if all is computed late, and 82 if all is computed early.) A
condition is computed in every stage that asks for it: what is carried are numbers.
"""

from collections import defaultdict
from collections.abc import Mapping

from rnngen.across import ACROSS
from rnngen.chain import (
    Across,
    Affine,
    Atom,
    Chain,
    Chained,
    Link,
    Matrices,
    Round,
    Stage,
    Write,
    atoms_of,
    unique,
)
from rnngen.ir import CHOICES, LEAVES, CellGraph, Differentiated, Value, blocks_of, origin
from rnngen.ops import COMPARISONS
from rnngen.passes.linear import linear
from rnngen.runtime.plan import is_saved

_NOT_POINTWISE = LEAVES | ACROSS.keys() | {"pick", "slice", "stack", "join"}


def cut(program: Differentiated) -> Chained:
    """The program with the chains of its scan and of its adjoint."""
    states = len(program.scan.states)  # the adjoint's others are accumulators
    forward, backward = (chain(graph, states) for graph in (program.scan, program.adjoint))
    return Chained(**vars(program), forward=forward, backward=backward)


def chain(graph: CellGraph, returned: int = 0) -> Chain:
    """One direction of a scan as a chain. returned: how many states, the first of them, a reset returns."""
    values = graph.by_name()
    atoms = {name: atoms_of(values, name) for name in values}
    level = _levels(graph)
    last = max(level.values(), default=0)
    across = [_across(value, values, atoms) for value in graph.values if value.op in ACROSS]
    wanted = [atom for one in across for atom in one.operand]
    wanted += [atom for _, name in graph.outputs for atom in atoms[name]]
    wanted += [atom for state in graph.states for atom in atoms[state.update]]
    stages = _stages(graph, atoms, level, last, wanted)
    read = defaultdict(set)
    for atom in [*wanted, *(atom for stage in stages for atom in stage.takes)]:
        read[atom.value].add(atom.block)
    updates = {atoms[state.update] for state in graph.states}
    return Chain(
        graph=graph,
        streams=tuple((leaf.name, tuple(sorted(read[leaf.name]))) for leaf in graph.leaves("input")),
        mask=next((leaf.name for leaf in graph.leaves("mask")), ""),
        states=tuple((state.name, atoms[state.update][0]) for state in graph.states),
        vectors=unique(a for stage in stages for a in stage.takes if values[a.value].op == "parameter"),
        links=tuple(
            Link(tuple(one for one in across if level[one.name] == number), stage)
            for number, stage in enumerate(stages)
        ),
        writes=tuple(Write(label, atoms[name], _when(label, atoms[name], updates)) for label, name in graph.outputs),
        returned=tuple(state.name for state in graph.states[:returned]),
        rounds=_rounds(graph),
    )


def _rounds(graph: CellGraph) -> tuple[Round, ...] | None:
    """The rounds of a scan with states, if it is linear."""
    steps = linear(graph) if graph.states else None
    return None if steps is None else tuple(map(_round, steps))


def _round(step: CellGraph) -> Round:
    found = chain(step)
    atoms = [write.atoms[0] for write in found.writes]
    states = unique(write.label for write in found.writes)
    return Round(found, tuple(map(Affine, states, atoms[::2], atoms[1::2])))


def _when(label: str, atoms: tuple[Atom, ...], updates: set[tuple[Atom, ...]]) -> str:
    return "save" if is_saved(label) else "keep" if atoms in updates else "always"


def _levels(graph: CellGraph) -> dict[str, int]:
    """How many operations across units in a row each value depends on."""
    found: dict[str, int] = {}
    for value in graph.values:
        found[value.name] = max((found[o] for o in value.operands), default=0) + (value.op in ACROSS)
    return found


def _across(value: Value, values: dict[str, Value], atoms: dict[str, tuple[Atom, ...]]) -> Across:
    *applied, operand = value.operands
    matrices = None
    for matrix in applied:  # none or one
        parameter, start = origin(values, matrix)
        matrices = Matrices(parameter.name, start, blocks_of(values[matrix].shape))
    return Across(value.name, value.op, matrices, atoms[operand], atoms[value.name])


def _stages(
    graph: CellGraph, atoms: dict[str, tuple[Atom, ...]], level: dict[str, int], last: int, wanted: list[Atom]
) -> list[Stage]:
    values = graph.by_name()
    pointwise = [value for value in graph.values if value.op not in _NOT_POINTWISE]
    numbers = [value for value in pointwise if value.op not in COMPARISONS]
    loose = _loose(graph, atoms)
    tight = [value for value in numbers if value.name not in loose]
    place = _places(tight, values, atoms, level, {atom.value for atom in wanted} - loose)
    place |= _places_of_loose([v for v in numbers if v.name in loose], values, atoms, level, place)
    taken_late: set[Atom] = set(wanted)
    stages = []
    for number in range(last, -1, -1):
        inside = {value.name for value in numbers if place[value.name] == number}
        asked = {name for value in numbers if value.name in inside for name in value.operands}
        inside |= {value.name for value in pointwise if value.op in COMPARISONS and value.name in asked}
        own = tuple(value for value in pointwise if value.name in inside)
        operands = unique(atom for value in own for name in _read(value, values) for atom in atoms[name])
        takes = tuple(a for a in operands if a.value not in inside and values[a.value].op not in ("constant", "share"))
        gives = tuple(Atom(value.name, 0) for value in own if Atom(value.name, 0) in taken_late)
        stages.append(Stage(own, takes, gives, any(value.op in CHOICES for value in own)))
        taken_late.update(takes)
    return stages[::-1]


def _places_of_loose(
    loose: list[Value],
    values: Mapping[str, Value],
    atoms: dict[str, tuple[Atom, ...]],
    level: dict[str, int],
    others: Mapping[str, int],
) -> dict[str, int]:
    """The stage of each value that nothing but an output is made of: the first one that has all that it is made of for
    other reasons, so that nothing is computed earlier, and carried, for its sake.
    """
    place: dict[str, int] = {}
    users: dict[str, list[int]] = defaultdict(list)
    for value in loose:
        parts = [atom.value for name in _read(value, values) for atom in atoms[name]]
        known = dict(others) | place
        place[value.name] = max([level[value.name], *(known[part] for part in parts if part in known)])
    for value in reversed(loose):
        place[value.name] = min(users[value.name], default=place[value.name])
        for name in _read(value, values):
            for atom in atoms[name]:
                users[atom.value].append(place[value.name])
    return place


def _loose(graph: CellGraph, atoms: Mapping[str, tuple[Atom, ...]]) -> set[str]:
    """Names of the values that nothing but an output is made of."""
    held = {atom.value for state in graph.states for atom in atoms[state.update]}
    held |= {atom.value for value in graph.values if value.op in ACROSS for atom in atoms[value.operands[-1]]}
    found: set[str] = set()
    users = graph.users()
    for value in reversed(graph.values):
        if value.name not in held and all(u.name in found or u.op in ("stack", "join") for u in users[value.name]):
            found.add(value.name)
    return found


def _read(value: Value, values: Mapping[str, Value]) -> list[str]:
    """The numbers that a stage has to have for a value: of a condition those that it compares, and no mask."""
    operands = value.operands[1:] if value.op in CHOICES else value.operands
    return [o for name in operands for o in (values[name].operands if values[name].op in COMPARISONS else (name,))]


def _places(
    numbers: list[Value],
    values: Mapping[str, Value],
    atoms: dict[str, tuple[Atom, ...]],
    level: dict[str, int],
    wanted: set[str],
) -> dict[str, int]:
    """The stage of each value."""
    place: dict[str, int] = {}
    users: dict[str, list[int]] = defaultdict(list)
    for value in reversed(numbers):
        early = value.name in wanted or not users[value.name]
        place[value.name] = level[value.name] if early else min(users[value.name])
        for name in _read(value, values):
            for atom in atoms[name]:
                users[atom.value].append(place[value.name])
    return place
