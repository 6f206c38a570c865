"""verify: what must hold of a program between any two passes."""

from rnngen.build import ShapeConflict, shape_of
from rnngen.ir import LEAVES, STRUCTURAL, CellGraph, Program
from rnngen.ops import OPS


class Malformed(AssertionError):
    """A pass has broken a graph: a fault of ours, never of a user."""


def verify(program: Program) -> Program:
    """The program as it is. Raises Malformed if a graph of it is no graph."""
    for name, graph in program.graphs().items():
        _verify(name, graph)
    return program


def _verify(name: str, graph: CellGraph) -> None:
    def must(condition: bool, message: str) -> None:
        if not condition:
            raise Malformed(f"{graph.name}, {name}: {message}")

    defined: dict[str, tuple] = {}
    for value in graph.values:
        must(value.name not in defined, f"{value.name} is defined twice")
        must(value.op in LEAVES | STRUCTURAL | OPS.keys(), f"{value.name} has the unknown operation {value.op}")
        must(value.op not in LEAVES or not value.operands, f"the leaf {value.name} has operands")
        for operand in value.operands:
            must(operand in defined, f"{value.name} uses {operand} before its definition")
        try:
            shape = shape_of(value, tuple(defined[operand] for operand in value.operands))
        except ShapeConflict as conflict:
            raise Malformed(f"{graph.name}, {name}: {value.name}: {conflict}") from conflict
        must(shape == value.shape, f"{value.name} is said to be {value.shape} and is {shape}")
        defined[value.name] = value.shape
    states = {value.name for value in graph.leaves("state")}
    must(states == {state.name for state in graph.states}, "the states are not the leaves that are states")
    for state in graph.states:
        must(state.update in defined, f"the state {state.name} has no new value")
        must(defined[state.update] in (defined[state.name], ()), f"the state {state.name} changes its shape")
    for label, value in graph.outputs:
        must(value in defined, f"the output {label} is missing")
