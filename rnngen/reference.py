"""reference: a cell run by torch as it was written, to judge everything else.

A graph is walked value by value and torch's autograd does the rest. Nothing here is shared with `differentiate`, the
passes or the emitters: derived operations are torch's own functions, and a block-diagonal stack is made dense.

A pack of k vectors is one tensor with the blocks side by side in its last dimension, a parameter has its blocks one
after another in dimension 0, and every vector may have leading dimensions, which broadcast.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rnngen.ir import CellGraph, Value, block_shape, blocks_of

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "abs": torch.abs,
    "max": torch.maximum,
    "min": torch.minimum,
    "where": torch.where,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "relu": F.relu,
    "softplus": lambda a: F.softplus(a, threshold=50),  # torch's own 20 is off by 2e-9 there
    "silu": F.silu,
    "hardsigmoid": lambda a: F.relu6(a + 3) / 6,  # F.hardsigmoid has 1 / 6 in float32 in its derivative
    "identity": lambda a: a,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
}
_Named = Mapping[str, Tensor]


def run(
    graph: CellGraph, inputs: _Named, states: _Named, parameters: _Named
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs by label and the new states by name of one step, or of many rows of a graph without a state."""
    leaves = {"input": inputs, "state": states, "parameter": parameters}
    some = next(t for group in leaves.values() for t in group.values())
    shapes = {value.name: value.shape for value in graph.values}
    found: dict[str, Tensor] = {}
    for value in graph.values:
        if value.op == "constant":
            found[value.name] = some.new_tensor(value.attribute)
        elif value.op in leaves:
            found[value.name] = leaves[value.op][value.name]
        else:
            operands = [found[operand] for operand in value.operands]
            found[value.name] = _computed(value, operands, [shapes[operand] for operand in value.operands])
    new = {state.name: torch.broadcast_tensors(found[state.update], states[state.name])[0] for state in graph.states}
    return {label: found[value] for label, value in graph.outputs}, new


def scan(
    graph: CellGraph, xs: _Named, states: _Named, parameters: _Named, reverse: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`run` over time, dimension 0 of each of `xs`: the outputs in the order of the inputs, and the last states."""
    time = len(next(iter(xs.values())))
    steps: list[dict[str, Tensor]] = [{}] * time
    for t in reversed(range(time)) if reverse else range(time):
        steps[t], states = run(graph, {name: x[t] for name, x in xs.items()}, states, parameters)
    return {label: torch.stack([step[label] for step in steps]) for label, _ in graph.outputs}, dict(states)


def _computed(value: Value, operands: list[Tensor], shapes: Sequence[tuple]) -> Tensor:
    match value.op:
        case "pick":
            return _blocks(operands[0], shapes[0])[value.attribute]
        case "slice":
            return _joined(_blocks(operands[0], shapes[0])[slice(*value.attribute)], value.shape)
        case "stack" | "join":
            return _joined(operands, value.shape)
        case "matmul":
            matrices = _matrices(operands[0], blocks_of(shapes[0]))
            return torch.cat([operands[1] @ matrix.mT for matrix in matrices], dim=-1)
        case "matmul_t":
            parts = operands[1].chunk(blocks_of(shapes[0]), dim=-1)
            return sum(part @ matrix for part, matrix in zip(parts, _matrices(operands[0], len(parts)), strict=True))
        case "outer":
            like, columns = operands[2], operands[1].flatten(0, -2)
            rows = operands[0].flatten(0, -2).chunk(blocks_of(shapes[0]), dim=-1)
            return torch.cat([_cut(part.mT @ columns, like) for part in rows])
        case "total":
            rows = operands[0].flatten(0, -2).sum(0)
            return rows if value.shape else rows.sum().reshape(1)
    return _FUNCTIONS[value.op](*operands)


def _blocks(pack: Tensor, shape: tuple) -> tuple[Tensor, ...]:
    return pack.chunk(blocks_of(shape), dim=_along(shape))


def _joined(parts: Sequence[Tensor], shape: tuple) -> Tensor:
    parts = [torch.atleast_1d(part) for part in parts]
    if _along(shape) == -1:  # a block that is the same for all rows has no leading dimensions
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        parts = [part.expand(*leading, -1) for part in parts]
    return torch.cat(parts, dim=_along(shape))


def _along(shape: tuple) -> int:
    return 0 if len(block_shape(shape)) == 2 else -1


def _matrices(stack: Tensor, count: int) -> list[Tensor]:
    """The matrices of a stack, made dense if they are block-diagonal."""
    parts = stack.chunk(count)
    return [torch.block_diag(*part) for part in parts] if stack.dim() == 3 else list(parts)


def _cut(matrix: Tensor, like: Tensor) -> Tensor:
    """A dense matrix in the layout of `like`: the blocks of its diagonal if that is block-diagonal."""
    if like.dim() == 2:
        return matrix
    width = like.shape[-1]
    return torch.stack([matrix[n : n + width, n : n + width] for n in range(0, len(matrix), width)])
