"""The stepwise schedule: a step in stages, with the products of one time step between two kernels.

Stage s computes what depends on no more than s products in a row. It gets everything of earlier stages by computing it
again from streams, states and products, which is pointwise and costs nothing beside the launches; so only operands of
products pass through memory between two stages.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rnngen.emit.statements import identifier
from rnngen.emit.triton import SPELLING, VectorWriter
from rnngen.ir import LEAVES, PRODUCTS, VIEWS, CellGraph, Equation, block_shape, blocks_of, needed, viewed


@dataclass(frozen=True, slots=True)
class StageView:
    """One kernel. products: the launcher's lines before it; tensors: its pointer arguments as the launcher has them."""

    name: str
    products: tuple[str, ...]
    tensors: tuple[str, ...]
    pointers: tuple[str, ...]
    masks: tuple[str, ...]
    once: tuple[str, ...]
    loads: tuple[str, ...]
    step: tuple[str, ...]
    stores: tuple[str, ...]
    keeps: tuple[str, ...]
    saves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepwiseView:
    """The launcher and its stages. opening: its lines before time begins; states: their names, carried in float32."""

    name: str
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[str, ...]
    opening: tuple[str, ...]
    stages: tuple[StageView, ...]


def stepwise_view(graph: CellGraph, name: str, equations: tuple[Equation, ...]) -> StepwiseView:
    """A direction of a scan as stages and the loop that launches them."""
    return _Stepwise(graph, name, equations).view()


def levels(graph: CellGraph) -> dict[str, int]:
    """How many products in a row each value depends on."""
    found: dict[str, int] = {}
    for value in graph.values:
        found[value.name] = max((found[o] for o in value.operands), default=0) + (value.op in PRODUCTS)
    return found


class _Stage(VectorWriter):
    """A stage: products are inputs at the current step only, states are read and, at the end, written in place.

    operands: the outputs that hold what products of a later stage are applied to, at the current step only.
    """

    def __init__(self, graph: CellGraph, whole: "_Stepwise", operands: set[str]):
        super().__init__(graph, whole.equations)
        self.products = {value.name for value in whole.products}
        self.operands, self.copies, self.updates = operands, whole.copied, whole.updates

    def _input_row(self, leaf: str) -> str:
        return "batch" if leaf in self.products else super()._input_row(leaf)

    def _output_row(self, label: str) -> str:
        return "batch" if label in self.operands else super()._output_row(label)

    def _is_left_out(self, label: str, value: str) -> bool:
        return label not in self.operands and super()._is_left_out(label, value)

    def loads(self) -> list[str]:
        states = [self._load_state(leaf.name) for leaf in self.graph.leaves("state")]
        return states + [line for leaf in self.graph.leaves("input") for line in self._load_input(leaf)]

    def state_stores(self) -> list[str]:
        lines = []
        for state in self.graph.states:
            text = self._new(state.name, state.update)
            pointers = [self._pointer(state.name)]
            pointers += [self._output(f"{state.name} operand")] if state.name in self.copies else []
            lines += [f"tl.store({pointer} + batch * H + unit, {text}, mask=inside)" for pointer in pointers]
        return lines


class _Stepwise:
    def __init__(self, graph: CellGraph, name: str, equations: tuple[Equation, ...]):
        self.graph, self.name, self.equations = graph, name, equations
        self.values = graph.by_name()
        self.level = levels(graph)
        self.last = max(self.level.values())
        self.products = [value for value in graph.values if value.op in PRODUCTS]
        self.updates = {state.update for state in graph.states}
        self.labels = {value: label for label, value in reversed(graph.outputs)}
        reserved = SPELLING.reserved | {"scan", "choice", "stage", "zip", "blocks", "product_into"}
        self.names = VectorWriter(graph).names
        for word in reserved | {"step", "product_transposed_into", "state", "last"}:
            self.names.made(("reserved", word), word)
        self.operands = dict.fromkeys(value.operands[1] for value in self.products)
        self.copied = {name for name in self.operands if self.values[name].op == "state"}

    def view(self) -> StepwiseView:
        stages = [self._stage(number) for number in range(self.last + 1)]
        return StepwiseView(
            name=self.name,
            inputs=self._leaf_names("input"),
            states=self._leaf_names("state"),
            parameters=self._leaf_names("parameter"),
            outputs=tuple(self._tensor(label) for label, _ in self.graph.outputs),
            opening=tuple(self._opening()),
            stages=tuple(stage for stage in stages if stage),
        )

    def _leaf_names(self, op: str) -> tuple[str, ...]:
        return tuple(self.names[leaf.name] for leaf in self.graph.leaves(op))

    def _tensor(self, label: str) -> str:
        return self.names.made(("tensor", label), identifier(label))

    def _opening(self) -> Iterable[str]:
        states = [leaf.name for leaf in self.graph.leaves("state")]
        for name in self.operands:
            if name in self.copied:
                yield f"{self._tensor(f'{name} operand')} = scan.states[{states.index(name)}].clone()"
            elif not self._is_output(name):
                yield f"{self._tensor(f'{name} operand')} = scan.buffer({blocks_of(self.values[name].shape)})"
        for value in self.products:
            yield f"{self.names[value.name]} = scan.buffer({blocks_of(value.shape)})"
        for value in self.graph.values:
            if value.op in VIEWS and len(block_shape(value.shape)) == 2:
                whole, count = value.operands[0], blocks_of(self.values[value.operands[0]].shape)
                shown = viewed(value)
                yield f"{self.names[value.name]} = blocks({self.names[whole]}, {count}, {shown.start}, {shown.stop})"

    def _operand(self, name: str) -> str:
        """What a product is applied to, as the launcher has it."""
        return f"{self._tensor(self.labels[name])}[step]" if self._is_output(name) else self._tensor(f"{name} operand")

    def _is_output(self, name: str) -> bool:
        """An output's row serves as the operand, unless it may be left out: see `KernelText.keeps`."""
        return name not in self.copied and name in self.labels and name not in self.updates

    def _product_lines(self, level: int) -> list[str]:
        lines = []
        for value in self.products:
            if self.level[value.name] == level:
                matrix, vector = value.operands
                arguments = f"{self.names[value.name]}, {self.names[matrix]}, {self._operand(vector)}"
                if value.op == "matmul":
                    lines.append(f"product_into({arguments})")
                else:
                    count = blocks_of(self.values[matrix].shape)
                    lines.append(f"product_transposed_into({arguments}, {count})")
        return lines

    def _stage(self, number: int) -> StageView | None:
        """The kernel of a stage, None if it has nothing to store."""
        outputs = [(label, value) for label, value in self.graph.outputs if self.level[value] == number]
        operands = [
            (f"{name} operand", name)
            for name in self.operands
            if self.level[name] == number and name not in self.copied and not self._is_output(name)
        ]
        states = self.graph.states if number == self.last else ()
        if not outputs and not operands and not states:
            return None
        graph = self._subgraph(number, [*outputs, *operands], states)
        writer = _Stage(graph, self, {label for label, _ in operands})
        text = writer.kernel()
        copies = [f"{state.name} operand" for state in states if state.name in self.copied]
        tensors, pointers = [], []
        for op in ("input", "state", "parameter"):
            for leaf in graph.leaves(op):
                tensors.append(self.names[leaf.name])
                pointers.append(writer._pointer(leaf.name))
        for label in [label for label, _ in graph.outputs] + copies:
            tensors.append(self._tensor(label))
            pointers.append(writer._output(label))
        return StageView(
            name=f"{self.name}_stage_{number}",
            products=tuple(self._product_lines(number)),
            tensors=tuple(tensors),
            pointers=tuple(pointers),
            masks=text.masks,
            once=text.once,
            loads=tuple(writer.loads()),
            step=text.step,
            stores=(*text.stores, *writer.state_stores()),
            keeps=text.keeps,
            saves=text.saves,
        )

    def _subgraph(self, number: int, outputs: list[tuple[str, str]], states: tuple) -> CellGraph:
        """What the outputs and new states need, with products of earlier stages as inputs."""
        cut = replace(
            self.graph,
            values=tuple(
                replace(value, op="input", operands=(), attribute=None)
                if value.op in PRODUCTS and self.level[value.name] <= number
                else value
                for value in self.graph.values
                if self.level[value.name] <= number or value.op in LEAVES
            ),
        )
        alive = needed(cut, {name for _, name in outputs} | {state.update for state in states})
        alive |= {state.name for state in states}
        values = tuple(value for value in cut.values if value.name in alive)
        return CellGraph(self.graph.name, values, states, tuple(outputs), self.graph.heads)
