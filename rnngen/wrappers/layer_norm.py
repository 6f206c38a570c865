"""layer_norm: every product of a matrix is normalised over its units and scaled by a gain; Ba et al. 2016.

h' = tanh(W @ x + U @ h + b)      →      h' = tanh(gain_W * layer_norm(W @ x) + gain_U * layer_norm(U @ h) + b)

Each block of a matrix is a matrix of its own here, as W_i and W_f of an LSTM, and each vector that it is applied to
makes a product with a gain of its own, which begins with ones. Biases stay outside. What is made of parameters alone is
no product of a step.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rnngen.build import Builder, renamed
from rnngen.ir import CellGraph, Parameter, Program, Shape, Value, needed, reaching
from rnngen.wrappers.refusal import NoEffect

_Product = tuple[str, ...]  # a matrix and a vector, by name


def layer_norm(program: Program) -> Program:
    """The program with a cell whose products are normalised. Raises NoEffect if it has none.

    Gains of products with blocks of a parameter are blocks of one: with `U_i` of `weight_hh`, `gain_U_i` of `gain_hh`.
    """
    graph = program.cell
    varying = reaching(graph, {leaf.name for op in ("input", "state") for leaf in graph.leaves(op)})
    products = {v.name: v for v in graph.values if v.op == "matmul" and v.name in varying}
    if not products:
        raise NoEffect("it has no product with a matrix")
    stacks: dict[tuple[str, Shape], dict[_Product, str]] = defaultdict(dict)
    for product in products.values():
        parameter, block = _origin(graph, program.parameters, product.operands[0])
        stacks[parameter, product.shape].setdefault(product.operands, block)
    to = Builder(reserved=(*graph.by_name(), *(block for p in program.parameters for block in p.blocks)))
    parameters: list[Parameter] = []
    gains: dict[_Product, str] = {}
    for (parameter, shape), blocks in stacks.items():
        made, found = _stack(to, f"gain_{parameter.removeprefix('weight_')}", shape, blocks)
        parameters.append(made)
        gains |= found
    names: dict[str, str] = {}
    for value in graph.values:
        to.keep(replace(value, operands=tuple(names.get(operand, operand) for operand in value.operands)))
        if value.name in products:
            normed = to.make(to.fresh(f"{value.name}.normed"), "layer_norm", value.name)
            names[value.name] = to.make(to.fresh(f"{value.name}.scaled"), "mul", gains[value.operands], normed)
    return replace(program, cell=renamed(graph, to, names), parameters=(*program.parameters, *parameters))


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
