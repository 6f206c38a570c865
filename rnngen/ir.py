"""Values and cells: the one form that every pass reads and writes.

A `CellGraph` is one step of a recurrence in single-assignment form: a tuple of `Value`s in an order in which every
operand stands before its use. Forward steps, adjoint steps, and the stateless graphs before and after a scan are all
`CellGraph`s, so one printer, one verifier and one emitter serve them.

Shapes name dimensions ("hidden", "inputs") rather than numbers: one graph serves every size. A leading integer says
that the value is a pack of that many equal blocks, as the four gates of an LSTM in one `weight_ih`.

Operations are the rows of `ops.OPS`, `across.ACROSS` and `matrices.MATRICES`, and these structural ones:

    input, state, parameter     leaves; a state's leaf is its value at t-1
    constant                    a leaf; `attribute` is its number
    share                       a leaf; 1 by the number of units of the dimension `attribute`
    mask                        a leaf that may be absent: a number for each element of the batch, 0 where the step does
                                not count
    pick                        block `attribute` of a pack
    slice                       blocks `attribute[0]` up to `attribute[1]` of a pack, again a pack
    stack                       vectors to a pack
    join                        packs and blocks, one after another, to a longer pack
    outer                       the sum over all rows of d v.T, laid out like a parameter, the third operand
    total                       the sum over all rows, down to the shape that the value has
    expand                      the first operand, a number or a parameter, with the axes of the second
    kept                        by a mask, the second operand where a step counts and the third where it does not
    or_zero                     by a mask, the second operand where a step counts and zero where it does not
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rnngen.runtime.drawn import Drawn
from rnngen.runtime.memory import KINDS
from rnngen.source import Span

Shape = tuple[str | int, ...]

LEAVES = frozenset({"input", "state", "parameter", "constant", "share", "mask"})
CHOICES = frozenset({"kept", "or_zero"})
STRUCTURAL = frozenset({"pick", "slice", "stack", "join", "outer", "total", "expand"}) | CHOICES
VIEWS = frozenset({"pick", "slice"})


@dataclass(frozen=True, slots=True)
class Value:
    """One definition. Where it came from is carried along but is no part of what it is.

    attribute: what an operation has beside its operands, by the kind of value: see `number`, `dimension`, `block` and
    `bounds`.
    """

    name: str
    op: str
    operands: tuple[str, ...] = ()
    shape: Shape = ()
    attribute: float | int | str | tuple[int, int] | None = None
    origin: Span | None = field(default=None, compare=False, repr=False)

    @property
    def number(self) -> float:
        """What a constant is."""
        assert self.op == "constant" and isinstance(self.attribute, float | int)
        return self.attribute

    @property
    def dimension(self) -> str:
        """The dimension whose units `share` counts."""
        assert self.op == "share" and isinstance(self.attribute, str)
        return self.attribute

    @property
    def block(self) -> int:
        """Which block a pick is."""
        assert self.op == "pick" and isinstance(self.attribute, int)
        return self.attribute

    @property
    def bounds(self) -> tuple[int, int]:
        """The first block of a slice, and the one behind its last."""
        assert self.op == "slice" and isinstance(self.attribute, tuple)
        return self.attribute


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor as the user declared it: `blocks` equal blocks of `shape`, stacked on dimension 0.

    It is learned if it is `trained`. One that is a `bias` is not there in a layer with bias=False. Block-diagonal
    matrices (`heads`) are stored as heads square blocks: a stack of k of them has the torch shape (k * heads, rows /
    heads, columns / heads).
    """

    name: str
    shape: tuple[str, ...]
    blocks: tuple[str, ...]
    init: tuple[str | float, ...]
    heads: bool = False
    bias: bool = False
    trained: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """A value carried over time: the leaf `name` holds it at t-1, `update` is its value at t.

    bound: the parameter, a number, at which the gradient is cut off that passes from a step to the one before; "" if it
    passes as it is.
    """

    name: str
    update: str
    bound: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Equation:
    """A line of the user's, kept for the comments of the emitted code. targets: the values that it defines, blocks one
    by one.
    """

    targets: tuple[str, ...]
    text: str
    place: str = field(compare=False, default="")


@dataclass(frozen=True)
class CellGraph:
    """One step. outputs: (label, value) pairs. heads: names of the parameters that are block-diagonal. backwards:
    whether it is an adjoint, which is scanned the other way. untrained: names of the parameters that have no gradient,
    and of the inputs.
    """

    name: str
    values: tuple[Value, ...]
    states: tuple[State, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    heads: frozenset[str] = frozenset()
    backwards: bool = False
    untrained: frozenset[str] = frozenset()

    def by_name(self) -> dict[str, Value]:
        return {value.name: value for value in self.values}

    def leaves(self, op: str) -> tuple[Value, ...]:
        return tuple(value for value in self.values if value.op == op)

    def users(self) -> dict[str, list[Value]]:
        users: dict[str, list[Value]] = {value.name: [] for value in self.values}
        for value in self.values:
            for operand in dict.fromkeys(value.operands):
                users[operand].append(value)
        return users

    def only_users(self) -> dict[str, Value]:
        """For each value that one operand of one other value is, and no state or output, that other value."""
        roots = set(self.roots())
        found = {name: users[0] for name, users in self.users().items() if len(users) == 1 and name not in roots}
        return {name: user for name, user in found.items() if user.operands.count(name) == 1}

    def roots(self) -> tuple[str, ...]:
        return tuple(state.update for state in self.states) + tuple(value for _, value in self.outputs)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where the adjoint scan finds one of its per-step inputs.

    kind: "stream" an input of the forward scan, "again" one that is not kept if it can be made once more, "output" one
    of its outputs, "previous" that output one step earlier (a state's old value), "saved" the pack it stored for this
    purpose, "gradient" the incoming gradient of an output, "made" an output of the graph `again`.
    """

    leaf: str
    kind: str
    name: str


# What a cell is on its way through the passes, as far as it has come. Each form has all that the one before it had.


@dataclass(frozen=True, kw_only=True)
class Program:
    """cell: the step as a whole. outputs: its names for what it gives. lines: the states that `lag` makes, each with
    the name of what it was. wrappers: what `wrap` puts around it, the first innermost. drawn: what a layer gives those
    by rates. kept: the kind of `runtime.memory` that says what the scan stores for its adjoint.
    """

    cell: CellGraph
    parameters: tuple[Parameter, ...]
    equations: tuple[Equation, ...] = ()
    outputs: tuple[str, ...] = ()
    lines: Mapping[str, str] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    drawn: tuple[Drawn, ...] = ()
    kept: str = KINDS[0]

    def graphs(self) -> dict[str, CellGraph]:
        """The graphs that the next pass works on, by name, in the order in which a training step runs them."""
        return {"cell": self.cell}


@dataclass(frozen=True, kw_only=True)
class Packed(Program):
    """described: the step before any product was packed, for the reference."""

    described: CellGraph


@dataclass(frozen=True, kw_only=True)
class Split(Packed):
    """once: what is computed once a call. before, after: what is computed for all rows at once. scan: the loop.

    The states of `before` are the `delays`: there too a state's leaf is its value at t-1.
    results: what `after` calls the outputs of the scan, in their order.
    """

    once: CellGraph
    before: CellGraph
    scan: CellGraph
    after: CellGraph
    results: tuple[str, ...]

    def graphs(self) -> dict[str, CellGraph]:
        return {"once": self.once, "before": self.before, "scan": self.scan, "after": self.after}


@dataclass(frozen=True, kw_only=True)
class Differentiated(Split):
    """stand_ins: by a value of the scan another one that its adjoint may read instead, since they are equal where it
    has a gradient. stream_gradients: for each input of the scan its gradient among the adjoint's outputs, of a number
    perhaps a vector whose sum over units it is. again: what is made once more for many steps at once, which the adjoint
    then reads.
    """

    adjoint: CellGraph
    gradients: CellGraph
    bindings: tuple[Binding, ...]
    stream_gradients: tuple[str | None, ...]
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    again: CellGraph = field(default_factory=lambda: CellGraph("again", ()))

    def graphs(self) -> dict[str, CellGraph]:
        return {**super().graphs(), "again": self.again, "adjoint": self.adjoint, "gradients": self.gradients}


def blocks_of(shape: Shape) -> int:
    """How many blocks a value of this shape packs; 1 for one that is no pack."""
    return shape[0] if shape and isinstance(shape[0], int) else 1


def block_shape(shape: Shape) -> Shape:
    """The shape of one block."""
    return shape[1:] if shape and isinstance(shape[0], int) else shape


def dimension_of(value: Value) -> str:
    """What a vector is as wide as, "" of a number."""
    return "".join(map(str, value.shape))


def is_matrix(shape: Shape) -> bool:
    """Whether a value of this shape is one matrix."""
    return len(shape) == 2 and shape == block_shape(shape)


def viewed(value: Value) -> range:
    """The blocks of a pack that a view shows."""
    return range(*value.bounds) if value.op == "slice" else range(value.block, value.block + 1)


def origin(definitions: Mapping[str, Value], name: str) -> tuple[Value, int]:
    """What a value is a view of, at whatever remove, and which of its blocks comes first; itself if it is no view."""
    value, first = definitions[name], 0
    while value.op in VIEWS:
        first += viewed(value)[0]
        value = definitions[value.operands[0]]
    return value, first


def reaching(graph: CellGraph, seeds: set[str]) -> set[str]:
    """Names of the values that depend on any of `seeds`, these included."""
    found = set(seeds)
    for value in graph.values:
        if not found.isdisjoint(value.operands):
            found.add(value.name)
    return found


def delays(graph: CellGraph) -> tuple[State, ...]:
    """The states that take no part in the recurrence: no state has a part in their new value, but others of these.

    Their old values over all steps are their new ones, one step later, so that they need no loop. But a loop has an
    input at each step, and a state: where it would have none, those that are hidden wide stay in it.
    """
    found = _delays(graph, frozenset())
    left = {state.update for state in graph.states if state.name not in found}
    if found and needed_over_time(graph, left).isdisjoint(leaf.name for leaf in graph.leaves("input")):
        found = _delays(graph, frozenset(leaf.name for leaf in graph.leaves("state") if leaf.shape == ("hidden",)))
    return tuple(state for state in graph.states if state.name in found)


def carried(graph: CellGraph) -> tuple[State, ...]:
    """The states of the recurrence: all but `delays`."""
    outside = delays(graph)
    return tuple(state for state in graph.states if state not in outside)


def _delays(graph: CellGraph, kept: frozenset[str]) -> set[str]:
    """Names of such states, `kept` aside."""
    inputs = {leaf.name for leaf in graph.leaves("input")}
    found: set[str] = set()
    while True:
        varying = reaching(graph, inputs | found)
        recurrent = reaching(graph, {state.name for state in graph.states} - found)
        more = {s.name for s in graph.states if s.update in varying and s.update not in recurrent} - kept
        if more == found:
            return found
        found = more


def block_diagonal(graph: CellGraph) -> set[str]:
    """Names of the matrices that are block-diagonal: parameters, and what is made of them."""
    found = set(graph.heads)
    for value in graph.values:
        if len(block_shape(value.shape)) == 2 and not found.isdisjoint(value.operands):
            found.add(value.name)
    return found


def learned(graph: CellGraph) -> set[str]:
    """Names of the values that depend on a parameter that is trained."""
    return reaching(graph, {leaf.name for leaf in graph.leaves("parameter")} - graph.untrained)


def needed(graph: CellGraph, roots: set[str]) -> set[str]:
    """Names of the values that `roots` depend on, these included."""
    found = set(roots)
    for value in reversed(graph.values):
        if value.name in found:
            found.update(value.operands)
    return found


def needed_over_time(graph: CellGraph, roots: set[str]) -> set[str]:
    """Names of the values that `roots` depend on, at this step or at an earlier one."""
    found: set[str] = set()
    while found != roots:
        found = roots
        roots = needed(graph, found | {state.update for state in graph.states if state.name in found})
    return found


def prune(graph: CellGraph, *, keep_leaves: bool = True) -> CellGraph:
    """Without the values that nothing needs; leaves other than numbers are an interface and stay if asked."""
    alive = needed(graph, set(graph.roots()))
    interface = LEAVES - {"constant", "share"} if keep_leaves else {"state"}
    values = tuple(v for v in graph.values if v.name in alive or v.op in interface)
    return graph if len(values) == len(graph.values) else replace(graph, values=values)
