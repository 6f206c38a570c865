"""A scan's step as a chain: operations that look across units, and between them stages of pointwise work.

    across 1   weight_hh_h = weight_hh @ h
    stage 1    i = sigmoid(w_0 + weight_hh_h_0)  ...  h' = o * tanh(c')

One chain serves every schedule and every target: a stage is a function, written once, and a schedule is a loop over the
chain that loads, applies, calls and stores. Nothing here is a pack: picks, slices, joins and stacks are resolved into
the blocks that they consist of, the atoms.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

from rnngen.ir import CellGraph, Differentiated, Value, block_shape, blocks_of
from rnngen.runtime import plan
from rnngen.runtime.plan import Facts

_Item = TypeVar("_Item", bound=Hashable)


class Atom(NamedTuple):
    """A block of a value."""

    value: str
    block: int


@dataclass(frozen=True, slots=True)
class Matrices:
    """Those from `start` up to `start + count` of a parameter."""

    parameter: str
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Across:
    """An operation that looks across units, a row of `across.ACROSS`: of which matrices, if of any, and of what."""

    name: str
    op: str
    matrices: Matrices | None
    operand: tuple[Atom, ...]
    gives: tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """Pointwise work, in an order in which every operand stands before its use.

    takes: the atoms that it reads of what it does not compute, numbers left out; gives: those of its own that are read
    outside it. masked: whether it asks if the step counts.
    """

    values: tuple[Value, ...]
    takes: tuple[Atom, ...]
    gives: tuple[Atom, ...]
    masked: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A part of a chain: what looks across units, and the stage that follows it."""

    across: tuple[Across, ...]
    stage: Stage


@dataclass(frozen=True, slots=True)
class Write:
    """An output, block by block.

    when: "always"; "keep" if it is a state's new value, which is left out where only the last one is wanted; or "save"
    for what the adjoint reads, left out where no gradient is wanted.
    """

    label: str
    atoms: tuple[Atom, ...]
    when: str


@dataclass(frozen=True, slots=True)
class Affine:
    """A state whose new value is a * old + b."""

    state: str
    a: Atom
    b: Atom


@dataclass(frozen=True, slots=True)
class Round:
    """States of a linear scan that can be computed for all steps at once, as soon as those of earlier rounds are.

    coefficients: the chain of one stage that computes their a and b.
    """

    coefficients: "Chain"
    states: tuple[Affine, ...]


@dataclass(frozen=True)
class Chain:
    """A scan in one direction. The first link has nothing across.

    streams: the inputs, each with the blocks of it that are read. mask: the leaf that says which steps count. states:
    each with the atom that is its new value. vectors: the atoms of parameters that stages read. returned: the states
    that a reset returns to a first value; in an adjoint their gradients, which it sets to zero, and its other states
    are sums over time that nothing reads. rounds: in which the states can be computed for many steps
    at once; None if the scan is not linear.
    """

    graph: CellGraph
    streams: tuple[tuple[str, tuple[int, ...]], ...]
    mask: str
    states: tuple[tuple[str, Atom], ...]
    vectors: tuple[Atom, ...]
    links: tuple[Link, ...]
    writes: tuple[Write, ...]
    returned: tuple[str, ...] = ()
    rounds: tuple[Round, ...] | None = None

    @cached_property
    def values(self) -> Mapping[str, Value]:
        return self.graph.by_name()

    @property
    def across(self) -> tuple[Across, ...]:
        return tuple(across for link in self.links for across in link.across)

    def blocks(self, name: str) -> int:
        return blocks_of(self.values[name].shape)

    def width(self, name: str) -> tuple[str, ...]:
        """The dimensions of one block of a value."""
        return tuple(str(dimension) for dimension in block_shape(self.values[name].shape))

    @cached_property
    def facts(self) -> Facts:
        """What the choice of a schedule rests on."""
        read = [name for name, _ in self.streams]
        states = {self.width(state) for state, _ in self.states}
        return Facts(
            backwards=self.graph.backwards,
            across=tuple(map(self._fact, self.across)),
            streams=tuple(self.blocks(name) * bool(self.width(name)) for name in read),
            outputs=tuple(len(write.atoms) * bool(self.width(write.atoms[0].value)) for write in self.writes),
            numbers=sum(self.blocks(name) * (not self.width(name)) for name in read),
            levels=len(self.links) - 1,
            dimensions=tuple(sorted({dimension for name in self.values for dimension in self.width(name)})),
            uneven=len(states) > 1,
            linear=self.rounds is not None,
            rounds=sum(any(one.state in self.returned for one in found.states) for found in self.rounds or ()),
            totals=len(self.states) - len(self.returned) if self.rounds else 0,
        )

    def _fact(self, across: Across) -> plan.Across:
        if across.matrices is None:
            return plan.Across(across.op)
        return plan.Across(across.op, across.matrices.count, heads=across.matrices.parameter in self.graph.heads)

    def made_by(self) -> dict[Atom, int]:
        """The number of the link whose stage gives an atom."""
        return {atom: number for number, link in enumerate(self.links) for atom in link.stage.gives}


@dataclass(frozen=True, kw_only=True)
class Chained(Differentiated):
    """The last form of a program: its scan and its adjoint as chains."""

    forward: Chain
    backward: Chain


def atoms_of(values: Mapping[str, Value], name: str) -> tuple[Atom, ...]:
    """The atoms that a value consists of."""
    value = values[name]
    match value.op:
        case "pick":
            return (atoms_of(values, value.operands[0])[value.block],)
        case "slice":
            start, stop = value.bounds
            return atoms_of(values, value.operands[0])[start:stop]
        case "stack" | "join":
            return tuple(atom for operand in value.operands for atom in atoms_of(values, operand))
    return tuple(Atom(name, number) for number in range(blocks_of(value.shape)))


def unique(items: Iterable[_Item]) -> tuple[_Item, ...]:
    """Each once, in the order in which they came."""
    return tuple(dict.fromkeys(items))
