"""layer_norm: products with matrices are normalised over their units and scaled by a gain; Ba et al. 2016.

h' = tanh(W @ x + U @ h + b)      →      h' = tanh(gain_W * layer_norm(W @ x) + gain_U * layer_norm(U @ h) + b)

Products of the blocks of one parameter with one vector, as U_i @ h and U_f @ h of an LSTM, have one norm, over all
their units; a product with another vector, as U_n @ (r * h), has its own. Each block has a gain of its own, which
begins with ones. Biases stay outside. A product with a matrix that is made of parameters has a norm of its own, and
what is made of parameters alone is no product of a step.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import CellGraph, Parameter, Program, Shape, Value, needed, reaching
from rnngen.wrappers.refusal import NoEffect

_Product = tuple[str, str]  # a matrix and a vector, by name


def layer_norm(program: Program) -> Program:
    """The program with a cell whose products are normalised. Raises NoEffect if it has none.

    Gains of products with blocks of a parameter are blocks of one: with `U_i` of `weight_hh`, `gain_U_i` of `gain_hh`.
    """
    graph = program.cell
    varying = reaching(graph, {leaf.name for op in ("input", "state") for leaf in graph.leaves(op)})
    values = [value for value in graph.values if value.op == "matmul" and value.name in varying]
    if not values:
        raise NoEffect("it has no product with a matrix")
    products = _products(graph, values)
    stacks: dict[tuple[str, Shape], dict[_Product, str]] = defaultdict(dict)
    norms: dict[_Product, dict[_Product, Value]] = defaultdict(dict)  # by a stack or a matrix, and a vector
    for value in values:
        product = products[value.name]
        parameter, block = _origin(graph, program.parameters, product[0])
        stacks[parameter, value.shape].setdefault(product, block)
        norms[_normed(graph, product)].setdefault(product, value)
    to = Builder(reserved=(*graph.by_name(), *(block for p in program.parameters for block in p.blocks)))
    parameters: list[Parameter] = []
    gains: dict[_Product, str] = {}
    for (parameter, shape), blocks in stacks.items():
        made, found = _stack(to, f"gain_{parameter.removeprefix('weight_')}", shape, blocks)
        parameters.append(made)
        gains |= found
    names: dict[str, str] = {}
    scaled: dict[_Product, str] = {}
    for value in graph.values:
        if value.name not in to.values:
            to.keep(replace(value, operands=tuple(names.get(operand, operand) for operand in value.operands)))
        if value.name in products:
            product = products[value.name]
            if product not in scaled:
                for other in norms[_normed(graph, product)].values():
                    _keep(to, graph, other.operands[0])
                scaled |= _scaled(to, value.name, norms[_normed(graph, product)], gains)
            names[value.name] = scaled[product]
    return replace(program, cell=renamed(graph, to, names), parameters=(*program.parameters, *parameters))


def _products(graph: CellGraph, values: Iterable[Value]) -> dict[str, _Product]:
    """What each product is of, under one name wherever that is the same."""
    to, same = Builder(), dict[str, str]()
    for value in graph.values:
        same[value.name] = to.copy(value, same)
    return {value.name: (same[value.operands[0]], same[value.operands[1]]) for value in values}


def _normed(graph: CellGraph, product: _Product) -> _Product:
    """What all products have in common that have one norm."""
    matrix = graph.by_name()[product[0]]
    return (matrix.operands[0] if matrix.op == "pick" else matrix.name), product[1]


def _keep(to: Builder, graph: CellGraph, matrix: str) -> None:
    """A matrix with what it is made of, before the product that it stands in front of in the equations."""
    if matrix not in to.values:
        value = graph.by_name()[matrix]
        for operand in value.operands:
            _keep(to, graph, operand)
        to.keep(value)


def _scaled(
    to: Builder, first: str, products: Mapping[_Product, Value], gains: Mapping[_Product, str]
) -> dict[_Product, str]:
    """The norm of some products, block by block, each scaled by its gain. first: the one of them that is there."""
    vector = to.values[first].operands[1]
    blocks = [
        value.name if value.name == first else to.keep(replace(value, operands=(value.operands[0], vector)))
        for value in products.values()
    ]
    whole = to.make(to.fresh(f"{first}.stack"), "stack", *blocks) if len(blocks) > 1 else first
    normed = [to.make(to.fresh(f"{first}.normed"), "layer_norm", whole)]
    if len(blocks) > 1:
        normed = [to.make(f"{name}.block", "pick", *normed, attribute=number) for number, name in enumerate(blocks)]
    return {
        product: to.make(to.fresh(f"{value.name}.scaled"), "mul", gains[product], block)
        for (product, value), block in zip(products.items(), normed, strict=True)
    }


def _origin(graph: CellGraph, parameters: Sequence[Parameter], matrix: str) -> tuple[str, str]:
    """The parameter and the block that a matrix is, or is made of alone; of one that is made of several no names."""
    parts = needed(graph, {matrix})
    found = [
        (parameter.name, block)
        for parameter in parameters
        if len(parameter.shape) == 2
        for block in parameter.blocks
        if (block if len(parameter.blocks) > 1 else parameter.name) in parts
    ]
    return found[0] if len(found) == 1 else ("made", "made")


def _stack(to: Builder, name: str, shape: Shape, blocks: dict[_Product, str]) -> tuple[Parameter, dict[_Product, str]]:
    """A parameter with a block for each product, and what these are called in the graph."""
    leaf = to.fresh(name, "_")
    to.keep(Value(leaf, "parameter", shape=shape if len(blocks) == 1 else (len(blocks), *shape)))
    found = dict.fromkeys(blocks, leaf)
    for number, (product, block) in enumerate(blocks.items() if len(blocks) > 1 else ()):
        found[product] = to.keep(Value(to.fresh(f"gain_{block}", "_"), "pick", (leaf,), shape, attribute=number))
    return Parameter(leaf, tuple(map(str, shape)), tuple(found.values()), (1.0,) * len(blocks)), found
