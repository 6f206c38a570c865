"""The whole road on one page: the text of a model to the text of a module."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rnngen import VERSION
from rnngen.audit import audit
from rnngen.cell import Cell
from rnngen.description import CellLayer, Description, describe, library
from rnngen.document import parse
from rnngen.emit.module import cell_view, model_view
from rnngen.emit.render import render
from rnngen.emit.views import ModuleView
from rnngen.errors import Mistakes, ModelError
from rnngen.ir import PRODUCTS, Program
from rnngen.passes.differentiate import differentiate
from rnngen.passes.hoist import hoist
from rnngen.passes.infer import infer
from rnngen.passes.lower import lower
from rnngen.passes.mask import mask
from rnngen.passes.pack import pack
from rnngen.passes.resolve import resolve
from rnngen.passes.save import save
from rnngen.passes.simplify import simplify
from rnngen.passes.verify import verify
from rnngen.runtime import PUBLISHED
from rnngen.runtime.seal import FIRST_WORDS, FORMAT, LAST_LINE, NO_DIGEST, sealed
from rnngen.source import STDIN, Source

_TORCH = {"torch": "import torch", "F": "import torch.nn.functional as F", "nn": "from torch import nn"}
# A name that a generated text uses: not in a comment or a string, behind a point or before an argument's =. To parse
# the text for this as well as for the audit would take a fifth of a compile.
_WORD = re.compile(r'#[^\n]*|"""(?:.|\n)*?"""|"[^"\n]*"|(?<![\w.])([A-Za-z_]\w*)\b(?!=)')
MOST_WORK = 1600  # values of the steps of a file; a compile takes 0.4 ms and 60 KB for each
_WORK_OF_A_PRODUCT = 10  # a kernel of its own in either direction, with and without a mask, beside its operation
_WORK_OF_A_CELL = 40  # what is written around its steps
Pass = Callable[[Program], Program]
TO_SCANS: tuple[Pass, ...] = (simplify, pack, hoist, differentiate)
FROM_SCANS: tuple[Pass, ...] = (save, lower)
PASSES = (*TO_SCANS, *FROM_SCANS)
MASKED = (*TO_SCANS, mask, *FROM_SCANS)


@dataclass(frozen=True)
class Module:
    """A generated module: its name, without .py, and its text."""

    name: str
    text: str


def stages(cell: Cell, passes: Sequence[Pass] = PASSES) -> Iterator[tuple[str, Program]]:
    """The cell after each stage, by the stage's name. passes: those of the cell as it is, or MASKED.

    Raises ModelError if the cell is rejected.
    """
    program = resolve(cell)
    yield "resolve", program
    program = verify(infer(program, cell))
    yield "infer", program
    for step in passes:
        program = verify(step(program))
        yield step.__name__, program


def programs_of(cells: Sequence[Cell], after: str = "", passes: Sequence[Pass] = PASSES) -> list[Program]:
    """The cells after a stage, or after all of them, stage by stage, so that the mistakes of a stage come together.

    Raises ModelError with every mistake of the first stage that finds any.
    """
    runs = [stages(cell, passes) for cell in cells]
    programs: list[Program] = []
    while True:
        found, errors = [], []
        for run in runs:
            try:
                found += [pair for pair in [next(run, None)] if pair]
            except ModelError as error:
                errors.append(error)
        if errors:
            # Cells that differ in their activations share their text.
            mistakes = dict.fromkeys(mistake for error in errors for mistake in error.mistakes)
            raise ModelError(mistakes, all(error.all_found for error in errors))
        if not found:
            return programs
        programs = [program for _, program in found]
        if found[0][0] == after:
            return programs


def variants_of(cells: Sequence[Cell]) -> list[tuple[Program, Program]]:
    """Each cell after all stages: as it is, and with a mask for sequences of different lengths.

    Raises ModelError with every mistake of the first stage that finds any.
    """
    programs = programs_of(cells, TO_SCANS[-1].__name__)
    _check_work(cells, programs)
    return [(_through(FROM_SCANS, p), _through((mask, *FROM_SCANS), p)) for p in programs]


def _through(passes: Sequence[Pass], program: Program) -> Program:
    for step in passes:
        program = verify(step(program))
    return program


def compile_model(source: Source) -> Module:
    """The module that a model file describes.

    Raises ModelError with every mistake of the first stage that finds any.
    """
    description = describe(source)
    variants = variants_of(description.cells)
    _check_schedules(description, [program for program, _ in variants])
    cells = tuple(cell_view(*v, c) for v, c in zip(variants, description.cells, strict=True))
    model = model_view(description) if description.layers else None
    body = render("triton", "body.py.jinja", cells=cells, model=model)
    used = set(_WORD.findall(body))
    header = ModuleView(
        first_words=FIRST_WORDS,
        version=VERSION,
        no_digest=NO_DIGEST,
        source=source.label,
        digest=source.digest,
        renewal=_renewal(description),
        format=FORMAT,
        docstring=f"The {'model' if description.layers else 'cell'} {description.name}.",
        torch=tuple(line for name, line in _TORCH.items() if name in used),
        published=tuple(sorted(used & PUBLISHED.keys() - {"check_module"}, key=str.lower)),
        last_line=LAST_LINE,
    )
    made = sealed(render("triton", "module.py.jinja", module=header, body=body))
    audit(made.encode())
    return Module(description.name, made)


def _renewal(description: Description) -> str:
    """The command that compiles the model again, as a line for a shell."""
    source, label = description.source, description.source.label
    cell = library().get(description.name)
    if cell and (cell.label, cell.digest) == (label, source.digest):
        return f"rnngen compile {description.name}"
    if source.name == STDIN:
        return "rnngen compile -"
    quoted = f"$'{label}'" if "\\" in label else shlex.quote(label)
    return f"rnngen compile {'-- ' if label.startswith('-') else ''}{quoted}"


def _check_work(cells: Sequence[Cell], programs: Sequence[Program]) -> None:
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


def _work(program: Program) -> int:
    values = (*program.scan.values, *program.adjoint.values)
    return _WORK_OF_A_CELL + len(values) + _WORK_OF_A_PRODUCT * sum(value.op in PRODUCTS for value in values)


def _check_schedules(description: Description, programs: Sequence[Program]) -> None:
    """A schedule that a layer names has to have kernels for its cell. Raises ModelError."""
    mistakes = Mistakes(description.source)
    found = {program.cell.name: program for program in programs}
    for number, layer in enumerate(description.layers):
        if not isinstance(layer, CellLayer):
            continue
        products = any(value.op in PRODUCTS for value in found[layer.cell.name].scan.values)
        possible = ("auto", "resident" if products else "elementwise", "stepwise")
        if layer.schedule not in possible:
            reason = "a matrix is applied to a state" if products else "no matrix is applied to a state"
            message = f"The schedule '{layer.schedule}' cannot run the cell '{layer.cell.name}': {reason}."
            span = parse(description.source).value_span(("layers", number, "schedule"))
            hint = f"leave it out, or name '{possible[1]}' or 'stepwise'."
            mistakes.add("wrong-schedule", message, span, hints=(hint,))
    mistakes.check()
