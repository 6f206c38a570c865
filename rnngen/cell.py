"""A described cell, and whether each name in its step means something."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rnngen import idioms
from rnngen.document import Places
from rnngen.equations import LAG, Assignment, Step
from rnngen.errors import Mistakes, did_you_mean
from rnngen.ir import Parameter
from rnngen.source import Span


@dataclass(frozen=True, slots=True)
class Lag:
    """What a value was so many steps earlier; in an equation the call of `lag` that means it."""

    of: str
    steps: int

    def __str__(self) -> str:
        return f"lag({self.of}{f', {self.steps}' * (self.steps > 1)})"


@dataclass(frozen=True)
class Cell:
    """A described cell. `places` finds its equations and names in the file again.

    states: what is carried from step to step, by name, with the shape of each, None where it is that of its new value.
    inputs: what a step takes in, by name, x first, with the shape of each: of x ("inputs",), or ("hidden",) where it is
    as wide as the states; of a number ().
    sizes: further dimensions, with what they are unless a layer says otherwise. outputs: equations, whose values stand
    beside each other.
    lags: what the states are that `lag` makes, by name.
    save: what its layers keep for a backward pass, a text of `runtime.memory`, "" where nothing is said of it.
    wrappers: what it is compiled with, by name, the first innermost. named_at: where the file names each, none of them
    if the command line does.
    """

    name: str
    class_name: str
    about: str
    paper: str
    year: int | None
    note: str
    states: Mapping[str, tuple[str, ...] | None]
    inputs: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    outputs: tuple[str, ...]
    constants: Mapping[str, float]
    activations: Mapping[str, str]
    equations: tuple[Assignment, ...]
    parameters: tuple[Parameter, ...]
    places: Places = field(compare=False, repr=False)
    wrappers: tuple[str, ...] = ()
    save: str = ""
    lags: Mapping[str, Lag] = field(default_factory=dict)
    named_at: tuple[Span | None, ...] = field(default=(), compare=False, repr=False)

    def place_of(self, equation: Assignment, number: int = 0) -> Span:
        """The place of a name that an equation defines, or of the call that it was made of."""
        return self.places.text(equation.offsets[number], equation.length or len(equation.targets[number]))

    @cached_property
    def named(self) -> frozenset[str]:
        """What has a name beside states and parameters: inputs, and what equations define."""
        return frozenset(self.inputs) | {target for equation in self.equations for target in equation.targets}

    def place_of_output(self, name: str) -> Span:
        """The place of the name of an output; of the first state, where none is written and its new value is."""
        given = self.places.table.get("output")
        if not given:
            return self.places.entry("states", 0, name.removesuffix("'"))
        return self.places.value("output", *([given.index(name)] if isinstance(given, list) else []))

    @property
    def given_on(self) -> tuple[str, ...]:
        """Of each output the dimension that it is as wide as, for the layer behind."""
        shapes = {f"{name}'": shape for name, shape in self.states.items()}
        return tuple("".join(shapes.get(name) or ("hidden",)) for name in self.outputs)


def check_names(cell: Cell, step: Step, mistakes: Mistakes) -> None:
    """Reports unknown, duplicate and missing names of a cell, those in its faulty equations too.

    What a lost equation may define is taken for defined.
    """
    equations = sorted((*step.equations, *step.faulty), key=lambda equation: equation.offsets)
    definitions = _definitions(cell, equations, mistakes)
    _report_unknown(cell, definitions, step.lost, mistakes)
    _report_missing(cell, definitions, step.lost, mistakes)


def _definitions(cell: Cell, equations: Sequence[Assignment], mistakes: Mistakes) -> dict[str, Assignment]:
    """The equations by their targets; of two with one target the first."""
    kinds = {"x": "the input"} | dict.fromkeys(cell.constants, "a constant")
    kinds |= {name: "an input" for name in cell.inputs if name not in ("x", *cell.states)}
    kinds |= dict.fromkeys(cell.activations, "an activation")
    for parameter in cell.parameters:
        kinds |= {parameter.name: "a parameter"} | dict.fromkeys(parameter.blocks, "a block of a parameter")
    definitions: dict[str, Assignment] = {}
    for equation, number, target in ((e, n, target) for e in equations for n, target in enumerate(e.targets)):
        span, stem = cell.place_of(equation, number), target.removesuffix("'")
        if target in definitions:
            note = f"the first definition is in line {cell.place_of(definitions[target]).line}."
            message = f"'{target}' is defined twice."
            mistakes.add("duplicate-equation", message, span, "second definition", notes=(note,))
        elif target in cell.states:
            hint = f"for its new value, write {stem}' on the left side."
            message = f"'{stem}' is a state, and its value from the step before cannot be changed."
            mistakes.add("assigned-state", message, span, hints=(hint,))
            if all(f"{stem}'" not in other.targets for other in equations):
                target = f"{stem}'"  # what was meant, so that nothing else is missed for it
        elif target != stem and stem not in cell.states:
            hint = did_you_mean(stem, cell.states) or f"leave out the prime, or add '{stem}' to the states."
            mistakes.add("not-a-state", f"'{stem}' is not a state, so it has no new value.", span, hints=(hint,))
        elif stem in kinds:
            message = f"'{stem}' is {kinds[stem]} of this cell, and an equation cannot define it."
            mistakes.add("duplicate-name", message, span, hints=("give the equation another name.",))
        definitions.setdefault(target, equation)
    return definitions


def _report_unknown(
    cell: Cell, definitions: Mapping[str, Assignment], lost: Collection[str], mistakes: Mistakes
) -> None:
    blocks = (block for parameter in cell.parameters for block in parameter.blocks)
    leaves = [*cell.inputs, *cell.states, *cell.constants, *blocks, *(parameter.name for parameter in cell.parameters)]
    used = {name.name for equation in definitions.values() for name in equation.expression.names()}
    # Of names that are equally alike, one that nothing uses is the one that was meant.
    candidates = sorted(dict.fromkeys((*definitions, *leaves)), key=used.__contains__)
    known = {*definitions, *leaves, *lost, *(f"{state}'" for state in cell.states)}
    for equation in dict.fromkeys(definitions.values()):
        applied = {part.operands[0].offset for part in equation.expression.parts() if part.op == "matmul"}
        for name in equation.expression.names():
            if name.name in known:
                continue  # a new value that no equation gives is reported with its state
            hint = None
            if not mistakes.enough:
                others = (candidate for candidate in candidates if candidate not in equation.targets)
                hint = (
                    _meant(name.name, cell, known)
                    or (_product(name.name, cell, known) if name.offset not in applied else None)
                    or did_you_mean(name.name, others)
                    or _ADDED.format(name.name.removesuffix("'"))
                )
            message = f"Unknown name '{name.name}' in equation '{equation.name}' of cell '{cell.name}'."
            label = "not a parameter, state or input"
            mistakes.add("unknown-name", message, cell.places.text(name.offset, name.length), label, hints=(hint,))


_ADDED = (
    "define it: as a block of a parameter if it is learned, else as a constant, an equation, or an input of each step: "
    "inputs = {{ {} = {{ shape = [] }} }}."
)
_MOMENT = "|".join(sorted(idioms.MOMENTS, key=len, reverse=True))
_EARLIER = re.compile(r"(?P<stem>\w+?)_?(?:lag_?(?P<lag>[0-9]{1,2})|(?:tm|t_?minus_?|t_)(?P<ago>[2-9]))", re.IGNORECASE)
_AT_A_MOMENT = re.compile(rf"(?P<stem>\w+?)_?(?P<after>{_MOMENT})|(?P<before>{_MOMENT})_(?P<of>\w+)", re.IGNORECASE)


def _meant(name: str, cell: Cell, known: Collection[str]) -> str | None:
    """The hint for a name that is clearly meant for another, or for what no name stands for."""
    stem = name.removesuffix("'")
    for parameter in cell.parameters:
        if stem in (parameter.name, *parameter.blocks) and len(parameter.shape) == 2:
            return f"a prime is the new value of a state; the transpose of {stem} is {stem}.T."
    if stem == LAG:
        return "lag is a function: write lag(v) of a value v, or lag(v, 2)."
    if stem in cell.sizes:
        return "a size stands in shapes alone; a number for the equations is a constant, with another name."
    if stem in cell.activations:
        return f"the argument of a function stands in brackets: {stem}(...)"
    if stem != name and stem in known:
        return f"only a state has a new value; write {stem} without the prime."
    if moment := _at_a_moment(name, cell):
        return f"write {moment} instead."
    return idioms.IDENTITIES.get(name) or idioms.NUMBERS.get(name.lower())


def _product(name: str, cell: Cell, known: Collection[str]) -> str | None:
    """The hint for a product that is written without its sign: Wx."""
    matrices = [block for parameter in cell.parameters if len(parameter.shape) == 2 for block in parameter.blocks]
    found = (m for m in matrices if name.startswith(m) and name.removeprefix(m) in known)
    return next((f"write ({matrix} @ {name.removeprefix(matrix)})." for matrix in found), None)


def _at_a_moment(name: str, cell: Cell) -> str | None:
    """What is written here for the state, input or equation that a name like h_prev or x_lag_2 is about."""
    others = cell.named
    if (match := _EARLIER.fullmatch(name)) and match["stem"] in (*cell.states, *others):
        earlier = int(match["lag"] or match["ago"]) - (match["stem"] in cell.states and not match["lag"])
        return f"lag({match['stem']}{f', {earlier}' * (earlier > 1)})" if earlier > 0 else None
    match = _AT_A_MOMENT.fullmatch(name)
    if match is None:
        return None
    stem, moment = match["stem"] or match["of"], idioms.MOMENTS[(match["after"] or match["before"]).lower()]
    if stem in cell.states:
        return stem + moment
    return (stem if moment else f"lag({stem})") if stem in others else None


def _report_missing(
    cell: Cell, definitions: Mapping[str, Assignment], lost: Collection[str], mistakes: Mistakes
) -> None:
    for number, state in enumerate(cell.states):
        if f"{state}'" not in definitions and state not in lost:
            message = f"The state '{state}' has no equation for its new value."
            elsewhere = [
                target for target in (*definitions, *sorted(lost)) if _at_a_moment(target, cell) == f"{state}'"
            ]
            hint = f"add an equation: {state}' = ..."
            if elsewhere:
                hint = f"write {state}' in the place of {elsewhere[0]}."
            mistakes.add("never-updated", message, cell.places.entry("states", number, state), hints=(hint,))
    for name in cell.outputs:
        stem = name.removesuffix("'")
        if name in definitions or stem in lost or (stem != name and stem in cell.states):
            continue
        hint = did_you_mean(name, definitions) or f"the equations are {', '.join(definitions)}."
        message = f"The output {name!a} is not an equation of the step."
        mistakes.add("unknown-output", message, cell.place_of_output(name), hints=(hint,))
