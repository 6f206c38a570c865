"""verify: what must hold of a program between any two passes."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rnngen.across import ACROSS, ShapeConflict, is_flat
from rnngen.build import shape_of
from rnngen.ir import CHOICES, LEAVES, STRUCTURAL, CellGraph, Differentiated, Program, Shape, Value
from rnngen.matrices import MATRICES
from rnngen.ops import OPS
from rnngen.runtime.plan import is_saved

_Must = Callable[[bool, str], None]
_Form = TypeVar("_Form", bound=Program)


class Malformed(AssertionError):
    """A pass has broken a graph: a fault of ours, never of a user."""


def verify(program: _Form) -> _Form:
    """The program as it is. Raises Malformed if a graph of it is no graph, or the adjoint none of its scan."""
    for name, graph in program.graphs().items():
        _verify(name, graph)
    if isinstance(program, Differentiated):
        _verify_adjoint(program)
    return program


def _must(graph: CellGraph, name: str) -> _Must:
    def must(condition: bool, message: str) -> None:
        if not condition:
            raise Malformed(f"{graph.name}, {name}: {message}")

    return must


def _verify(name: str, graph: CellGraph) -> None:
    must = _must(graph, name)
    defined: dict[str, Shape] = {}
    for value in graph.values:
        must(value.name not in defined, f"{value.name} is defined twice")
        must(
            value.op in LEAVES | STRUCTURAL | ACROSS.keys() | MATRICES.keys() | OPS.keys(),
            f"{value.name} has the unknown operation {value.op}",
        )
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
        must(not state.bound or defined.get(state.bound) == (), f"the bound of the state {state.name} is no number")
        must(defined[state.update] in (defined[state.name], ()), f"the state {state.name} changes its shape")
    for label, output in graph.outputs:
        must(output in defined, f"the output {label} is missing")


def _verify_adjoint(program: Differentiated) -> None:
    """Every adjoint has the shape of its value, and is there where the value has an effect that has a derivative."""
    scan, adjoint, gradients = program.scan, program.adjoint, program.gradients
    must = _must(scan, "adjoint")
    forward, backward, after = scan.by_name(), adjoint.by_name(), gradients.by_name()
    made = program.again.by_name()
    effective = _effective(scan)

    def match(name: str, found: Shape, wanted: Shape) -> None:
        must(found == wanted, f"the adjoint of {name} is {found} and {name} is {wanted}")

    must(len(adjoint.states) >= len(scan.states), "a state has no adjoint")
    for state, its in zip(scan.states, adjoint.states, strict=False):
        match(state.name, backward[its.name].shape, forward[state.name].shape)
        if state.name in effective:
            must(not _is_zero(adjoint, its.update), f"the adjoint of {state.name} is zero")
    streams = scan.leaves("input")
    parameters = [leaf for leaf in scan.leaves("parameter") if leaf.name not in scan.untrained]
    outputs = {label: backward[value].shape for label, value in adjoint.outputs}
    must(len(program.stream_gradients) == len(streams), "an input has no entry for its adjoint")
    for stream, label in zip(streams, program.stream_gradients, strict=True):
        must(label is None or label in outputs, f"the adjoint of {stream.name} is missing")
        idle = stream.name in scan.untrained or stream.name not in effective
        must(label is not None or idle, f"{stream.name} has no adjoint")
        if label is not None:
            summed = stream.shape == () and len(outputs[label]) == 1  # behind the scan
            match(stream.name, () if summed else outputs[label], stream.shape)
    must(len(gradients.outputs) == len(parameters), "a parameter has no gradient")
    for parameter, (_, value) in zip(parameters, gradients.outputs, strict=True):
        match(parameter.name, after[value].shape, parameter.shape)
        if parameter.name in effective:
            must(not _is_zero(gradients, value), f"the gradient of {parameter.name} is zero")
    sources = outputs | {state.name: backward[state.name].shape for state in adjoint.states}
    stored = {label: forward[value].shape for label, value in scan.outputs}
    stored |= {label: made[value].shape for label, value in program.again.outputs}
    for binding in program.bindings:
        taken_in = binding.kind in ("stream", "again")
        sources[binding.leaf] = forward[binding.name].shape if taken_in else stored[binding.name]
    for graph in (program.again, adjoint, gradients):
        for leaf in graph.leaves("input"):
            wanted = sources.get(leaf.name, leaf.shape)
            must(leaf.shape == wanted, f"{leaf.name} is read as {leaf.shape} and is {wanted}")


def _effective(graph: CellGraph) -> set[str]:
    """Names of the values that a new state or an output depends on otherwise than by a condition."""
    numbers = _numbers(graph)
    found = {state.update for state in graph.states}
    found |= {value for label, value in graph.outputs if not is_saved(label)}  # what `save` stores is for the adjoint
    for value in reversed(graph.values):
        if value.name in found:
            found.update(_differentiated(value, numbers))
    return found


def _differentiated(value: Value, numbers: dict[str, float]) -> Sequence[str]:
    """The operands by which a value has a derivative other than zero."""
    if is_flat(value.op):
        return ()
    if value.op in CHOICES or value.op == "where":
        return value.operands[1:]
    if value.op == "expand":
        return value.operands[:1]
    if value.op == "mul" and 0 in [numbers.get(operand) for operand in value.operands]:
        return ()
    return () if value.op == "div" and numbers.get(value.operands[0]) == 0 else value.operands


def _is_zero(graph: CellGraph, name: str) -> bool:
    """Whether a value is a vector of zeros that was made for want of anything else."""
    numbers = _numbers(graph)
    value = graph.by_name()[name]
    return value.op == "mul" and 0 in [numbers.get(operand) for operand in value.operands]


def _numbers(graph: CellGraph) -> dict[str, float]:
    """The constants of a graph by name."""
    return {value.name: value.number for value in graph.values if value.op == "constant"}
