"""Graphs in Triton: the lines of a kernel, for a tile of units and batch or for a vector of units.

The two differ in how a block of a stream is addressed, and only the tile has products; statements are the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from rnngen.emit.statements import Names, Spelling, Statement, identifier, number, statements
from rnngen.ir import PRODUCTS, CellGraph, Equation, Value, block_shape, blocks_of, origin
from rnngen.runtime.machine import parts_of, runs_of

SPELLING = Spelling(
    calls={
        "sigmoid": "sigmoid({0})",
        "tanh": "tanh({0})",
        "exp": "tl.exp({0})",
        "log": "tl.log({0})",
        "log1p": "log1p({0})",
        "sqrt": "tl.sqrt({0})",
        "sin": "tl.sin({0})",
        "cos": "tl.cos({0})",
        "erf": "tl.erf({0})",
        "abs": "tl.abs({0})",
        "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
        "min": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
        "where": "tl.where({0}, {1}, {2})",
        "matmul": "",  # written by the schedule
        "matmul_t": "",
        "stack": "",
    },
    with_number={},
    with_fraction={  # Triton 3.6 would round the number to float32, in float64 too
        "max": "tl.maximum({0}, tl.full([], {1}, ACC), propagate_nan=tl.PropagateNan.ALL)",
        "min": "tl.minimum({0}, tl.full([], {1}, ACC), propagate_nan=tl.PropagateNan.ALL)",
    },
    filled="tl.zeros_like({0}) + {1}",
    reserved=frozenset(
        "F nn tl torch triton sigmoid tanh log1p bounded first load_row load1 load2 load3 load4 store1 store_stack "
        "load_matrices load_transposed unpack2 unpack4 pack2 pack4 T B H D HEADS BD BB BLOCK MP STAGES BACKWARDS SAVE "
        "KEEP WIDE PRECISION ACC head batch left row row_0 count time unit inside "
        # Triton's interpreter puts names of its own among a kernel's globals.
        "np numpy math ast types partial wraps".split()
    ),
)


@dataclass(frozen=True, slots=True)
class KernelText:
    """The lines of one kernel, by their place in its body.

    pointers: the arguments in the order of inputs, states, parameters, outputs, last states. masks: those of them
    that point to integers. once: parameters, loaded before time begins. first and last: the states' loads before
    and stores after it. keeps: stores of a state's new value at each step, left out where only the last one is
    wanted. saves: stores for the adjoint, left out when no gradient is wanted. update: the assignment of the new
    states.
    """

    pointers: tuple[str, ...]
    masks: tuple[str, ...]
    once: tuple[str, ...]
    first: tuple[str, ...]
    loads: tuple[str, ...]
    step: tuple[str, ...]
    stores: tuple[str, ...]
    keeps: tuple[str, ...]
    saves: tuple[str, ...]
    update: str
    last: tuple[str, ...]


class _Writer(ABC):
    """Writes one graph. Subclasses know how blocks are addressed."""

    def __init__(self, graph: CellGraph, equations: tuple[Equation, ...] = ()):
        self.graph = graph
        self.values = graph.by_name()
        self.users = graph.users()
        self.updates = {state.update for state in graph.states}
        self.names = Names([graph], SPELLING.reserved)
        self.equations = equations

    def kernel(self) -> KernelText:
        graph = self.graph
        step = [line for statement in self._statements() for line in self._lines(statement)]
        states = [self.names[state.name] for state in graph.states]
        stores, keeps, saves = [], [], []
        for label, value in graph.outputs:
            lines = saves if label == "saved" else keeps if self._is_left_out(label, value) else stores
            lines.extend(self._store_output(label, value))
        return KernelText(
            pointers=tuple(self._pointers()),
            masks=tuple(self._pointer(leaf.name) for leaf in graph.leaves("input") if not leaf.shape),
            once=tuple(line for leaf in graph.leaves("parameter") for line in self._parameter(leaf)),
            first=tuple(self._load_state(state.name) for state in graph.states),
            loads=tuple(line for leaf in graph.leaves("input") for line in self._load_input(leaf)),
            step=tuple(step),
            stores=tuple(stores),
            keeps=tuple(keeps),
            saves=tuple(saves),
            update=f"{', '.join(states)} = {', '.join(self._new(s.name, s.update) for s in graph.states)}",
            last=tuple(self._store_state(state.name) for state in graph.states),
        )

    def _is_left_out(self, label: str, value: str) -> bool:
        """Whether an output is a state's new value, which the last state gives as well if only that one is wanted."""
        return value in self.updates

    def _pointers(self) -> Iterable[str]:
        for op in ("input", "state", "parameter"):
            yield from (self._pointer(leaf.name) for leaf in self.graph.leaves(op))
        yield from (self._output(label) for label, _ in self.graph.outputs)
        yield from (self._last(state.name) for state in self.graph.states)

    def _pointer(self, leaf: str) -> str:
        return self.names.made(("pointer", leaf), f"{self.names[leaf]}_ptr")

    def _output(self, label: str) -> str:
        return self.names.made(("output", label), f"{identifier(label)}_ptr")

    def _last(self, state: str) -> str:
        return self.names.made(("last", state), f"{self.names[state]}_last_ptr")

    def _statements(self) -> list[Statement]:
        return statements(self.graph, SPELLING, self.names, self._atom, self.equations, apart=True)

    def _atom(self, value: Value) -> str | None:
        """A value that has its name before the statements begin."""
        if value.op == "pick":
            named = "." not in value.name
            return self.names[value.name] if named else self.names.block(value.operands[0], value.attribute)
        return self.names[value.name] if value.op in ("input", "state", "parameter", "slice") else None

    def _text(self, name: str) -> str:
        value = self.values[name]
        return number(value.attribute) if value.op == "constant" else self._atom(value) or self.names[name]

    def _new(self, state: str, update: str) -> str:
        """The new value of a state, as a tile even where the graph has a number."""
        text = self._text(update)
        whole = self.values[update].shape and origin(self.values, update)[0].op != "parameter"
        return text if whole else f"tl.zeros_like({self.names[state]}) + {text}"

    def _block_names(self, pack: Value) -> list[str]:
        """The names of a pack's blocks."""
        if not (pack.shape and isinstance(pack.shape[0], int)):
            return [self.names[pack.name]]
        picks = {user.attribute: user for user in self.users[pack.name] if user.op == "pick"}
        return [
            self._atom(picks[n]) if n in picks else self.names.block(pack.name, n) for n in range(blocks_of(pack.shape))
        ]

    def _used_blocks(self, pack: Value) -> list[int]:
        if not (pack.shape and isinstance(pack.shape[0], int)):
            return [0]
        return sorted({user.attribute for user in self.users[pack.name] if user.op == "pick"})

    def _blocks(self, name: str) -> list[str]:
        """What a stack consists of; a value that is none, of itself."""
        value = self.values[name]
        return [self._text(operand) for operand in value.operands] if value.op == "stack" else [self._text(name)]

    def _parameter(self, leaf: Value) -> list[str]:
        if len(block_shape(leaf.shape)) == 2:
            return self._matrices(leaf)
        names = self._block_names(leaf)
        return [self._load_vector(leaf, n, names[n]) for n in self._used_blocks(leaf)]

    def _load_input(self, leaf: Value) -> list[str]:
        if not leaf.shape:
            return [f"{self.names[leaf.name]} = {self._load_number(leaf.name)}"]
        names, used = self._block_names(leaf), self._used_blocks(leaf)
        return self._load_blocks(leaf.name, blocks_of(leaf.shape), used, names)

    def _store_output(self, label: str, value: str) -> list[str]:
        return self._store_blocks(label, value, self._blocks(value))

    def _lines(self, statement: Statement) -> Iterable[str]:
        if statement.value.op == "stack":
            return self._stack(statement.value)
        if statement.value.op in PRODUCTS:
            return self._product(statement.value)
        return statement.lines

    def _matrices(self, leaf: Value) -> list[str]:
        return []

    def _stack(self, value: Value) -> list[str]:
        return []

    def _product(self, value: Value) -> list[str]:
        raise AssertionError(f"{self.graph.name}: a product in a kernel that has none")

    @abstractmethod
    def _load_vector(self, leaf: Value, block: int, name: str) -> str:
        """A vector or scalar parameter."""

    @abstractmethod
    def _load_blocks(self, leaf: str, total: int, used: list[int], names: list[str]) -> list[str]:
        """Blocks of a stream at the current step."""

    @abstractmethod
    def _load_number(self, leaf: str) -> str:
        """What a stream has at the current step for each element of the batch."""

    @abstractmethod
    def _store_blocks(self, label: str, value: str, blocks: list[str]) -> list[str]:
        """All blocks of an output at the current step."""

    @abstractmethod
    def _load_state(self, state: str) -> str: ...

    @abstractmethod
    def _store_state(self, state: str) -> str: ...


class VectorWriter(_Writer):
    """A vector of units of one batch row; the names `row`, `batch`, `unit` and `inside` are the template's."""

    def _load_vector(self, leaf: Value, block: int, name: str) -> str:
        pointer = self._pointer(leaf.name)
        if not block_shape(leaf.shape):
            return f"{name} = tl.load({pointer} + {block}).to(ACC)"
        return f"{name} = {_load(f'{pointer}{_at(block)}')}"

    def _input_row(self, leaf: str) -> str:
        """Which row of an input the program reads."""
        return "row"

    def _output_row(self, label: str) -> str:
        """Which row of an output it writes."""
        return "row"

    def _load_blocks(self, leaf: str, total: int, used: list[int], names: list[str]) -> list[str]:
        row = f"{self._pointer(leaf)} + {self._input_row(leaf)} * {_stride(total)}"
        return [f"{names[n]} = {_load(f'{row}{_at(n)}')}" for n in used]

    def _load_number(self, leaf: str) -> str:
        return f"tl.load({self._pointer(leaf)} + {self._input_row(leaf)})"

    def _store_blocks(self, label: str, value: str, blocks: list[str]) -> list[str]:
        row = f"{self._output(label)} + {self._output_row(label)} * {_stride(len(blocks))}"
        return [f"tl.store({row}{_at(n)} + unit, {text}, mask=inside)" for n, text in enumerate(blocks)]

    def _load_state(self, state: str) -> str:
        return f"{self.names[state]} = {_load(f'{self._pointer(state)} + batch * H')}"

    def _store_state(self, state: str) -> str:
        return f"tl.store({self._last(state)} + batch * H + unit, {self.names[state]}, mask=inside)"


def _load(address: str) -> str:
    return f"tl.load({address} + unit, mask=inside, other=0.0).to(ACC)"


def _stride(total: int) -> str:
    """Elements from one row of a stream to the next."""
    return "H" if total == 1 else f"({total} * H)"


def _at(block: int) -> str:
    """The offset of a block within a row."""
    return "" if block == 0 else " + H" if block == 1 else f" + {block} * H"


class TileWriter(_Writer):
    """A tile of the units of one head and some of the batch, with that head's matrices on the chip.

    Up to four neighbouring blocks are one stack of tiles: see `rnngen.runtime.tiles`, whose functions are called here.
    """

    def _load_vector(self, leaf: Value, block: int, name: str) -> str:
        pointer = self._pointer(leaf.name)
        if not block_shape(leaf.shape):
            return f"{name} = tl.load({pointer} + {block}).to(ACC)"
        address = f"{pointer}{_at(block)} + head * D + unit"
        return f"{name} = tl.load({address}, mask=unit < D, other=0.0).to(ACC)[:, None]"

    def _load_blocks(self, leaf: str, total: int, used: list[int], names: list[str]) -> list[str]:
        pointer = self._pointer(leaf)
        return [
            f"{', '.join(names[n] for n in group)} = "
            f"load{len(group)}({pointer}, row, head, left, {group[0]}, {total}, H, D, BD, BB, ACC)"
            for group in runs_of(used)
        ]

    def _load_number(self, leaf: str) -> str:
        return f"load_row({self._pointer(leaf)}, row, left, BB)"

    def _store_blocks(self, label: str, value: str, blocks: list[str]) -> list[str]:
        pointer, lines, total = self._output(label), [], len(blocks)
        for group in runs_of(range(total)):
            if len(group) == 1:
                tile = self._as_tile(blocks[group[0]])
                lines.append(f"store1({pointer}, {tile}, row, head, left, {group[0]}, {total}, H, D, BD, BB)")
                continue
            packed = self._is_packed(value)
            stack = self._packed_name(value, group) if packed else _packed([blocks[n] for n in group])
            where = f"{group[0]}, {len(group)}, {total}, {parts_of(group)}"
            lines.append(f"store_stack({pointer}, {stack}, row, head, left, {where}, H, D, BD, BB)")
        return lines

    def _load_state(self, state: str) -> str:
        return f"{self.names[state]} = load1({self._pointer(state)}, row_0, head, left, 0, 1, H, D, BD, BB, ACC)"

    def _store_state(self, state: str) -> str:
        return f"store1({self._last(state)}, {self.names[state]}, row_0, head, left, 0, 1, H, D, BD, BB)"

    def _as_tile(self, text: str) -> str:
        """A number as a tile; anything else is one."""
        return text if text.isidentifier() else f"tl.zeros([BD, BB], ACC) + {text}"

    def _is_packed(self, name: str) -> bool:
        """Whether a stack is put together anyway, as the operand of a product."""
        return self.values[name].op == "stack" and any(user.op in PRODUCTS for user in self.users[name])

    def _packed_name(self, stack: str, group: list[int]) -> str:
        whole = len(self.values[stack].operands) <= 4
        return (
            self.names[stack] if whole else self.names.made((stack, "part", str(group[0])), f"{self.names[stack]}_part")
        )

    def _stack(self, value: Value) -> list[str]:
        if not self._is_packed(value.name):
            return []
        blocks = self._blocks(value.name)
        element = self._element(next(user.operands[0] for user in self.users[value.name] if user.op in PRODUCTS))
        return [
            f"{self._packed_name(value.name, group)} = "
            f"{_bounded(_packed([blocks[n] for n in group]), parts_of(group))}.to({element})"
            for group in runs_of(range(len(blocks)))
            if len(group) > 1
        ]

    def _element(self, matrix: str) -> str:
        return f"{self._pointer(origin(self.values, matrix)[0].name)}.dtype.element_ty"

    def _matrices(self, leaf: Value) -> list[str]:
        """The matrices that the products of this parameter need: as stacks, or one by one."""
        wide, narrow = [], []
        for value in self.graph.values:
            if value.op not in PRODUCTS:
                continue
            parameter, start = origin(self.values, value.operands[0])
            if parameter != leaf:
                continue
            load, rows = ("load_matrices", "") if value.op == "matmul" else ("load_transposed", ", MP")
            for group in runs_of(range(blocks_of(self.values[value.operands[0]].shape))):
                tile = self._tile(value, group)
                parts = "MP" if len(group) == 1 and not rows else parts_of(group)
                opening = f"{load}({self._pointer(leaf.name)}, head, "
                closing = ", HEADS, D, BD)"
                wide.append(f"{tile} = {opening}{start + group[0]}, {len(group)}, {parts}{rows}{closing}")
                for n in group:
                    one = ", 1" if rows else ""
                    narrow.append(f"{tile}_{n - group[0]} = {opening}{start + n}, 1, 1{one}{closing}")
        return _either(wide, narrow)

    def _tile(self, product: Value, group: list[int]) -> str:
        key = ("matrices", product.name, str(group[0]))
        return self.names.made(key, f"{self.names[product.operands[0]]}_tile")

    def _product(self, value: Value) -> list[str]:
        matrix, vector = value.operands
        groups = runs_of(range(blocks_of(self.values[matrix].shape)))
        apply = self._apply if value.op == "matmul" else self._apply_transposed
        return [line for group in groups for line in apply(value, group, self._element(matrix), vector)]

    def _apply(self, value: Value, group: list[int], element: str, vector: str) -> list[str]:
        """Matrices on one vector: a tile for each product."""
        names = [self._block_names(value)[n] for n in group]
        tile, right = self._tile(value, group), f"{_bounded(self._text(vector))}.to({element})"
        narrow = [f"{name} = {_dot(f'{tile}_{n}', right)}" for n, name in enumerate(names)]
        if len(group) == 1:
            return _either([f"{names[0]} = first({_dot(tile, right)}, MP, BD, BB)"], narrow)
        padded = ", ".join([*names, *["_"] * (parts_of(group) - len(names))])
        return _either([f"{padded} = unpack{parts_of(group)}({_dot(tile, right)}, BD, BB)"], narrow)

    def _apply_transposed(self, value: Value, group: list[int], element: str, vector: str) -> list[str]:
        """Transposed matrices, each on a block of its own: the sum of the products."""
        blocks = self._blocks(vector)
        tile, target = self._tile(value, group), self.names[value.name]
        right = self._packed_name(vector, group) if len(group) > 1 else f"{_bounded(blocks[group[0]])}.to({element})"
        before = f"{target} + " if group[0] else ""
        narrow = [
            f"{target} = {_dot(f'{tile}_{n - group[0]}', f'{_bounded(blocks[n])}.to({element})', target if n else '')}"
            for n in group
        ]
        return _either([f"{target} = {before}first({_dot(tile, right)}, MP, BD, BB)"], narrow)


def _packed(blocks: list[str]) -> str:
    parts = parts_of(blocks)
    padded = [*blocks, *[f"tl.zeros_like({blocks[0]})"] * (parts - len(blocks))]
    return f"pack{parts}({', '.join(padded)}, BD, BB)"


def _bounded(stack: str, parts: int = 1) -> str:
    return f"bounded({stack}, {parts}, D, BD)"


def _dot(left: str, right: str, accumulator: str = "") -> str:
    added = f", {accumulator}" if accumulator else ""
    return f"tl.dot({left}, {right}{added}, input_precision=PRECISION, out_dtype=ACC)"


def _either(wide: list[str], narrow: list[str]) -> list[str]:
    """One product of a stack, or, where that would not fit the registers, one product for each matrix."""
    return ["if WIDE:", *(f"    {line}" for line in wide), "else:", *(f"    {line}" for line in narrow)]
