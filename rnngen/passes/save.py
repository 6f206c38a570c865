"""save: what the forward scan stores for the adjoint, as a minimum cut.

Everything that the adjoint needs of the forward step is either read from memory or computed again from what was read.
A product is never computed again; pointwise work costs nothing. The cheapest set to read is a minimum cut between what
is known only to the forward scan and what the adjoint uses. For an LSTM it is i, f, g, o and c; for a GRU r, z, n and
U_n h + b_n beside the output; for an IndRNN the output alone. What is stored of one shape is one pack.

That is what is kept as "gates". As "states" nothing else is stored than states, and all else is computed again,
products too; what the scan takes in is there anyway, or made of x once more. For an LSTM it is c beside the output, for
a GRU the output alone. The adjoint then has the products of the scan beside its own, which the pass `again` takes out.
"""

from collections.abc import Set
from dataclasses import replace
from itertools import count

import networkx as nx

from rnngen.across import ACROSS
from rnngen.build import Builder
from rnngen.ir import (
    LEAVES,
    Binding,
    CellGraph,
    Differentiated,
    Shape,
    Value,
    block_shape,
    blocks_of,
    needed,
    origin,
    prune,
)
from rnngen.ops import COMPARISONS
from rnngen.runtime.plan import saved_as

# Costs count passes over a (time, batch, hidden) array. An output of the scan is in memory anyway, so that it is only
# read. Anything else is written and read. To keep an input of the scan alive takes as much memory as writing it would,
# so it costs the same, except in a tie; and it is kept whole. Of two equal cuts the one with fewer values is taken.
# A number is next to nothing beside an array.
_READ, _KEEP, _WRITE_AND_READ = 101, 199, 201
_NUMBER = 100  # times cheaper
_AGAIN = 150  # to make an input of the scan once more, if states alone are stored: less than to store another one


def save(program: Differentiated) -> Differentiated:
    """The program with a scan that stores, under labels of `saved_as`, what its adjoint and gradients read."""
    scan, adjoint, gradients = program.scan, program.adjoint, program.gradients
    forward = scan.by_name()
    states_alone = program.kept == "states"
    if states_alone:
        adjoint, gradients = (_with_products(graph, forward) for graph in (adjoint, gradients))
    wanted = _uses_of_forward(adjoint, forward) | _uses_of_forward(gradients, forward)
    outputs = {value: label for label, value in scan.outputs}
    outputs |= {value: outputs[other] for value, other in program.stand_ins.items() if other in outputs}
    chosen = _cut(scan, wanted, outputs.keys(), states_alone)
    carried = {state.name: state.update for state in scan.states}
    bindings = {b.leaf: b for b in program.bindings if b.kind == "gradient"}
    stored: dict[Shape, list[str]] = {}
    for name in chosen:
        if forward[name].op == "input":
            bindings[name] = Binding(name, "again" if states_alone else "stream", name)
        elif name in outputs:
            bindings[name] = Binding(name, "output", outputs[name])
        elif carried.get(name) in outputs:
            bindings[name] = Binding(name, "previous", outputs[carried[name]])
        else:
            stored.setdefault(forward[name].shape, []).append(name)
    to = Builder(scan.values)
    packs: dict[str, list[str]] = {}
    for shape, names in stored.items():
        label = saved_as(shape)
        pack = to.make(label, "stack", *names)
        leaf = _fresh(label, scan, adjoint, gradients)
        packs[leaf] = names
        bindings[leaf] = Binding(leaf, "saved", label)
        scan = replace(scan, values=tuple(to.values.values()), outputs=(*scan.outputs, (label, pack)))
    adjoint = _reading(adjoint, forward, chosen, packs)
    gradients = _reading(gradients, forward, chosen, packs)
    read = {leaf.name for graph in (adjoint, gradients) for leaf in graph.leaves("input")}
    kept = tuple(binding for leaf, binding in bindings.items() if leaf in read)
    return replace(program, scan=scan, adjoint=adjoint, gradients=gradients, bindings=kept)


def _with_products(graph: CellGraph, forward: dict[str, Value]) -> CellGraph:
    """The graph with what looks across units computed from the forward step's leaves, where it was an input."""
    own = graph.by_name()
    values: dict[str, Value] = {}

    def bring(name: str) -> None:
        if name in values:
            return
        value = own.get(name) or forward[name]
        if name in forward and forward[name].op in ACROSS:
            value = forward[name]
        elif value.op == "state" and name not in own:
            value = replace(value, op="input")
        for operand in value.operands:
            bring(operand)
        values[name] = value

    for name in own:
        bring(name)
    return replace(graph, values=tuple(values.values()))


def _uses_of_forward(graph: CellGraph, forward: dict[str, Value]) -> set[str]:
    """Forward values that the graph's own values, or its roots, use."""
    own = [value for value in graph.values if value.name not in forward]
    return {o for value in own for o in value.operands if o in forward} | {r for r in graph.roots() if r in forward}


def _cut(scan: CellGraph, wanted: set[str], outputs: Set[str], states_alone: bool) -> list[str]:
    """The forward values to read, in the order of the scan. outputs: those that are in memory anyway. states_alone:
    whether nothing else may be stored.
    """
    definitions = scan.by_name()
    states = {name for state in scan.states for name in (state.name, state.update)}
    in_memory = outputs | {state.name for state in scan.states if state.update in outputs}
    network = nx.DiGraph()
    for value in scan.values:
        if origin(definitions, value.name)[0].op in ("constant", "parameter", "mask"):
            continue
        entry, exit_ = (value.name, "in"), (value.name, "out")
        if value.op == "input":
            cost, readable = _AGAIN if states_alone else _KEEP * blocks_of(value.shape), True
        else:
            cost = _READ if value.name in in_memory else _WRITE_AND_READ
            readable = blocks_of(value.shape) == 1 and value.op not in COMPARISONS
            readable = readable and not (states_alone and value.name not in in_memory | states)
        if block_shape(value.shape) == ():
            cost //= _NUMBER
        network.add_edge(entry, exit_, **({"capacity": cost} if readable else {}))
        if value.op in LEAVES or (value.op in ACROSS and not states_alone):
            network.add_edge("forward", entry)
        else:
            for operand in value.operands:
                network.add_edge((operand, "out"), entry)
        if value.name in wanted:
            network.add_edge(exit_, "adjoint")
    if "adjoint" not in network or "forward" not in network:
        return []
    _, (known, _) = nx.minimum_cut(network, "forward", "adjoint")
    return [v.name for v in scan.values if (v.name, "in") in known and (v.name, "out") not in known]


def _fresh(stem: str, *graphs: CellGraph) -> str:
    """`stem`, or with the first number behind it that no value of the graphs has."""
    taken = {value.name for graph in graphs for value in graph.values}
    return stem if stem not in taken else next(new for n in count(1) if (new := f"{stem}.{n}") not in taken)


def _reading(graph: CellGraph, forward: dict[str, Value], chosen: list[str], packs: dict[str, list[str]]) -> CellGraph:
    """The graph with the chosen values as leaves: blocks of what was stored, blocks of streams, or whole streams.

    packs: of each that was stored what it consists of.
    """
    builder = Builder()
    names: dict[str, str] = {}
    places = {name: (pack, number) for pack, stored in packs.items() for number, name in enumerate(stored)}
    for pack, stored in packs.items():
        builder.keep(Value(pack, "input", shape=(len(stored), *forward[stored[0]].shape)))
    for name in chosen:
        value = forward[name]
        if name in places:
            pack, number = places[name]
            names[name] = builder.keep(replace(value, op="pick", operands=(pack,), attribute=number))
        else:
            names[name] = builder.leaf(replace(value, op="input", operands=(), attribute=None))
    alive = needed(graph, set(graph.roots()) | {state.name for state in graph.states})
    for value in graph.values:
        if value.name not in names and value.name in alive:
            names[value.name] = builder.copy(value, names)
    states = tuple(replace(s, update=names.get(s.update, s.update)) for s in graph.states)
    outputs = tuple((label, names.get(value, value)) for label, value in graph.outputs)
    return prune(
        replace(graph, values=tuple(builder.values.values()), states=states, outputs=outputs), keep_leaves=False
    )
