"""infer: every value gets its shape."""

from dataclasses import replace

from rnngen.build import ShapeConflict, shape_of, shown
from rnngen.description import Cell
from rnngen.errors import Mistakes
from rnngen.ir import Program, Shape, Value
from rnngen.ops import COMPARISONS


def infer(program: Program, cell: Cell) -> Program:
    """Shapes for every value of a resolved cell.

    Raises ModelError where shapes do not fit, with the inferred shapes of both sides.
    """
    mistakes = Mistakes(cell.places.document.source)
    shapes: dict[str, Shape] = {}
    unknown: set[str] = set()
    declared = {p.name: ((len(p.blocks),) if len(p.blocks) > 1 else ()) + p.shape for p in program.parameters}
    comparisons = {value.name for value in program.cell.values if value.op in COMPARISONS}
    values: list[Value] = []
    names: dict[str, str] = {}
    for value in program.cell.values:
        operands = tuple(names.get(operand, operand) for operand in value.operands)
        if unknown.intersection(operands):
            unknown.add(value.name)
            continue
        if value.op == "alias":
            names[value.name] = operands[0]
            continue
        try:
            _check_conditions(value, operands, comparisons)
            shape = {"input": ("inputs",), "state": ("hidden",), "parameter": declared.get(value.name)}.get(
                value.op
            ) or shape_of(value, tuple(shapes[o] for o in operands))
        except ShapeConflict as conflict:
            message, *hints = conflict.args
            label = f"in cell '{cell.name}'"
            mistakes.add("shape", message, value.origin, label, hints=tuple(h for h in hints if h))
            unknown.add(value.name)
            continue
        shapes[value.name] = shape
        values.append(replace(value, operands=operands, shape=shape))
    for state in program.cell.states:
        update = names.get(state.update, state.update)
        if update not in unknown and (shapes[update] != ("hidden",) or update in comparisons):
            message = f"The new value of the state '{state.name}' is {shown(shapes[update])}, not a hidden vector."
            mistakes.add("shape", message, _equation_span(cell, state.update))
    for label, output in program.cell.outputs:
        output = names.get(output, output)
        if output not in unknown and (len(shapes[output]) != 1 or output in comparisons):
            message = f"The output is {shown(shapes[output])}, not a vector."
            mistakes.add("shape", message, _equation_span(cell, cell.output))
    mistakes.check()
    graph = replace(
        program.cell,
        values=tuple(values),
        states=tuple(replace(s, update=names.get(s.update, s.update)) for s in program.cell.states),
        outputs=tuple((label, names.get(output, output)) for label, output in program.cell.outputs),
    )
    return replace(program, cell=graph)


def _check_conditions(value: Value, operands: tuple[str, ...], comparisons: set[str]) -> None:
    conditions = [operand in comparisons for operand in operands]
    if value.op == "where" and not conditions[0]:
        raise ShapeConflict("The first argument of 'where' must be a comparison.", "write where(a > b, ...)")
    if any(conditions[1:] if value.op == "where" else conditions):
        raise ShapeConflict("A comparison can only be the first argument of 'where'.", "write where(a > b, 1, 0)")


def _equation_span(cell: Cell, target: str):
    equation = next(e for e in cell.equations if e.target == target)
    return cell.places.text(equation.offset, len(equation.target))

