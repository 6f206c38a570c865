"""The whole road on one page: the text of a model to the text of a module."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rnngen import VERSION
from rnngen.across import ACROSS
from rnngen.audit import audit
from rnngen.cell import Cell
from rnngen.chain import Chained
from rnngen.description import CellLayer, Description, check_init, check_rated, check_shared, describe, library
from rnngen.document import Places, parse
from rnngen.emit.breaking import broken
from rnngen.emit.module import cell_view, model_view
from rnngen.emit.render import render
from rnngen.emit.target import Target
from rnngen.emit.targets import TARGETS
from rnngen.emit.views import CellView, FileView, ModuleView
from rnngen.errors import Mistakes, ModelError
from rnngen.ir import Program
from rnngen.lag import without_lags
from rnngen.passes.again import again
from rnngen.passes.cut import cut
from rnngen.passes.differentiate import differentiate
from rnngen.passes.expand import expand
from rnngen.passes.hoist import hoist
from rnngen.passes.infer import infer
from rnngen.passes.lower import lower
from rnngen.passes.mask import mask
from rnngen.passes.pack import pack
from rnngen.passes.resolve import resolve
from rnngen.passes.save import save
from rnngen.passes.simplify import simplify
from rnngen.passes.supply import supply
from rnngen.passes.unfold import unfold
from rnngen.passes.unpack import unpack
from rnngen.passes.verify import verify
from rnngen.passes.wrap import wrap
from rnngen.runtime import PUBLISHED
from rnngen.runtime.layout import is_chunked
from rnngen.runtime.schedules import SCHEDULES, possible
from rnngen.runtime.seal import FIRST_WORDS, FORMAT, LAST_LINE, NO_DIGEST, c_digest, sealed
from rnngen.source import STDIN, Source

_TORCH = {"torch": "import torch", "F": "import torch.nn.functional as F", "nn": "from torch import nn"}
# A name that a generated text uses: not in a comment or a string, behind a point or before an argument's =. To parse
# the text for this as well as for the audit would take a fifth of a compile.
_WORD = re.compile(r'#[^\n]*|"""(?:.|\n)*?"""|"[^"\n]*"|(?<![\w.])([A-Za-z_]\w*)\b(?!=)')
MOST_WORK = 3000  # values of the steps of a file in primitives; a compile takes 0.3 ms and 60 KB for each
_WORK_OF_A_PRODUCT = 20  # a kernel of its own in either direction, beside its operation
_WORK_OF_A_CELL = 40  # what is written around its steps
_Form = TypeVar("_Form", bound=Program)
_Next = TypeVar("_Next", bound=Program)


class Passes(Generic[_Form]):
    """Passes in a row, up to one that gives the form; each takes what the one before it gives, as `then` asks."""

    def __init__(self, last: Callable[[Any], _Form], before: tuple[Callable[[Any], Program], ...] = ()) -> None:
        self.steps: tuple[Callable[[Any], Program], ...] = (*before, last)

    def then(self, step: Callable[[_Form], _Next]) -> "Passes[_Next]":
        return Passes(step, self.steps)


PASSES: Passes[Chained] = (
    Passes(simplify)
    .then(pack)
    .then(hoist)
    .then(unfold)
    .then(differentiate)
    .then(expand)
    .then(mask)
    .then(save)
    .then(supply)
    .then(again)
    .then(lower)
    .then(cut)
)


@dataclass(frozen=True)
class Module:
    """A generated module: its name, without .py, its text, and those of the files beside it by their suffixes."""

    name: str
    text: str
    beside: Mapping[str, str]

    @property
    def files(self) -> dict[str, str]:
        """All texts by the names of their files, the module last."""
        return {f"{self.name}{suffix}": text for suffix, text in (*self.beside.items(), (".py", self.text))}


def forms_of(cell: Cell) -> Iterator[tuple[str, Program]]:
    """The cell after each pass, by the pass's name. Raises ModelError if the cell is rejected."""
    cell = without_lags(cell)
    program = resolve(cell)
    yield "resolve", program
    program = verify(infer(program, cell))
    yield "infer", program
    program = verify(unpack(program))
    yield "unpack", program
    program = verify(wrap(program, cell))
    yield "wrap", program
    for step in PASSES.steps:
        program = verify(step(program))
        yield step.__name__, program


def programs_of(cells: Sequence[Cell], after: str = "") -> list[Program]:
    """The cells after a pass, or after all of them, pass by pass, so that the mistakes that one finds come together.

    Raises ModelError with every mistake of the first pass that finds any.
    """
    runs = [forms_of(cell) for cell in cells]
    programs: list[Program] = []
    while True:
        found, errors = [], []
        for run in runs:
            try:
                found += [pair for pair in [next(run, None)] if pair]
            except ModelError as error:
                errors.append(error)
        if errors:
            # Cells that differ in their activations or wrappers share their text.
            mistakes = dict.fromkeys(mistake for error in errors for mistake in error.mistakes)
            raise ModelError(mistakes, all(error.all_found for error in errors))
        if not found:
            return programs
        programs = [program for _, program in found]
        if found[0][0] == after:
            return programs


def compiled(cells: Sequence[Cell]) -> list[Chained]:
    """The cells after all passes. Raises ModelError as `programs_of` does."""
    found = []
    for program in programs_of(cells):
        assert isinstance(program, Chained)
        found.append(program)
    return found


def compile_model(source: Source, wrappers: Sequence[str] = (), save: str = "") -> Module:
    """The module that a model file describes. wrappers, save: what the cell of a cell file is compiled with, and keeps.

    Raises ModelError with every mistake of the first stage that finds any.
    """
    description = describe(source, wrappers, save)
    programs = compiled(description.cells)
    _check_work(description.cells, programs)
    _check_layers(description, programs)
    cells = tuple(cell_view(*pair) for pair in zip(programs, description.cells, strict=True))
    model = model_view(description) if description.layers else None
    beside = {t.suffix: _beside(t, description.name, cells) for t in TARGETS.values() if t.suffix != ".py" and cells}
    prefaces = tuple(filter(None, (target.preface for target in TARGETS.values())))
    body = render("module", "body.py.jinja", prefaces=prefaces, cells=cells, model=model)
    used = set(_WORD.findall(body))
    header = ModuleView(
        first_words=FIRST_WORDS,
        version=VERSION,
        no_digest=NO_DIGEST,
        source=source.label,
        digest=source.digest,
        renewal=_renewal(description),
        format=FORMAT,
        beside={suffix[1:]: c_digest(text.encode()) for suffix, text in beside.items()},
        docstring=f"The {'model' if description.layers else 'cell'} {description.name}.",
        torch=tuple(line for name, line in _TORCH.items() if name in used),
        published=tuple(sorted(used & PUBLISHED.keys() - {"check_module"}, key=lambda name: (name.lower(), name))),
        last_line=LAST_LINE,
    )
    made = sealed(broken(render("module", "module.py.jinja", module=header, body=body)))
    audit(made.encode())
    return Module(description.name, made, beside)


def _beside(target: Target, module: str, cells: tuple[CellView, ...]) -> str:
    """The file of a target that has one of its own."""
    view = FileView(FIRST_WORDS, VERSION, NO_DIGEST, f"{module}.py", cells, LAST_LINE)
    made = sealed(render(target.name, f"file{target.suffix}.jinja", file=view))
    audit(made.encode(), target.suffix)
    return made


def _renewal(description: Description) -> str:
    """The command that compiles the model again, as a line for a shell."""
    source, label = description.source, description.source.label
    wrappers, save = ((), "") if description.layers else (description.cells[0].wrappers, description.cells[0].save)
    options = [*(f"--with {name}" for name in wrappers), *([f"--save {shlex.quote(save)}"] if save else [])]
    command = " ".join(("rnngen compile", *options))
    name = label.removesuffix(".toml")
    cell = library().get(name)
    if cell and (cell.label, cell.digest) == (label, source.digest):
        return f"{command} {name}"
    if source.name == STDIN:
        return f"{command} -"
    quoted = f"$'{label}'" if "\\" in label else shlex.quote(label)
    return f"{command} {'-- ' if label.startswith('-') else ''}{quoted}"


def _check_work(cells: Sequence[Cell], programs: Sequence[Chained]) -> None:
    """A short text may make a long module: each product that cannot be hoisted or packed has kernels of its own. Raises
    ModelError.
    """
    work = [_work(program) for program in programs]
    if sum(work) <= MOST_WORK:
        return
    largest = cells[work.index(max(work))]
    message = f"The steps of this file have {sum(work):,} values, forwards and backwards; {MOST_WORK:,} are allowed."
    note = f"a product that depends on a state counts as {_WORK_OF_A_PRODUCT} more, and a cell as {_WORK_OF_A_CELL}."
    mistakes = Mistakes(largest.places.document.source)
    mistakes.add("too-large", message, largest.places.key("step"), f"{max(work):,} of them are here", notes=(note,))
    mistakes.check()


def _work(program: Chained) -> int:
    values = (*program.scan.values, *program.adjoint.values)
    return _WORK_OF_A_CELL + len(values) + _WORK_OF_A_PRODUCT * sum(value.op in ACROSS for value in values)


def _check_layers(description: Description, programs: Sequence[Chained]) -> None:
    """A schedule that a layer names has to have kernels for its cell, an initialiser of a wrapped cell a parameter,
    which may be a wrapper's, a rate a state that its wrapper acts on, and layers that share a state as wide as x one
    width of x. Raises ModelError.
    """
    mistakes = Mistakes(description.source)
    document = parse(description.source)
    found = {program.cell.name: program for program in programs}
    for number, layer in enumerate(description.layers):
        if not isinstance(layer, CellLayer):
            continue
        program, places = found[layer.cell.name], Places(document, ("layers", number))
        if layer.cell.wrappers:
            check_init(layer, layer.cell.name, program.parameters, places, mistakes)
            check_rated(layer.rates, program.drawn, places, mistakes)
        lags = without_lags(layer.cell).lags
        states = [leaf.name for leaf in program.described.leaves("state") if leaf.shape == ("inputs",)]
        check_shared(layer, [f"state '{lags.get(name, name)}'" for name in states], places, mistakes)
        facts = program.forward.facts
        if not is_chunked(layer.schedule) and layer.schedule not in (known := ("auto", *possible(facts))):
            reason = SCHEDULES[layer.schedule].refusal(facts)
            message = f"The schedule '{layer.schedule}' cannot run the cell '{layer.cell.name}': {reason}."
            span = document.value_span(("layers", number, "schedule"))
            hint = f"leave it out, or name '{known[1]}' or 'stepwise'."
            mistakes.add("wrong-schedule", message, span, hints=(hint,))
    mistakes.check()
