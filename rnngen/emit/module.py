"""A compiled program as the records that the templates place."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType

from rnngen.cell import Cell
from rnngen.description import CellLayer, DenseLayer, Description, DropoutLayer, Layer
from rnngen.emit.layer import layer_view
from rnngen.emit.render import literal
from rnngen.emit.statements import Names
from rnngen.emit.stepwise import levels, stepwise_view
from rnngen.emit.torch import SPELLING, TorchText
from rnngen.emit.triton import TileWriter, VectorWriter
from rnngen.emit.views import CellView, FunctionView, KernelView, ModelView, PassView, RunView, ScanView
from rnngen.ir import PRODUCTS, CellGraph, Program, block_shape, blocks_of, origin
from rnngen.runtime.machine import parts_of, runs_of

_ABOUT = {
    "forward": "One step in torch: the new states, and of each output its blocks.",
    "adjoint": "One step backwards in torch: the adjoints of the old states, and of each output its blocks.",
    "gradients": "The gradients of the scan's parameters, from all steps at once.",
    "equations": "One step in plain torch, as it was described.",
}
_LONGEST = 100  # of a line that makes a layer
# Arguments of a layer's class, and what they are if they are not given.
_USUAL = {
    "num_layers": 1,
    "bias": True,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
    "heads": 1,
    "initial_state": "zeros",
    "reverse": False,
    "last_only": False,
    "init": {},
    "schedule": "auto",
}
_RUN_NAMES = SPELLING.reserved | {"x", "states", "weights", "valid", "scan", "streams", "options", "filled", "rows"}


def cell_view(program: Program, masked: Program, cell: Cell) -> CellView:
    """The record of one cell, from its program and that of its masked scan."""
    name = program.cell.name
    scan = _scan(program, name, "")
    same = {_but_for_its_name(function): function.name for function in scan.functions}
    return CellView(
        name=name,
        class_name=cell.class_name,
        about=cell.about or f"The cell {name}.",
        equations=tuple(equation.text for equation in program.equations),
        scan=scan,
        masked=_scan(masked, f"{name}_masked", "The same, where a mask says which steps count.", same),
        run=_run(program),
        reference=_reference(program),
        layer=layer_view(program, (scan.forward.kernel.schedule, "stepwise"), cell.activations),
    )


def model_view(description: Description) -> ModelView:
    """The record of a stack."""
    class_name = "".join(part[:1].upper() + part[1:] for part in description.name.split("_"))
    return ModelView(class_name, description.inputs, tuple(_layer(layer) for layer in description.layers))


def tuple_text(items: list[str] | tuple[str, ...]) -> str:
    """Items as a tuple of Python's."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _scan(
    program: Program, name: str, title: str, known: Mapping[FunctionView, str] = MappingProxyType({})
) -> ScanView:
    """A scan whose functions are called after `name`; of those `known` by what they do, the existing one is used."""
    forward = _pass("forward", name, program.scan, program)
    adjoint = _pass("adjoint", name, program.adjoint, program)
    parameters = tuple(leaf.name for leaf in program.scan.leaves("parameter"))
    gradients = _gradients(f"{name}_gradients", program.gradients, parameters)
    existing = known.get(_but_for_its_name(gradients))
    return ScanView(
        name=f"{name}_scan",
        title=title,
        identity=f"{name}_{sha256(repr((forward, adjoint, program.bindings)).encode()).hexdigest()[:12]}",
        parameters=parameters,
        forward=forward,
        adjoint=adjoint,
        gradients=existing or gradients.name,
        gradient_inputs=tuple(leaf.name for leaf in program.gradients.leaves("input")),
        sources=_sources(program),
        stream_gradients=program.stream_gradients,
        functions=(forward.step, adjoint.step, *(() if existing else (gradients,))),
    )


def _but_for_its_name(function: FunctionView) -> FunctionView:
    return replace(function, name="")


def _pass(direction: str, prefix: str, graph: CellGraph, program: Program) -> PassView:
    name = f"{prefix}_step" if direction == "forward" else f"{prefix}_adjoint_step"
    text = TorchText(graph, equations=program.equations, apart=True)
    arguments = text.arguments("input", "state", "parameter")
    states = tuple_text([text.text(state.update) for state in graph.states])
    outputs = tuple_text([tuple_text(text.blocks(value)) for _, value in graph.outputs])
    shapes = graph.by_name()
    return PassView(
        inputs=tuple(leaf.name for leaf in graph.leaves("input")),
        states=tuple(state.name for state in graph.states),
        parameters=tuple(leaf.name for leaf in graph.leaves("parameter")),
        outputs={label: blocks_of(shapes[value].shape) for label, value in graph.outputs},
        carried={label: s.name for label, v in reversed(graph.outputs) for s in graph.states if s.update == v},
        step=FunctionView(name, _ABOUT[direction], tuple(arguments), tuple(text.lines), f"{states}, {outputs}"),
        facts=facts_of(graph),
        kernel=_kernel(graph, prefix, direction, program),
        stepwise=stepwise_view(graph, f"{prefix}_stepwise_{direction}", program.equations),
    )


def _kernel(graph: CellGraph, prefix: str, direction: str, program: Program) -> KernelView:
    """The kernel for the whole sequence: with products the resident one, without them the elementwise one."""
    products = any(value.op in PRODUCTS for value in graph.values)
    schedule, writer = ("resident", TileWriter) if products else ("elementwise", VectorWriter)
    vectors = any(len(block_shape(leaf.shape)) == 1 for leaf in graph.leaves("parameter"))
    text = writer(graph, program.equations).kernel()
    return KernelView(f"{prefix}_{schedule}_{direction}", schedule, text, vectors)


def facts_of(graph: CellGraph) -> dict[str, object]:
    """What the choice of a schedule rests on: the arguments of `rnngen.runtime.machine.Facts`."""
    shapes = graph.by_name()
    products = [value for value in graph.values if value.op in PRODUCTS]
    stacks = [blocks_of(shapes[p.operands[0]].shape) * (1 if p.op == "matmul" else -1) for p in products]
    streams = [blocks_of(leaf.shape) for leaf in graph.leaves("input") if leaf.shape]
    stored = [blocks_of(shapes[value].shape) for _, value in graph.outputs]
    loads = [parts_of(run) for blocks in streams for run in runs_of(range(blocks))]
    others = [parts_of(run) for blocks in (*stored, *map(abs, stacks)) for run in runs_of(range(blocks))]
    dense = {origin(shapes, p.operands[0])[0].name in graph.heads for p in products}
    return {
        "adjoint": graph.name.endswith("adjoint"),
        "stacks": tuple(stacks),
        "reads": sum(streams),
        "tiles": sum(loads),
        "widest": max(loads + others),
        "stages": max(levels(graph).values()),
        "mixed": len(dense) > 1,
        "masked": any(not leaf.shape for leaf in graph.leaves("input")),
    }


def _gradients(name: str, graph: CellGraph, parameters: tuple[str, ...]) -> FunctionView:
    text = TorchText(graph)
    arguments = [*text.arguments("input"), *(text.names[parameter] for parameter in parameters)]
    returns = tuple_text([text.text(value) for _, value in graph.outputs])
    return FunctionView(name, _ABOUT["gradients"], tuple(arguments), tuple(text.lines), returns)


def _sources(program: Program) -> dict[str, tuple[str, ...]]:
    sources: dict[str, tuple[str, ...]] = {}
    for binding in program.bindings:
        kind = "output" if binding.kind == "saved" else binding.kind
        state = (binding.leaf,) if kind == "previous" else ()
        sources[binding.leaf] = (kind, binding.name, *state)
    return sources


def _run(program: Program) -> RunView:
    graphs = (program.once, program.before, program.scan, program.after)
    names = Names(graphs, _RUN_NAMES - {"x"})
    once, before, after = (TorchText(graph, names) for graph in (program.once, program.before, program.after))
    return RunView(
        weights=tuple(names[parameter.name] for parameter in program.parameters),
        before=(*once.lines, *before.lines),
        streams=tuple(names[leaf.name] for leaf in program.scan.leaves("input")),
        parameters=tuple(names[leaf.name] for leaf in program.scan.leaves("parameter")),
        outputs=tuple(names[value] for label, value in program.scan.outputs if label != "saved"),
        after=tuple(after.lines),
        output=after.text(program.after.outputs[0][1]),
    )


def _reference(program: Program) -> FunctionView:
    text = TorchText(program.described, equations=program.equations)
    states = tuple(text.names[state.name] for state in program.cell.states)
    weights = tuple(text.names[parameter.name] for parameter in program.parameters)
    opening = (f"{tuple_text(states)[1:-1]} = states", f"{tuple_text(weights)[1:-1]} = weights")
    updates = tuple_text([text.text(state.update) for state in program.described.states])
    output = text.text(program.described.outputs[0][1])
    arguments = (text.names["x"], "states", "weights")
    lines, returns = (*opening, *text.lines), f"{output}, {updates}"
    return FunctionView(f"{program.cell.name}_equations", _ABOUT["equations"], arguments, lines, returns)


def _layer(layer: Layer) -> tuple[str, ...]:
    match layer:
        case DropoutLayer():
            return (f"nn.Dropout({layer.probability!r})",)
        case DenseLayer():
            bias = "" if layer.bias else ", bias=False"
            return (f"nn.Linear({layer.inputs}, {layer.outputs}{bias}, **options)",)
        case CellLayer():
            values = {key: getattr(layer, key) for key in _USUAL}
            given = [f"{key}={literal(value)}" for key, value in values.items() if value != _USUAL[key]]
            arguments = [str(layer.inputs), str(layer.hidden), *given, "**options"]
            line = f"{layer.cell.class_name}({', '.join(arguments)})"
            if len(line) <= _LONGEST:
                return (line,)
            return (f"{layer.cell.class_name}(", *(f"    {argument}," for argument in arguments), ")")
