"""What a layer's class knows of its cell: its weights, its states, and what a projection would make of them."""

from collections.abc import Collection

from rnngen.across import ACROSS
from rnngen.cell import Cell
from rnngen.emit.views import LayerView, WeightView
from rnngen.ir import CellGraph, Packed, Parameter, block_shape, delays, dimension_of, origin

_SQUARE = ("hidden", "hidden")
_OF_X = ("hidden", "inputs")


def layer_view(program: Packed, cell: Cell, schedules: tuple[str, ...]) -> LayerView:
    """The record of a cell's interface.

    A layer with a projection gives on R @ y in place of y (Sak et al. 2014). Every matrix that is applied to nothing
    but the output's old value, with a mask that is drawn or without, then sees the projection too: its columns are
    called "output" rather than "hidden". If without a mask that is all that becomes of the old value, as in an LSTM and
    not in a GRU, the projection itself is the state, and the cell is narrow; not so if gradients of states are cut off,
    which are theirs and not those of a projection.
    """
    graph = program.described
    outputs = [output for _, output in graph.outputs]
    same = [s.name for s in graph.states if [s.update] == outputs]
    named = program.outputs[0].removesuffix("'")  # several states may have one new value
    state = named if named in same else next(iter(same), "")
    masks, seen = {one.name for one in program.drawn}, {state}
    for value in graph.values:
        if value.op == "mul" and value.operands[0] in masks and value.operands[1] in seen:
            seen.add(value.name)
    seeing = {p.name for p in program.parameters if _sees_only(graph, p, _SQUARE, seen)} if state else set()
    seeing_earlier = _seeing_earlier(program)
    definitions = graph.by_name()
    uses = [
        value.op == "matmul" and value.operands[1] == state and origin(definitions, value.operands[0])[0].name in seeing
        for value in graph.values
        if state in value.operands
    ]
    return LayerView(
        weights=tuple(_weight(parameter, seeing, seeing_earlier) for parameter in program.parameters),
        states=tuple(s.name for s in graph.states),
        widths={s.name: width for s in graph.states if (width := dimension_of(definitions[s.name])) != "hidden"},
        inputs={leaf.name: dimension_of(leaf) for leaf in graph.leaves("input") if leaf.name not in graph.untrained},
        drawn=program.drawn,
        output=state,
        sizes=dict(cell.sizes),
        features=tuple(str(definitions[output].shape[0]) for output in outputs),
        narrow=bool(state) and all(uses) and state not in graph.roots() and not any(s.bound for s in graph.states),
        schedules=schedules,
        nonlinearity=next(iter(cell.activations.values())) if len(cell.activations) == 1 else "",
        both=can_be_doubled(program),
    )


def can_be_doubled(program: Packed) -> bool:
    """Whether twice the units are two cells beside each other: every value is as wide as the state, what is not is the
    input, x, or an earlier one, which products alone read, each by matrices of its own, and no number is learned. Only
    products look across units. Matrices are all dense, or all block-diagonal, and what is made of them is made block
    by block; a diagonal is not.
    """
    graph = program.described
    x, *others = graph.leaves("input")
    earlier, seeing_earlier = _earlier(graph), _seeing_earlier(program)
    of_x = [parameter for parameter in program.parameters if parameter.shape == _OF_X]
    own = [v for v in graph.values if v.op not in ("input", "parameter", "pick", "slice") and v.name not in earlier]
    widths = {block_shape(v.shape) for v in own}
    read = {name for v in graph.values for name in (v.operands[:1] if v.op == "matmul" else v.operands)}
    squares = {parameter.heads for parameter in program.parameters if parameter.shape == _SQUARE}
    shapes = {parameter.shape for parameter in program.parameters}
    return (
        widths <= {(), ("hidden",), _SQUARE}
        and all(value.op != "diag" for value in graph.values)
        and not others
        and all(one.each == "parameter" for one in program.drawn)
        and x.shape == ("inputs",)
        and read.isdisjoint({x.name} | earlier)
        and (not earlier or all(_sees_only(graph, p, _OF_X, {x.name}) or p.name in seeing_earlier for p in of_x))
        and len(squares) < 2
        and not any(value.op in ACROSS.keys() - {"matmul"} for value in graph.values)
        and shapes <= {("hidden",), ("hidden", "inputs"), _SQUARE}
    )


def _earlier(graph: CellGraph) -> set[str]:
    """Names of the states that are earlier inputs, as wide as x."""
    return {state.name for state in delays(graph) if graph.by_name()[state.name].shape == ("inputs",)}


def _seeing_earlier(program: Packed) -> set[str]:
    """Names of the parameters that are matrices and applied to nothing but earlier inputs."""
    graph = program.described
    earlier = _earlier(graph)
    return {p.name for p in program.parameters if earlier and _sees_only(graph, p, _OF_X, earlier)}


def _weight(parameter: Parameter, seeing_output: Collection[str], seeing_earlier: Collection[str]) -> WeightView:
    shape = ("hidden", "output") if parameter.name in seeing_output else parameter.shape
    shape = ("hidden", "earlier") if parameter.name in seeing_earlier else shape
    flags = parameter.heads, parameter.bias, parameter.trained
    return WeightView(parameter.name, parameter.blocks, shape, parameter.init, *flags)


def _sees_only(graph: CellGraph, parameter: Parameter, shape: tuple[str, str], seen: Collection[str]) -> bool:
    """Whether a parameter is a matrix of this shape, or several, and applied to these vectors alone."""
    if parameter.shape != shape or parameter.heads:
        return False
    definitions = graph.by_name()

    def is_part(name: str) -> bool:
        return origin(definitions, name)[0].name == parameter.name

    for value in graph.values:
        if value.op in ("pick", "slice"):
            continue
        if value.op == "matmul" and is_part(value.operands[0]) and value.operands[1] not in seen:
            return False
        others = value.operands[1:] if value.op == "matmul" else value.operands
        if any(block_shape(definitions[name].shape) == shape and is_part(name) for name in others):
            return False
    return True
