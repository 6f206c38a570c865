"""The stepwise schedule in Triton: a kernel for each stage, and the loop that launches them. What looks across units
is torch's.

What passes from one kernel to a later one lies in memory: results of products and their operands in the type of the
matrices; what a stage gives to another one or to a reduction, and what that gives, in the type of the accumulators. A
state is overwritten by the last kernel of a step, so that whatever reads it before reads the old value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rnngen.across import ACROSS
from rnngen.chain import Across, Atom, Link, Matrices, Write
from rnngen.emit.statements import identifier
from rnngen.emit.triton.sweep import AcrossText, CallText, LoadText, StoreText, SweepText, has_numbers, is_wide
from rnngen.runtime.plan import SAVED_NUMBERS

_STREAM, _STEP = "row", "batch"  # the row of a tensor over time, and of one that is there for a single step


@dataclass(frozen=True, slots=True)
class KernelText:
    """One kernel. across: what the launcher does before it. tensors: its pointers as the launcher has them. run: what
    the launcher calls it when it is bound to them.

    loads and stores: each with the row of the tensor. wide: the pointers to what has the type of the accumulators.
    """

    name: str
    run: str
    across: tuple[AcrossText, ...]
    tensors: tuple[str, ...]
    pointers: tuple[str, ...]
    wide: tuple[str, ...]
    masked: bool
    has_numbers: bool
    vectors: tuple[LoadText, ...]
    loads: tuple[tuple[LoadText, str], ...]
    call: CallText | None
    stores: dict[str, tuple[tuple[StoreText, str], ...]]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a kernel reads or writes: its name in the launcher and in the kernel. row: which row of it. wide: whether it
    has the type of the accumulators.
    """

    name: str
    pointer: str
    row: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class _Store:
    """A block that a kernel writes: when, of which tensor, which of its `total` blocks."""

    atom: Atom
    when: str
    tensor: _Tensor
    block: int
    total: int


class StepwiseText:
    """The kernels and their launcher, for the template."""

    def __init__(self, text: SweepText, name: str):
        self.text, self.chain, self.name = text, text.chain, name
        self._last = len(self.chain.links) - 1
        self._made = self.chain.made_by()
        self._carried = self._passed_on()
        self._rows: dict[str, str] = {}  # views of tensors over time, each with how it is made
        self.states = tuple(text.names[state] for state, _ in self.chain.states)
        self.inputs, self.parameters = self._leaves("input"), self._leaves("parameter")
        self.outputs = tuple(self._output(write.label).name for write in self.chain.writes)
        stores = list(self._stores())
        self.kernels = tuple(
            self._kernel(number, link, [store for at, store in stores if at == number])
            for number, link in enumerate(self.chain.links)
        )
        self.opening = tuple(dict.fromkeys(self._opening()))
        self.backwards = self.chain.graph.backwards
        self.returned = tuple(map(self._tensors, self.chain.returned))

    def _leaves(self, op: str) -> tuple[str, ...]:
        return tuple(self.text.names[leaf.name] for leaf in self.chain.graph.leaves(op))

    # Tensors.

    def _value(self, name: str) -> _Tensor:
        """Of a leaf, what looks across units, or what is carried."""
        value = self.chain.values[name]
        if value.op == "input":
            return _Tensor(self.text.names[name], self.text.pointer(name), _STREAM, is_wide(value.shape))
        wide = not ACROSS[value.op].matrix if value.op in ACROSS else value.op != "parameter"
        return _Tensor(self.text.names[name], self.text.pointer(name), _STEP, wide)

    def _output(self, label: str) -> _Tensor:
        name = self.text.names.made(("tensor", "output", label), identifier(label))
        return _Tensor(name, self.text.output(label), _STREAM, label == SAVED_NUMBERS)

    def _operand_of(self, name: str, wide: bool = False) -> _Tensor:
        """Of what is looked across: a state's copy, or a buffer."""
        stem = self.text.names[name] if "." in name else identifier(name)
        made = self.text.names.made(("tensor", "operand", name), f"{stem}_operand")
        return _Tensor(made, self.text.names.made(("pointer", "operand", name), f"{made}_ptr"), _STEP, wide)

    # What looks across units, and at what.

    def _is_state(self, operand: tuple[Atom, ...]) -> bool:
        return len(operand) == 1 and self.chain.values[operand[0].value].op == "state"

    def _result(self, operand: tuple[Atom, ...]) -> Across | None:
        """What looked across units before, and gave an operand."""
        return next((across for across in self.chain.across if across.gives == operand), None)

    def _written(self, operand: tuple[Atom, ...]) -> Write | None:
        """The output that an operand is, at every step."""
        return next((w for w in self.chain.writes if w.when == "always" and w.atoms == operand), None)

    def _buffers(self) -> dict[tuple[Atom, ...], _Tensor]:
        """The operands that are written for this alone, each called after the first that looks across it."""
        found: dict[tuple[Atom, ...], _Tensor] = {}
        multiplied = {across.operand for across in self.chain.across if across.matrices}
        for across in self.chain.across:
            operand = across.operand
            apart = operand not in multiplied and self._is_in_memory(operand[0])
            at_hand = self._is_state(operand) or self._result(operand) or self._written(operand) or apart
            if not at_hand and operand not in found:
                found[operand] = self._operand_of(across.name, wide=operand not in multiplied)
        return found

    def _operand(self, across: Across) -> str:
        operand = across.operand
        if self._is_state(operand):
            return self._operand_of(operand[0].value).name if across.matrices else self.text.names[operand[0].value]
        if before := self._result(operand):
            return self.text.names[before.name]
        if write := self._written(operand):
            return self._at_step(self._output(write.label).name)
        buffers = self._buffers()
        return buffers[operand].name if operand in buffers else self._in_memory(operand[0])

    def _at_step(self, name: str, part: str = "") -> str:
        """The row of a tensor over time, or of a part of it: one of views that are made at once."""
        rows = self.text.names.made(("rows", name, part), f"{name}_rows")
        self._rows[rows] = f"{name}{part}.unbind(0)"
        return f"{rows}[step]"

    def _is_in_memory(self, atom: Atom) -> bool:
        """Whether a block can be read there by itself, in whatever type."""
        return atom in self._carried or self.chain.values[atom.value].op in ACROSS.keys() | {"input"}

    def _in_memory(self, atom: Atom) -> str:
        name, count = self.text.names[atom.value], self.chain.blocks(atom.value)
        if self.chain.values[atom.value].op == "input":
            return self._at_step(name, "" if count == 1 else f".chunk({count}, -1)[{atom.block}]")
        return name if count == 1 else self.text.names.made(("tensor", *map(str, atom)), f"{name}_{atom.block}")

    def _matrices(self, of: Matrices) -> str:
        """The name of a parameter, or of a part of it."""
        whole = self.text.names[of.parameter]
        if of.count == self.chain.blocks(of.parameter):
            return whole
        key = ("tensor", "part", of.parameter, str(of.start), str(of.count))
        return self.text.names.made(key, f"{whole}_{of.start}")

    def _across(self, across: Across) -> AcrossText:
        """With tensors, where all blocks are one."""
        target, operand, of = self.text.names[across.name], self._operand(across), across.matrices
        applied = (self._matrices(of), of.count) if of else ("", 0)
        width = self.text.width(across.operand[0].value)
        run = self.text.names.made(("launcher", "product", across.name), f"{target}_product")
        return AcrossText(across.op, *applied, target, target, operand, operand, width, run)

    # What lies in memory.

    def _opening(self) -> Iterator[str]:
        """The launcher's lines before time begins."""
        for number, (state, _) in enumerate(self.chain.states):
            if self._is_multiplied(state):
                yield f"{self._operand_of(state).name} = scan.states[{number}].clone()"
        for operand, tensor in self._buffers().items():
            yield f"{tensor.name} = scan.{self._room(operand, tensor.wide)}"
        for atom in self._carried:
            yield f"{self.text.text(atom)} = scan.{self._room((atom,), True)}"
        for across in self.chain.across:
            yield f"{self.text.names[across.name]} = scan.{self._room(across.gives, not across.matrices)}"
            if (of := across.matrices) and of.count < self.chain.blocks(of.parameter):
                numbers = f"{self.chain.blocks(of.parameter)}, {of.start}, {of.start + of.count}"
                yield f"{self._matrices(of)} = blocks({self.text.names[of.parameter]}, {numbers})"
        for rows, made in self._rows.items():
            yield f"{rows} = {made}"
        for across in self.chain.across:
            (value, block), count = across.operand[0], self.chain.blocks(across.operand[0].value)
            if not across.matrices and count > 1 and self.chain.values[value].op in ACROSS:
                yield f"{self._in_memory(across.operand[0])} = {self.text.names[value]}.chunk({count}, -1)[{block}]"

    def _tensors(self, state: str) -> tuple[str, ...]:
        """What a state lies in: itself, and the copy that is multiplied."""
        copies = [self._operand_of(state).name] if self._is_multiplied(state) else []
        return (self.text.names[state], *copies)

    def _room(self, atoms: tuple[Atom, ...], wide: bool) -> str:
        """The call that makes room for blocks of one width."""
        width = [f'"{dimension}"' for dimension in self.chain.width(atoms[0].value)]
        return f"carry({', '.join(width)})" if wide else f"buffer({', '.join([str(len(atoms)), *width])})"

    def _passed_on(self) -> tuple[Atom, ...]:
        """What a stage gives to a later one."""
        later = [(number, atom) for number, link in enumerate(self.chain.links) for atom in link.stage.takes]
        later += [(self._last, atom) for _, atom in self.chain.states]
        return tuple(dict.fromkeys(atom for number, atom in later if self._made.get(atom, number) < number))

    def _stores(self) -> Iterator[tuple[int, _Store]]:
        """Everything that is written, with the number of the kernel that does it."""
        for write in self.chain.writes:
            yield from self._blocks(write.atoms, write.when, self._output(write.label))
        for operand, tensor in self._buffers().items():
            yield from self._blocks(operand, "always", tensor)
        for atom in self._carried:
            yield self._made[atom], _Store(atom, "always", self._value(atom.value), 0, 1)
        for state, atom in self.chain.states:
            yield self._last, _Store(atom, "always", self._value(state), 0, 1)
            if self._is_multiplied(state):
                yield self._last, _Store(atom, "always", self._operand_of(state), 0, 1)

    def _is_multiplied(self, state: str) -> bool:
        return any(across.operand == (Atom(state, 0),) and across.matrices for across in self.chain.across)

    def _blocks(self, atoms: tuple[Atom, ...], when: str, tensor: _Tensor) -> Iterator[tuple[int, _Store]]:
        """Atoms, each by the stage that makes it; what none makes, as a part of a product, in time for what looks
        across it.
        """
        looked = (n - 1 for n, link in enumerate(self.chain.links) for one in link.across if one.operand == atoms)
        number = next(looked, self._last)
        for block, atom in enumerate(atoms):
            yield self._made.get(atom, number), _Store(atom, when, tensor, block, len(atoms))

    # Kernels.

    def _kernel(self, number: int, link: Link, stores: list[_Store]) -> KernelText:
        text = self.text
        given = set(link.stage.gives)
        read = [*link.stage.takes, *(store.atom for store in stores if store.atom not in given)]
        tensors: dict[str, str] = {}  # by pointer
        wide = []

        def pointer(tensor: _Tensor) -> str:
            if tensor.wide and tensor.pointer not in tensors:
                wide.append(tensor.pointer)
            tensors[tensor.pointer] = tensor.name
            return tensor.pointer

        vectors, loads = [], []
        for name in dict.fromkeys(atom.value for atom in read):
            tensor = self._value(name)
            load = text.load(name, pointer(tensor))
            if self.chain.values[name].op == "parameter":
                vectors.append(load)
            else:
                loads.append((load, tensor.row))
        if link.stage.masked:
            tensors[text.mask_pointer] = text.mask
        written: dict[str, tuple[tuple[StoreText, str], ...]] = {}
        for when in ("always", "keep", "save"):
            runs = _runs([store for store in stores if store.when == when])
            written[when] = tuple((self._store(run, pointer(run[0].tensor)), run[0].tensor.row) for run in runs)
        return KernelText(
            name=f"{self.name}_{number}",
            run=text.names.made(("launcher", "stage", str(number)), f"stage_{number}"),
            across=tuple(map(self._across, link.across)),
            tensors=tuple(tensors.values()),
            pointers=tuple(tensors),
            wide=tuple(wide),
            masked=link.stage.masked,
            has_numbers=has_numbers([load for load, _ in loads], [s for some in written.values() for s, _ in some]),
            vectors=tuple(vectors),
            loads=tuple(loads),
            call=text.call(number),
            stores=written,
        )

    def _store(self, run: list[_Store], pointer: str) -> StoreText:
        return self.text.store(pointer, tuple(store.atom for store in run), run[0].block, run[0].total)


def _runs(stores: list[_Store]) -> Iterator[list[_Store]]:
    """Neighbouring blocks of one tensor together."""
    for _, group in groupby(enumerate(stores), key=lambda pair: (pair[1].tensor, pair[1].block - pair[0])):
        yield [store for _, store in group]
