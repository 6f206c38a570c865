"""A compiled program as the records that the templates place."""

from hashlib import sha256

from rnngen.cell import Cell
from rnngen.chain import Chain, Chained
from rnngen.description import CellLayer, DenseLayer, Description, DropoutLayer, Layer
from rnngen.emit.layer import layer_view
from rnngen.emit.render import literal
from rnngen.emit.statements import Names
from rnngen.emit.stepwise import StepwiseText
from rnngen.emit.torch import SPELLING, TorchText
from rnngen.emit.triton import SweepText
from rnngen.emit.views import CellView, FunctionView, KernelView, ModelView, RunView, ScanView, SweepView
from rnngen.ir import CellGraph
from rnngen.runtime.plan import Facts, Product
from rnngen.runtime.schedules import SCHEDULES

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


def cell_view(program: Chained, cell: Cell) -> CellView:
    """The record of one cell."""
    name = program.cell.name
    scan = _scan(program, name)
    return CellView(
        name=name,
        class_name=cell.class_name,
        about=cell.about or f"The cell {name}.",
        equations=tuple(equation.text for equation in program.equations),
        scan=scan,
        run=_run(program),
        reference=_reference(program),
        layer=layer_view(program, schedules_of(program.forward), cell.activations),
    )


def model_view(description: Description) -> ModelView:
    """The record of a stack."""
    class_name = "".join(part[:1].upper() + part[1:] for part in description.name.split("_"))
    return ModelView(class_name, description.inputs, tuple(_layer(layer) for layer in description.layers))


def tuple_text(items: list[str] | tuple[str, ...]) -> str:
    """Items as a tuple of Python's."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _scan(program: Chained, name: str) -> ScanView:
    forward = _sweep("forward", name, program.scan, program.forward, program)
    adjoint = _sweep("adjoint", name, program.adjoint, program.backward, program)
    parameters = tuple(leaf.name for leaf in program.scan.leaves("parameter"))
    gradients = _gradients(f"{name}_gradients", program.gradients, parameters)
    graphs = (program.scan, program.adjoint, program.gradients)
    computed = [(g.values, g.states, g.outputs, sorted(g.heads)) for g in graphs], program.bindings
    return ScanView(
        name=f"{name}_scan",
        identity=f"{name}_{sha256(repr(computed).encode()).hexdigest()[:12]}",
        parameters=parameters,
        forward=forward,
        adjoint=adjoint,
        gradients=gradients,
        gradient_inputs=tuple(leaf.name for leaf in program.gradients.leaves("input")),
        sources=_sources(program),
        stream_gradients=program.stream_gradients,
    )


def _sweep(direction: str, prefix: str, graph: CellGraph, chain: Chain, program: Chained) -> SweepView:
    name = f"{prefix}_step" if direction == "forward" else f"{prefix}_adjoint_step"
    text = TorchText(graph, equations=program.equations, apart=True)
    arguments = [*text.arguments("input", "state", "parameter"), _mask_of(graph, text)]
    states = tuple_text([text.text(state.update) for state in graph.states])
    outputs = tuple_text([tuple_text(text.blocks(value)) for _, value in graph.outputs])
    shapes = {value.name: value.shape for value in graph.values}
    return SweepView(
        inputs={leaf.name: leaf.shape for leaf in graph.leaves("input")},
        states={state.name: shapes[state.name] for state in graph.states},
        parameters=tuple(leaf.name for leaf in graph.leaves("parameter")),
        outputs={label: shapes[value] for label, value in graph.outputs},
        carried={label: s.name for label, v in reversed(graph.outputs) for s in graph.states if s.update == v},
        step=FunctionView(name, _ABOUT[direction], tuple(arguments), tuple(text.lines), f"{states}, {outputs}"),
        products=tuple(_product_text(product) for product in products_of(chain)),
        levels=len(chain.links) - 1,
        text=SweepText(chain, f"{prefix}_{direction}", program.equations),
        kernels=tuple(_kernel(schedule, f"{prefix}_{direction}", chain, program) for schedule in schedules_of(chain)),
    )


def _mask_of(graph: CellGraph, text: TorchText) -> str:
    """The argument that says which steps count; a function that does not ask has it too."""
    return next((text.names[leaf.name] for leaf in graph.leaves("mask")), "valid")


def _kernel(schedule: str, prefix: str, chain: Chain, program: Chained) -> KernelView:
    name = f"{prefix}_{schedule}"
    text = SweepText(chain, prefix, program.equations)
    return KernelView(schedule, name, StepwiseText(text, name) if schedule == "stepwise" else text)


def _product_text(product: Product) -> str:
    marks = [f"{mark}=True" for mark in ("transposed", "heads") if getattr(product, mark)]
    return f"Product({', '.join([str(product.count), *marks])})"


def schedules_of(chain: Chain) -> tuple[str, ...]:
    """The schedules that can run a chain, whatever its sizes are."""
    return tuple(name for name, schedule in SCHEDULES.items() if not schedule.refusal(facts_of(chain)))


def facts_of(chain: Chain) -> Facts:
    """What the choice of a schedule rests on."""
    read = [name for name, _ in chain.streams]
    written = [atom.value for write in chain.writes for atom in write.atoms]
    values = [*read, *written, *(state for state, _ in chain.states)]
    return Facts(
        backwards=chain.graph.backwards,
        products=products_of(chain),
        streams=tuple(map(chain.blocks, read)),
        outputs=tuple(len(write.atoms) for write in chain.writes),
        levels=len(chain.links) - 1,
        dimensions=tuple(sorted({dimension for name in values for dimension in chain.width(name)})),
    )


def products_of(chain: Chain) -> tuple[Product, ...]:
    return tuple(Product(a.count, a.transposed, a.parameter in chain.graph.heads) for a in chain.across)


def _gradients(name: str, graph: CellGraph, parameters: tuple[str, ...]) -> FunctionView:
    text = TorchText(graph)
    arguments = [*text.arguments("input"), *(text.names[p] for p in parameters), _mask_of(graph, text)]
    returns = tuple_text([text.text(value) for _, value in graph.outputs])
    return FunctionView(name, _ABOUT["gradients"], tuple(arguments), tuple(text.lines), returns)


def _sources(program: Chained) -> dict[str, tuple[str, ...]]:
    sources: dict[str, tuple[str, ...]] = {}
    for binding in program.bindings:
        kind = "output" if binding.kind == "saved" else binding.kind
        state = (binding.leaf,) if kind == "previous" else ()
        sources[binding.leaf] = (kind, binding.name, *state)
    return sources


def _run(program: Chained) -> RunView:
    graphs = (program.once, program.before, program.scan, program.after)
    names = Names(graphs, _RUN_NAMES - {"x"})
    once, before, after = (TorchText(graph, names) for graph in (program.once, program.before, program.after))
    return RunView(
        weights=tuple(names[parameter.name] for parameter in program.parameters),
        before=(*once.lines, *before.lines),
        streams=tuple(names[leaf.name] for leaf in program.scan.leaves("input")),
        parameters=tuple(names[leaf.name] for leaf in program.scan.leaves("parameter")),
        outputs=tuple(names[name] for name in program.results),
        after=tuple(after.lines),
        output=after.text(program.after.outputs[0][1]),
    )


def _reference(program: Chained) -> FunctionView:
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
