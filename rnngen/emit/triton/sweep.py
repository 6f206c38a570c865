"""A chain in Triton: the functions of its stages, and what the templates of the schedules place.

A value that packs several blocks is a tuple in a kernel, one that does not is the block itself. Blocks that nothing
reads are in neither, and are not loaded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby

from rnngen.chain import Across, Atom, Chain, Matrices, atoms_of, unique
from rnngen.emit.stage import FunctionText, by_value, stage_function
from rnngen.emit.statements import Names, identifier
from rnngen.emit.triton.spelling import SPELLING
from rnngen.ir import CellGraph, Equation, Shape, block_shape
from rnngen.runtime.plan import SAVED_NUMBERS, letter_of


@dataclass(frozen=True, slots=True)
class CallText:
    """A stage where it is called."""

    name: str
    arguments: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadText:
    """What is read of a tensor. target: one name, or a tuple of one. runs: neighbouring blocks, as (first, count) each.

    total: the blocks of a row; width: the units of a block, "" for a number, which a vector of one unit can hold.
    """

    target: str
    pointer: str
    runs: tuple[tuple[int, int], ...]
    total: int
    width: str

    def by(self, call: str) -> str:
        """The call of a function for each run; together they are one tuple."""
        about = {"pointer": self.pointer, "total": self.total} | _units(self.width)
        return " + ".join(call.format(first=first, count=count, **about) for first, count in self.runs)


@dataclass(frozen=True, slots=True)
class StateText:
    """A state. pointer: to its initial value; last: to where its last value goes; new: what a step makes of it."""

    name: str
    pointer: str
    last: str
    new: str
    width: str

    @property
    def units(self) -> str:
        return _units(self.width)["units"]

    @property
    def own(self) -> str:
        return _units(self.width)["own"]


@dataclass(frozen=True, slots=True)
class ResetsText:
    """What resets do to states. A step forwards begins with them, one of an adjoint ends with them.

    pointer: to the flags of all boundaries; flag: the name of those of one. first_pointer: to what states return to, or
    where its gradient goes; firsts: the names of these, state by state, and what they are before and after a step.
    returned: the states after a reset. count: of the states. widths: of each.
    """

    backwards: bool
    pointer: str
    flag: str
    first_pointer: str
    count: int
    states: tuple[str, ...]
    firsts: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    returned: tuple[str, ...]
    widths: tuple[str, ...]

    def by(self, call: str) -> tuple[str, ...]:
        """The calls of a function of tiles for all that states return to: one, or one for each width beside another.

        Of several widths a row has blocks of one unit, among which a state is as many as it has units.
        """
        if len(set(self.widths)) < 2:
            about = {"pointer": self.first_pointer, "firsts": f"({', '.join(self.firsts)},)", "count": self.count}
            return (call.format(total=self.count, **about, **_units(self.widths[0])),)
        total, calls = " + ".join(self.widths), []
        for number, (name, width) in enumerate(zip(self.firsts, self.widths, strict=True)):
            pointer = " + ".join((self.first_pointer, *self.widths[:number]))
            own = _units(width)["own"]
            about = {"units": f"1, {own}", "stride": "1", "own": own}
            calls.append(call.format(pointer=pointer, firsts=f"({name},)", count=1, total=total, **about))
        return tuple(calls)


@dataclass(frozen=True, slots=True)
class MatricesText:
    """Matrices `start` up to `start + count` of a parameter, as an operation applies them. rows, columns: of one."""

    name: str
    op: str
    pointer: str
    start: int
    count: int
    rows: str
    columns: str


@dataclass(frozen=True, slots=True)
class AcrossText:
    """An operation across units. matrices: the name of those that it applies; count: of these, or of what is reduced.
    target, operand: the one block that it gives or takes; targets, operands: all of them. width: the units of
    a block that it takes; own: those of one head. run: a name for what a schedule binds to the target, if it does.
    """

    op: str
    matrices: str
    count: int
    target: str
    targets: str
    operand: str
    operands: str
    width: str
    run: str = ""

    @property
    def own(self) -> str:
        return _units(self.width)["own"]

    def by(self, forms: Mapping[str, str], schedule: str, **more: object) -> str:
        """The line of a schedule that has a form for each operation. more: what else a form asks for.

        Raises LookupError where it has none.
        """
        if self.op not in forms:
            raise LookupError(f"templates/triton/{schedule}.py.jinja does not say how to write '{self.op}'")
        about = {field.name: getattr(self, field.name) for field in fields(self)}
        return forms[self.op].format(own=self.own, **about, **more)


@dataclass(frozen=True, slots=True)
class StoreText:
    """Neighbouring blocks of an output, from the block `first` on. atoms: a tuple. late: the same in the next step.

    still: the state that it is the new value of, if it is one: what it has at steps that are not run.
    """

    pointer: str
    atoms: str
    first: int
    total: int
    width: str
    late: str = ""
    still: StateText | None = None

    @property
    def unit(self) -> str:
        return _units(self.width)["unit"]

    @property
    def units(self) -> str:
        return _units(self.width)["units"]

    @property
    def own(self) -> str:
        return _units(self.width)["own"]

    def by(self, call: str) -> str:
        """The call of a function that fills it."""
        state, first = (self.still.name, self.still.pointer) if self.still else (None, None)
        return call.format(pointer=self.pointer, total=self.total, state=state, first=first, **_units(self.width))


def _units(width: str) -> dict[str, str]:
    """The units of a block and how many there are, for a function that takes vectors; for one that takes tiles how many
    in all, and of one head. stride: from a block of a row to the next. Only hidden units come in heads.
    """
    if not width:
        return {"unit": "one", "width": "1", "units": "1, 1", "own": "1", "stride": "1"}
    own = "D" if width == "H" else width
    return {"unit": "unit", "width": width, "units": f"{width}, {own}", "own": own, "stride": width}


@dataclass(frozen=True, slots=True)
class LateText:
    """What keeps an atom until the next step stores it. Each has a name of its own: beside a tuple that is carried
    Triton makes no asynchronous copies. initial: what it is before the first step, a tile like any other.
    """

    name: str
    atom: str
    initial: str


@dataclass(frozen=True, slots=True)
class LinkText:
    """A part of the chain: what looks across units, then a stage where it is called, if it computes anything."""

    across: tuple[AcrossText, ...]
    call: CallText | None


class SweepText:
    """One direction of a scan, for the templates.

    within: the sweep in whose kernel a chain stands that is only a part of it, with its names.
    """

    def __init__(
        self, chain: Chain, prefix: str, equations: tuple[Equation, ...] = (), within: "SweepText | None" = None
    ):
        self.chain, self.prefix, self.equations = chain, prefix, equations
        self.values = chain.values
        blocks: dict[str, set[int]] = {}
        for atom in self._seen():
            blocks.setdefault(atom.value, set()).add(atom.block)
        self.read = {name: tuple(sorted(numbers)) for name, numbers in blocks.items()}  # all of it that anything uses
        self.names: Names = within.names if within else Names([self._visible()], SPELLING.reserved)
        if within:
            self.read |= within.read
            return
        self.names.claim(atom.value for atom in self._seen() if self.values[atom.value].op != "constant")

    # Names.

    def _seen(self) -> Iterable[Atom]:
        """Every atom that is seen outside the stages."""
        for link in self.chain.links:
            for across in link.across:
                yield from (*across.operand, *across.gives)
            yield from (*link.stage.takes, *link.stage.gives)
        for write in self.chain.writes:
            yield from write.atoms
        for state, atom in self.chain.states:
            yield from (Atom(state, 0), atom)

    def _visible(self) -> CellGraph:
        seen = {atom.value for atom in self._seen()}
        values = (v for v in self.chain.graph.values if v.name in seen or v.op in ("input", "mask"))
        return CellGraph(self.prefix, tuple(v for v in values if v.op != "constant"))

    def text(self, atom: Atom) -> str:
        """An atom in a kernel."""
        name, blocks = self.names[atom.value], self.read[atom.value]
        if len(blocks) > 1:
            return f"{name}[{blocks.index(atom.block)}]"
        return name if self.chain.blocks(atom.value) == 1 else self._block(atom)

    def _block(self, atom: Atom) -> str:
        """A block of a pack by itself: the name that the user gave it, or the pack's with its number."""
        picks = (v for v in self.values.values() if v.op == "pick" and atoms_of(self.values, v.name) == (atom,))
        return next((self.names[v.name] for v in picks if "." not in v.name), self.names.block(*atom))

    def tuple_text(self, atoms: Sequence[Atom]) -> str:
        """Atoms as a tuple; by its name if that is what they are."""
        value = atoms[0].value
        if len(atoms) > 1 and atoms == tuple(Atom(value, block) for block in self.read[value]):
            return self.names[value]
        return f"({', '.join(map(self.text, atoms))}{',' if len(atoms) == 1 else ''})"

    def _target(self, value: str) -> str:
        """What is assigned where a value is loaded or computed: a tuple."""
        blocks = self.read[value]
        return self.names[value] if len(blocks) > 1 else f"({self.text(Atom(value, blocks[0]))},)"

    def pointer(self, leaf: str) -> str:
        stem = self.names[leaf] if "." in leaf else identifier(leaf)
        return self.names.made(("pointer", leaf), f"{stem}_ptr")

    def output(self, label: str) -> str:
        return self.names.made(("pointer", "output", label), f"{identifier(label)}_ptr")

    def _last(self, state: str) -> str:
        return self.names.made(("pointer", "last", state), f"{self.names[state]}_last_ptr")

    def width(self, name: str) -> str:
        """The units of a block, as a kernel has them."""
        return " * ".join(map(letter_of, self.chain.width(name)))

    # What the templates place.

    @cached_property
    def pointers(self) -> tuple[str, ...]:
        """The arguments of a kernel for the whole sequence: inputs, the mask, resets and what they return to, states,
        parameters, outputs, last states.
        """
        graph = self.chain.graph
        streams = [leaf.name for op in ("input", "mask") for leaf in graph.leaves(op)]
        others = [leaf.name for op in ("state", "parameter") for leaf in graph.leaves(op)]
        outputs = [self.output(write.label) for write in self.chain.writes]
        last = [self._last(state) for state, _ in self.chain.states]
        resets = (self.resets.pointer, self.resets.first_pointer)
        return (*map(self.pointer, streams), *resets, *map(self.pointer, others), *outputs, *last)

    @cached_property
    def wide(self) -> tuple[str, ...]:
        """The pointers to what has the type of the accumulators."""
        first = [self.resets.first_pointer] if self.resets.backwards else []
        read = [self.pointer(leaf.name) for leaf in self.chain.graph.leaves("input") if is_wide(leaf.shape)]
        written = [self.output(write.label) for write in self.chain.writes if write.label == SAVED_NUMBERS]
        return (*first, *read, *written)

    @cached_property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions of what is read and written, as constants of a kernel."""
        names = [atom.value for atom in self._seen() if self.values[atom.value].op != "constant"]
        found = {dimension for name in names for dimension in self.chain.width(name)}
        return tuple(letter_of(dimension) for dimension in sorted(found, key=_place))

    @property
    def others(self) -> tuple[str, ...]:
        """The dimensions beside the hidden units, which come in heads."""
        return tuple(letter for letter in self.dimensions if letter != "H")

    @cached_property
    def mask(self) -> str:
        return self.names[self.chain.mask]

    @cached_property
    def mask_pointer(self) -> str:
        return self.pointer(self.chain.mask)

    @cached_property
    def resets(self) -> ResetsText:
        flag = self.names.made(("reset",), "reset")
        states = tuple(self.names[state] for state in self.chain.returned)
        firsts = tuple(self.names.made(("first", state), f"{state}_first") for state in states)
        pairs = tuple(zip(states, firsts, strict=True))
        backwards = self.chain.graph.backwards
        return ResetsText(
            backwards=backwards,
            pointer=self.names.made(("reset", "pointer"), "resets_ptr"),
            flag=flag,
            first_pointer=self.names.made(("reset", "first"), "first_ptr"),
            count=len(states),
            widths=tuple(map(self.width, self.chain.returned)),
            states=states,
            firsts=firsts,
            before=tuple(f"tl.zeros_like({state})" for state in states),
            after=tuple(f"{first} + or_zero({flag}, {state})" for state, first in pairs),
            returned=tuple(
                f"cut({flag}, {state})" if backwards else f"begun({flag}, {first}, {state})" for state, first in pairs
            ),
        )

    @cached_property
    def streams(self) -> tuple[LoadText, ...]:
        return tuple(self.load(name, self.pointer(name)) for name, blocks in self.chain.streams if blocks)

    @cached_property
    def has_numbers(self) -> bool:
        """Whether it reads or writes one for each element of the batch."""
        return has_numbers(self.streams, [store for when in ("always", "keep", "save") for store in self.stores(when)])

    @cached_property
    def vectors(self) -> tuple[LoadText, ...]:
        return tuple(self.load(name, self.pointer(name)) for name in unique(a.value for a in self.chain.vectors))

    def load(self, name: str, pointer: str) -> LoadText:
        runs = runs_of(self.read[name])
        return LoadText(self._target(name), pointer, runs, self.chain.blocks(name), self.width(name))

    @cached_property
    def states(self) -> tuple[StateText, ...]:
        return tuple(
            StateText(self.names[name], self.pointer(name), self._last(name), self.text(atom), self.width(name))
            for name, atom in self.chain.states
        )

    @cached_property
    def links(self) -> tuple[LinkText, ...]:
        return tuple(
            LinkText(tuple(self._together(link.across)), self.call(number))
            for number, link in enumerate(self.chain.links)
        )

    @cached_property
    def matrices(self) -> tuple[MatricesText, ...]:
        """What is applied, each once."""
        return unique(self._applied(across.matrices, across.op) for across in self.chain.across if across.matrices)

    def _together(self, across: Sequence[Across]) -> Iterator[AcrossText]:
        """What looks across units at once: each product, and all reductions of one kind, which wait for one another."""
        kinds: dict[tuple[str, str], list[AcrossText]] = {}
        for one in across:
            text = self.across(one)
            kinds.setdefault((one.op, one.name if one.matrices else text.width), []).append(text)
        for first, *others in kinds.values():
            if others:
                targets = ", ".join(text.target for text in (first, *others))
                operands = ", ".join(text.operand for text in (first, *others))
                first = replace(first, count=1 + len(others), targets=targets, operands=f"({operands})")
            yield first

    def across(self, across: Across) -> AcrossText:
        return AcrossText(
            op=across.op,
            matrices=self._applied(across.matrices, across.op).name if across.matrices else "",
            count=across.matrices.count if across.matrices else 1,
            target=self.text(across.gives[0]),
            targets=self._target(across.name),
            operand=self.text(across.operand[0]),
            operands=self.tuple_text(across.operand),
            width=self.width(across.operand[0].value),
        )

    def _applied(self, of: Matrices, op: str) -> MatricesText:
        key = ("matrices", of.parameter, str(of.start), str(of.count), op)
        part = "" if of.count == self.chain.blocks(of.parameter) else f"_{of.start}"
        name = self.names.made(key, f"{identifier(of.parameter)}{part}")
        sides = (_units(letter_of(dimension))["own"] for dimension in self.chain.width(of.parameter))
        return MatricesText(name, op, self.pointer(of.parameter), of.start, of.count, *sides)

    def stores(self, when: str) -> tuple[StoreText, ...]:
        """The outputs that are written "always", or only to "keep" or to "save" something."""
        writes = [write for write in self.chain.writes if write.when == when]
        stores = ((write, self.store(self.output(write.label), write.atoms, 0, len(write.atoms))) for write in writes)
        states: dict[tuple[Atom, ...], StateText] = {
            (atom,): state for (_, atom), state in zip(self.chain.states, self.states, strict=True)
        }
        return tuple(
            replace(store, late=self._late_text(write.atoms), still=states.get(write.atoms)) for write, store in stores
        )

    def _late_text(self, atoms: Sequence[Atom]) -> str:
        names = [self.late[atom].name for atom in atoms if self.late]
        return f"({', '.join(names)}{',' if len(names) == 1 else ''})"

    def store(self, pointer: str, atoms: tuple[Atom, ...], first: int, total: int) -> StoreText:
        return StoreText(pointer, self.tuple_text(atoms), first, total, self.width(atoms[0].value))

    @cached_property
    def late(self) -> Mapping[Atom, LateText]:
        """The atoms of all outputs, if a step begins with what looks across units of the states: they may be stored
        during the next step then.
        """
        states = {state: Atom(state, 0) for state, _ in self.chain.states}
        ahead = {atom for link in self.chain.links[1:2] for across in link.across for atom in across.operand}
        if not ahead & set(states.values()):
            return {}
        before = {atom: states[state] for state, atom in self.chain.states} | {atom: atom for atom in states.values()}
        some = next(iter(states.values()))
        return {
            atom: LateText(
                self._late_name(atom),
                self.text(atom),
                self.text(before.get(atom, some)) if self.width(atom.value) else "tl.zeros([1, BB], ACC)",
            )
            for atom in unique(atom for write in self.chain.writes for atom in write.atoms)
        }

    def _late_name(self, atom: Atom) -> str:
        name = self.names[atom.value] if self.chain.blocks(atom.value) == 1 else self._block(atom)
        return self.names.made(("late", atom.value, str(atom.block)), f"{name}_late")

    # Stages.

    def call(self, number: int) -> CallText | None:
        """The call of a stage with what a kernel has."""
        stage = self.chain.links[number].stage
        if not stage.values:
            return None
        arguments = [self._argument(value, blocks) for value, blocks in by_value(stage.takes)]
        arguments += [self.mask] if stage.masked else []
        arguments += self._constants(self._function(number).arguments)
        return CallText(self._stage_name(number), tuple(arguments), tuple(map(self.text, stage.gives)))

    def _argument(self, value: str, blocks: tuple[int, ...]) -> str:
        return self.names[value] if len(blocks) > 1 else self.text(Atom(value, blocks[0]))

    def _stage_name(self, number: int) -> str:
        alone = sum(bool(link.stage.values) for link in self.chain.links) == 1
        return self.prefix if alone else f"{self.prefix}_{number}"

    @cached_property
    def functions(self) -> tuple[FunctionText, ...]:
        """The stages that compute anything."""
        return tuple(self._function(n) for n, link in enumerate(self.chain.links) if link.stage.values)

    def _function(self, number: int) -> FunctionText:
        """A stage, with the constants that it asks for."""
        stage, name = self.chain.links[number].stage, self._stage_name(number)
        made = stage_function(self.chain, stage, name, SPELLING, self.read, self.equations)
        asked = [f"{constant}: tl.constexpr" for constant in self._constants((*made.lines, *made.returns))]
        return replace(made, arguments=(*made.arguments, *asked))

    def _constants(self, lines: Iterable[str]) -> list[str]:
        """Those that lines have the names of: the type of the accumulators, and how many units there are."""
        shares = {value.dimension for value in self.values.values() if value.op == "share"}
        names = ("ACC", *map(letter_of, sorted(shares)))
        return [name for name in names if any(re.search(rf"^[^#]*\b{name}\b", line) for line in lines)]


def has_numbers(loads: Iterable[LoadText], stores: Iterable[StoreText]) -> bool:
    """Whether any is of a number for each element of the batch."""
    return not (all(load.width for load in loads) and all(store.width for store in stores))


def is_wide(shape: Shape) -> bool:
    """Whether an input has the type of the accumulators: a number, or a pack of them that a scan has stored."""
    return block_shape(shape) == ()


def _place(dimension: str) -> tuple[bool, bool, str]:
    """Where a dimension stands among others."""
    return dimension != "hidden", dimension != "inputs", dimension


def runs_of(blocks: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Neighbouring blocks as (first, count)."""
    pairs = groupby(enumerate(blocks), key=lambda pair: pair[1] - pair[0])
    runs = [[block for _, block in group] for _, group in pairs]
    return tuple((run[0], len(run)) for run in runs)
