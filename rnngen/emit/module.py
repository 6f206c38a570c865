"""A compiled program as the records that the templates place."""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from rnngen.cell import Cell
from rnngen.chain import Chain, Chained
from rnngen.description import CellLayer, DenseLayer, Description, DropoutLayer, Layer
from rnngen.emit.layer import layer_view
from rnngen.emit.render import literal
from rnngen.emit.statements import Names
from rnngen.emit.target import Written
from rnngen.emit.targets import TARGETS
from rnngen.emit.torch.spelling import SPELLING
from rnngen.emit.torch.text import FunctionText, TorchText, function, tuple_text
from rnngen.emit.views import CellView, ModelView, RunView, ScanView, SweepView
from rnngen.runtime.memory import KINDS, memory_of
from rnngen.runtime.schedules import possible

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
    "save": "",
}
_STEP_NAMES = SPELLING.reserved | {"states", "weights"}
_RUN_NAMES = _STEP_NAMES | {"x", "valid", "scan", "streams", "options", "filled", "rows", "delayed"}


def cell_view(program: Chained, cell: Cell) -> CellView:
    """The record of one cell."""
    name = program.cell.name
    sweeps = {"forward": program.forward, "adjoint": program.backward}
    written = {
        direction: [target.write(program, chain, f"{name}_{direction}") for target in TARGETS.values()]
        for direction, chain in sweeps.items()
    }
    files: dict[str, list[Written]] = {}
    for target, *pair in zip(TARGETS.values(), *written.values(), strict=True):
        files.setdefault(target.suffix, []).extend(pair)
    module = files.pop(".py")
    gradients, reference, again = _gradients(program), _reference(program), _again(program)
    return CellView(
        name=name,
        class_name=cell.class_name,
        about=cell.about or f"The cell {name}.",
        remarks=tuple(filter(None, (cell.paper, cell.note))),
        equations=tuple(equation.text for equation in program.equations),
        wrappers=program.wrappers,
        save=cell.save if memory_of(cell.save or KINDS[0]).words else "",
        stages=(*(one.stages for one in module), *map(function, (*again, gradients, reference))),
        loops=tuple(one.loops for one in module if one.loops),
        beside={suffix: tuple(t for one in texts for t in (one.stages, one.loops)) for suffix, texts in files.items()},
        scan=_scan(program, {d: _sweep(chain, written[d]) for d, chain in sweeps.items()}, gradients.name, again),
        run=_run(program),
        equations_function=reference.name,
        layer=layer_view(program, cell, possible(program.forward.facts)),
    )


def model_view(description: Description) -> ModelView:
    """The record of a stack."""
    class_name = "".join(part[:1].upper() + part[1:] for part in description.name.split("_"))
    return ModelView(class_name, description.inputs, tuple(_layer(layer) for layer in description.layers))


def _scan(program: Chained, sweeps: Mapping[str, SweepView], gradients: str, again: Sequence[FunctionText]) -> ScanView:
    name = program.cell.name
    graphs = (program.scan, program.adjoint, program.gradients, *[program.again] * len(again))
    computed = [(g.values, g.states, g.outputs, sorted(g.heads)) for g in graphs], program.bindings
    return ScanView(
        name=f"{name}_scan",
        identity=f"{name}_{sha256(repr(computed).encode()).hexdigest()[:12]}",
        parameters=tuple(leaf.name for leaf in program.scan.leaves("parameter")),
        forward=sweeps["forward"],
        adjoint=sweeps["adjoint"],
        gradients=gradients,
        gradient_inputs=tuple(leaf.name for leaf in program.gradients.leaves("input")),
        sources=_sources(program),
        stream_gradients=program.stream_gradients,
        again="".join(one.name for one in again),
        again_inputs=tuple(leaf.name for leaf in program.again.leaves("input")),
    )


def _sweep(chain: Chain, written: list[Written]) -> SweepView:
    graph = chain.graph
    shapes = {value.name: value.shape for value in graph.values}
    return SweepView(
        inputs={leaf.name: leaf.shape for leaf in graph.leaves("input")},
        states={state.name: shapes[state.name] for state in graph.states},
        parameters={leaf.name: leaf.shape for leaf in graph.leaves("parameter")},
        outputs={label: shapes[value] for label, value in graph.outputs},
        carried={label: s.name for label, v in reversed(graph.outputs) for s in graph.states if s.update == v},
        facts=chain.facts,
        record={argument: text for one in written for argument, text in one.record.items()},
    )


def _gradients(program: Chained) -> FunctionText:
    text = TorchText(program.gradients)
    found = {label: text.text(value) for label, value in program.gradients.outputs}
    return FunctionText(
        name=f"{program.cell.name}_gradients",
        about="The gradients of the scan's parameters, from all steps at once.",
        arguments=(*text.arguments("input"), *_parameters(program, text), text.mask),
        lines=tuple(text.lines),
        returns=tuple_text([found.get(f"d_{leaf.name}", "None") for leaf in program.scan.leaves("parameter")]),
    )


def _again(program: Chained) -> tuple[FunctionText, ...]:
    """The function that makes what `program.again` is; none if that is nothing."""
    if not program.again.values:
        return ()
    text = TorchText(program.again)
    made = FunctionText(
        name=f"{program.cell.name}_again",
        about="What the adjoint reads of some steps at once, which is made once more.",
        arguments=(*text.arguments("input"), *_parameters(program, text), text.mask),
        lines=tuple(text.lines),
        returns=tuple_text([text.text(value) for _, value in program.again.outputs]),
    )
    return (made,)


def _parameters(program: Chained, text: TorchText) -> list[str]:
    """Those of the scan, as a function of all of them calls them."""
    return [text.names[leaf.name] for leaf in program.scan.leaves("parameter")]


def _sources(program: Chained) -> dict[str, tuple[str, ...]]:
    sources: dict[str, tuple[str, ...]] = {}
    for binding in program.bindings:
        kind = "output" if binding.kind == "saved" else binding.kind
        state = (binding.leaf,) if kind == "previous" else ()
        sources[binding.leaf] = (kind, binding.name, *state)
    return sources


def _run(program: Chained) -> RunView:
    graphs = (program.once, program.before, program.scan, program.after)
    names = Names((program.described, *graphs), _RUN_NAMES - {"x"})
    places = {state.name: place for place, state in enumerate(program.cell.states)}
    once, after = (TorchText(graph, names) for graph in (program.once, program.after))
    asked = {leaf.name for leaf in program.after.leaves("input")}
    for_scan = frozenset(leaf.name for leaf in program.scan.leaves("input")) - asked
    before = TorchText(program.before, names, places=places, for_scan=for_scan)
    carried = program.scan.states if program.before.states else ()
    return RunView(
        weights=tuple(names[name] for name in _weights(program)),
        before=(*_apart(program, names), *once.lines, *before.lines),
        streams=tuple(names[leaf.name] for leaf in program.scan.leaves("input")),
        parameters=tuple(names[leaf.name] for leaf in program.scan.leaves("parameter")),
        outputs=tuple(names[name] for name in program.results),
        places=tuple(places[state.name] for state in carried),
        last=tuple(before.last(state.name) for state in carried),
        states=tuple(map(before.last, places)) if carried else (),
        after=tuple(after.lines),
        output=after.beside(output for _, output in program.after.outputs),
    )


def _reference(program: Chained) -> FunctionText:
    text = TorchText(program.described, Names([program.described], _STEP_NAMES), program.equations)
    states = tuple(text.names[state.name] for state in program.cell.states)
    weights = tuple(text.names[name] for name in _weights(program))
    opening = (*_apart(program, text.names), f"{tuple_text(states)[1:-1]} = states")
    opening += (f"{tuple_text(weights)[1:-1]} = weights", *text.clipped())
    updates = tuple_text([text.text(state.update) for state in program.described.states])
    return FunctionText(
        name=f"{program.cell.name}_equations",
        about="One step in plain torch, as it was described.",
        arguments=(text.names["x"], "states", "weights"),
        lines=(*opening, *text.lines),
        returns=f"{text.beside(output for _, output in program.described.outputs)}, {updates}",
    )


def _weights(program: Chained) -> tuple[str, ...]:
    """What a cell takes in once a call: what its layer learns or keeps, then the numbers that it is given."""
    numbers = (one.name for one in program.drawn if one.each == "never")
    return (*(parameter.name for parameter in program.parameters), *numbers)


def _apart(program: Chained, names: Names) -> tuple[str, ...]:
    """The line that takes what comes in at a step apart, if it is more than x: what is given, then what is drawn."""
    leaves = {leaf.name: leaf for leaf in program.described.leaves("input")}
    drawn = [leaves.pop(one.name) for one in program.drawn if one.name in leaves]
    x, *others = (*leaves.values(), *drawn)
    if not others:
        return ()
    return (f"{', '.join(names[leaf.name] for leaf in (x, *others))} = x",)


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
            given += [f"{name}={literal(value)}" for name, value in {**layer.sizes, **layer.rates}.items()]
            arguments = [str(layer.inputs), str(layer.hidden), *given, "**options"]
            line = f"{layer.cell.class_name}({', '.join(arguments)})"
            if len(line) <= _LONGEST:
                return (line,)
            return (f"{layer.cell.class_name}(", *(f"    {argument}," for argument in arguments), ")")
