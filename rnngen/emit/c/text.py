"""A chain in C: a function for each stage, and what the template of the loop over time places.

Everything that lies in memory is seen row by row: of a tensor over time the row of a step and an element of the batch,
of what a step keeps for itself that of the element alone. A stage is a function of such rows, with a loop over their
units.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rnngen.chain import Across, Atom, Chain, Stage, Write, atoms_of, unique
from rnngen.emit.c.spelling import SPELLING
from rnngen.emit.stage import graph_of
from rnngen.emit.statements import Names, identifier, statements
from rnngen.emit.statements import number as whole
from rnngen.ir import Equation, Shape, Value, block_shape, blocks_of
from rnngen.ops import COMPARISONS
from rnngen.runtime.plan import letter_of


@dataclass(frozen=True, slots=True)
class RowsText:
    """Rows in memory. name: of the pointer to the first, and in a stage of that to its own. width: the elements of a
    row. own: the expression of the pointer to row `r`. written: whether a stage writes it.
    """

    name: str
    width: str
    own: str
    written: bool = False

    @property
    def argument(self) -> str:
        """The argument of a stage."""
        return f"{'' if self.written else 'const '}REAL *restrict {self.name}"


@dataclass(frozen=True, slots=True)
class LoopText:
    """The lines of a stage that are run for each unit of one width; "" for those of numbers, which are run once."""

    width: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StageText:
    """A stage as a function. arguments: as it declares them; given: as they are given for row `r`."""

    name: str
    arguments: tuple[str, ...]
    given: tuple[str, ...]
    loops: tuple[LoopText, ...]


@dataclass(frozen=True, slots=True)
class ProductText:
    """Matrices in the form in which they are applied. maker: the function that makes a record of them."""

    maker: str
    parameter: int
    start: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoomText:
    """What a step keeps for itself, `count` times for each of the rows of a thread, or once for a thread."""

    name: str
    width: str
    count: int = 1
    once: bool = False


@dataclass(frozen=True, slots=True)
class StateText:
    """A state. place, last: of its tensors, before the first step and after the last one. output: what is its new value
    at every step, "" if nothing is; reset: where it stands in a row of what resets return to, None if it does not.
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
class LinkText:
    """What looks across units, as statements, then a stage if it does anything."""

    across: tuple[str, ...]
    stage: StageText | None


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
        self.links = tuple(
            LinkText(tuple(map(self._across, link.across)), self._stage(n)) for n, link in enumerate(chain.links)
        )

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
            return RowsText(name, width, f"{name} + (row + r) * {width}", True)
        return RowsText(name, width, f"at({name}, row + r, {width}, {self._unwanted(write)})", True)

    def _unwanted(self, write: Write) -> str:
        return self.names.made(("unwanted", write.label), f"{identifier(write.label)}_unwanted")

    def _of_state(self, state: str) -> RowsText:
        """Where its new value goes."""
        name, width = self.names.made(("to", state), f"{self.names[state]}_to"), self._letters(state) or "1"
        return RowsText(name, width, f"{name} + r * {width}", True)

    def _of_buffer(self, kind: str, name: str, atoms: Sequence[Atom]) -> RowsText:
        """What one stage passes on to another, or what is looked across."""
        stem = self.names[name] if "." in name or kind == "row" else identifier(name)
        made, width = self.names.made((kind, name), f"{stem}_{kind}"), self._row(atoms)
        return RowsText(made, width, f"{made} + r * {width}", True)

    def _source(self, name: str) -> RowsText:
        """Where the blocks of a value are read."""
        value = self.values[name]
        if value.op not in ("input", "state", "parameter") and name not in self._across_results:
            found = self._of_buffer("row", name, (Atom(name, 0),))
            return RowsText(found.name, found.width, found.own)
        called, width = self.names[name], _times(blocks_of(value.shape), self._letters(name))
        row = {"input": f" + (row + r) * {width}", "parameter": ""}.get(value.op, f" + r * {width}")
        return RowsText(called, width, called + row)

    @cached_property
    def _across_results(self) -> set[str]:
        return {across.name for across in self.chain.across}

    @cached_property
    def _across_streams(self) -> set[str]:
        found = {across.operand[0].value for across in self.chain.across}
        return {name for name in found if self.values[name].op == "input"}

    # What looks across units, and at what.

    def _operand(self, operand: tuple[Atom, ...]) -> tuple[str, str]:
        """The pointer to its first row in a loop over steps, and the width of a row."""
        return self._at_hand(operand) or (self._buffers[operand].name, self._buffers[operand].width)

    def _at_hand(self, operand: tuple[Atom, ...]) -> tuple[str, str] | None:
        """The same of one that lies in memory anyway: a leaf, what looked across units before, or an output."""
        first, block = operand[0]
        op, run = self.values[first].op, tuple(Atom(first, block + n) for n in range(len(operand)))
        if operand == run and (op in ("input", "state") or first in self._across_results):
            source = self._source(first)
            row = f" + row * {source.width}" if op == "input" else ""
            return f"{source.name}{row}{f' + {_times(block, self._letters(first))}' if block else ''}", source.width
        write = next((w for w in self.chain.writes if w.when == "always" and w.atoms == operand), None)
        if write is None:
            return None
        rows = self._of_output(write)
        return f"{rows.name} + row * {rows.width}", rows.width

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
        """As a statement."""
        operand, width = self._operand(across.operand)
        place = self.products.index(self._product(across)) if across.matrices else 0
        return SPELLING.call(across.op).format(
            target=self.names[across.name],
            given=self._row(across.gives),
            operand=operand,
            width=width,
            units=self._letters(across.operand[0].value),
            product=f"&scan->products[{place}]",
        )

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
        found = [RoomText(state.rooms, state.width, 2) for state in self.states]
        found += [RoomText(self.names[a.name], self._row(a.gives)) for a in self.chain.across]
        found += [RoomText(rows.name, rows.width) for rows in self._buffers.values()]
        found += [RoomText(rows.name, rows.width) for rows in map(self._source, unique(a.value for a in self._carried))]
        found += [RoomText(self._unwanted(w), self._row(w.atoms), once=True) for w in self._optional_writes()]
        return tuple(found)

    @property
    def units(self) -> str:
        """The elements of all rooms for one row."""
        found = [
            f"{room.count} * {room.width}" if room.count > 1 else room.width for room in self.rooms if not room.once
        ]
        return " + ".join(found)

    @property
    def units_once(self) -> str:
        return " + ".join(room.width for room in self.rooms if room.once) or "0"

    @cached_property
    def states(self) -> tuple[StateText, ...]:
        carried = {write.atoms: write.label for write in reversed(self.chain.writes) if write.when == "keep"}
        before = {}
        offset: list[str] = []
        for state in self.chain.returned:
            before[state] = " + ".join(offset) or "0"
            offset.append(self._letters(state) or "1")
        found, used = [], set()
        for state, atom in self.chain.states:
            label = carried.get((atom,), "") if (atom,) not in used else ""
            used.add((atom,))
            found.append(
                StateText(
                    name=self.names[state],
                    to=self._of_state(state).name,
                    rooms=self.names.made(("rooms", state), f"{self.names[state]}_rooms"),
                    width=self._letters(state) or "1",
                    place=self._places["state", state],
                    last=self._places["last", state],
                    output=self._output(label) if label else "",
                    reset=before.get(state),
                )
            )
        return tuple(found)

    @property
    def returned(self) -> str:
        """The elements of a row of what resets return to."""
        return " + ".join(self._letters(state) or "1" for state in self.chain.returned) or "0"

    def _optional_writes(self) -> Iterator[Write]:
        """The outputs that a step writes by itself and that may not be wanted."""
        own = {state.output for state in self.states}
        yield from (w for w in self.chain.writes if w.when != "always" and self._output(w.label) not in own)

    @cached_property
    def _carried(self) -> tuple[Atom, ...]:
        """What a stage gives to a later one."""
        later = [(number, atom) for number, link in enumerate(self.chain.links) for atom in link.stage.takes]
        return unique(atom for number, atom in later if self._made.get(atom, number) < number)

    def _stores(self) -> Iterator[tuple[int, _Store]]:
        """Everything that is written, with the number of the stage that does it."""
        own = {state.output for state in self.states}
        for write in self.chain.writes:
            if self._output(write.label) not in own:
                yield from self._blocks(write.atoms, self._of_output(write))
        for operand, rows in self._buffers.items():
            yield from self._blocks(operand, rows)
        for atom in self._carried:
            yield self._made[atom], _Store(self._of_buffer("row", atom.value, (atom,)), 0, atom)
        for state, atom in self.chain.states:
            yield self._made.get(atom, self._last), _Store(self._of_state(state), 0, atom)

    def _blocks(self, atoms: tuple[Atom, ...], into: RowsText) -> Iterator[tuple[int, _Store]]:
        """Atoms, each by the stage that makes it; what none makes, as a part of a product, in time for what looks
        across it.
        """
        looked = (n - 1 for n, link in enumerate(self.chain.links) for one in link.across if one.operand == atoms)
        number = next(looked, self._last)
        for block, atom in enumerate(atoms):
            yield self._made.get(atom, number), _Store(into, block, atom)

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
        return tuple(link.stage for link in self.links if link.stage)

    def _stage(self, number: int) -> StageText | None:
        stage = self.chain.links[number].stage
        stores = [store for at, store in self._stored if at == number]
        if not stores:
            return None
        loops = self._loops(stage, stores)
        read = [self._source(name) for name in unique(atom.value for atom in self._read[number])]
        written = unique(store.into for store in stores)
        letters = [letter for letter in self.sizes if any(letter in _words(loop) for loop in loops)]
        arguments = [f"int64_t {letter}" for letter in letters]
        arguments += [f"int {self.mask}"] if stage.masked else []
        given = letters + ([f"counts({self.mask}, row + r)"] if stage.masked else [])
        return StageText(
            name=f"{self.name}_{number}",
            arguments=(*arguments, *(rows.argument for rows in (*read, *written))),
            given=(*given, *(rows.own for rows in (*read, *written))),
            loops=loops,
        )

    def _loops(self, stage: Stage, stores: Sequence[_Store]) -> tuple[LoopText, ...]:
        graph = graph_of(self.chain, stage)
        targets: dict[str, str] = {}
        lines: dict[str, list[str]] = {"": (numbers := list[str]())}

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
        for store in stores:
            text = targets.get(store.atom.value) or read(store.atom)
            width = self._letters(store.atom.value)
            lines.setdefault(width, []).append(f"{_index(store.into.name, store.block, width)} = {text};")
        return tuple(
            LoopText(width, tuple(lines[width]))
            for width in sorted(filter(lines.get, lines), key=lambda width: (width != "", width))
        )

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


def _words(loop: LoopText) -> set[str]:
    code = (line for line in (loop.width, *loop.lines) if not line.startswith("//"))
    return {word for line in code for word in re.findall(r"\w+", line)}


def _times(count: int, width: str) -> str:
    """So many blocks of a width."""
    if not width:
        return str(count)
    return width if count == 1 else f"{count} * {width}"


def _index(pointer: str, block: int, width: str) -> str:
    """A block of a row at unit j."""
    if not width:
        return f"{pointer}[{block}]"
    return f"{pointer}[{_times(block, width)} + j]" if block else f"{pointer}[j]"
