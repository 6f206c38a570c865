"""A chain computes what its graph computes, stage by stage, from nothing but what each stage says that it takes."""

from dataclasses import replace

import cells
import pytest
import torch

from rnngen import reference
from rnngen.across import ACROSS
from rnngen.chain import Atom, Chain, atoms_of
from rnngen.ir import CHOICES, CellGraph, Value, block_shape, blocks_of
from rnngen.ops import COMPARISONS
from rnngen.passes.cut import chain

every_cell = pytest.mark.parametrize("name", cells.ALL)
HIDDEN = 4


def leaves_of(graph: CellGraph, masked: bool) -> dict[str, torch.Tensor]:
    """A number for everything that the graph reads: (batch, blocks * width)."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.5 + 0.4 * torch.rand(*shape, generator=generator, dtype=torch.float64)

    found = {
        leaf.name: drawn(3, blocks_of(leaf.shape) * (HIDDEN if block_shape(leaf.shape) else 1))
        for leaf in graph.leaves("input")
    }
    found |= {leaf.name: drawn(3, HIDDEN) for leaf in graph.leaves("state")}
    for leaf in graph.leaves("parameter"):
        block = leaf.shape[1:] if leaf.shape and isinstance(leaf.shape[0], int) else leaf.shape
        rows = blocks_of(leaf.shape) * (HIDDEN if block else 1)
        if leaf.name in graph.heads:
            found[leaf.name] = drawn(2 * blocks_of(leaf.shape), HIDDEN // 2, HIDDEN // 2)
        else:
            found[leaf.name] = drawn(rows, *[HIDDEN] * (len(block) - 1))
    if masked:
        found |= {leaf.name: torch.tensor([[1], [0], [1]]) for leaf in graph.leaves("mask")}
    return found


def by_graph(graph: CellGraph, given: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    return reference.run(graph, given, given, given)


def by_chain(found: Chain, given: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """Every stage sees the atoms that it takes, and what it gives is all that is left of it."""
    values = found.values
    known: dict[Atom, torch.Tensor] = {}
    for name, blocks in found.streams:
        parts = given[name].chunk(found.blocks(name), dim=-1)
        known |= {Atom(name, n): parts[n] for n in blocks}
    known |= {Atom(name, 0): given[name] for name, _ in found.states}
    known |= {atom: given[atom.value].chunk(found.blocks(atom.value))[atom.block] for atom in found.vectors}
    for link in found.links:
        for across in link.across:
            operand = torch.cat([known[atom] for atom in across.operand], dim=-1)
            of = across.matrices
            if of is None:
                graph = CellGraph(
                    "reduction",
                    (
                        Value("v", "input", shape=values[values[across.name].operands[0]].shape),
                        replace(values[across.name], name="r", operands=("v",)),
                    ),
                    outputs=(("r", "r"),),
                )
                known[across.gives[0]] = reference.run(graph, {"v": operand}, {}, {})[0]["r"]
                continue
            rows = len(given[of.parameter]) // found.blocks(of.parameter)
            stack = given[of.parameter][of.start * rows : (of.start + of.count) * rows]
            shape = values[values[across.name].operands[0]].shape
            graph = CellGraph(
                "product",
                (
                    Value("M", "parameter", shape=shape),
                    Value("v", "input", shape=values[values[across.name].operands[1]].shape),
                    replace(values[across.name], name="p", operands=("M", "v")),
                ),
                outputs=(("p", "p"),),
            )
            result = reference.run(graph, {"v": operand}, {}, {"M": stack})[0]["p"]
            known |= zip(across.gives, result.chunk(len(across.gives), dim=-1), strict=True)
        inside = {atom: known[atom] for atom in link.stage.takes}
        for value in link.stage.values:
            inside[Atom(value.name, 0)] = computed(found, value, inside, given)
        known |= {atom: inside[atom] for atom in link.stage.gives}

    outputs = {write.label: torch.cat([known[atom] for atom in write.atoms], dim=-1) for write in found.writes}
    return outputs, {name: known[atom] for name, atom in found.states}


def computed(found: Chain, value: Value, inside: dict, given: dict) -> torch.Tensor:
    """One value of a stage, by the reference."""
    leaves, bound = [], {"some": torch.zeros(3, HIDDEN, dtype=torch.float64)}  # of which constants take their type
    for operand in dict.fromkeys(value.operands):
        (atom,) = atoms_of(found.values, operand)
        its = found.values[atom.value]
        if its.op in ("constant", "mask"):
            leaves.append(replace(its, name=operand))
        else:
            leaves.append(Value(operand, "input", shape=its.shape))
            bound[operand] = torch.tensor([1 / HIDDEN]) if its.op == "share" else inside[atom]
    if value.op in CHOICES and found.mask in given:
        bound[found.mask] = given[found.mask]
    graph = CellGraph("value", (*leaves, value), outputs=(("out", value.name),))
    return reference.run(graph, bound, {}, {})[0]["out"]


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("direction", ["scan", "adjoint"])
@every_cell
def test_a_chain_computes_what_its_graph_does(name, direction, masked):
    graph = getattr(cells.program(name), direction)
    given = leaves_of(graph, masked)
    for got, want in zip(by_chain(chain(graph), given), by_graph(graph, given), strict=True):
        assert got.keys() == want.keys()
        for what in want:
            torch.testing.assert_close(got[what], want[what], rtol=1e-12, atol=1e-12, msg=f"{what}: {{}}".format)


@every_cell
def test_a_chain_has_every_value_once(name):
    found = cells.program(name)
    for graph, its in ((found.scan, found.forward), (found.adjoint, found.backward)):
        assert not its.links[0].across
        assert sorted(a.name for a in its.across) == sorted(v.name for v in graph.values if v.op in ACROSS)
        placed = [v.name for link in its.links for v in link.stage.values if v.op not in COMPARISONS]
        assert len(placed) == len(set(placed))
        for number, link in enumerate(its.links):
            earlier = {atom for before in its.links[:number] for atom in before.stage.gives}
            given = {atom for before in its.links[: number + 1] for across in before.across for atom in across.gives}
            assert not [atom for atom in link.stage.gives if its.values[atom.value].op in COMPARISONS]
            for atom in link.stage.takes:
                leaf = its.values[atom.value].op in ("input", "state", "parameter")
                assert leaf or atom in earlier | given, f"{atom} is taken before it is known"


def test_little_is_carried_from_stage_to_stage():
    """What a stage gives to a later one beyond what a product, an output or a state is.

    Where units are summed, what is multiplied by the sum has to wait for it.
    """
    carried = 0
    for name in cells.ALL:
        found = cells.program(name)
        for its in (found.forward, found.backward) if not found.backward.facts.sums else ():
            made = its.made_by()
            outside = {a for across in its.across for a in across.operand} | {a for w in its.writes for a in w.atoms}
            outside |= {atom for _, atom in its.states}
            for number, link in enumerate(its.links):
                carried += sum(made.get(a, number) < number and a not in outside for a in link.stage.takes)
    assert carried <= 40
