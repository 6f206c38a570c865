"""unpack: what is said of all blocks of a parameter at once is written out, block by block.

a, b = sigmoid(weight_ih @ x)      →      a = sigmoid(W_a @ x)
                                          b = sigmoid(W_b @ x)

What looks across all units of all blocks takes them as a stack, as the norm does in layer_norm(weight_ih @ x).
"""

from collections.abc import Collection
from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import CellGraph, Program, Value, blocks_of
from rnngen.ops import OPS


def unpack(program: Program) -> Program:
    """The program with a cell in which packs are parameters, stacks of blocks, and norms of these alone."""
    graph = blockwise(program.cell)
    return program if graph is program.cell else replace(program, cell=graph)


def blockwise(graph: CellGraph, apart: Collection[str] = OPS.keys() | {"matmul"}) -> CellGraph:
    """The graph in which the operations of `apart` give one block each, and a block has one name; the same object if
    that was so.
    """
    made = _Blockwise(graph, apart).graph()
    return graph if made == graph else made


class _Blockwise:
    """Values that are no packs in their order. A pack without a name is made, block by block, where each is used."""

    def __init__(self, graph: CellGraph, apart: Collection[str]):
        self.old, self.apart, self.values = graph, apart, graph.by_name()
        self.to = Builder(reserved=[value.name for value in graph.values if not self._is_apart(value)])
        self.names: dict[str, str] = {}
        self.blocks: dict[tuple[str, int], str] = {}
        self.called = {(v.operands[0], v.block): v.name for v in reversed(graph.values) if v.op == "pick"}

    def graph(self) -> CellGraph:
        for value in self.old.values:
            if not self._is_apart(value):
                self.names[value.name] = self._one(value)
            elif "." not in value.name:
                for number in range(blocks_of(value.shape)):
                    self._block(value.name, number)
        return renamed(self.old, self.to, self.names)

    def _is_apart(self, value: Value) -> bool:
        return blocks_of(value.shape) > 1 and value.op in self.apart

    def _one(self, value: Value) -> str:
        """A value that is no pack, or stays one."""
        if value.op == "pick":
            return self._block(value.operands[0], value.block)
        return self.to.keep(replace(value, operands=tuple(map(self._whole, value.operands))))

    def _whole(self, name: str) -> str:
        """An operand of what takes all blocks at once."""
        if not self._is_apart(self.values[name]):
            return self.names[name]
        blocks = (self._block(name, number) for number in range(blocks_of(self.values[name].shape)))
        return self.to.make(f"{name}.stack", "stack", *blocks)

    def _block(self, name: str, number: int) -> str:
        """A block of a pack, under the name that an equation or a parameter gives it; of what is no pack itself."""
        value = self.values[name]
        if blocks_of(value.shape) == 1:
            return self.names[name]
        if (name, number) not in self.blocks:
            called = self._name(name, number)
            if self._is_apart(value):
                operands = tuple(self._block(operand, number) for operand in value.operands)
                made = Value(called, value.op, operands, origin=value.origin)
            else:
                made = Value(called, "pick", (self.names[name],), attribute=number, origin=value.origin)
            self.blocks[name, number] = self.to.add(made)
        return self.blocks[name, number]

    def _name(self, name: str, number: int) -> str:
        """A part of `i, f = ...` without a name is a part of `i = ...` in one block, and of `f = ...` in the other."""
        if (name, number) not in self.called:
            stem, point, part = name.partition(".")
            wholes = (self.values[of] for of in (stem, f"{stem}.0") if of != name and of in self.values)
            whole = next(filter(self._is_apart, wholes), None)
            if whole:
                called = self.to.fresh(f"{self._name(whole.name, number)}.{part}")
            else:
                called = self.to.fresh(f"{name}.{number}") if point else self.to.fresh(f"{name}_{number}", "_")
            self.called[name, number] = called
        return self.called[name, number]
