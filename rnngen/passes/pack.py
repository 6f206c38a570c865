"""pack: the products of one stack's blocks with one vector become one product of the stack.

    a = W_i @ x            weight_ih_x = weight_ih @ x
    b = W_f @ x       →    a = weight_ih_x[0]
                           b = weight_ih_x[1]

One product of the four gates of an LSTM is one large GEMM instead of four small ones, in both directions: what it
passes back to its operand is one product too, and its weight gradient is one GEMM of the layout of the parameter.

Matrices that are made of parameters become a stack themselves, together with others that are applied to the same
vector; that is a copy once a call.

    a = (U - U.T) @ h           stack = join(U - U.T, V)
    b = V @ h             →     stack_h = stack @ h
"""

from collections import defaultdict
from dataclasses import replace
from itertools import groupby

from rnngen.build import Builder, renamed
from rnngen.ir import CellGraph, Packed, Program, Shape, Value, block_diagonal, blocks_of, learned, prune, reaching

_PRIME = "'"


def pack(program: Program) -> Packed:
    """Products packed, and each product without a name named after its operands."""
    graph = _joined(program.cell)
    definitions = graph.by_name()
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for value in graph.values:
        if value.op == "matmul" and definitions[value.operands[0]].op == "pick":
            block, vector = definitions[value.operands[0]], value.operands[1]
            groups[block.operands[0], vector][block.block] = value.name
    runs = {
        product: (stack, vector, run)
        for (stack, vector), products in groups.items()
        for run in _runs(sorted(products))
        for product in (products[number] for number in run)
        if len(run) > 1
    }
    builder = Builder()
    names: dict[str, str] = {}
    for value in graph.values:
        if value.name not in runs:
            unnamed = value.op == "matmul" and "." in value.name
            label = _product_name(*value.operands) if unnamed else value.name
            names[value.name] = builder.copy(replace(value, name=label), names)
            continue
        stack, vector, run = runs[value.name]
        part = builder.make(f"{stack}[{run[0]}:{run[-1] + 1}]", "slice", names[stack], attribute=(run[0], run[-1] + 1))
        whole = blocks_of(builder.values[part].shape) == blocks_of(definitions[stack].shape)
        name = stack if whole else f"{stack}_{run[0]}"
        product = builder.make(_product_name(name, vector), "matmul", part, names[vector])
        number = definitions[value.operands[0]].block - run[0]
        names[value.name] = builder.add(replace(value, op="pick", operands=(product,), attribute=number))
    packed = replace(program, cell=prune(renamed(graph, builder, names)))
    return Packed(**vars(packed), described=program.cell)


def _joined(graph: CellGraph) -> CellGraph:
    """The graph with a stack for dense matrices that are applied to one vector, where any of them is made of others."""
    definitions = graph.by_name()
    groups: dict[tuple[str, Shape, bool], list[Value]] = defaultdict(list)
    sparse, trained = block_diagonal(graph), learned(graph)
    varying = reaching(graph, {leaf.name for op in ("input", "state") for leaf in graph.leaves(op)})
    for value in graph.values:
        if value.op == "matmul" and value.name in varying and value.operands[0] not in sparse:
            matrix, vector = value.operands
            groups[vector, definitions[matrix].shape, matrix in trained].append(value)
    made = [
        products
        for products in groups.values()
        if len(products) > 1 and any(definitions[p.operands[0]].op not in ("parameter", "pick") for p in products)
    ]
    if not made:
        return graph
    group_of = {product.name: products for products in made for product in products}
    builder = Builder(reserved=definitions)
    names: dict[str, str] = {}
    for value in sorted(graph.values, key=lambda value: value.name in varying):  # first what a stack is made of
        if value.name not in group_of:
            names[value.name] = builder.copy(value, names)
            continue
        products = group_of[value.name]
        stack = builder.make("stack", "join", *(names[product.operands[0]] for product in products))
        vector = value.operands[1]
        product = builder.make(_product_name("stack", vector), "matmul", stack, names[vector])
        names[value.name] = builder.add(replace(value, op="pick", operands=(product,), attribute=products.index(value)))
    return renamed(graph, builder, names)


def _product_name(matrix: str, vector: str) -> str:
    """`weight_hh_h` for weight_hh @ h; an operand without a name of its own is not named."""
    return f"{matrix}_product" if "." in vector else f"{matrix}_{vector.rstrip(_PRIME)}"


def _runs(numbers: list[int]) -> list[list[int]]:
    """Consecutive numbers grouped."""
    groups = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[number for _, number in group] for _, group in groups]
