"""infer: every value gets its shape."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from rnngen import idioms
from rnngen.across import ACROSS, REDUCTIONS, ShapeConflict, is_flat, shown
from rnngen.build import folded, shape_of
from rnngen.cell import Cell
from rnngen.errors import Mistakes
from rnngen.ir import CellGraph, Program, Shape, Value, block_shape, blocks_of, carried, is_matrix, needed, reaching
from rnngen.matrices import MATRICES
from rnngen.ops import COMPARISONS, OPS
from rnngen.passes.resolve import report_aside, report_unused
from rnngen.passes.unpack import blockwise
from rnngen.source import Span

_OF_A_SHAPE = {op.name for op in MATRICES.values() if op.like}


def infer(program: Program, cell: Cell) -> Program:
    """Shapes for every value of a resolved cell.

    Raises ModelError where shapes do not fit, with the inferred shapes of both sides, for what nothing uses or trains,
    and for what a scan cannot hold.
    """
    inference = _Inference(program, cell)
    for value in program.cell.values:
        inference.add(value)
    inference.check_ends()
    inference.mistakes.check()
    graph = inference.graph()
    report_aside(cell, graph, inference.mistakes)
    report_unused(cell, program.cell, inference.mistakes)
    inference.mistakes.check()

    blocks = blockwise(graph)
    fixed = _fixed(blocks, inference.numbers)
    _report_divided_by_zero(blocks, fixed, inference)
    _report_untrained(blocks, fixed, inference)
    _check_recurrence(blocks, inference)
    _check_matrices(blocks, inference)
    inference.mistakes.check()
    return replace(program, cell=graph)


class _Inference:
    """Values with their shapes. What follows from a mistake is left out: it would only be reported again."""

    def __init__(self, program: Program, cell: Cell):
        self.program, self.cell, self.source = program, cell, cell.places.document.source
        self.mistakes = Mistakes(self.source)
        self.values: dict[str, Value] = {}
        self.meanings: dict[str, str] = {}  # of the names that only stand for another
        self.unknown: set[str] = set()
        self.comparisons: set[str] = set()
        self.numbers: dict[str, float] = {}
        self.block_diagonal: set[str] = set()
        self.states = shapes_of_states(program, cell)
        self.equations = {target: equation for equation in cell.equations for target in equation.targets}
        self.declared = {p.name: ((len(p.blocks),) if len(p.blocks) > 1 else ()) + p.shape for p in program.parameters}

    def add(self, value: Value) -> None:
        operands = tuple(self.meanings.get(operand, operand) for operand in value.operands)
        if self.unknown.intersection(operands):
            self.unknown.add(value.name)
        elif value.op == "alias":
            self.meanings[value.name] = operands[0]
        elif self._fits(value := self._meant(value, operands), operands):
            shape = self._shape(value, operands)
            self.values[value.name] = replace(value, operands=operands, shape=shape)
        else:
            self.unknown.add(value.name)

    def _meant(self, value: Value, operands: tuple[str, ...]) -> Value:
        """An `@` between two matrices is a matrix."""
        product = value.op == "matmul" and all(is_matrix(self.values[operand].shape) for operand in operands)
        return replace(value, op="compose") if product else value

    def _fits(self, value: Value, operands: tuple[str, ...]) -> bool:
        """Whether a value can be; reports why not."""
        if value.op in COMPARISONS:
            self.comparisons.add(value.name)
        if value.op == "constant":
            self.numbers[value.name] = value.number
        elif value.op in OPS and self.numbers.keys() >= set(operands) and not self._is_number(value, operands):
            return False
        if value.op == "pick" and value.name in self.equations and not self._is_taken_apart(value, operands[0]):
            return False
        if value.name in self.program.cell.heads or value.op == "pick":
            if value.name in self.program.cell.heads or operands[0] in self.block_diagonal:
                self.block_diagonal.add(value.name)
            return True
        if reason := self._misused_condition(value, operands):
            self.mistakes.add("condition", reason[0], self._origin(reason[1], value), hints=reason[2:])
            return False
        try:
            self._shape(value, operands)
        except ShapeConflict as conflict:
            sides = [f"'{self.text(operand)}' is {shown(self.values[operand].shape)}" for operand in operands]
            note = " and ".join(filter(None, [", ".join(sides[:-1]), f"{sides[-1]}."]))
            remedy = self._remedy(value, operands)
            self.mistakes.add("shape", conflict.args[0], value.origin, notes=(note,), hints=(remedy,))
            return False
        return self._fits_heads(value, operands)

    def _is_taken_apart(self, target: Value, operand: str) -> bool:
        """Whether an equation has a target for each block; reports once where it has not."""
        equation, blocks = self.equations[target.name], blocks_of(self.values[operand].shape)
        wanted = len(equation.targets)
        if blocks == wanted:
            return True
        if target.name == equation.targets[0]:
            what = f"{blocks} blocks" if blocks > 1 else "one block"
            message = f"The left side has {wanted} names, and the right side {what}."
            note = f"'{self.text(operand)}' is {shown(self.values[operand].shape)}."
            hint = f"write {blocks} names." if blocks > 1 else "write one name, or an equation for each."
            self.mistakes.add("shape", message, target.origin, notes=(note,), hints=(hint,))
        return False

    def _fits_heads(self, value: Value, operands: tuple[str, ...]) -> bool:
        """Whether what is made of block-diagonal matrices is block-diagonal too; reports where it is not."""
        blocks = [operand for operand in operands if operand in self.block_diagonal]
        others = [operand for operand in operands if operand not in self.block_diagonal]
        if not blocks or (value.op == "matmul" and operands[0] in blocks):
            return True
        scaled = value.op == "mul" or (value.op == "div" and operands[1] in others)
        alike = value.op in ("add", "sub", "neg", *MATRICES) and not others
        if alike or (scaled and all(self.values[other].shape == () for other in others)):
            self.block_diagonal.add(value.name)
            return True
        message = f"What is made of the block-diagonal '{self.text(blocks[0])}' here is not block-diagonal."
        hint = "apply it to a vector, scale it by a number, transpose it, or combine it with its kind by +, -, * and @."
        self.mistakes.add("not-supported", message, value.origin, hints=(hint,))
        return False

    def _is_number(self, value: Value, operands: tuple[str, ...]) -> bool:
        """Whether an operation on numbers is a number; reports why not."""
        if value.op in COMPARISONS:
            message = "This comparison is of two numbers, so it never changes."
            self.mistakes.add("condition", message, value.origin)
            return False
        result = folded(value.op, [self.numbers[operand] for operand in operands])
        if result is None:
            self.mistakes.add("not-finite", f"'{self.text(value.name)}' is not a finite number.", value.origin)
            return False
        self.numbers[value.name] = result
        return True

    def _shape(self, value: Value, operands: tuple[str, ...]) -> Shape:
        match value.op:
            case "input":
                return self.cell.inputs[value.name]
            case "state":
                return self.states[value.name]
            case "parameter":
                return self.declared[value.name]
        return shape_of(value, tuple(self.values[operand].shape for operand in operands))

    def _misused_condition(self, value: Value, operands: tuple[str, ...]) -> tuple[str, str, str] | None:
        """What is wrong with conditions here, the operand that is wrong, and a hint."""
        if value.op == "where" and operands[0] not in self.comparisons:
            message = "The first argument of 'where' must be a comparison."
            text = self.text(operands[0])
            return message, operands[0], f"compare it: where({text} > 0, ...)"
        for operand in operands[value.op == "where" :]:
            if operand in self.comparisons:
                message = "A comparison can only be the first argument of 'where'."
                return message, operand, f"to have numbers, write where({self.text(operand)}, 1, 0) for it."
        return None

    def _remedy(self, value: Value, operands: tuple[str, ...]) -> str | None:
        """The hint where a product is of the wrong kind, or of the wrong order."""
        texts = [self.text(operand) for operand in operands]
        shapes = [self.values[operand].shape for operand in operands]
        ranks = [len(block_shape(shape)) for shape in shapes]
        packs = [place for place, shape in enumerate(shapes) if blocks_of(shape) > 1]
        counts = {blocks_of(shape) for shape in shapes if shape}
        vectors = [place for place in packs if ranks[place] == 1]
        if (value.op == "matmul" and vectors) or (value.op in MATRICES and packs):
            return self._apart(texts[(vectors or packs)[0]], shapes[(vectors or packs)[0]])
        if value.op not in ACROSS and len(counts) > 1:
            hint = "blocks go with as many blocks, and with numbers"
            alone = self.values[operands[1 - packs[0]]] if len(packs) == 1 and len(operands) == 2 else None
            if alone and alone.op == "parameter" and len(alone.shape) == 1:
                stem, count = texts[1 - packs[0]], blocks_of(shapes[packs[0]])
                names = ", ".join(f'"{stem}_{number}"' for number in range(1, min(count, 4) + 1))
                return f"{hint}; give '{stem}' as many: blocks = [{names}{', ...' if count > 4 else ''}]."
            return f"{hint}; {self._apart(texts[packs[0]], shapes[packs[0]])}" if len(packs) == 1 else f"{hint}."
        if value.op == "transpose" and ranks == [1]:
            vector = self._bracketed(operands[0])
            return f"a vector has no transpose; {vector}.T @ M is M.T @ {vector}."
        if value.op == "eye":
            return idioms.IDENTITY
        if value.op == "matmul" and ranks == [1, 2]:
            return f"the matrix stands on the left: write {texts[1]} @ {self._bracketed(operands[0])}."
        if value.op == "matmul" and ranks[0] < 2 and ranks[1] < 2:
            return f"the elementwise product is {texts[0]} * {texts[1]}."
        if value.op in ACROSS and value.op != "matmul":
            return self._remedy_across(value, operands, texts, ranks)
        if value.op != "mul" or sorted(ranks) != [1, 2]:
            return None
        for user in self.program.cell.values:
            if ranks[1] == 2 and user.op == "matmul" and user.operands[0] == value.name:
                whole = f"{texts[0]} * ({texts[1]} @ {self.text(user.operands[1])})"
                return f"* and @ bind equally, from left to right; write {whole}."
        return f"the product of a matrix and a vector is {texts[0]} @ {texts[1]}." if ranks[0] == 2 else None

    def _apart(self, text: str, shape: Shape) -> str:
        """The hint to take a pack apart."""
        names = "abcdefgh"[: blocks_of(shape)] if blocks_of(shape) <= 8 else "a..."
        return f"take it apart: {', '.join(names)} = {text}."

    def _bracketed(self, name: str) -> str:
        return f"({self.text(name)})" if "." in name else self.text(name)

    def _remedy_across(self, value: Value, operands: Sequence[str], texts: list[str], ranks: list[int]) -> str | None:
        """The hint where a reduction or a norm is of no vector."""
        if value.op == "dot" and sorted(ranks) == [1, 2]:
            matrix, vector = texts if ranks[0] == 2 else texts[::-1]
            return f"the product of a matrix and a vector is {matrix} @ {vector}."
        if 0 in ranks:
            return "a number is the same for all units."
        return f"of a product it would be {value.op}({self._bracketed(operands[0])} @ v)." if ranks == [2] else None

    def text(self, name: str) -> str:
        """A value as the equations have it: by its name, or written out if it has none."""
        for parameter in self.cell.parameters:
            if parameter.name == name and len(parameter.blocks) == 1:
                return parameter.blocks[0]
        origins = (value.origin for value in self.program.cell.values if value.name == name)
        origin = next(origins, None) if "." in name else None
        return " ".join(self.source.text_of(origin).split()) if origin else str(self.cell.lags.get(name, name))

    def _origin(self, operand: str, user: Value) -> Span | None:
        """The place of an operand without a name of its own, or else of the value that uses it."""
        return self.values[operand].origin if "." in operand else user.origin

    def check_ends(self) -> None:
        """New values have the shapes of their states; in a model the output is hidden wide, for the next layer."""
        for state in self.program.cell.states:
            shape = self.states[state.name]
            if is_matrix(shape):
                self._reject_matrix(state.name)
                continue
            self._check_end(state.update, f"The new value of the state '{self.text(state.name)}'", [shape])
        alone = self.cell.places.path == ()
        updates = {state.update: state.name for state in self.program.cell.states}
        widths = ("hidden", "inputs", *self.cell.sizes) if alone else ("hidden",)
        narrow = "only the new value of a state may have another width; a matrix behind it is a layer with dense."
        for output in self.cell.outputs:
            if output not in updates:
                self._check_end(output, f"The output '{output}'", [(width,) for width in widths], narrow)
            elif self.states[updates[output]] == ():
                message = f"The output '{output}' must be a vector, and this is {shown(())}."
                remedy = "multiply a vector by this number, or add it to one."
                if "output" not in self.cell.places.table:
                    remedy = "it is the new value of the first state, unless the key output names another equation."
                self.mistakes.add("shape", message, self.cell.place_of_output(output), hints=(remedy,))

    def _reject_matrix(self, state: str) -> None:
        """Only lag makes a state of a matrix."""
        equation = self.equations[f"{state}'"]
        lagged = equation.expression.name
        if lagged not in self.cell.lags:  # of a line the first
            message = f"'{lagged}' is a matrix and has no earlier value."
            hint = "write it without lag: it is made of parameters, and the same at every step."
            self.mistakes.add("lag", message, self.cell.place_of(equation), hints=(hint,))

    def _check_end(self, name: str, subject: str, allowed: list[Shape], otherwise: str = "") -> None:
        """otherwise: the hint where an output is a vector of another width."""
        meaning = self.meanings.get(name, name)
        if meaning in self.unknown:
            return
        equation = self.equations[name]
        span = self.cell.place_of(equation, equation.targets.index(name))
        shape = self.values[meaning].shape
        wanted = f"{'a vector ' * all(allowed)}{' or '.join(map(shown, allowed))}"
        if meaning in self.comparisons:
            message = f"{subject} must be {wanted}, and this is a comparison."
            hint = "to have numbers, write where(..., 1, 0) around it."
            self.mistakes.add("condition", message, span, hints=(hint,))
        elif shape not in allowed:
            message = f"{subject} must be {wanted}, and this is {shown(shape)}."
            remedy = None if shape else "multiply a vector by this number, or add it to one."
            if blocks_of(shape) > 1:
                remedy = "take its blocks apart, by a name for each on the left side of an equation."
            elif len(shape) == 1 and name in self.cell.outputs:
                remedy = otherwise
            self.mistakes.add("shape", message, span, hints=(remedy,))

    def graph(self) -> CellGraph:
        """The cell with shapes, and without names that only stand for another."""
        graph = self.program.cell

        def meaning(name: str) -> str:
            return self.meanings.get(name, name)

        return replace(
            graph,
            values=tuple(self.values.values()),
            states=tuple(replace(state, update=meaning(state.update)) for state in graph.states),
            outputs=tuple((label, meaning(output)) for label, output in graph.outputs),
        )


def shapes_of_states(program: Program, cell: Cell) -> dict[str, Shape]:
    """Of states that are not declared, those of their new values; where these depend on one another, hidden wide."""
    known: dict[str, Shape] = {state: shape for state, shape in cell.states.items() if shape is not None}
    declared = {p.name: ((len(p.blocks),) if len(p.blocks) > 1 else ()) + p.shape for p in program.parameters}
    leaves: dict[str, Shape | None] = {**cell.inputs, **declared}
    while True:
        shapes = dict(leaves)
        for value in program.cell.values:
            if value.op == "state":
                shapes[value.name] = known.get(value.name)
            elif value.name not in shapes:
                shapes[value.name] = _likely_shape(value, [shapes[operand] for operand in value.operands])
        found = {state.name: shapes[state.update] for state in program.cell.states}
        more = {state: shape for state, shape in found.items() if shape is not None and blocks_of(shape) == 1}
        if more.keys() <= known.keys():
            return {state.name: known.get(state.name, ("hidden",)) for state in program.cell.states}
        known = more | known


def _likely_shape(value: Value, operands: list[Shape | None]) -> Shape | None:
    """The shape of a value of which those of some operands may not be known; None where it cannot be known yet."""
    if value.op == "alias":
        return operands[0]
    if value.op == "matmul":
        return operands[0] and operands[0][:-1] + (operands[1][1:] if operands[1] and is_matrix(operands[1]) else ())
    wide = [shape for shape in operands if shape]
    if None in operands and value.op not in REDUCTIONS:
        return wide[0] if wide else None
    try:
        return shape_of(value, tuple(shape or () for shape in operands))
    except ShapeConflict:
        return None


def _report_divided_by_zero(graph: CellGraph, fixed: Mapping[str, float], inference: _Inference) -> None:
    for value in graph.values:
        if value.op in ("div", "mod") and fixed.get(value.operands[1]) == 0:
            divisor = inference.text(value.operands[1])
            message = f"The equation divides by '{divisor}', which is zero whatever the parameters are."
            inference.mistakes.add("not-finite", message, value.origin)


def _report_untrained(graph: CellGraph, fixed: Mapping[str, float], inference: _Inference) -> None:
    """Blocks of parameters that only comparisons and products with zero use: their gradient is zero everywhere."""

    def reached(graph: CellGraph) -> set[str]:
        return needed(graph, set(graph.roots()))

    def cut(graph: CellGraph, where: Callable[[Value], bool]) -> CellGraph:
        return replace(graph, values=tuple(replace(v, operands=()) if where(v) else v for v in graph.values))

    free = cut(graph, lambda value: value.name in fixed)
    used, trained = reached(free), reached(cut(free, lambda value: is_flat(value.op) or value.op in _OF_A_SHAPE))
    for parameter in inference.cell.parameters:
        for number, block in enumerate(parameter.blocks if parameter.trained else ()):
            name = block if len(parameter.blocks) > 1 else parameter.name
            if name not in trained:
                message = f"The gradient of '{block}' is zero everywhere, so it would never be trained."
                note = "comparisons and floor pass no gradient on, and nothing else uses it."
                hint = "use it also where it has a derivative, or give its parameter the key trained = false."
                if name not in used:
                    note, hint = (
                        "it is only ever multiplied by zero, or cancels itself out.",
                        "use it, or leave it out.",
                    )
                    if nothing := [name for name, number in inference.cell.constants.items() if number == 0]:
                        note += f" The constant '{nothing[0]}' is 0."
                span = inference.cell.places.value("parameters", parameter.name, "blocks", number)
                inference.mistakes.add("untrained", message, span, notes=(note,), hints=(hint,))


def _fixed(graph: CellGraph, numbers: Mapping[str, float]) -> dict[str, float]:
    """Values that are one number whatever the input, the states and the parameters are, as far as that is finite.

    numbers: those that are written as one.
    """
    found = dict(numbers)
    for value in graph.values:
        operands = [found.get(operand) for operand in value.operands]
        number = None
        match value.op:
            case "mul" | "matmul" | "sum" | "mean" | "dot" if 0 in operands:
                number = 0.0
            case "div" | "mod" if operands[0] == 0:
                number = 0.0
            case "sub" | "div" | "mod" if value.operands[0] == value.operands[1]:
                number = 1.0 if value.op == "div" else 0.0
            case "where" if operands[1] == operands[2]:
                number = operands[1]
            case op if op in OPS and op not in COMPARISONS and op != "where" and None not in operands:
                number = folded(op, [operand for operand in operands if operand is not None])
        if number is not None:
            found[value.name] = number
    return found


def _check_recurrence(graph: CellGraph, inference: _Inference) -> None:
    """A scan carries vectors, one at least; `delays` stand before it."""
    places, definitions, states = inference.cell.places, graph.by_name(), carried(graph)
    for number, state in enumerate(graph.states):
        if state in states and definitions[state.name].shape == ():
            message = f"The state '{inference.text(state.name)}' is a number, which is not supported here: "
            message += "a scan carries vectors."
            note = "its new value depends on a state, or on parameters alone."
            hint = 'a vector of equal numbers does the same: shape = ["hidden"].'
            if state.name in inference.cell.lags:
                equation = inference.equations[f"{state.name}'"]
                if equation.expression.name in inference.cell.lags:  # of a line the first is reported
                    continue
                lagged, span = equation.expression.name, inference.cell.place_of(equation)
                hint = f"lag what '{lagged}' is made of instead: mean(h) was one step earlier mean(lag(h))."
            else:
                span = places.entry("states", number, state.name)
            inference.mistakes.add("not-supported", message, span, notes=(note,), hints=(hint,))
    if not states:
        message = "No state of this cell is part of a recurrence: what they hold is what they were given a step before."
        hint = "add a state that depends on itself, or write the layer in PyTorch, as a convolution over time."
        inference.mistakes.add("not-supported", message, places.key("states"), hints=(hint,))


def _check_matrices(graph: CellGraph, inference: _Inference) -> None:
    """A matrix is made once a call, of parameters."""
    leaves = (*graph.leaves("input"), *graph.leaves("state"))
    varying = reaching(graph, {leaf.name for leaf in leaves})
    for value in _first([value for value in graph.values if value.name in varying and is_matrix(value.shape)]):
        read = needed(graph, {value.name})
        leaf = next(leaf.name for leaf in leaves if leaf.name in read)
        message = f"The matrix '{inference.text(value.name)}' depends on '{leaf}', which changes from step to step."
        note = "a matrix is made of parameters alone, once a call."
        hint = "a diagonal matrix is applied by *: diag(v) @ u is v * u." if value.op == "diag" else None
        inference.mistakes.add("not-supported", message, value.origin, notes=(note,), hints=(hint,))


def _first(values: Iterable[Value]) -> list[Value]:
    """Those of the values that use none of the others."""
    names = {value.name for value in values}
    return [value for value in values if names.isdisjoint(value.operands)]
