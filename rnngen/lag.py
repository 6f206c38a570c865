"""lag: what a value was some steps earlier, as a line of states.

g = W @ x + V @ lag(x, 2)      →      g = W @ x + V @ x_lag_2
                                      x_lag_1' = x
                                      x_lag_2' = x_lag_1

A function from a cell to a cell, so that nothing behind it knows of lag. `lag(h)` of a state is what `h` was one step
earlier, which is two steps before this one; what h' was is h: `lag(h', d)` is `lag(h, d - 1)`.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

from rnngen.cell import Cell, Lag
from rnngen.equations import LAG, Assignment, Expression
from rnngen.errors import Mistakes
from rnngen.ops import COMPARISONS

LONGEST = 32  # steps of a line; each is a state, of which a layer returns a tensor and a loop holds a vector
MOST_STATES = 128  # of a cell with its lines; a compile takes some milliseconds for each
_PRIME = "'"


def check_lags(cell: Cell, equations: Collection[Assignment], mistakes: Mistakes) -> None:
    """Reports calls of lag of what is not a value of each step, and by what is no number of steps. Names that mean
    nothing have been reported.
    """
    definitions = {target: equation for equation in equations for target in equation.targets}
    for equation in equations:
        for call in _calls(equation.expression):
            for value in call.operands[:1]:  # a call of another number of arguments has been reported
                _check_value(cell, definitions, value, mistakes)
            for steps in call.operands[1:2]:
                _check_steps(cell, steps, mistakes)
    _check_count(cell, equations, mistakes)


def _check_value(cell: Cell, definitions: dict[str, Assignment], value: Expression, mistakes: Mistakes) -> None:
    place = cell.places.text(value.offset, value.length)
    if value.op == LAG:
        hint = "write the steps of both together, as in lag(x, 2)."
        mistakes.add("lag", "A lag of a lag is one of more steps.", place, hints=(hint,))
    elif value.op != "name":
        hint = "the number is the same at every step." if value.op == "number" else "make it an equation of its own."
        mistakes.add("lag", "'lag' takes a value with a name.", place, hints=(hint,))
    elif value.name in definitions and definitions[value.name].expression.op in COMPARISONS:
        message = f"'{value.name}' is a comparison, and 'lag' takes numbers."
        hint = "make an equation of it: where(..., 1, 0)"
        mistakes.add("condition", message, place, hints=(hint,))
    elif kind := _fixed(cell, value.name):
        hint = "write it without lag: it is the same at every step."
        mistakes.add("lag", f"'{value.name}' is {kind} and has no earlier value.", place, hints=(hint,))


def _fixed(cell: Cell, name: str) -> str | None:
    """What a name means that is the same at every step."""
    if name in cell.constants:
        return "a constant"
    return "a parameter" if any(name in (p.name, *p.blocks) for p in cell.parameters) else None


def _check_steps(cell: Cell, steps: Expression, mistakes: Mistakes) -> None:
    place = cell.places.text(steps.offset, steps.length)
    if steps.op not in ("number", "neg") and not (steps.op == "name" and steps.name in cell.constants):
        if steps.op != "name" or _fixed(cell, steps.name) or steps.name in (*cell.inputs, *cell.states):
            message = "The second argument of 'lag' must be a number, or a constant of the cell."
            hint = "it says how many states stand behind one another, so it is known when the file is compiled."
            mistakes.add("lag", message, place, hints=(hint,))
        return
    number = -1.0 if steps.op == "neg" else _number(cell, steps)
    if number == 0:
        mistakes.add("lag", "What a value was no step earlier is the value itself.", place, hints=("leave lag out.",))
    elif number < 0:
        message = "A step cannot use what is still to come."
        hint = "a layer with reverse runs from the last step to the first, and one with bidirectional both ways."
        mistakes.add("not-causal", message, place, hints=(hint,))
    elif number != int(number):
        below = int(number)
        hint = f"take {f'{below} or {below + 1}' if below else 1}."
        mistakes.add("lag", f"The steps of a lag are a whole number, not {number:g}.", place, hints=(hint,))
    elif number > LONGEST:
        message = f"A lag is of at most {LONGEST} steps."
        note = "each of them is a state, which a layer returns and the loop holds."
        mistakes.add("too-large", message, place, notes=(note,))


def _check_count(cell: Cell, equations: Collection[Assignment], mistakes: Mistakes) -> None:
    """Reports the first line with which a cell has too many states."""
    count = len(cell.states)
    for steps, call in delay_lines(cell, equations).values():
        if count <= MOST_STATES < count + steps:
            message = f"With this lag the cell has {count + steps} states, of which {MOST_STATES} are allowed."
            note = "each step of a lag is a state; calls of lag of one value share theirs."
            hint = "look back fewer steps, or at fewer values: lag the one that several are made of."
            mistakes.add("too-large", message, cell.places.text(call.offset, call.length), notes=(note,), hints=(hint,))
        count += steps


def delay_lines(cell: Cell, equations: Collection[Assignment]) -> dict[str, tuple[int, Expression]]:
    """Of each value that lag is called of how many states its line has, with the call that reaches back furthest.
    Calls of what has no name, and by what is no number of steps, are passed over.
    """
    found: dict[str, tuple[int, Expression]] = {}
    for call in (call for equation in equations for call in _calls(equation.expression)):
        if _is_right(cell, call):
            stem, steps = _meaning(cell, call)
            found[stem] = max(found.get(stem, (steps, call)), (steps, call), key=lambda line: line[0])
    return found


def without_lags(cell: Cell) -> Cell:
    """The cell with a line of states for each value that lag is called of, behind its own in the order of the calls;
    the same object if it is called of none. Its calls are right, see `check_lags`.
    """
    lines = delay_lines(cell, cell.equations)
    if not lines:
        return cell
    shapes = {**cell.inputs, **cell.states}
    states, lags, made = dict(cell.states), {}, []
    for stem, (most, call) in lines.items():
        for steps in range(1, most + 1):
            name = _state(stem, steps)
            states[name] = shapes.get(stem)
            lags[name] = Lag(stem, steps)
            old = replace(call, op="name", operands=(), name=_state(stem, steps - 1))
            text = f"{name}{_PRIME} = {old.name}"
            made.append(Assignment((f"{name}{_PRIME}",), old, text, (call.offset,), call.length))
    equations = tuple(replace(e, expression=_without(cell, e.expression)) for e in cell.equations)
    names = {name.name for equation in equations for name in equation.expression.names()}
    steps_of = {call.operands[1].name for e in cell.equations for call in _calls(e.expression) if call.operands[1:]}
    constants = {name: number for name, number in cell.constants.items() if name in names or name not in steps_of}
    return replace(cell, states=states, lags=lags, equations=(*equations, *made), constants=constants)


def _calls(tree: Expression) -> Iterator[Expression]:
    """The calls of lag in a tree, from left to right."""
    return (part for part in tree.parts() if part.op == LAG)


def _is_right(cell: Cell, call: Expression) -> bool:
    """Whether a call is of a name, by a number of steps that may be."""
    return [value.op for value in call.operands[:1]] == ["name"] and all(
        (steps.op == "number" or steps.name in cell.constants) and _number(cell, steps) in range(1, LONGEST + 1)
        for steps in call.operands[1:]
    )


def _meaning(cell: Cell, call: Expression) -> tuple[str, int]:
    """The value of whose line a call is a part, and how many steps behind its beginning; h' is a step before h."""
    value, *rest = call.operands
    steps = int(_number(cell, rest[0])) if rest else 1
    return value.name.removesuffix(_PRIME), steps - value.name.endswith(_PRIME)


def _state(stem: str, steps: int) -> str:
    """The name of a state of a line, which no name of a file has; that of the value itself for no steps."""
    return f"{stem}_lag_{steps}" if steps else stem


def _number(cell: Cell, steps: Expression) -> float:
    return steps.number if steps.op == "number" else cell.constants[steps.name]


def _without(cell: Cell, tree: Expression) -> Expression:
    """The tree with the states of lines in the place of calls."""
    if tree.op == LAG:
        return replace(tree, op="name", operands=(), name=_state(*_meaning(cell, tree)))
    return replace(tree, operands=tuple(_without(cell, operand) for operand in tree.operands))
