"""reference: a cell, and layers of it, run by torch as they were written, to judge everything else.

A graph is walked value by value and torch's autograd does the rest. Nothing here is shared with `differentiate`, the
passes, the emitters or the runtime: derived operations are torch's own functions, a block-diagonal stack is made
dense, a projection is applied at every step, and padding is never looked at.

A pack of k vectors is one tensor with the blocks side by side in its last dimension, a parameter has its blocks one
after another in dimension 0, and every vector may have leading dimensions, which broadcast.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from rnngen.ir import CellGraph, Shape, Value, block_shape, blocks_of
from rnngen.runtime.drawn import Drawn

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
    "floor": torch.floor,
    "mod": torch.remainder,
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
    graph: CellGraph, inputs: _Named, states: _Named, parameters: _Named, projection: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs by label and the new states by name of one step, or of many rows of a graph without a state.

    A mask, (..., 1), is among the inputs; without it every step counts. With a projection R, (proj_size, features), a
    dense matrix of proj_size columns is applied to R @ v in place of v, and a state that is only that wide is R @ its
    new value.
    """
    leaves = {"input": inputs, "state": states, "parameter": parameters}
    some = next(t for group in leaves.values() for t in group.values())
    shapes = {value.name: value.shape for value in graph.values}
    found: dict[str, Tensor] = {}
    bounds = {state.name: parameters[state.bound] for state in graph.states if state.bound}
    for value in graph.values:
        if value.op == "constant":
            found[value.name] = some.new_tensor(value.number)
        elif value.op in leaves:
            found[value.name] = leaves[value.op][value.name]
            if value.name in bounds:
                found[value.name] = _clipped(found[value.name], bounds[value.name])
        elif value.op == "share":
            found[value.name] = some.new_tensor(1 / _size(value.dimension, graph, leaves))
        elif value.op == "mask":
            found[value.name] = inputs.get(value.name, some.new_ones(1))
        else:
            operands = [found[operand] for operand in value.operands]
            if value.op == "matmul" and projection is not None and operands[0].dim() == 2:
                operands[1] = _seen(operands[1], operands[0].shape[-1], projection)
            found[value.name] = _computed(value, operands, [shapes[operand] for operand in value.operands])
    new = {}
    for state in graph.states:
        last, old = found[state.update], states[state.name]
        last = last if projection is None else _seen(last, old.shape[-1], projection)
        new[state.name] = _broadcast(last, old)
    return {label: found[value] for label, value in graph.outputs}, new


def _size(dimension: str, graph: CellGraph, leaves: Mapping[str, _Named]) -> int:
    """How many units a dimension has: those of the last one of a block, or of a parameter its rows."""
    for leaf in (leaf for op in leaves for leaf in graph.leaves(op)):
        *rows, last = (*block_shape(leaf.shape),) or ("",)
        tensor, blocks = leaves[leaf.op][leaf.name], blocks_of(leaf.shape)
        if leaf.name not in graph.heads and dimension in (*rows, last):
            count = tensor.shape[0] if rows and dimension in rows else tensor.shape[-1]
            return count // (1 if rows and dimension not in rows else blocks)
    raise LookupError(f"no leaf is as wide as '{dimension}'")


def scan(
    graph: CellGraph,
    xs: _Named,
    states: _Named,
    parameters: _Named,
    reverse: bool = False,
    projection: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`run` over time, dimension 0 of each of `xs`: the outputs in the order of the inputs, and the last states."""
    time = len(next(iter(xs.values())))
    steps: list[dict[str, Tensor]] = [{}] * time
    for t in reversed(range(time)) if reverse else range(time):
        steps[t], states = run(graph, {name: x[t] for name, x in xs.items()}, states, parameters, projection)
    return {label: torch.stack([step[label] for step in steps]) for label, _ in graph.outputs}, dict(states)


def layers(
    graph: CellGraph,
    x: Tensor,
    states: _Named,
    parameters: _Named,
    *,
    bidirectional: bool = False,
    reverse: bool = False,
    lengths: Sequence[int] = (),
    resets: Sequence[Collection[int]] = (),
    begins: _Named | None = None,
    others: _Named | None = None,
    drawn: Callable[[str, int], _Named] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What layers of a cell give: the output, (time, batch, features), and the last states, in the form of the first.

    graph: the cell as `infer` leaves it. x: (time, batch, features). states: by name, (num_layers * directions, batch,
    width). parameters: by a layer's names for them, "weight_ih_l0_reverse"; a projection is "weight_hr_l0".
    lengths: of the sequences, if they differ. Each is then run by itself, and the output is zero behind it. resets: of
    each element of the batch the steps at which another sequence begins, with what `begins` has in the form of states.
    others: what each layer takes in beside its input, by name, (time, batch, features) or (time, batch). drawn: by what
    stands behind the names of a layer's parameters, "_l0_reverse", and the features of its input the inputs that are
    drawn for it; asked in order.
    """
    suffixes = ("", "_reverse") if bidirectional else ("",)
    runs = len(next(iter(states.values())))
    last: dict[str, list[Tensor]] = {name: [] for name in states}
    beside = {name: rows if rows.dim() == 3 else rows[..., None] for name, rows in (others or {}).items()}
    for layer in range(runs // len(suffixes)):
        outputs = []
        for direction, suffix in enumerate(suffixes):
            place = f"_l{layer}{suffix}"
            weights = {leaf.name: parameters[leaf.name + place] for leaf in graph.leaves("parameter")}
            first = {name: rows[layer * len(suffixes) + direction] for name, rows in states.items()}
            run_of = _Scan(graph, weights, reverse or direction == 1, parameters.get(f"weight_hr{place}"))
            xs = {"x": x, **beside, **(drawn(place, x.shape[-1]) if drawn else {})}
            if lengths or resets:
                begin = {name: rows[layer * len(suffixes) + direction] for name, rows in (begins or states).items()}
                y, after = run_of.one_by_one(xs, first, begin, lengths, resets)
            else:
                y, after = run_of(xs, first)
            outputs.append(y)
            for name, state in after.items():
                last[name].append(state)
        x = torch.cat(outputs, dim=-1)
    return x, {name: torch.stack(rows) for name, rows in last.items()}


class Masks:
    """What a layer draws in training, from torch's generator as the layer finds it, by the recipe of docs/layers.md,
    and numbers that are rates.

    drawn: what the cell has. rate: the one that all have. lengths: of the sequences, which a layer puts in order.
    """

    def __init__(self, drawn: Sequence[Drawn], rate: float, lengths: Sequence[int] = ()):
        self.drawn, self.rate = drawn, rate
        order = torch.sort(torch.tensor(lengths), descending=True).indices if lengths else None
        self.places = None if order is None else torch.argsort(order)

    def on(self, parameters: _Named, places: Sequence[str]) -> dict[str, Tensor]:
        """The parameters of layers with their masks, and numbers: of all, before a step is taken."""
        found = dict(parameters)
        for place in places:
            for one in self.drawn:
                if one.each == "parameter":
                    weight = parameters[one.name + place]
                    mask = self._mask(weight.shape, one.scaled, weight)
                    rows = len(weight) // len(one.blocks or (True,))
                    for number, dropped in enumerate(one.blocks):
                        if not dropped:
                            mask[number * rows : (number + 1) * rows] = 1
                    found[one.name + place] = weight * mask
                elif one.each == "never":
                    found[one.name + place] = next(iter(parameters.values())).new_tensor(self.rate)
        return found

    def over(self, time: int, states: Tensor, inputs: int, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """The inputs of one layer and direction. states: like a state without a projection, (batch, hidden). inputs:
        how many features its input has. sizes: of other dimensions.
        """
        found, (batch, hidden) = {}, states.shape
        widths = {"": 1, "hidden": hidden, "inputs": inputs, **sizes}
        for one in self.drawn:
            if one.each in ("step", "call"):
                rows = self._mask((time if one.each == "step" else 1, batch, widths[one.width]), one.scaled, states)
                rows = rows if self.places is None else rows[:, self.places]
                found[one.name] = rows.expand(time, -1, -1)
        return found

    def _mask(self, shape: Sequence[int], scaled: bool, like: Tensor) -> Tensor:
        zero = torch.rand(*shape, device=like.device) < self.rate
        return like.new_full(shape, 1 / (1 - self.rate) if scaled else 1.0).masked_fill(zero, 0)


@dataclass(frozen=True, slots=True)
class _Scan:
    """A scan in one direction."""

    graph: CellGraph
    parameters: _Named
    reverse: bool
    projection: Tensor | None

    def __call__(self, xs: _Named, states: _Named) -> tuple[Tensor, dict[str, Tensor]]:
        outputs, last = scan(self.graph, xs, states, self.parameters, self.reverse, self.projection)
        batch = xs["x"].shape[1]  # for all of which a parameter is the same
        parts = [y if y.dim() == 3 else y[:, None].expand(-1, batch, -1) for y in outputs.values()]
        y = torch.cat(parts, -1)
        return (y if self.projection is None else _projected(y, self.projection)), last

    def by_pieces(
        self, xs: _Named, states: _Named, begins: _Named, cuts: Collection[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sequences that one element of a batch consists of, each by itself."""
        starts = sorted({0, *cuts})
        pieces = list(zip(starts, [*starts[1:], len(xs["x"])], strict=True))
        goes_on = self.reverse or 0 not in cuts
        outputs, last = [], dict(states)
        for start, stop in reversed(pieces) if self.reverse else pieces:
            piece = {name: rows[start:stop] for name, rows in xs.items()}
            y, last = self(piece, states if goes_on else begins)
            outputs.append(y)
            goes_on = False
        return torch.cat(outputs[::-1] if self.reverse else outputs), last

    def one_by_one(
        self,
        xs: _Named,
        states: _Named,
        begins: _Named,
        lengths: Sequence[int],
        resets: Sequence[Collection[int]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Each element of the batch by itself."""
        time, batch, _ = xs["x"].shape
        pairs = []
        for n in range(batch):
            own, begin = ({name: state[n : n + 1] for name, state in given.items()} for given in (states, begins))
            length = lengths[n] if lengths else time
            rows = {name: x[:length, n : n + 1] for name, x in xs.items()}
            y, last = self.by_pieces(rows, own, begin, resets[n] if resets else ())
            pairs.append((F.pad(y, (0, 0, 0, 0, 0, time - length)), last))
        return torch.cat([y for y, _ in pairs], dim=1), {
            name: torch.cat([last[name] for _, last in pairs]) for name in states
        }


def _seen(vector: Tensor, width: int, projection: Tensor) -> Tensor:
    """A vector where it has this width, or else its projection."""
    return vector if vector.shape[-1] == width else _projected(vector, projection)


def _projected(vector: Tensor, projection: Tensor) -> Tensor:
    return vector.to(projection.dtype) @ projection.mT  # numbers make a wider type of it


def _broadcast(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.expand(torch.broadcast_shapes(tensor.shape, other.shape))


def _computed(value: Value, operands: list[Tensor], shapes: Sequence[Shape]) -> Tensor:
    match value.op:
        case "pick":
            return _blocks(operands[0], shapes[0])[value.block]
        case "slice":
            return _joined(_blocks(operands[0], shapes[0])[slice(*value.bounds)], value.shape)
        case "stack" | "join":
            return _joined(operands, value.shape)
        case "matmul":
            matrices = _matrices(operands[0], blocks_of(shapes[0]))
            vector = operands[1].to(operands[0].dtype)  # numbers make a wider type of it
            return torch.cat([vector @ matrix.mT for matrix in matrices], dim=-1)
        case "matmul_t":
            parts = operands[1].chunk(blocks_of(shapes[0]), dim=-1)
            products = [p @ matrix for p, matrix in zip(parts, _matrices(operands[0], len(parts)), strict=True)]
            return reduce(torch.add, products)
        case "sum" | "dot":
            return reduce(torch.mul, operands).sum(-1, keepdim=True)
        case "mean":
            return operands[0].mean(-1, keepdim=True)
        case "largest":
            return operands[0].detach().amax(-1, keepdim=True)
        case "layer_norm":
            return F.layer_norm(operands[0], operands[0].shape[-1:])
        case "rms_norm":
            return operands[0] * torch.rsqrt(operands[0].square().mean(-1, keepdim=True) + 2.0**-23)
        case "softmax":
            return operands[0].softmax(-1)
        case "outer":
            like, columns = operands[2], operands[1].flatten(0, -2)
            packs = operands[0].flatten(0, -2).chunk(blocks_of(shapes[0]), dim=-1)
            return torch.cat([_cut(pack.mT @ columns, like) for pack in packs])
        case "transpose":
            return operands[0].mT
        case "compose":
            return torch.einsum("...ij,...jk->...ik", operands[0], operands[1])
        case "tril" | "triu":
            return _triangle(operands[0], value.op == "tril")
        case "diag":
            return operands[0][..., :, None] * torch.eye(operands[0].shape[-1]).to(operands[0])
        case "eye":
            return torch.eye(operands[0].shape[-1]).to(operands[0]).expand_as(operands[0])
        case "expand":
            return _broadcast(operands[0], operands[1])
        case "kept":
            return torch.where(operands[0] != 0, operands[1], operands[2])
        case "or_zero":
            return operands[1].masked_fill(operands[0] == 0, 0)
        case "total":
            rows = operands[0].flatten(0, -2).sum(0)
            return rows if value.shape else rows.sum().reshape(1)
    if value.op not in _FUNCTIONS:
        raise LookupError(f"reference.py does not know '{value.op}'")
    function, count = _FUNCTIONS[value.op], blocks_of(value.shape)
    if count == 1 or len({shape for shape in shapes if shape}) == 1:
        return function(*operands)
    each = [
        _blocks(operand, shape) if blocks_of(shape) > 1 else (operand,) * count
        for operand, shape in zip(operands, shapes, strict=True)
    ]
    return _joined([function(*blocks) for blocks in zip(*each, strict=True)], value.shape)


def _blocks(pack: Tensor, shape: Shape) -> tuple[Tensor, ...]:
    return pack.chunk(blocks_of(shape), dim=_along(shape))


def _joined(parts: Sequence[Tensor], shape: Shape) -> Tensor:
    parts = [torch.atleast_1d(part) for part in parts]
    if _along(shape) == -1:  # a block that is the same for all rows has no leading dimensions
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        parts = [part.expand(*leading, -1) for part in parts]
    return torch.cat(parts, dim=_along(shape))


def _along(shape: Shape) -> int:
    return 0 if len(block_shape(shape)) == 2 else -1


def _matrices(stack: Tensor, count: int) -> list[Tensor]:
    """The matrices of a stack, made dense if they are block-diagonal."""
    parts = stack.chunk(count)
    return [torch.block_diag(*part) for part in parts] if stack.dim() == 3 else list(parts)


def _clipped(tensor: Tensor, bound: Tensor) -> Tensor:
    """The tensor, with a gradient that is cut off."""
    passed = tensor.view_as(tensor)
    if passed.requires_grad:
        passed.register_hook(lambda gradient: torch.where(gradient.abs() > bound, gradient.sign() * bound, gradient))
    return passed


def _triangle(matrix: Tensor, lower: bool) -> Tensor:
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape[-2:])
    below = rows[:, None] >= columns if lower else rows[:, None] <= columns
    return matrix.masked_fill(~below, 0)


def _cut(matrix: Tensor, like: Tensor) -> Tensor:
    """A dense matrix in the layout of `like`: the blocks of its diagonal if that is block-diagonal."""
    if like.dim() == 2:
        return matrix
    width = like.shape[-1]
    return torch.stack([matrix[n : n + width, n : n + width] for n in range(0, len(matrix), width)])
