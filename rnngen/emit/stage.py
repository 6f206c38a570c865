"""A stage of a chain as a function, in the spelling of a target."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rnngen.chain import Atom, Chain, Stage, atoms_of
from rnngen.emit.statements import Names, Spelling, statements
from rnngen.ir import CellGraph, Equation, Value, block_shape
from rnngen.runtime.plan import letter_of

_CALLED_LAST = frozenset({"kept", "or_zero", "expand"})  # stand in the return of a stage if nothing else needs them


@dataclass(frozen=True, slots=True)
class FunctionText:
    """A function. arguments: an atom each, or a tuple of the blocks of a pack, and at last the mask where it is asked.

    returns: the expressions of what the stage gives.
    """

    name: str
    arguments: tuple[str, ...]
    lines: tuple[str, ...]
    returns: tuple[str, ...]


def stage_function(
    chain: Chain,
    stage: Stage,
    name: str,
    spelling: Spelling,
    read: Mapping[str, tuple[int, ...]],
    equations: tuple[Equation, ...] = (),
) -> FunctionText:
    """A stage of a chain as a function. read: of a pack that it takes, the blocks that its argument has."""
    graph = graph_of(chain, stage)
    names = Names([graph], spelling.reserved)
    mask = names[chain.mask] if stage.masked else ""
    leaves: dict[Atom, str] = {}
    for leaf in graph.leaves("input"):
        (atom,) = atoms_of(chain.values, leaf.name)
        unnamed = "." in leaf.name and chain.blocks(atom.value) > 1
        leaves.setdefault(atom, names.block(*atom) if unnamed else names[leaf.name])
    arguments, opening = [], []
    for value, blocks in by_value(stage.takes):
        if len(blocks) == 1:
            arguments.append(leaves[Atom(value, blocks[0])])
        else:
            arguments.append(names[value])
            opening.append(f"{', '.join(leaves.get(Atom(value, n), '_') for n in read[value])} = {names[value]}")

    def known(value: Value) -> str | None:
        if value.op == "mask":
            return mask
        if value.op == "share":
            return f"(1 / {letter_of(value.dimension)})"
        return leaves[atoms_of(chain.values, value.name)[0]] if value.op == "input" else None

    found = statements(graph, spelling, names, known, equations)
    targets = {statement.value.name: statement for statement in found}
    returned = [targets[atom.value] for atom in stage.gives]
    alone = [s for s in returned if s.value.op in _CALLED_LAST and not graph.users()[s.value.name]]
    plain = [s for s in found if s not in alone]
    lines = [*opening, *(line for statement in plain for line in statement.lines)]
    returns = [s.target if s in plain else s.text for s in returned]
    return FunctionText(name, (*arguments, *filter(None, [mask])), tuple(lines), tuple(returns))


def graph_of(chain: Chain, stage: Stage) -> CellGraph:
    """The values of a stage, with what it takes as inputs."""
    own = {value.name for value in stage.values}
    values: dict[str, Value] = {}
    for value in stage.values:
        for operand in value.operands:
            if operand not in own and operand not in values:
                its = chain.values[operand]
                known = its.op in ("constant", "share", "mask")
                values[operand] = its if known else Value(operand, "input", shape=block_shape(its.shape))
        values[value.name] = value
    outputs = tuple((str(n), atom.value) for n, atom in enumerate(stage.gives))
    return CellGraph(chain.graph.name, tuple(values.values()), outputs=outputs, backwards=chain.graph.backwards)


def by_value(atoms: Iterable[Atom]) -> list[tuple[str, tuple[int, ...]]]:
    """Atoms by the value that they are blocks of, each value where it comes first."""
    found: dict[str, list[int]] = {}
    for atom in atoms:
        found.setdefault(atom.value, []).append(atom.block)
    return [(value, tuple(blocks)) for value, blocks in found.items()]
