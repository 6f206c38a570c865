"""A compiled program as the records that the templates place."""

from hashlib import sha256

from rnngen.description import CellLayer, DenseLayer, Description, DropoutLayer, Layer
from rnngen.emit.statements import Names
from rnngen.emit.stepwise import levels, stepwise_view
from rnngen.emit.torch import SPELLING, TorchText
from rnngen.emit.triton import TileWriter, VectorWriter
from rnngen.emit.views import CellView, FunctionView, KernelView, ModelView, PassView, RunView, WeightView
from rnngen.ir import PRODUCTS, CellGraph, Program, block_shape, blocks_of, origin

_ABOUT = {
    "forward": "One step in torch: the new states, and of each output its blocks.",
    "adjoint": "One step backwards in torch: the adjoints of the old states, and of each output its blocks.",
    "gradients": "The gradients of the scan's parameters, from all steps at once.",
    "equations": "One step in plain torch, as it was described.",
}
_RUN_NAMES = SPELLING.reserved | {"x", "states", "weights", "reverse", "schedule", "Scan"}


def cell_view(program: Program, class_name: str, about: str) -> CellView:
    """The record of one cell."""
    name = program.cell.name
    scan, adjoint = program.scan, program.adjoint
    forward = _pass("forward", f"{name}_step", scan, program)
    backward = _pass("adjoint", f"{name}_adjoint_step", adjoint, program)
    parameters = tuple(leaf.name for leaf in scan.leaves("parameter"))
    return CellView(
        name=name,
        class_name=class_name,
        about=about,
        identity=f"{name}_{sha256(repr((forward, backward, program.bindings)).encode()).hexdigest()[:12]}",
        parameters=parameters,
        equations=tuple(equation.text for equation in program.equations),
        forward=forward,
        adjoint=backward,
        gradients=_gradients(f"{name}_gradients", program.gradients, parameters),
        gradient_inputs=tuple(leaf.name for leaf in program.gradients.leaves("input")),
        sources=_sources(program),
        stream_gradients=program.stream_gradients,
        run=_run(program),
        reference=_reference(program),
        weights=tuple(WeightView(p.name, len(p.blocks), p.shape, p.init, p.heads) for p in program.parameters),
    )


def model_view(description: Description) -> ModelView:
    """The record of a stack."""
    class_name = "".join(part[:1].upper() + part[1:] for part in description.name.split("_"))
    return ModelView(class_name, description.inputs, tuple(_layer(layer) for layer in description.layers))


def tuple_text(items: list[str] | tuple[str, ...]) -> str:
    """Items as a tuple of Python's."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _pass(direction: str, name: str, graph: CellGraph, program: Program) -> PassView:
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
        step=FunctionView(name, _ABOUT[direction], tuple(arguments), tuple(text.lines), f"{states}, {outputs}"),
        facts=facts_of(graph),
        kernel=_kernel(graph, direction, program),
        stepwise=stepwise_view(graph, f"{program.cell.name}_stepwise_{direction}", program.equations),
    )


def _kernel(graph: CellGraph, direction: str, program: Program) -> KernelView:
    """The kernel for the whole sequence: with products the resident one, without them the elementwise one."""
    products = any(value.op in PRODUCTS for value in graph.values)
    schedule, writer = ("resident", TileWriter) if products else ("elementwise", VectorWriter)
    vectors = any(len(block_shape(leaf.shape)) == 1 for leaf in graph.leaves("parameter"))
    text = writer(graph, program.equations).kernel()
    return KernelView(f"{program.cell.name}_{schedule}_{direction}", schedule, text, vectors)


def facts_of(graph: CellGraph) -> dict[str, object]:
    """What the choice of a schedule rests on: the arguments of `rnngen.runtime.machine.Facts`."""
    shapes = graph.by_name()
    products = [value for value in graph.values if value.op in PRODUCTS]
    stacks = [blocks_of(shapes[p.operands[0]].shape) * (1 if p.op == "matmul" else -1) for p in products]
    dense = {origin(shapes, p.operands[0])[0].name in graph.heads for p in products}
    return {
        "adjoint": graph.name.endswith("adjoint"),
        "stacks": tuple(stacks),
        "reads": sum(blocks_of(leaf.shape) for leaf in graph.leaves("input")),
        "stages": max(levels(graph).values()),
        "mixed": len(dense) > 1,
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
        states=tuple(names[state.name] for state in program.scan.states),
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


def _layer(layer: Layer) -> str:
    match layer:
        case DropoutLayer():
            return f"nn.Dropout({layer.probability!r})"
        case DenseLayer():
            bias = "" if layer.bias else ", bias=False"
            return f"nn.Linear({layer.inputs}, {layer.outputs}{bias}, **options)"
        case CellLayer():
            usual = {"heads": 1, "initial_state": "zeros", "reverse": False, "schedule": "auto"}
            given = [f"{key}={getattr(layer, key)!r}" for key, value in usual.items() if getattr(layer, key) != value]
            arguments = ", ".join([str(layer.inputs), str(layer.hidden), *given, "**options"])
            return f"{layer.cell.class_name}({arguments})"
