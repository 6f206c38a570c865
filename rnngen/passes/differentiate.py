"""differentiate: the adjoint of a step is a step.

Reverse-mode differentiation of one step of a cell gives a cell again. Its states are the adjoints of the states, its
inputs at step t are the incoming gradients of the outputs and the values of the forward step, its outputs are the
adjoints of the inputs and of every product, and it is scanned the other way in time:

    forward                          adjoint
    p  = U @ h                       d_a  = d_h * (1 - h' * h')          h' is recomputed or was saved
    a  = w + p                       d_h' = U.T @ d_a                    d_h is the state: the adjoint of h' at t
    h' = tanh(a)                     outputs d_w = d_a, d_p = d_a

A matrix gets no gradient inside the loop: `gradients` multiplies the adjoint of each product with the operand it had,
as one GEMM over all rows, after the scan. A vector or scalar that is used elementwise gets an accumulator, one more
state of the adjoint, so that every sum has a fixed order. What is not trained gets none of these.

The adjoint of a number is a number: what vectors pass back to it is summed over units. That of a parameter or of an
input may still be a vector, to be summed behind the scan: that costs less than a sum at every step.

Where a state has a bound, its adjoint is no derivative from there on: d_h' = min(max(U.T @ d_a, -bound), bound).
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import count, pairwise
from typing import NamedTuple

from rnngen.across import ACROSS, REDUCTIONS, is_flat
from rnngen.build import Builder
from rnngen.chain import Atom, atoms_of
from rnngen.equations import parse_expression
from rnngen.ir import (
    Binding,
    CellGraph,
    Differentiated,
    Shape,
    Split,
    State,
    Value,
    block_shape,
    blocks_of,
    origin,
    prune,
)
from rnngen.ops import OPS
from rnngen.passes.expand import thin

_PRIME = "'"
_CLIPPED = parse_expression("min(max(d, -b), b)")


def differentiate(program: Split) -> Differentiated:
    """The program with `adjoint` and `gradients`.

    Every value of the forward step is still in the adjoint, computed again from its leaves; what looks across units is
    an input, since it is never computed twice. The pass `save` decides what is kept instead.
    """
    work = _Differentiation(program.scan)
    return Differentiated(
        **vars(program),
        adjoint=work.adjoint(),
        gradients=work.gradients(),
        bindings=tuple(work.bindings),
        stream_gradients=work.stream_gradients(),
    )


class _Place(NamedTuple):
    """Where an adjoint is written: the label of an output, the value that it is, and the first of its blocks, None if
    all are the adjoint.
    """

    label: str
    value: str
    first: int | None = None

    @property
    def whole(self) -> bool:
        return self.first is None


class _Differentiation:
    """Walks the forward step backwards; `to` collects the adjoint step."""

    def __init__(self, scan: CellGraph):
        self.scan = scan
        self.forward = scan.by_name()
        self.thin = thin(scan)
        self.to = Builder()
        self.names = _forward_copies(scan, self.to)
        self.sums: dict[str, list[str]] = defaultdict(list)  # of each forward value: parts of its adjoint
        self.blocks: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))  # of each block of a pack
        self.labels: dict[str, str] = {}  # of each input and product: the label of its adjoint
        self.outputs: dict[str, str] = {}  # label: adjoint
        self.products: list[tuple[Value, str]] = []  # a product and the label of its adjoint
        self.accumulators: list[tuple[Value, State]] = []  # a parameter, or a block of one, and its state
        self.numbers: list[tuple[Value, str]] = []  # the same, and the label of its adjoint, a number at each step
        self.bounds = {state.name: state.bound for state in scan.states}
        self.carried: dict[str, str] = {}  # state: the adjoint state's leaf
        self.updates: dict[str, str] = {}  # state: the adjoint of its old value
        self.bindings = [Binding(leaf.name, "stream", leaf.name) for leaf in scan.leaves("input")]
        self._seed()
        self.active = self._active()
        for value in reversed(scan.values):
            if value.name in self.active:
                self._pass_back(value, self._total(value))
        if not self.outputs:  # conditions let no gradient through, and a scan has at least one output
            leaf = scan.leaves("input")[0]
            zeros = self.to.make("zeros", "mul", self.to.constant(0.0), self.bindings[-1].leaf)
            self._pass_back(leaf, zeros if blocks_of(leaf.shape) == 1 else self._stacked_zeros(leaf, zeros))

    def _stacked_zeros(self, leaf: Value, zeros: str) -> str:
        return self.to.make("zeros", "stack", *[zeros] * blocks_of(leaf.shape))

    def adjoint(self) -> CellGraph:
        states = [State(self.carried[state.name], self.updates[state.name]) for state in self.scan.states]
        states += [state for _, state in self.accumulators]
        outputs = tuple((place.label, value) for value, place in self.places.items() if place.whole)
        name = f"{self.scan.name} adjoint"
        values = tuple(self.to.values.values())
        graph = CellGraph(name, values, tuple(states), outputs, self.scan.heads, backwards=not self.scan.backwards)
        return prune(graph, keep_leaves=False)

    @cached_property
    def places(self) -> dict[str, "_Place"]:
        """Where each adjoint that is asked for is written: two that are one value once, and none that is some blocks
        of another, unless it is the gradient of an input.
        """
        labels: dict[str, str] = {}
        for label, value in self.outputs.items():
            labels.setdefault(value, label)
        atoms = {value: atoms_of(self.to.values, value) for value in labels}
        gradients = {
            self.outputs[self.labels[leaf.name]] for leaf in self.scan.leaves("input") if leaf.name in self.labels
        }
        found = {value: _Place(label, value) for value, label in labels.items()}
        for value in sorted(labels, key=lambda value: -len(atoms[value])):
            for other in labels:
                first = _first_of(atoms[value], atoms[other])
                if value not in gradients and other != value and found[other].whole and first is not None:
                    found[value] = _Place(labels[other], other, first)
        return found

    def _read(self, to: Builder, name: str, adjoint: str) -> str:
        """An adjoint in the graph of gradients. name: what to call it if it is some blocks of another."""
        label, pack, first = self.places[adjoint]
        leaf = to.leaf(Value(label, "input", shape=self.to.values[pack].shape))
        shape = self.to.values[adjoint].shape
        if first is None:
            return leaf
        if shape == block_shape(shape):
            return to.make(name, "pick", leaf, attribute=first)
        return to.make(name, "slice", leaf, attribute=(first, first + blocks_of(shape)))

    def stream_gradients(self) -> tuple[str | None, ...]:
        """For each input of the scan the label of the adjoint's output that is its gradient."""
        found = {name: self.places[self.outputs[label]].label for name, label in self.labels.items()}
        return tuple(found.get(leaf.name) for leaf in self.scan.leaves("input"))

    def gradients(self) -> CellGraph:
        """The gradient of each parameter of the scan that is trained, from streams over all rows."""
        to = Builder()
        forward = _forward_copies(self.scan, to)
        parts: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for value, adjoint in self.products:
            matrix, vector = value.operands
            d = self._read(to, self.labels[value.name], adjoint)
            # M @ v and M.T @ v pass a matrix of the same layout back, rows by columns.
            sides = (d, forward[vector]) if value.op == "matmul" else (forward[vector], d)
            product = to.make(f"d_{matrix}", "outer", *sides, origin(self.forward, matrix)[0].name)
            self._add_part(parts, matrix, product)
        summed = [(parameter, state.name, self.to.values[state.name].shape) for parameter, state in self.accumulators]
        summed += [(parameter, self.places[adjoint].label, ()) for parameter, adjoint in self.numbers]
        for parameter, name, shape in summed:
            leaf = to.leaf(Value(name, "input", shape=shape))
            total = to.keep(Value(to.fresh(f"{name}.total"), "total", (leaf,), parameter.shape))
            self._add_part(parts, parameter.name, total)
        leaves = [leaf for leaf in self.scan.leaves("parameter") if leaf.name not in self.scan.untrained]
        outputs = tuple((f"d_{leaf.name}", _assembled(to, leaf, parts[leaf.name])) for leaf in leaves)
        name = f"{self.scan.name} gradients"
        return prune(CellGraph(name, tuple(to.values.values()), (), outputs, self.scan.heads), keep_leaves=False)

    def _add_part(self, parts: dict[str, list[tuple[int, int, str]]], name: str, gradient: str) -> None:
        parameter, start = origin(self.forward, name)
        parts[parameter.name].append((start, start + blocks_of(self.forward[name].shape), gradient))

    def _seed(self) -> None:
        """The adjoints that come from outside: of the outputs, and of the states from the step after this one."""
        for label, value in self.scan.outputs:
            shape = self.forward[value].shape
            leaf = self.to.keep(Value(self.to.fresh(f"d_{label}"), "input", shape=shape))
            self.bindings.append(Binding(leaf, "gradient", label))
            self.sums[value].append(leaf)
        for state in self.scan.states:
            leaf = self.to.keep(Value(self.to.fresh(f"d_{state.name}"), "state", shape=self.forward[state.name].shape))
            self.carried[state.name] = leaf
            self.sums[state.update].append(leaf)

    def _active(self) -> set[str]:
        """Values with an adjoint: all but numbers, what has no derivative or is not trained, and what depends on these
        alone.
        """
        active: set[str] = set()
        for value in self.scan.values:
            leaf = value.op in ("input", "state", "parameter") and value.name not in self.scan.untrained
            if leaf or (not is_flat(value.op) and active.intersection(value.operands)):
                active.add(value.name)
        return active

    def _total(self, value: Value) -> str | None:
        """The adjoint of a value: the sum of its parts, in the order in which they came.

        That of a vector may be a number, which stands for each unit's.
        """
        label = f"d_{value.name.rstrip(_PRIME)}"
        parts = self.sums[value.name]
        if blocks := self.blocks[value.name]:
            sums = {number: self._sum(label, blocks[number]) for number in sorted(blocks)}
            some = next(iter(sums.values()))
            for number in range(blocks_of(value.shape)):
                if number not in sums:
                    sums[number] = self.to.make("zeros", "mul", self.to.constant(0.0), some)
            parts = [*parts, self.to.make(label, "stack", *(sums[number] for number in sorted(sums)))]
        if not parts:
            return None
        return self._sum(label, parts) if value.shape else self._number(label, parts, value)

    def _number(self, label: str, parts: list[str], value: Value) -> str:
        """The adjoint of a number, of parts that are numbers or vectors of any widths."""
        by_shape: dict[Shape, list[str]] = defaultdict(list)
        for part in parts:
            by_shape[self.to.values[part].shape].append(part)
        totals = {shape: self._sum(label, some) for shape, some in by_shape.items()}
        if len(totals) > 1 or not (value.op == "input" or value.name in self.thin):
            totals = {s: self.to.make(f"{label}.sum", "sum", total) if s else total for s, total in totals.items()}
        return self._sum(label, list(totals.values()))

    def _whole(self, name: str, shape: Shape) -> str:
        """An adjoint with the units of a vector."""
        if not shape or self.to.values[name].shape == shape:
            return name
        leaves = (leaf for op in ("state", "input") for leaf in self.to.values.values() if leaf.op == op)
        return self.to.make(name, "expand", name, next(leaf.name for leaf in leaves if leaf.shape == shape))

    def _sum(self, label: str, parts: list[str]) -> str:
        total = parts[0]
        for part in parts[1:]:
            total = self.to.make(label, "add", total, part)
        return total

    def _pass_back(self, value: Value, adjoint: str | None) -> None:
        if adjoint is not None and not self._is_row(value):
            adjoint = self._whole(adjoint, value.shape)
        if value.op == "state":  # what no gradient reaches is a vector of zeros and no number, for the targets' sake
            leaf = self.carried[value.name]
            if adjoint and (bound := self.bounds[value.name]):
                meaning = {"d": adjoint, "b": self.names[bound]}
                adjoint = self.to.expression(_CLIPPED, meaning, f"{leaf}.clipped")
            self.updates[value.name] = adjoint or self.to.make(f"{leaf}'", "mul", self.to.constant(0.0), leaf)
        elif adjoint is None:
            return
        elif value.op == "input":
            self.outputs[self._labelled(value)] = adjoint
        elif origin(self.forward, value.name)[0].op == "parameter" and self.to.values[adjoint].shape == ():
            self.outputs[self._labelled(value)] = adjoint
            self.numbers.append((value, adjoint))
        elif origin(self.forward, value.name)[0].op == "parameter":
            leaf = self.to.keep(Value(self.to.fresh(f"d_{value.name}"), "state", shape=self.to.values[adjoint].shape))
            self.accumulators.append((value, State(leaf, self.to.make(f"{leaf}'", "add", leaf, adjoint))))
        elif value.op == "pick":
            self.blocks[value.operands[0]][value.block].append(adjoint)
        elif value.op == "slice":
            for place, number in enumerate(range(*value.bounds)):
                block = self.to.make(f"d_{value.name}", "pick", adjoint, attribute=place)
                self.blocks[value.operands[0]][number].append(block)
        elif value.op == "stack":
            for number, operand in enumerate(value.operands):
                if operand in self.active:
                    block = self.to.make(f"d_{value.name}", "pick", adjoint, attribute=number)
                    self.sums[operand].append(block)
        elif self._is_row(value):
            self._pass_through_row(value, adjoint)
        else:
            self._pass_across(value, adjoint)

    def _is_row(self, value: Value) -> bool:
        """Whether its derivative by an operand is a factor, pointwise or of a number by each unit."""
        return value.op in OPS or value.op in REDUCTIONS

    def _pass_across(self, value: Value, adjoint: str) -> None:
        *matrices, operand = value.operands
        if self.active.intersection(matrices):
            self.outputs[self._labelled(value)] = adjoint
            self.products.append((value, adjoint))
        if operand in self.active:
            names = (self.names[matrix] for matrix in matrices)
            back = self.to.make(f"d_{operand}.{value.name}", ACROSS[value.op].back, *names, adjoint)
            self.sums[operand].append(back)

    def _labelled(self, value: Value) -> str:
        """A label for the adjoint of an input or a product, other than every name that the adjoint reads."""
        leaves = {leaf.name for leaf in self.to.values.values() if leaf.op in ("input", "state")}
        taken = leaves | self.forward.keys() | set(self.labels.values())
        stem = f"d_{value.name}"
        label = stem if stem not in taken else next(new for n in count(1) if (new := f"{stem}.{n}") not in taken)
        self.labels[value.name] = label
        return label

    def _pass_through_row(self, value: Value, adjoint: str) -> None:
        row = OPS.get(value.op) or ACROSS[value.op]
        meaning = dict(zip(row.operands.split(), (self.names[o] for o in value.operands), strict=True))
        meaning["y"] = self.names[value.name]
        if value.op in ACROSS:
            (dimension,) = self.forward[value.operands[0]].shape
            meaning["share"] = self.to.leaf(Value(f"share({dimension})", "share", attribute=dimension))
        for operand, partial in zip(value.operands, row.partials, strict=True):
            if operand in self.active and partial:
                label = f"d_{operand.rstrip(_PRIME)}"
                factor = self.to.expression(parse_expression(partial), meaning, f"{label}.1")
                if self.to.number(factor) != 0:
                    part = self.to.make(label, "mul", adjoint, factor)
                    number = self.forward[operand].shape == ()  # to which each unit adds
                    self.sums[operand].append(self._whole(part, value.shape) if number else part)


def _first_of(run: Sequence[Atom], atoms: Sequence[Atom]) -> int | None:
    """Where a run of blocks begins among others; None if it is not among them, or all of them."""
    starts = range(len(atoms) - len(run) + 1) if len(run) < len(atoms) else ()
    return next((first for first in starts if atoms[first : first + len(run)] == run), None)


def _forward_copies(scan: CellGraph, to: Builder) -> dict[str, str]:
    """The forward step in another graph: of states and of what looks across units, which are inputs."""
    names: dict[str, str] = {}
    for value in scan.values:
        if value.op == "state" or value.op in ACROSS:
            names[value.name] = to.keep(Value(value.name, "input", shape=value.shape, origin=value.origin))
        else:
            names[value.name] = to.copy(value, names)
    return names


def _assembled(to: Builder, leaf: Value, parts: list[tuple[int, int, str]]) -> str:
    """One gradient from those of parts of the parameter, which may overlap; zero where a condition alone uses it."""
    blocks = blocks_of(leaf.shape)
    bounds = sorted({0, blocks}.union(*({start, stop} for start, stop, _ in parts)))
    pieces = []
    for low, high in pairwise(bounds):
        here = [part for part in parts if part[0] <= low and high <= part[1]]
        packed = any(blocks_of(to.values[part].shape) > 1 for _, _, part in here)
        total = ""
        for start, _, part in here:
            if blocks_of(to.values[part].shape) > 1:
                part = to.make(f"{part}[{low}:{high}]", "slice", part, attribute=(low - start, high - start))
            elif packed:  # a slice is a pack even of one block
                part = to.make(f"{part}.alone", "join", part)
            total = to.make(f"d_{leaf.name}", "add", total, part) if total else part
        if not total:
            part = leaf.name
            if blocks > 1:
                part = to.make(f"{part}[{low}:{high}]", "slice", part, attribute=(low, high))
            total = to.make("zeros", "mul", to.constant(0.0), part)
        pieces.append(total)
    return pieces[0] if len(pieces) == 1 else to.make(f"d_{leaf.name}", "join", *pieces)
