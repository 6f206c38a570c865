"""Graphs in torch: the CPU's steps, and what runs over all rows before and after a scan on any device.

A pack of k vectors is one tensor with the blocks side by side in its last dimension, so that a product of a stack is
one `F.linear`; a pack of a parameter's blocks has them one after another in dimension 0, as torch.nn stores them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rnngen.emit.render import render
from rnngen.emit.statements import Names, identifier, statements
from rnngen.emit.torch.spelling import SPELLING
from rnngen.ir import CellGraph, Equation, Value, block_shape, blocks_of, prune


@dataclass(frozen=True, slots=True)
class FunctionText:
    """A torch function. about: its docstring; lines: its body; returns: the expression after the last line."""

    name: str
    about: str
    arguments: tuple[str, ...]
    lines: tuple[str, ...]
    returns: str


def function(text: FunctionText) -> str:
    """A function as a module has it."""
    return render("torch", "function.py.jinja", function=text)


def tuple_text(items: Sequence[str]) -> str:
    """Items as a tuple of Python's."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


class TorchText:
    """One graph as the body of a torch function: `lines`, and how to refer to its values before and after them."""

    def __init__(
        self,
        graph: CellGraph,
        names: Names | None = None,
        equations: tuple[Equation, ...] = (),
        apart: bool = False,
        places: Mapping[str, int] | None = None,
    ):
        """places: of the states of a graph for all rows at once, among those that its function is given."""
        self.graph = _in_torch(_with_delays(graph, places) if places else graph)
        self.values = self.graph.by_name()
        self.users = self.graph.users()
        self.names = names or Names([self.graph], SPELLING.reserved)
        self.lines: list[str] = []
        for leaf in self.graph.values:
            if leaf.op in ("input", "parameter"):
                self.lines += self._unpacked(leaf)
        for statement in statements(self.graph, SPELLING, self.names, self._atom, equations, apart):
            *comment, line = statement.lines
            if statement.value.op == "delayed":
                line = f"{statement.target}, {self.last(statement.value.name)} = {statement.text}"
            self.lines += [*comment, line, *self._unpacked(statement.value)]

    def arguments(self, *ops: str) -> list[str]:
        """Names of the function's arguments: the leaves of these kinds, in order."""
        return [self.names[leaf.name] for op in ops for leaf in self.graph.leaves(op)]

    def last(self, state: str) -> str:
        """The value of a state of a graph for all rows after the last step."""
        return self.names.made((state, "last"), f"{identifier(state)}_last")

    def clipped(self) -> list[str]:
        """Lines for the head of a step forwards: the states through which what passes back is cut off."""
        bounds = [(self.names[s.name], self.names[s.bound]) for s in self.graph.states if s.bound]
        return [f"{state} = clip_gradient({state}, {bound})" for state, bound in bounds]

    @property
    def mask(self) -> str:
        """The argument that says which steps count; a function that does not ask has it too."""
        return next((self.names[leaf.name] for leaf in self.graph.leaves("mask")), "valid")

    def text(self, name: str) -> str:
        """How the end of the function refers to a value."""
        return self._atom(self.values[name]) or self.names[name]

    def beside(self, names: Iterable[str]) -> str:
        """Several values as one, beside each other."""
        texts = [self.text(name) for name in names]
        return texts[0] if len(texts) == 1 else f"torch.cat({tuple_text(texts)}, -1)"

    def blocks(self, name: str) -> list[str]:
        """A stack's blocks if nothing else needs them put together, so that the caller writes each where it belongs."""
        value = self.values[name]
        apart = value.op == "stack" and not self.users[name]
        return [self.text(operand) for operand in value.operands] if apart else [self.text(name)]

    def _atom(self, value: Value) -> str | None:
        if value.op == "pick":
            return self._pick(value)
        if value.op == "share":
            return self._share(value.dimension)
        return self.names[value.name] if value.op in ("input", "state", "parameter", "mask") else None

    def _share(self, dimension: str) -> str:
        """1 by the size of a dimension, read off a leaf that has it; in one with heads it is not to be seen."""
        leaves = (leaf for op in ("state", "input", "parameter") for leaf in self.graph.leaves(op))
        shapes = {leaf.name: block_shape(leaf.shape) for leaf in leaves if leaf.name not in self.graph.heads}
        name = next(name for name, shape in shapes.items() if dimension in shape)
        place = shapes[name][::-1].index(dimension)
        first = place == len(shapes[name]) - 1  # its blocks are one after another
        return f"({blocks_of(self.values[name].shape) if first else 1} / {self.names[name]}.shape[{-1 - place}])"

    def _pick(self, value: Value) -> str:
        named = "." not in value.name
        return self.names[value.name] if named else self.names.block(value.operands[0], value.block)

    def _unpacked(self, value: Value) -> list[str]:
        """A line that gives the blocks of a pack their names, if anything uses them one by one."""
        picks = {user.block: user for user in self.users[value.name] if user.op == "pick"}
        if not picks:
            return []
        count = blocks_of(value.shape)
        whole = self.names[value.name]
        blocks = [self._pick(picks[n]) if n in picks else self.names.block(value.name, n) for n in range(count)]
        if count == 1:
            return [f"{blocks[0]} = {whole}"]
        along = "" if value.op == "parameter" else ", dim=-1"
        return [f"{', '.join(blocks)} = {whole}.chunk({count}{along})"]


def _with_delays(graph: CellGraph, places: Mapping[str, int]) -> CellGraph:
    """A graph for all rows at once, with the old values of its states made of the new ones."""
    updates = {state.name: state.update for state in graph.states}
    values = [
        replace(value, op="delayed", operands=(updates[value.name],), attribute=places[value.name])
        if value.name in updates
        else value
        for value in graph.values
    ]
    return replace(graph, values=tuple(values), states=())


def _in_torch(graph: CellGraph) -> CellGraph:
    """The graph with operations that torch has as one call each: on a CPU a step costs by its calls, not its numbers.

    A product and what is added to it; the derivatives of sigmoid and tanh; a total that is one number.
    """
    graph = _with_sums_of_packs(graph)
    only_users = graph.only_users()
    definitions = graph.by_name()

    def made(value: Value) -> Value:
        if value.op == "total" and value.shape == ():
            return replace(value, op="total_number")
        if value.op == "add":
            for product, other in (value.operands, value.operands[::-1]):
                alone = definitions[product].op == "matmul" and only_users.get(product) == value
                if alone and definitions[other].shape == value.shape:
                    return replace(value, op="linear", operands=(*definitions[product].operands, other))
        if value.op == "mul":
            return _derivative(value, definitions) or value
        return value

    return prune(replace(graph, values=tuple(map(made, graph.values))))


def _derivative(value: Value, definitions: dict[str, Value]) -> Value | None:
    """d * (y * (1 - y)) or d * (1 - y * y) as one operation."""
    adjoint, factor = value.operands[0], definitions[value.operands[1]]
    if definitions[adjoint].shape != factor.shape:
        return None

    def complement(name: str) -> str | None:
        """What is taken off 1, if a value is 1 - something."""
        found = definitions[name]
        if found.op != "sub":
            return None
        whole, part = found.operands
        return part if definitions[whole].op == "constant" and definitions[whole].number == 1 else None

    if factor.op == "mul" and complement(factor.operands[1]) == factor.operands[0]:
        return replace(value, op="sigmoid_backward", operands=(adjoint, factor.operands[0]))
    square = complement(factor.name)
    if square and definitions[square].op == "mul" and len(set(definitions[square].operands)) == 1:
        return replace(value, op="tanh_backward", operands=(adjoint, definitions[square].operands[0]))
    return None


def _with_sums_of_packs(graph: CellGraph) -> CellGraph:
    """P[0] + Q[0], P[1] + Q[1] as blocks of P + Q, where that is all that becomes of a product P."""
    definitions = graph.by_name()
    users, only_users = graph.users(), graph.only_users()
    sums: dict[str, Value] = {}  # the second of the two packs, after which the sum can stand
    blocks: dict[str, Value] = {}
    for pack in graph.values:
        picks = {user.block: user for user in users[pack.name] if user.op == "pick"}
        if pack.op != "matmul" or len(picks) < max(blocks_of(pack.shape), 2) or len(picks) < len(users[pack.name]):
            continue
        adds = {n: user for n, pick in picks.items() if (user := only_users.get(pick.name)) and user.op == "add"}
        others = [definitions[next(o for o in add.operands if o != picks[n].name)] for n, add in sorted(adds.items())]
        if {o.op for o in others} != {"pick"} or [o.block for o in others] != list(range(len(picks))):
            continue
        if len({o.operands for o in others}) != 1:
            continue
        (other,) = others[0].operands
        if definitions[other].shape != pack.shape:
            continue
        later = max(pack.name, other, key=list(definitions).index)
        total = Value(f"{pack.name}_sum", "add", (other, pack.name), pack.shape)
        sums[later] = total
        blocks |= {add.name: replace(add, op="pick", operands=(total.name,), attribute=n) for n, add in adds.items()}
    values = []
    for value in graph.values:
        values.append(blocks.get(value.name, value))
        if value.name in sums:
            values.append(sums[value.name])
    return prune(replace(graph, values=tuple(values)))
