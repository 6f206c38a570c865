"""mask: a scan that stands still where it is told to, for sequences of different lengths in one batch.

A function from a step to a step, for both directions. It adds an input, one number for each step and element of the
batch; where that is not positive every state keeps its value, and so does an output that is a state's new value.

    h' = tanh(w + U @ h)      →      h' = where(valid > 0, tanh(w + U @ h), h)

The adjoint of a step that stands still is an adjoint step that stands still, and its outputs are zero. They are chosen
after they have been computed: derivatives at padding may be infinite, and zero times infinity is no number. Padding may
stand at either end: a scan from the last step to the first keeps the initial state until a sequence begins.
"""

from dataclasses import replace

from rnngen.build import Builder
from rnngen.ir import CellGraph, Program, State, Value, blocks_of, prune


def mask(program: Program) -> Program:
    """The program with both scans masked. The mask is the scan's last input, (time, batch, 1)."""
    names = Builder((*program.scan.values, *program.adjoint.values))
    valid = Value(names.fresh("valid"), "input")
    scan, stand_ins = _forward(program.scan, valid)
    states = {state.name for state in program.scan.states}
    # A step that does not count has no gradient, so that what is kept can be read in place of what was computed.
    return replace(
        program,
        scan=scan,
        adjoint=_adjoint(program.adjoint, valid),
        gradients=_gradients(program.gradients, valid, states),
        stand_ins=stand_ins,
        stream_gradients=(*program.stream_gradients, None),
    )


def _forward(graph: CellGraph, valid: Value) -> tuple[CellGraph, dict[str, str]]:
    """The masked scan, and by each new value and each output what is kept of it."""
    to = Builder(graph.values)
    counts = _counts(to, valid)
    states = _still(graph, to, counts, {})
    kept: dict[str, str] = {}
    for old, new in zip(graph.states, states, strict=True):
        kept.setdefault(old.update, new.update)
    for _, value in graph.outputs:
        if value not in kept:
            kept[value] = _or_zero(to, value, counts)
    outputs = tuple((label, kept[value]) for label, value in graph.outputs)
    return replace(graph, values=tuple(to.values.values()), states=states, outputs=outputs), kept


def _adjoint(graph: CellGraph, valid: Value) -> CellGraph:
    """The masked adjoint. What uses an output uses it masked: a stack is put together once for memory and products."""
    to = Builder(reserved=graph.by_name())
    names: dict[str, str] = {}
    outputs = {value for _, value in graph.outputs}
    counts = _counts(to, valid)
    for value in graph.values:
        copy = to.copy(value, names)
        names[value.name] = _or_zero(to, copy, counts) if value.name in outputs else copy
    states = _still(graph, to, counts, names)
    named = tuple((label, names[value]) for label, value in graph.outputs)
    return replace(graph, values=tuple(to.values.values()), states=states, outputs=named)


def _gradients(graph: CellGraph, valid: Value, states: set[str]) -> CellGraph:
    """Products of adjoints, which are zero where a step does not count, with operands that are finite there.

    A state is, since it is kept; any other operand was computed.
    """
    to = Builder(reserved=graph.by_name())
    names: dict[str, str] = {}
    for value in graph.values:
        names[value.name] = to.copy(value, names)
        if value.op == "outer" and value.operands[1] not in states:
            adjoint, operand, parameter = to.values[names[value.name]].operands
            finite = _or_zero(to, operand, _counts(to, valid))
            names[value.name] = to.make(f"{value.name}.masked", "outer", adjoint, finite, parameter)
    outputs = tuple((label, names[value]) for label, value in graph.outputs)
    return prune(replace(graph, values=tuple(to.values.values()), outputs=outputs), keep_leaves=False)


def _counts(to: Builder, valid: Value) -> str:
    """The condition that a step counts."""
    return to.make(f"{valid.name}.1", "gt", to.leaf(valid), to.constant(0.0))


def _still(graph: CellGraph, to: Builder, counts: str, names: dict[str, str]) -> tuple[State, ...]:
    """The states, each kept where a step does not count."""
    return tuple(
        State(s.name, to.make(f"{s.update}.kept", "where", counts, names.get(s.update, s.update), s.name))
        for s in graph.states
    )


def _or_zero(to: Builder, name: str, counts: str) -> str:
    """A value, or zero where a step does not count; a pack block by block."""
    shape = to.values[name].shape
    if not isinstance(shape[0], int):
        return to.make(f"{name}.masked", "where", counts, name, to.constant(0.0))
    blocks = [to.make(f"{name}.{n}", "pick", name, attribute=n) for n in range(blocks_of(shape))]
    return to.make(f"{name}.masked", "stack", *(_or_zero(to, block, counts) for block in blocks))
