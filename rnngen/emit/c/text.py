"""A chain in C: a function for each stage, and what the template of the loop over time places.

Everything that lies in memory is seen row by row: of a tensor over time the row of a step and an element of the batch,
of what a step keeps for itself that of the element alone. A stage is a function of such rows, with a loop over their
units.

Only a product takes all rows of a thread at once, since it reads its matrices once for several. What lies between two
products, stages and sums over units, is run for a few rows and then for the next few: what they pass on to one another
stays in the first cache. That takes an eighth off a layer norm's LSTM's adjoint.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rnngen.chain import Across, Atom, Chain, Stage, Write, atoms_of, unique
from rnngen.emit.c.spelling import FAR, FUNCTIONS, REMAINDER, REMAINDER_NEAR, SPELLING
from rnngen.emit.stage import graph_of
from rnngen.emit.statements import Names, identifier, statements
from rnngen.emit.statements import number as whole
from rnngen.ir import Equation, Shape, Value, block_shape, blocks_of
from rnngen.ops import COMPARISONS
from rnngen.runtime.plan import letter_of

_FUNCTIONS = FUNCTIONS - {"R"}  # which is how a number is written
_OF_STEP = "row + {0}"  # the row of a step, of a tensor over time


@dataclass(frozen=True, slots=True)
class RowsText:
    """Rows in memory. name: in a stage of the pointer to its own. width: the elements of a row. number: of row {0} as a
    loop over rows counts, "" if there is but one. written: whether a stage writes it. unwanted: where a row goes that
    nobody wants. start: what stands before them in a row.
    """

    name: str
    width: str
    number: str = "{0}"
    written: bool = False
    unwanted: str = ""
    start: str = ""

    def at(self, row: str) -> str:
        """The expression of the pointer to a row, "" for the first of all."""
        number = self.number.format(row)
        if self.unwanted:
            return f"at({self.name}, {number}, {self.width}, {self.unwanted})"
        number = number.removesuffix(" + ")
        number = f"({number})" if " " in number else number
        return " + ".join(filter(None, [self.name, f"{number} * {self.width}" if number else "", self.start]))

    @property
    def argument(self) -> str:
        """The argument of a stage."""
        return f"{'' if self.written else 'const '}REAL *restrict {self.name}"


@dataclass(frozen=True, slots=True)
class LoopText:
    """The lines of a stage that are run for each unit of one width; "" for those of numbers, which are run once.

    near: other lines, that take less time, where no unit is `far`, a name that the lines of `asked` have a word for.
    """

    width: str
    lines: tuple[str, ...]
    near: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    far: str = ""


@dataclass(frozen=True, slots=True)
class StageText:
    """A stage as a function. arguments: as it declares them; given: as they are given for row `r`."""

    name: str
    arguments: tuple[str, ...]
    given: tuple[str, ...]
    loops: tuple[LoopText, ...]

    def of_units(self) -> "StageText":
        """For some of the units."""
        arguments = ("int64_t from", "int64_t to", *self.arguments)
        return replace(self, arguments=arguments, given=("from", "to", *self.given))


@dataclass(frozen=True, slots=True)
class PassText:
    """A part of a step. products: statements for all rows of a thread. each: stages, and statements that take several
    rows at once, for a few rows at a time.
    """

    products: tuple[str, ...]
    each: tuple["StageText | str", ...]

    @property
    def is_stage(self) -> bool:
        """Whether that is one stage alone, and all rows might as well be a few."""
        return [type(one) for one in self.each] == [StageText]


@dataclass(frozen=True, slots=True)
class ProductText:
    """Matrices in the form in which they are applied. maker: the function that makes a record of them."""

    maker: str
    parameter: int
    start: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoomText:
    """What a step keeps for itself, for each of the rows of a thread, or once for a thread."""

    name: str
    width: str
    once: bool = False


@dataclass(frozen=True, slots=True)
class StateText:
    """A state. place, last: of its tensors, before the first step and after the last one. output: what is its new value
    at every step, "" if nothing is; reset: where it stands in a row of what resets return to, None if it does not.
    to: where the new value goes, which is where the old one was if there is one room and no `rooms`.
    """

    name: str
    to: str
    rooms: str
    width: str
    place: int
    last: int
    output: str
    reset: str | None


@dataclass(frozen=True, slots=True)
class TensorText:
    """A tensor of a call. place: among its tensors."""

    name: str
    place: int
    written: bool = False


@dataclass(frozen=True, slots=True)
class _Store:
    """A block that a stage writes."""

    into: RowsText
    block: int
    atom: Atom


class SweepText:
    """One direction of a scan."""

    def __init__(self, chain: Chain, name: str, equations: tuple[Equation, ...] = ()):
        self.chain, self.name, self.equations = chain, name, equations
        self.values = chain.values
        self.names = Names([chain.graph], SPELLING.reserved)
        self.backwards = chain.graph.backwards
        self.mask = self.names[chain.mask]
        self._made = chain.made_by()
        self._last = len(chain.links) - 1
        self._stored = list(self._stores())
        self._stages = tuple(map(self._stage, range(len(chain.links))))
        if width := self._width_of_units():
            self._stages = tuple(stage and stage.of_units() for stage in self._stages)
        self.by_units = width  # the units that threads can divide among themselves, "" if they cannot
        self.passes = tuple(self._passes())

    def _width_of_units(self) -> str:
        """How many units there are of everything that is written, if each is by itself."""
        stages = [stage for stage in self._stages if stage]
        widths = {self._letters(store.atom.value) for _, store in self._stored}
        widths |= {self._letters(state) for state, _ in self.chain.states}
        loops = [loop for stage in stages for loop in stage.loops]
        if self.chain.across or len(widths) > 1 or any(loop.near for loop in loops):
            return ""
        return widths.pop() if {loop.width for loop in loops} <= {"", *widths} else ""

    # Tensors, in the order of `launch.Arguments.tensors`.

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        leaves = {
            op: [(op, leaf.name) for leaf in self.chain.graph.leaves(op)] for op in ("input", "state", "parameter")
        }
        outputs = [("output", write.label) for write in self.chain.writes]
        optional = [("mask", ""), ("resets", ""), ("first", "")]
        last = [("last", state) for state, _ in self.chain.states]
        every = [*leaves["input"], *optional, *leaves["state"], *leaves["parameter"], *outputs, *last]
        return {key: place for place, key in enumerate(every)}

    @property
    def tensors(self) -> tuple[TensorText, ...]:
        """Those that a step reads and writes by name, less the optional ones."""
        graph = self.chain.graph
        read = {atom.value for stage in self._read.values() for atom in stage} | self._across_streams
        found = [
            TensorText(self.names[leaf.name], self._places["input", leaf.name])
            for leaf in graph.leaves("input")
            if leaf.name in read
        ]
        vectors = [p for p in graph.leaves("parameter") if p.name in read]
        found += [TensorText(self.names[leaf.name], self._places["parameter", leaf.name]) for leaf in vectors]
        outputs = [TensorText(self._output(w.label), self._places["output", w.label], True) for w in self.chain.writes]
        return (*found, *outputs)

    @property
    def optional(self) -> dict[str, int]:
        """The places of the mask, of the resets, and of what these return to."""
        return {name: self._places[name, ""] for name in ("mask", "resets", "first")}

    @property
    def is_masked(self) -> bool:
        return any(link.stage.masked for link in self.chain.links)

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(map(letter_of, self.chain.facts.dimensions))

    # Rows.

    def _letters(self, name: str) -> str:
        """The units of a block of a value; "" of a number."""
        return self._letters_of(self.values[name].shape)

    def _row(self, atoms: Sequence[Atom]) -> str:
        """The elements of a row of atoms beside each other."""
        return _times(len(atoms), self._letters(atoms[0].value))

    def _output(self, label: str) -> str:
        return self.names.made(("output", label), identifier(label))

    def _of_output(self, write: Write) -> RowsText:
        name, width = self._output(write.label), self._row(write.atoms)
        if write.when == "always":
            return RowsText(name, width, _OF_STEP, written=True)
        return RowsText(name, width, _OF_STEP, written=True, unwanted=self._unwanted(write))

    def _unwanted(self, write: Write) -> str:
        return self.names.made(("unwanted", write.label), f"{identifier(write.label)}_unwanted")

    def _of_state(self, state: str) -> RowsText:
        """Where its new value goes."""
        name, width = self.names.made(("to", state), f"{self.names[state]}_to"), self._letters(state) or "1"
        return RowsText(name, width, written=True)

    def _of_buffer(self, kind: str, name: str, atoms: Sequence[Atom]) -> RowsText:
        """What one stage passes on to another, or what is looked across."""
        stem = self.names[name] if "." in name or kind == "row" else identifier(name)
        made, width = self.names.made((kind, name), f"{stem}_{kind}"), self._row(atoms)
        return RowsText(made, width, written=True)

    def _source(self, name: str) -> RowsText:
        """Where the blocks of a value are read."""
        value = self.values[name]
        if value.op not in ("input", "state", "parameter") and name not in self._across_results:
            return replace(self._of_buffer("row", name, (Atom(name, 0),)), written=False)
        called, width = self.names[name], _times(blocks_of(value.shape), self._letters(name))
        return RowsText(called, width, {"input": _OF_STEP, "parameter": ""}.get(value.op, "{0}"))

    @cached_property
    def _across_results(self) -> set[str]:
        return {across.name for across in self.chain.across}

    @cached_property
    def _across_streams(self) -> set[str]:
        found = {across.operand[0].value for across in self.chain.across}
        return {name for name in found if self.values[name].op == "input"}

    # What looks across units, and at what.

    def _operand(self, operand: tuple[Atom, ...]) -> RowsText:
        """Its rows, as a loop over rows sees them."""
        return self._at_hand(operand) or self._buffers[operand]

    def _at_hand(self, operand: tuple[Atom, ...]) -> RowsText | None:
        """The same of one that lies in memory anyway: a leaf, what looked across units before, or an output."""
        first, block = operand[0]
        op, run = self.values[first].op, tuple(Atom(first, block + n) for n in range(len(operand)))
        if operand == run and (op in ("input", "state") or first in self._across_results):
            return replace(self._source(first), start=_times(block, self._letters(first)) if block else "")
        write = next((w for w in self.chain.writes if w.when == "always" and w.atoms == operand), None)
        return self._of_output(write) if write else None

    @cached_property
    def _buffers(self) -> dict[tuple[Atom, ...], RowsText]:
        """The operands that are written for this alone, each called after the first that looks across it."""
        names: dict[tuple[Atom, ...], str] = {}
        for across in self.chain.across:
            names.setdefault(across.operand, across.name)
        return {
            operand: self._of_buffer("operand", name, operand)
            for operand, name in names.items()
            if not self._at_hand(operand)
        }

    def _across(self, across: Across) -> str:
        """As a statement, for all rows if it is a product, else for a few."""
        first = "" if across.matrices else "few"
        rows, found = self._operand(across.operand), self._source(across.name)
        place = self.products.index(self._product(across)) if across.matrices else 0
        return SPELLING.call(across.op).format(
            target=self._at(found, first),
            given=self._row(across.gives),
            operand=self._at(rows, first),
            width=rows.width,
            units=self._letters(across.operand[0].value),
            product=f"&scan->products[{place}]",
        )

    # What is run for a few rows, and then for the next few.

    @cached_property
    def _pass_of(self) -> tuple[int, ...]:
        """The number of the pass of each link: a product begins another."""
        found = [0]
        for link in self.chain.links[1:]:
            found.append(found[-1] + any(across.matrices for across in link.across))
        return tuple(found)

    def _passes(self) -> Iterator[PassText]:
        for number in unique(self._pass_of):
            links = [n for n, own in enumerate(self._pass_of) if own == number]
            each: list[StageText | str] = []
            for n in links:
                each += [self._across(across) for across in self.chain.links[n].across if not across.matrices]
                each += [stage] if (stage := self._stages[n]) else []
            first = self.chain.links[links[0]].across
            yield PassText(tuple(self._across(across) for across in first if across.matrices), tuple(each))

    @cached_property
    def _passing(self) -> set[str]:
        """The names of what one pass alone writes and reads, so that a few rows of it are enough."""
        where: dict[str, set[int]] = {}
        whole = set()
        for at, store in self._stored:
            where.setdefault(store.into.name, set()).add(self._pass_of[at])
        for number, link in enumerate(self.chain.links):
            for name in (self._source(atom.value).name for atom in self._read[number]):
                where.setdefault(name, set()).add(self._pass_of[number])
            for across in link.across:
                for rows in (self._source(across.name), self._operand(across.operand)):
                    where.setdefault(rows.name, set()).add(self._pass_of[number])
                    whole |= {rows.name} if across.matrices else set()
        return {name for name, passes in where.items() if len(passes) == 1} - whole

    def _at(self, rows: RowsText, row: str) -> str:
        """The pointer to a row, of what is kept for a few in its place among them."""
        if rows.name not in self._few:
            return rows.at(row)
        return replace(rows, number="" if row == "few" else "{0} - few").at(row)

    @cached_property
    def _few(self) -> set[str]:
        """The names of what there are a few rows of."""
        return self._passing.intersection(rows.name for rows in self._between_rows())

    def _between_rows(self) -> Iterator[RowsText]:
        """What lies between stages, and between them and what looks across units."""
        yield from (self._source(across.name) for across in self.chain.across)
        yield from self._buffers.values()
        yield from map(self._source, unique(atom.value for atom in self._carried))

    @cached_property
    def _in_place(self) -> set[str]:
        """The states whose new value can be written where the old one is: no later stage reads that one, and in its own
        stage no state, which may be written later, becomes what it was.
        """
        found = set()
        into = {self._of_state(state).name: state for state, _ in self.chain.states}
        for state, atom in self.chain.states:
            number = self._made.get(atom, self._last)
            read = [n for n, atoms in self._read.items() if any(a.value == state for a in atoms)]
            read += [
                n
                for n, link in enumerate(self.chain.links)
                for one in link.across
                if n > number and any(a.value == state for a in one.operand)
            ]
            copied = any(s.atom.value == state for n, s in self._stored if n == number and s.into.name in into)
            if not self._shown[state] and max(read, default=0) <= number and not copied:
                found.add(state)
        return found

    @cached_property
    def products(self) -> tuple[ProductText, ...]:
        return unique(self._product(across) for across in self.chain.across if across.matrices)

    def _product(self, across: Across) -> ProductText:
        assert across.matrices
        of = across.matrices
        rows, columns = (letter_of(dimension) for dimension in self.chain.width(of.parameter))
        heads = of.parameter in self.chain.graph.heads
        maker = f"{'headed' if heads else 'dense'}{'_transposed' if across.op == 'matmul_t' else ''}"
        matrix = f"{rows} * {columns} / heads" if heads else f"{rows} * {columns}"
        sides = (rows, "heads") if heads else (rows, columns)
        return ProductText(
            maker,
            self._places["parameter", of.parameter],
            _times(of.start, matrix) if of.start else "",
            (str(of.count), *sides),
        )

    # What lies in memory.

    @property
    def rooms(self) -> tuple[RoomText, ...]:
        """But those of states."""
        found = [
            RoomText(rows.name, _times_few(rows.width), True)
            if rows.name in self._few
            else RoomText(rows.name, rows.width)
            for rows in self._between_rows()
        ]
        found += [RoomText(self._unwanted(w), self._row(w.atoms), once=True) for w in self._optional_writes()]
        return tuple(found)

    @property
    def count(self) -> int:
        """Of all rooms."""
        return len(self.rooms) + sum(1 + bool(state.rooms) for state in self.states)

    @property
    def _of_states(self) -> list[str]:
        return [f"2 * {state.width}" if state.rooms else state.width for state in self.states]

    @property
    def units(self) -> str:
        """The elements of all rooms for one row."""
        return " + ".join([*self._of_states, *(room.width for room in self.rooms if not room.once)]) or "0"

    @property
    def units_once(self) -> str:
        return " + ".join(room.width for room in self.rooms if room.once) or "0"

    @property
    def work(self) -> str:
        """The elements that a step has at hand for one row."""
        found = [f"2 * {state.width}" for state in self.states]
        return " + ".join([*found, *(rows.width for rows in self._between_rows())]) or "0"

    @cached_property
    def states(self) -> tuple[StateText, ...]:
        before = {}
        offset: list[str] = []
        for state in self.chain.returned:
            before[state] = " + ".join(offset) or "0"
            offset.append(self._letters(state) or "1")
        found = []
        for state, _ in self.chain.states:
            label, double = self._shown[state], state not in self._in_place
            found.append(
                StateText(
                    name=self.names[state],
                    to=self._of_state(state).name if double else self.names[state],
                    rooms=self.names.made(("rooms", state), f"{self.names[state]}_rooms") if double else "",
                    width=self._letters(state) or "1",
                    place=self._places["state", state],
                    last=self._places["last", state],
                    output=self._output(label) if label else "",
                    reset=before.get(state),
                )
            )
        return tuple(found)

    @cached_property
    def _shown(self) -> dict[str, str]:
        """The states, each with the output that is its new value at every step, "" if none is."""
        outputs = {write.atoms: write.label for write in reversed(self.chain.writes) if write.when == "keep"}
        return {state: outputs.pop((atom,), "") for state, atom in self.chain.states}

    @property
    def returned(self) -> str:
        """The elements of a row of what resets return to."""
        return " + ".join(self._letters(state) or "1" for state in self.chain.returned) or "0"

    def _optional_writes(self) -> Iterator[Write]:
        """The outputs that a step writes by itself and that may not be wanted."""
        shown = self._shown.values()
        yield from (w for w in self.chain.writes if w.when != "always" and w.label not in shown)

    @cached_property
    def _carried(self) -> tuple[Atom, ...]:
        """What a stage gives to a later one."""
        later = [(number, atom) for number, link in enumerate(self.chain.links) for atom in link.stage.takes]
        return unique(atom for number, atom in later if self._made.get(atom, number) < number)

    def _stores(self) -> Iterator[tuple[int, _Store]]:
        """Everything that is written, with the number of the stage that does it."""
        shown = self._shown.values()
        for write in self.chain.writes:
            if write.label not in shown:
                yield from self._blocks(write.atoms, self._of_output(write))
        for operand, rows in self._buffers.items():
            yield from self._blocks(operand, rows)
        for atom in self._carried:
            yield self._made[atom], _Store(self._of_buffer("row", atom.value, (atom,)), 0, atom)
        for state, atom in self.chain.states:
            yield self._made.get(atom, self._last), _Store(self._of_state(state), 0, atom)

    def _blocks(self, atoms: tuple[Atom, ...], into: RowsText) -> Iterator[tuple[int, _Store]]:
        """Atoms, each by the stage that makes it; what none makes, as a part of a product or a state, by the first that
        reads it, or in time for what looks across it.
        """
        looked = (n - 1 for n, link in enumerate(self.chain.links) for one in link.across if one.operand == atoms)
        number = next(looked, self._last)
        for block, atom in enumerate(atoms):
            taken = (n for n, link in enumerate(self.chain.links) if atom in link.stage.takes)
            yield self._made.get(atom, next(taken, number)), _Store(into, block, atom)

    # Stages.

    @cached_property
    def _read(self) -> dict[int, tuple[Atom, ...]]:
        """The atoms that each stage reads, of what it does not compute and what is no number of the text."""
        found = {}
        for number, link in enumerate(self.chain.links):
            own = set(link.stage.gives)
            stored = [s.atom for at, s in self._stored if at == number and s.atom not in own]
            known = ("constant", "share")
            found[number] = unique(a for a in (*link.stage.takes, *stored) if self.values[a.value].op not in known)
        return found

    @property
    def stages(self) -> tuple[StageText, ...]:
        return tuple(filter(None, self._stages))

    def _stage(self, number: int) -> StageText | None:
        stage = self.chain.links[number].stage
        stores = [self._settled(store) for at, store in self._stored if at == number]
        if not stores:
            return None
        loops = self._loops(stage, stores)
        written = unique(store.into for store in stores)
        names = {rows.name for rows in written}
        read = [self._source(name) for name in unique(atom.value for atom in self._read[number])]
        read = [rows for rows in read if rows.name not in names]
        letters = [letter for letter in self.sizes if any(letter in _words(loop) for loop in loops)]
        arguments = [f"int64_t {letter}" for letter in letters]
        arguments += [f"int {self.mask}"] if stage.masked else []
        given = letters + ([f"counts({self.mask}, row + r)"] if stage.masked else [])
        return StageText(
            name=f"{self.name}_{number}",
            arguments=(*arguments, *(rows.argument for rows in (*read, *written))),
            given=(*given, *(self._at(rows, "r") for rows in (*read, *written))),
            loops=loops,
        )

    def _settled(self, store: _Store) -> _Store:
        """With the old value's place for a new value that goes there."""
        state = self._replaced.get(store.into.name)
        if state is None:
            return store
        source = self._source(state)
        return replace(store, into=replace(source, written=True))

    @cached_property
    def _replaced(self) -> dict[str, str]:
        """By where new values would go the states that are written in place."""
        return {self._of_state(state).name: state for state in self._in_place}

    def _loops(self, stage: Stage, stores: Sequence[_Store]) -> tuple[LoopText, ...]:
        graph = graph_of(self.chain, stage)
        targets: dict[str, str] = {}
        lines: dict[str, list[str]] = {"": (numbers := list[str]())}
        remainders: dict[str, list[str]] = {}

        def known(value: Value) -> str | None:
            if value.op == "mask":
                return self.mask
            if value.op == "share":
                return self._share(value)
            return read(atoms_of(self.values, value.name)[0]) if value.op == "input" else None

        def read(atom: Atom) -> str:
            """What a stage reads; a number once, before the loops."""
            text = self._read_text(atom)
            if self._letters(atom.value) or self.values[atom.value].op in ("constant", "share"):
                return text
            name = self.names.made(("number", text), f"{self._source(atom.value).name}_{atom.block}")
            if (line := f"const REAL {name} = {text};") not in numbers:
                numbers.append(line)
            return name

        for statement in statements(graph, SPELLING, self.names, known, self.equations):
            kind = "int" if statement.value.op in COMPARISONS else "REAL"
            comment = [f"// {statement.comment}"] if statement.comment else []
            width = self._letters_of(statement.value.shape)
            lines.setdefault(width, []).extend([*comment, f"const {kind} {statement.target} = {statement.text};"])
            targets[statement.value.name] = statement.target
            if statement.value.op == "mod":
                remainders.setdefault(width, []).append(statement.text)
        for store in stores:
            text = targets.get(store.atom.value) or read(store.atom)
            width = self._letters(store.atom.value)
            lines.setdefault(width, []).append(f"{_index(store.into.name, store.block, width)} = {text};")
        return tuple(
            self._loop(width, lines[width], remainders.get(width, []))
            for width in sorted(filter(lines.get, lines), key=lambda width: (width != "", width))
        )

    def _loop(self, width: str, lines: Sequence[str], remainders: Sequence[str]) -> LoopText:
        """A remainder is simpler where no quotient of a row is large, which is asked of all units before the others'
        work if that takes no function: a phased LSTM's loops take a quarter less time so.
        """
        asks = [text.replace(REMAINDER, FAR, 1) for text in remainders]
        asked = _needed(lines, asks)
        takes = set[str]().union(*map(_words_of, asked), *(_words_of(text) - {FAR} for text in asks))
        if not width or not remainders or takes & _FUNCTIONS:
            return LoopText(width, tuple(lines))
        far = self.names.made(("far", width), "far")
        asked += [f"{far} = {far} + {text};" for text in asks]
        near = (line.replace(f" {REMAINDER}(", f" {REMAINDER_NEAR}(") for line in lines)
        return LoopText(width, tuple(lines), tuple(near), tuple(asked), far)

    def _letters_of(self, shape: Shape) -> str:
        return " * ".join(letter_of(str(dimension)) for dimension in block_shape(shape))

    def _read_text(self, atom: Atom) -> str:
        value = self.values[atom.value]
        if value.op == "constant":
            return f"R({whole(value.number)})"
        if value.op == "share":
            return self._share(value)
        return _index(self._source(atom.value).name, atom.block, self._letters(atom.value))

    def _share(self, value: Value) -> str:
        return f"(1 / R({letter_of(value.dimension)}))"


def _words_of(line: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", line))


def _needed(lines: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The lines that make what these texts read, in their order."""
    words = set().union(*map(_words_of, texts))
    found: list[str] = []
    for line in reversed(lines):
        made = re.match(r"const \w+ (\w+) = ", line)
        if made and made[1] in words:
            words |= _words_of(line)
            found.insert(0, line)
    return found


def _words(loop: LoopText) -> set[str]:
    return set().union(*(_words_of(line) for line in (loop.width, *loop.lines) if not line.startswith("//")))


def _times(count: int, width: str) -> str:
    """So many blocks of a width."""
    if not width:
        return str(count)
    return width if count == 1 else f"{count} * {width}"


def _times_few(width: str) -> str:
    return "FEW" if width == "1" else f"FEW * {width}"


def _index(pointer: str, block: int, width: str) -> str:
    """A block of a row at unit j."""
    if not width:
        return f"{pointer}[{block}]"
    return f"{pointer}[{_times(block, width)} + j]" if block else f"{pointer}[j]"
