"""resolve: every name gets its meaning, and the equations an order in which each stands before its use."""

from collections.abc import Iterator, Mapping
from itertools import count

from rnngen.cell import Cell
from rnngen.equations import Assignment, Expression
from rnngen.errors import Mistakes
from rnngen.ir import CellGraph, Equation, Program, State, Value, carried, needed, needed_over_time
from rnngen.runtime.memory import KINDS, memory_of
from rnngen.source import Span


def resolve(cell: Cell) -> Program:
    """The cell's equations as a graph without shapes.

    Raises ModelError for definitions in a circle.
    """
    source = cell.places.document.source
    mistakes = Mistakes(source)
    leaves = _leaves(cell)
    definitions = {target: equation for equation in cell.equations for target in equation.targets}
    order = _order(cell, definitions, mistakes)
    mistakes.check()

    states = tuple(State(state, f"{state}'") for state in cell.states)
    heads = frozenset(parameter.name for parameter in cell.parameters if parameter.heads)
    untrained = frozenset(parameter.name for parameter in cell.parameters if not parameter.trained)
    values = _values(cell, order, leaves)
    outputs = tuple((f"y{number or ''}", output) for number, output in enumerate(cell.outputs))
    graph = CellGraph(cell.name, values, states, outputs, heads, untrained=untrained)
    equations = tuple(Equation(e.targets, e.text, f"{source.label}, line {cell.place_of(e).line}") for e in order)
    return Program(
        cell=graph,
        parameters=cell.parameters,
        equations=equations,
        outputs=cell.outputs,
        lines={state: lag.of for state, lag in cell.lags.items()},
        wrappers=cell.wrappers,
        kept=memory_of(cell.save or KINDS[0]).kind or KINDS[0],
    )


def _leaves(cell: Cell) -> dict[str, Value]:
    """What the names stand for that no equation defines."""
    leaves = {name: Value(name, "input") for name in cell.inputs}
    leaves |= {state: Value(state, "state") for state in cell.states}
    leaves |= {name: Value(name, "constant", attribute=number) for name, number in cell.constants.items()}
    for parameter in cell.parameters:
        leaves[parameter.name] = Value(parameter.name, "parameter")
        if len(parameter.blocks) == 1:
            leaves[parameter.blocks[0]] = leaves[parameter.name]
        else:
            for number, block in enumerate(parameter.blocks):
                leaves[block] = Value(block, "pick", (parameter.name,), attribute=number)
    return leaves


def _order(cell: Cell, definitions: Mapping[str, Assignment], mistakes: Mistakes) -> list[Assignment]:
    """Definitions first, uses after; otherwise as written."""
    order: list[Assignment] = []
    visited: set[str] = set()

    def visit(target: str, path: tuple[str, ...]) -> None:
        equation = definitions[target]
        waiting = [place for place, name in enumerate(path) if name in equation.targets]
        if waiting:
            _report_circle(cell, equation, (target, *path[waiting[0] + 1 :]), mistakes)
        elif target not in visited:
            visited.update(equation.targets)
            for name in dict.fromkeys(name.name for name in equation.expression.names()):
                if name in definitions:
                    visit(name, (*path, target))
            order.append(equation)

    for target in definitions:
        visit(target, ())
    return order


def _report_circle(cell: Cell, first: Assignment, circle: tuple[str, ...], mistakes: Mistakes) -> None:
    if len(circle) == 1:
        message = f"The equation '{first.name}' needs its own result: {circle[0]} → {circle[0]}."
    else:
        shown = circle if len(circle) <= 10 else (*circle[:8], "...", circle[-1])
        message = f"These equations need one another's results: {' → '.join((*shown, circle[0]))}."
    primed = [target for target in circle if target.endswith("'")]
    hint = f"for the value from the step before, write {primed[0][:-1]} without the prime." if primed else None
    if not primed:
        hint = "a value that is carried from step to step is a state: add it to the states."
    mistakes.add("circle", message, cell.place_of(first), hints=(hint,))


def _values(cell: Cell, order: list[Assignment], leaves: Mapping[str, Value]) -> tuple[Value, ...]:
    """Leaves, then each equation with its unnamed parts before it. Several targets pick blocks of such a part."""
    values = {parameter.name: Value(parameter.name, "parameter") for parameter in cell.parameters}
    for leaf in leaves.values():
        values.setdefault(leaf.name, leaf)
    for equation in order:
        first, *others = equation.targets
        parts = (f"{first}.{number}" for number in count(1))
        meaning = _add(equation.expression, f"{first}.0" if others else first, parts, values, leaves, cell)
        for number, target in enumerate(equation.targets):
            origin = cell.place_of(equation, number)
            if others:
                values[target] = Value(target, "pick", (meaning,), attribute=number, origin=origin)
            elif meaning != target:  # an equation that only gives another name: y = h'
                values[target] = Value(target, "alias", (meaning,), origin=origin)
    return tuple(values.values())


def _add(
    tree: Expression,
    name: str,
    parts: Iterator[str],
    values: dict[str, Value],
    leaves: Mapping[str, Value],
    cell: Cell,
) -> str:
    """Add a tree to `values`, its operands first; the name of its value, which is `name` if it needs one."""
    if tree.op == "name":
        return leaves[tree.name].name if tree.name in leaves else tree.name
    origin = cell.places.text(tree.offset, tree.length)
    if tree.op == "number":
        short = f"{tree.number:g}"
        name = short if float(short) == tree.number else repr(tree.number)
        values.setdefault(name, Value(name, "constant", attribute=tree.number, origin=origin))
        return name
    operands = tuple(
        _add(operand, next(parts) if operand.operands else "", parts, values, leaves, cell) for operand in tree.operands
    )
    values[name] = Value(name, tree.op, operands, origin=origin)
    return name


def report_unused(cell: Cell, graph: CellGraph, mistakes: Mistakes) -> None:
    """What nothing uses. The shapes come before: a wrong name that fits no shape is why another one is idle."""
    leaves = _leaves(cell)
    alive = needed(graph, set(graph.roots()))

    def unused(message: str, span: Span | None, hint: str) -> None:
        mistakes.add("unused", message, span, hints=(hint,))

    for equation in cell.equations:
        idle_targets = [target for target in equation.targets if target not in alive]
        for target in idle_targets:
            hint = "use it, or leave it out."
            if len(idle_targets) < len(equation.targets):
                hint = "use it, or leave it out with its block of each parameter."
            span = cell.place_of(equation, equation.targets.index(target))
            unused(f"Nothing uses the equation '{target}'.", span, hint)
    whole = {o for value in graph.values if value.name in alive and value.name not in leaves for o in value.operands}
    idle = {name for name, leaf in leaves.items() if leaf.name not in alive and whole.isdisjoint(leaf.operands)}
    if "x" in idle:
        hint = "a recurrent cell takes in the input x at each step."
        unused("No equation uses the input 'x'.", cell.places.key("step"), hint)
    for name in cell.inputs:
        if name in idle and name != "x":
            hint = "use it, or leave it out."
            unused(f"No equation uses the input '{name}'.", cell.places.key("inputs", name), hint)
    for number, state in enumerate(cell.states):
        if state in idle and state not in cell.lags:
            message = f"No equation uses the old value of the state '{state}'."
            hint = "a value that is not carried to the next step is an equation, not a state."
            unused(message, cell.places.entry("states", number, state), hint)
    for name in cell.constants:
        if name in idle:
            hint = "use it, or leave it out."
            unused(f"No equation uses the constant '{name}'.", cell.places.key("constants", name), hint)
    called = {part.name for equation in cell.equations for part in equation.expression.parts()}
    for name in cell.activations:
        if name not in called:
            hint = f"write {name}(...) in an equation, or leave it out."
            unused(f"No equation uses the activation '{name}'.", cell.places.key("activations", name), hint)
    for parameter in cell.parameters:
        for number, block in enumerate(parameter.blocks):
            if block in idle:
                message = f"No equation uses '{block}'{', so it would never be trained' * parameter.trained}."
                span = cell.places.value("parameters", parameter.name, "blocks", number)
                unused(message, span, "use it, or leave it out.")


def report_aside(cell: Cell, graph: CellGraph, mistakes: Mistakes) -> None:
    """A scan has an input at each step; without one it would not know how many steps there are. graph: with shapes."""
    for name, (_, value) in zip(cell.outputs, graph.outputs, strict=True):
        if not needed(graph, {value}) & {"x", *cell.states}:
            message = f"The output '{name}' depends neither on the input nor on a state."
            hint = "name an equation that varies over time."
            mistakes.add("input-aside", message, cell.place_of_output(name), hints=(hint,))
    states = carried(graph)
    recurrent = needed_over_time(graph, {state.update for state in states})
    uses = [name for equation in cell.equations for name in equation.expression.names() if name.name == "x"]
    if uses and states and "x" not in recurrent:
        message = "The input 'x' takes no part in the recurrence: no new value of a state depends on it."
        hint = "use x in an equation of a state; what the output alone needs belongs in another layer."
        span = cell.places.text(uses[0].offset, uses[0].length)
        mistakes.add("input-aside", message, span, "reaches only the output", hints=(hint,))
