"""mask: a scan that stands still where it is told to, for sequences of different lengths in one batch.

A function from a step to a step, for both directions. It adds a leaf, one number for each step and element of the
batch, that may be absent; where it is 0 every state keeps its value, and so does an output that is a state's new value.

    h' = tanh(w + U @ h)      →      h' = kept(valid, tanh(w + U @ h), h)

The adjoint of a step that stands still is an adjoint step that stands still, and its outputs are zero. They are chosen
after they have been computed: derivatives at padding may be infinite, and zero times infinity is no number. Padding may
stand at either end: a scan from the last step to the first keeps the initial state until a sequence begins.
"""

from dataclasses import replace

from rnngen.across import ACROSS
from rnngen.build import Builder
from rnngen.chain import atoms_of
from rnngen.ir import CellGraph, Differentiated, State, Value, block_shape, blocks_of, prune


def mask(program: Differentiated) -> Differentiated:
    """The program with both scans masked."""
    names = Builder((*program.scan.values, *program.adjoint.values))
    valid = Value(names.fresh("valid"), "mask")
    scan, stand_ins = _forward(program.scan, valid)
    written = {value for _, value in scan.outputs}
    states = {state.name for state in scan.states if state.update in written}
    # A step that does not count has no gradient, so that what is kept can be read in place of what was computed.
    return replace(
        program,
        scan=scan,
        adjoint=_adjoint(program.adjoint, valid),
        gradients=_gradients(program.gradients, valid, states),
        stand_ins=stand_ins,
    )


def _forward(graph: CellGraph, valid: Value) -> tuple[CellGraph, dict[str, str]]:
    """The masked scan, and by each new value and each output what is kept of it."""
    to = Builder(graph.values)
    to.leaf(valid)
    states = _still(graph, to, valid, {})
    kept: dict[str, str] = {}
    for old, new in zip(graph.states, states, strict=True):
        kept.setdefault(old.update, new.update)
    for _, value in graph.outputs:
        if value not in kept:
            kept[value] = _or_zero(to, value, valid)
    outputs = tuple((label, kept[value]) for label, value in graph.outputs)
    return replace(graph, values=tuple(to.values.values()), states=states, outputs=outputs), kept


def _adjoint(graph: CellGraph, valid: Value) -> CellGraph:
    """The masked adjoint. What uses an output uses it masked: a stack is put together once for memory and products. So
    does a product that uses some blocks of an output.
    """
    to = Builder(reserved=graph.by_name())
    to.leaf(valid)
    names: dict[str, str] = {}
    outputs = {value for _, value in graph.outputs}
    outputs |= _parts(graph, outputs)
    for value in graph.values:
        copy = to.copy(value, names)
        names[value.name] = _or_zero(to, copy, valid) if value.name in outputs else copy
    states = _still(graph, to, valid, names)
    named = tuple((label, names[value]) for label, value in graph.outputs)
    return replace(graph, values=tuple(to.values.values()), states=states, outputs=named)


def _parts(graph: CellGraph, outputs: set[str]) -> set[str]:
    """Names of the vectors and stacks across units that are blocks of outputs."""
    values = graph.by_name()
    blocks = {atom for output in outputs for atom in atoms_of(values, output)}
    across = {value.operands[-1] for value in graph.values if value.op in ACROSS}
    return {name for name in across if blocks.issuperset(atoms_of(values, name))}


def _gradients(graph: CellGraph, valid: Value, states: set[str]) -> CellGraph:
    """Products of adjoints, which are zero where a step does not count, with operands that are finite there.

    A state whose new value is an output is, since it is kept. Any other operand was computed, or what the scan stores
    for its adjoint, which it does not at steps that are not run.
    """
    to = Builder(reserved=graph.by_name())
    names: dict[str, str] = {}
    for value in graph.values:
        names[value.name] = to.copy(value, names)
        if value.op == "outer" and value.operands[1] not in states:
            to.leaf(valid)
            adjoint, operand, parameter = to.values[names[value.name]].operands
            finite = _or_zero(to, operand, valid)
            names[value.name] = to.make(f"{value.name}.masked", "outer", adjoint, finite, parameter)
    outputs = tuple((label, names[value]) for label, value in graph.outputs)
    return prune(replace(graph, values=tuple(to.values.values()), outputs=outputs), keep_leaves=False)


def _still(graph: CellGraph, to: Builder, valid: Value, names: dict[str, str]) -> tuple[State, ...]:
    """The states, each kept where a step does not count."""
    return tuple(
        replace(s, update=to.make(f"{s.update}.kept", "kept", valid.name, names.get(s.update, s.update), s.name))
        for s in graph.states
    )


def _or_zero(to: Builder, name: str, valid: Value) -> str:
    """A value, or zero where a step does not count; a pack block by block."""
    shape = to.values[name].shape
    if block_shape(shape) == shape:
        return to.make(f"{name}.masked", "or_zero", valid.name, name)
    blocks = [to.make(f"{name}.{n}", "pick", name, attribute=n) for n in range(blocks_of(shape))]
    return to.make(f"{name}.masked", "stack", *(_or_zero(to, block, valid) for block in blocks))
