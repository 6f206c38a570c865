"""Graphs in torch: the CPU's steps, and what runs over all rows before and after a scan on any device.

A pack of k vectors is one tensor with the blocks side by side in its last dimension, so that a product of a stack is
one `F.linear`; a pack of a parameter's blocks has them one after another in dimension 0, as torch.nn stores them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rnngen.build import with_sums_of_packs
from rnngen.emit.render import render
from rnngen.emit.statements import Names, identifier, statements
from rnngen.emit.torch.spelling import SPELLING
from rnngen.ir import CellGraph, Equation, Value, block_diagonal, block_shape, blocks_of, prune, reaching


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
        step: bool = False,
        places: Mapping[str, int] | None = None,
        for_scan: frozenset[str] = frozenset(),
    ):
        """step: whether this is one step, and no graph for many rows at once. places: of the states of such a graph
        among those that its function is given. for_scan: the values of it that nothing but a scan asks for.
        """
        self.graph = _projected(_in_torch(_with_delays(graph, places) if places else graph, step), for_scan)
        self.values = self.graph.by_name()
        self.users = self.graph.users()
        self.names = names or Names([self.graph], SPELLING.reserved)
        self.elsewhere = {name for _, name in graph.outputs} if names else set()  # what other graphs call by its name
        self.lines: list[str] = []
        for leaf in self.graph.values:
            if leaf.op in ("input", "parameter"):
                self.lines += self._unpacked(leaf)
        for statement in statements(self.graph, SPELLING, self.names, self._atom, equations, step):
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
        leaf = next(iter(self.graph.leaves("mask")), None)
        return self.names[leaf.name] if leaf else self.names.made(("mask",), "valid")

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
        named = "." not in value.name or value.name in self.elsewhere
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


# Operations as one with what is added to them; in a step a product is one of two matrices.
_WITH_SUM = {"matmul": "linear", "matmul_t": "linear_t", "mul": "addcmul"}
_OF_MATRICES = {"matmul": "mm", "linear": "addmm", "matmul_t": "mm_t", "linear_t": "addmm_t"}


def _in_torch(graph: CellGraph, step: bool = False) -> CellGraph:
    """The graph with operations that torch has as one call each: on a CPU a step costs by its calls, not its numbers.

    A product and what is added to it; the derivatives of sigmoid and tanh; a total that is one number; a layer norm
    with its gain and its bias.
    """
    graph = _with_choices_of_packs(with_sums_of_packs(graph))
    only_users = graph.only_users()
    definitions = graph.by_name()
    heads = block_diagonal(graph)

    def added(value: Value) -> Value | None:
        """A sum with what is added to a product, if nothing else is made of that."""
        for name, other in (value.operands[::-1], value.operands):
            part = definitions[name]
            apart = only_users.get(name) != value or {part.shape, definitions[other].shape} != {value.shape}
            numbers = any(definitions[operand].op == "constant" for operand in (*part.operands, other))
            named = part.op == "mul" and "." not in name and not graph.backwards
            if part.op in _WITH_SUM and not (apart or numbers or named):
                return replace(value, op=_WITH_SUM[part.op], operands=(*part.operands, other))
        return None

    def made(value: Value) -> Value:
        if value.op == "add" and (norm := _norm(value, definitions, only_users)):
            return norm
        if value.op == "slice" and definitions[value.operands[0]].op == "input":
            return replace(value, op="slice_of_pack")
        if value.op == "total" and value.shape == ():
            return replace(value, op="total_number")
        if value.op == "add":
            value = added(value) or value
        if value.op == "mul":
            value = _derivative(value, definitions) or value
        plain = step and value.op in _OF_MATRICES and value.operands[0] not in heads
        return replace(value, op=_OF_MATRICES[value.op]) if plain else value

    return prune(replace(graph, values=tuple(map(made, graph.values))))


def _projected(graph: CellGraph, for_scan: frozenset[str]) -> CellGraph:
    """The graph with products, and a bias, that only a scan asks for."""
    rows = reaching(graph, {leaf.name for leaf in graph.leaves("input")})
    users = graph.users()

    def made(value: Value) -> Value:
        alone = value.name in for_scan and not users[value.name] and rows.isdisjoint(value.operands[2:])
        return replace(value, op="product_for_scan") if alone and value.op in ("matmul", "linear") else value

    return replace(graph, values=tuple(map(made, graph.values)))


def _norm(value: Value, definitions: dict[str, Value], only_users: dict[str, Value]) -> Value | None:
    """layer_norm(a) * gain + bias as one operation, the last two parameters of the shape of a."""
    found, parameters = value, []
    for op in ("add", "mul"):
        if found.op != op or any(definitions[name].shape != value.shape for name in found.operands):
            return None
        parts = [definitions[name] for name in found.operands]
        parameters += [part.name for part in parts if part.op == "parameter"]
        inner = next((part for part in parts if part.op != "parameter"), found)
        if only_users.get(inner.name) != found:
            return None
        found = inner
    if found.op != "layer_norm" or len(parameters) < 2:
        return None
    bias, gain = parameters
    return replace(value, op="affine_norm", operands=(*found.operands, gain, bias))


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


def _with_choices_of_packs(graph: CellGraph) -> CellGraph:
    """Blocks that are zero where a step does not count as a pack that is, if nothing else becomes of them."""
    definitions, users, roots = graph.by_name(), graph.users(), set(graph.roots())
    packs = {v.name for v in graph.values if v.op == "stack" and users[v.name]}
    packs = {name for name in packs if all(definitions[o].op == "or_zero" for o in definitions[name].operands)}

    def alone(name: str) -> bool:
        return name not in roots and packs.issuperset(user.name for user in users[name])

    values = []
    for value in graph.values:
        if value.name in packs and all(map(alone, value.operands)):
            mask = definitions[value.operands[0]].operands[0]
            blocks = tuple(definitions[operand].operands[1] for operand in value.operands)
            whole = replace(value, name=f"{value.name}.all", operands=blocks)
            values += [whole, replace(value, op="or_zero", operands=(mask, whole.name))]
        else:
            values.append(value)
    return prune(replace(graph, values=tuple(values)))
