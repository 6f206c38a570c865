"""resolve: every name gets its meaning, and the equations an order in which each stands before its use."""

from collections.abc import Iterator, Mapping

from rnngen.description import Cell
from rnngen.equations import Assignment, Expression
from rnngen.errors import Mistakes, did_you_mean
from rnngen.ir import CellGraph, Equation, Program, State, Value, needed


def resolve(cell: Cell) -> Program:
    """The cell's equations as a graph without shapes.

    Raises ModelError for unknown, duplicate, unused and missing names, and for definitions in a circle.
    """
    mistakes = Mistakes(cell.places.document.source)
    definitions = _definitions(cell, mistakes)
    leaves = _leaves(cell)
    for equation in definitions.values():
        for name in equation.expression.names():
            if name.name not in definitions and name.name not in leaves:
                _report_unknown(name, equation, cell, [*definitions, *leaves], mistakes)
    for number, state in enumerate(cell.states):
        if f"{state}'" not in definitions:
            message = f"The state '{state}' has no equation for its new value."
            hint = f"add a line {state}' = ..."
            mistakes.add("never-updated", message, cell.places.value("states", number), hints=(hint,))
    if cell.output not in definitions:
        hint = did_you_mean(cell.output, definitions) or "name an equation of the step"
        message = f"The output '{cell.output}' is no equation of the step."
        mistakes.add("unknown-output", message, cell.places.value("output"), hints=(hint,))
    mistakes.check()

    order = _order(definitions, cell, mistakes)
    mistakes.check()
    values = tuple(_values(order, leaves, cell))
    states = tuple(State(state, f"{state}'") for state in cell.states)
    heads = frozenset(p.name for p in cell.parameters if p.heads)
    graph = CellGraph(cell.name, values, states, (("y", cell.output),), heads)
    _report_unused(graph, order, leaves, cell, mistakes)
    mistakes.check()
    source = cell.places.document.source
    equations = tuple(
        Equation(e.target, e.text, f"{source.name}:{cell.places.text(e.offset, 1).line}") for e in order
    )
    return Program(graph, cell.parameters, equations)


def _definitions(cell: Cell, mistakes: Mistakes) -> dict[str, Assignment]:
    definitions: dict[str, Assignment] = {}
    blocks = {block for parameter in cell.parameters for block in parameter.blocks}
    for equation in cell.equations:
        span = cell.places.text(equation.offset, len(equation.target))
        stem = equation.target.rstrip("'")
        if equation.target in definitions:
            mistakes.add("duplicate-equation", f"'{equation.target}' is defined twice.", span, "second definition")
        elif equation.target in cell.states:
            hint = f"write {stem}' for its new value"
            mistakes.add("assigned-state", f"'{stem}' is a state; its old value is given.", span, hints=(hint,))
        elif equation.target.endswith("'") and stem not in cell.states:
            hint = did_you_mean(stem, cell.states) or f"the states are {', '.join(cell.states)}"
            mistakes.add("not-a-state", f"'{stem}' is not a state, so it has no new value.", span, hints=(hint,))
        elif stem in blocks or stem in cell.constants or stem == "x":
            kind = "the input" if stem == "x" else "a constant" if stem in cell.constants else "a parameter"
            mistakes.add("duplicate-name", f"'{stem}' is {kind} of this cell; an equation cannot define it.", span)
        definitions.setdefault(equation.target, equation)
    return definitions


def _leaves(cell: Cell) -> dict[str, Value]:
    leaves = {"x": Value("x", "input")}
    leaves |= {state: Value(state, "state") for state in cell.states}
    leaves |= {name: Value(name, "constant", attribute=number) for name, number in cell.constants.items()}
    for parameter in cell.parameters:
        if len(parameter.blocks) == 1:
            leaves[parameter.blocks[0]] = Value(parameter.name, "parameter")
        else:
            for number, block in enumerate(parameter.blocks):
                leaves[block] = Value(block, "pick", (parameter.name,), attribute=number)
    return leaves


def _report_unknown(name: Expression, equation: Assignment, cell: Cell, known: list[str], mistakes: Mistakes) -> None:
    hint = did_you_mean(name.name, known)
    message = f"Unknown name '{name.name}' in equation '{equation.target}' of cell '{cell.name}'."
    if any(name.name == parameter.name for parameter in cell.parameters):
        hint = "an equation uses the blocks of a parameter, not the parameter"
    span = cell.places.text(name.offset, name.length)
    label = "not a parameter, state or input"
    mistakes.add("unknown-name", message, span, label, hints=(hint,) if hint else ())


def _order(definitions: Mapping[str, Assignment], cell: Cell, mistakes: Mistakes) -> list[Assignment]:
    """Definitions first, uses after; otherwise as written."""
    order: list[Assignment] = []
    done: set[str] = set()

    def visit(target: str, path: tuple[str, ...]) -> bool:
        if target in path:
            circle = " → ".join([*path[path.index(target) :], target])
            span = cell.places.text(definitions[target].offset, len(target))
            message = f"These equations define one another in a circle: {circle}."
            hint = "a value of this step cannot depend on itself; the value at t-1 is written without the prime"
            mistakes.add("circle", message, span, hints=(hint,))
            return False
        if target not in done:
            for name in definitions[target].expression.names():
                if name.name in definitions and not visit(name.name, (*path, target)):
                    return False
            done.add(target)
            order.append(definitions[target])
        return True

    for target in definitions:
        if not visit(target, ()):
            break
    return order


def _values(order: list[Assignment], leaves: Mapping[str, Value], cell: Cell) -> Iterator[Value]:
    """Leaves, then each equation with its unnamed parts before it."""
    for parameter in cell.parameters:
        yield Value(parameter.name, "parameter")
    given = {parameter.name for parameter in cell.parameters}
    for leaf in leaves.values():
        if leaf.name not in given:
            given.add(leaf.name)
            yield leaf
    numbers: set[str] = set()

    def build(expression: Expression, name: str, count: Iterator[int]) -> Iterator[Value]:
        origin = cell.places.text(expression.offset, expression.length)
        if expression.op == "number":
            value = Value(f"{expression.number:g}", "constant", attribute=expression.number, origin=origin)
            if float(value.name) != expression.number:
                value = Value(repr(expression.number), "constant", attribute=expression.number, origin=origin)
            if value.name not in numbers:
                numbers.add(value.name)
                yield value
            return value.name
        if expression.op == "name":
            leaf = leaves.get(expression.name)
            return leaf.name if leaf else expression.name
        operands = []
        for operand in expression.operands:
            inner = f"{order_name}.{next(count)}" if operand.op not in ("name", "number") else ""
            operands.append((yield from build(operand, inner, count)))
        yield Value(name, expression.op, tuple(operands), origin=origin)
        return name

    for equation in order:
        order_name = equation.target
        count = iter(range(1, 1 << 30))
        built = yield from build(equation.expression, equation.target, count)
        if built != equation.target:  # an equation that only gives another name: y = h'
            origin = cell.places.text(equation.offset, len(equation.target))
            yield Value(equation.target, "alias", (built,), origin=origin)


def _report_unused(
    graph: CellGraph, order: list[Assignment], leaves: Mapping[str, Value], cell: Cell, mistakes: Mistakes
) -> None:
    alive = needed(graph, set(graph.roots()))
    for equation in order:
        if equation.target not in alive:
            message = f"Nothing uses the equation '{equation.target}'."
            mistakes.add("unused", message, cell.places.text(equation.offset, len(equation.target)))
    unused = {name for name, leaf in leaves.items() if leaf.name not in alive}
    if "x" in unused:
        mistakes.add("unused", "No equation uses the input 'x'.", cell.places.key("step"))
    for number, state in enumerate(cell.states):
        if state in unused:
            message = f"No equation uses the old value of the state '{state}'."
            hint = "a value that is not carried over time is an equation, not a state"
            mistakes.add("unused", message, cell.places.value("states", number), hints=(hint,))
    for name in cell.constants:
        if name in unused:
            mistakes.add("unused", f"No equation uses the constant '{name}'.", cell.places.key("constants", name))
    for parameter in cell.parameters:
        for number, block in enumerate(parameter.blocks):
            if block in unused:
                message = f"Nothing uses '{block}', so its gradient would always be zero."
                span = cell.places.value("parameters", parameter.name, "blocks", number)
                mistakes.add("unused", message, span)
