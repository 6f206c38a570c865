"""What the kernels of a model compile to, without a GPU: registers, spills, shared memory, instructions, an estimate.

    python -m benchmarks.static MODEL.toml --target sm_90 [--width 64] [--heads 1] [--batch 16] [--dtype bfloat16]
                                [--json]
    python -m benchmarks.static [--target sm_90 ...] [--out FILE.jsonl]

Every kernel of the model is compiled with the constants that the cost model picks for the sizes. The cycles are an
estimate by a scoreboard (see `benchmarks.sass`): for ranking, never a time. Without a model it makes the table of wide
layers (see `benchmarks.wide`), which is kept with the other results.
"""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType

import click

from benchmarks.aot import TARGETS, Compiled, compile_kernel
from benchmarks.sass import Report, analyse
from rnngen.cell import Cell
from rnngen.compile import compile_model, compiled
from rnngen.description import CellLayer, describe, library
from rnngen.document import read
from rnngen.emit.triton import Kernel, kernels
from rnngen.emit.triton.cooperative import SUMS, CooperativeText
from rnngen.emit.triton.linear import LinearText
from rnngen.emit.triton.stepwise import StepwiseText
from rnngen.emit.triton.sweep import SweepText
from rnngen.explain import ITEM_SIZES
from rnngen.runtime.choose import choose
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.plan import Choice, NotPossible, Sizes, letter_of
from rnngen.runtime.schedules import SCHEDULES
from rnngen.runtime.schedules.resident import shared_bytes
from rnngen.source import Source

TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}


@dataclass(frozen=True, slots=True)
class Job:
    """One kernel to compile: its name in the module, the types of its arguments, its constants and launch options.

    cell, direction, masked, resets, schedule, stage: which kernel it is, however modules are written. stage counts from
    1 the kernels of one step, or the launches of a scan that time is divided in; None where one is the whole scan.
    expected_bytes: the on-chip memory that the cost model reckons with; None where it does not look at it. weights: the
    arguments that are matrices.
    """

    cell: str
    direction: str
    masked: bool
    resets: bool
    schedule: str
    stage: int | None
    chosen: bool
    kernel: str
    signature: dict[str, str]
    constants: dict[str, object]
    options: Mapping[str, int]
    expected_bytes: int | None = None
    weights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A compiled kernel. chosen: whether the cost model picks this schedule for the sizes."""

    job: Job
    sizes: Sizes
    dtype: str
    report: Report
    fits: bool

    @property
    def record(self) -> dict[str, object]:
        """The row as plain values."""
        step = self.report.step
        names = ("cell", "direction", "masked", "resets", "schedule", "stage", "chosen", "kernel")
        about = {name: getattr(self.job, name) for name in names}
        kernel = {k: v for k, v in asdict(self.report).items() if k not in ("step", "kernel")}
        constants = {k: v for k, v in self.job.constants.items() if isinstance(v, int | bool | str)}
        launch = {**self.job.options, "constants": constants}
        return (
            asdict(self.sizes)
            | about
            | {"dtype": self.dtype}
            | launch
            | kernel
            | {
                "fits": self.fits,
                "step": asdict(step) if step else None,
            }
        )


VARIANTS = ((False, False), (True, False), (False, True))
"""Of a kernel, whether it has a mask, and whether it has resets; the first is as it is."""


def jobs(
    cell: Cell,
    sizes: Sizes,
    target: str,
    dtype: str,
    save: bool = True,
    variants: Sequence[tuple[bool, bool]] = VARIANTS,
    time: int = 1,
) -> Iterator[Job]:
    """Every kernel of a cell that can run with these sizes, and so many steps, on the target."""
    (program,) = compiled([cell])
    for masked, resets in variants:
        for direction, chain in (("forward", program.forward), ("adjoint", program.backward)):
            facts = chain.facts
            others = tuple(pair for pair in sizes.others if pair[0] in facts.dimensions)
            hidden = sizes.hidden if "hidden" in facts.dimensions else 0
            size = replace(sizes, hidden=hidden, others=others, masked=masked, resets=resets)
            chosen = choose(facts, size, MACHINES[target]).schedule
            for kernel in kernels(chain, f"{cell.name}_{direction}"):
                if resets and kernel.schedule == "stepwise":
                    continue  # they are between its kernels
                try:
                    choice = choose(facts, size, MACHINES[target], kernel.schedule)
                except NotPossible:
                    continue  # the reason is in what `choose` gives; the stepwise kernels are still there
                types = _Types(dtype, masked, resets, save, direction == "adjoint", time)
                for stage, name, signature, constants in types.of(kernel, choice, size):
                    which = (cell.name, direction, masked, resets, kernel.schedule, stage)
                    job = Job(*which, kernel.schedule == chosen, name, signature, constants, choice.options)
                    if not isinstance(kernel.text, StepwiseText):
                        job = replace(job, weights=tuple(one.pointer for one in kernel.text.matrices))
                    if kernel.schedule == "resident":
                        expected = shared_bytes(facts, size, MACHINES[target], choice.constants)
                        job = replace(job, expected_bytes=expected)
                    yield job


@dataclass(frozen=True, slots=True)
class _Types:
    """What a launch would give a kernel: the types of its arguments, and its constants."""

    dtype: str
    masked: bool
    resets: bool
    save: bool
    backwards: bool
    time: int = 1

    def of(
        self, kernel: Kernel, choice: Choice, sizes: Sizes
    ) -> Iterator[tuple[int | None, str, dict[str, str], dict[str, object]]]:
        constants = {**choice.constants, "SAVE": self.save, "KEEP": True, "ACC": self.dtype == "float64"}
        asked = _Asked(sizes, self.backwards)
        if isinstance(kernel.text, StepwiseText):
            stages = [stage for stage in kernel.text.kernels if stage.pointers]
            for number, stage in enumerate(stages, 1):
                signature, absent = self._pointers(kernel.text.text, stage.pointers, stage.wide)
                yield number, stage.name, signature | {"time": "i32", "B": "i32"}, constants | asked.letters | absent
            return
        text = kernel.text
        asked = replace(asked, time=self.time, states=(None,) * len(text.chain.states))
        SCHEDULES[choice.schedule].launch(None, asked, choice)
        wide = text.in_parts if isinstance(text, LinearText) and asked.parts else text.wide
        signature, absent = self._pointers(text, text.pointers, wide)
        if isinstance(text, LinearText) and not asked.parts:
            absent |= dict.fromkeys(found.pointer for found in text.maps.values())
            signature = {name: kind for name, kind in signature.items() if name not in absent}
        for number, own in enumerate(asked.launches, 1):
            stage = number if len(asked.launches) > 1 else None
            yield stage, kernel.name, signature | {"T": "i32", "B": "i32"}, constants | own | absent

    def _pointers(
        self, text: SweepText, pointers: Sequence[str], wide: Sequence[str]
    ) -> tuple[dict[str, str], dict[str, None]]:
        """The types, and what is None in place of a tensor."""
        accumulator = "*fp64" if self.dtype == "float64" else "*fp32"
        types = {pointer: accumulator if pointer in wide else f"*{TYPES[self.dtype]}" for pointer in pointers}
        counters = {text.counters} if isinstance(text, CooperativeText) else set()
        if isinstance(text, CooperativeText) and self.dtype == "float16" and SUMS in text.buffers:
            types[text.buffers[SUMS]] = accumulator
        flags = {text.mask_pointer, text.resets.pointer, *counters}
        types |= {pointer: "*i32" for pointer in types if pointer in flags}
        absent = set() if self.masked else {text.mask_pointer}
        absent |= set() if self.resets else {text.resets.pointer, text.resets.first_pointer}
        given = {name: kind for name, kind in types.items() if name not in absent}
        return given, dict.fromkeys(name for name in types if name in absent)


@dataclass(slots=True)
class _Asked:
    """A sweep that keeps the constants of its launches, `plan.Run` as far as a schedule asks. parts: whether each of
    several stretches of time has a part of what is summed.
    """

    sizes: Sizes
    backwards: bool
    launches: list[dict[str, object]] = field(default_factory=list)
    both: bool = False
    time: int = 1
    precision: str = "ieee"
    tensors: tuple[None, ...] = ()
    states: tuple[None, ...] = ()
    parts: bool = False

    @property
    def batch(self) -> int:
        return self.sizes.batch

    @property
    def heads(self) -> int:
        return self.sizes.heads

    @property
    def hidden(self) -> int:
        return self.sizes.hidden

    @property
    def widest(self) -> int:
        return max(self.letters.values())

    @property
    def letters(self) -> dict[str, int]:
        dimensions = (*([("hidden", self.sizes.hidden)] if self.sizes.hidden else []), *self.sizes.others)
        return {letter_of(name): size for name, size in dimensions}

    def exchange(self, room: Mapping[str, int], counters: int) -> tuple[()]:
        return ()

    def maps(self, stretches: int, states: int) -> tuple[()]:
        return ()

    @contextmanager
    def in_parts(self, stretches: int, totals: int, begins: bool) -> "Iterator[_Asked]":
        self.parts = True
        yield self

    def launch(self, kernel: None, grid: object, choice: object, tensors: object, time: int, **constants: object):
        self.launches.append(constants)


def compile_job(module: ModuleType, job: Job, target: str) -> Compiled:
    """Compile one kernel of an imported module."""
    import triton.language as tl

    constants = job.constants | {"ACC": tl.float64 if job.constants["ACC"] else tl.float32}
    stages = 3 if TARGETS[target].backend == "cuda" else 2  # Triton's defaults; the loops say their own
    kernel = getattr(module, job.kernel)
    return compile_kernel(
        kernel, job.signature, constants, target, num_stages=stages, enable_fp_fusion=True, **job.options
    )


def load(source: Source, folder: Path) -> ModuleType:
    """The module of a model, imported from a file: Triton reads the source of its kernels there."""
    made = compile_model(source)
    path = folder / f"{made.name}.py"
    path.write_text(made.text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"rnngen_static_{made.name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def source_of(model: str) -> Source:
    """The description of a cell of the library, by its name, or of a file."""
    return library()[model] if model in library() else read(model)


def rows(
    source: Source,
    target: str,
    dtype: str,
    batch: int,
    widths: Sequence[int],
    heads: int,
    variants: Sequence[tuple[bool, bool]] = VARIANTS,
    schedules: Collection[str] = tuple(SCHEDULES),
    time: int = 1,
) -> Iterator[Row]:
    """Every kernel of the model compiled for every width of a head; a stack's layers have sizes of their own."""
    description = describe(source)
    item = ITEM_SIZES[dtype]
    if description.layers:
        layers = [layer for layer in description.layers if isinstance(layer, CellLayer)]
        cells = [(one.cell, Sizes(batch, one.hidden, one.heads, item, others=one.others)) for one in layers]
    else:
        (cell,) = description.cells
        heads = heads if any(parameter.heads for parameter in cell.parameters) else 1
        cells = [
            (cell, Sizes(batch, heads * units, heads, item, others=(("inputs", heads * units), *cell.sizes.items())))
            for units in widths
        ]
    with tempfile.TemporaryDirectory() as folder:
        module = load(source, Path(folder))
        for cell, size in cells:
            for job in jobs(cell, size, target, dtype, variants=variants, time=time):
                if job.schedule not in schedules:
                    continue
                compiled = compile_job(module, job, target)
                yield Row(job, size, dtype, analyse(compiled, weights=job.weights), compiled.fits)


@click.command()
@click.argument("model", required=False)
@click.option(
    "--target", type=click.Choice(list(TARGETS)), multiple=True, help="By default sm_90, or those of wide layers."
)
@click.option("--dtype", type=click.Choice(list(TYPES)), default="bfloat16", show_default=True)
@click.option(
    "--width",
    type=int,
    multiple=True,
    default=(32, 64, 128),
    show_default=True,
    help="Units of a head; a stack has its own.",
)
@click.option("--heads", type=int, default=1, show_default=True, help="Of a block-diagonal cell.")
@click.option("--batch", type=int, default=16, show_default=True)
@click.option("--time", type=int, default=1, show_default=True, help="Steps: many may take more than one launch.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Where rows of wide layers are kept.")
def main(
    model: str | None,
    target: tuple[str, ...],
    dtype: str,
    width: tuple[int, ...],
    heads: int,
    batch: int,
    time: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compile every kernel of MODEL, a file or a cell of the library, and report what came out; without one, the
    cooperative kernels of wide layers.
    """
    if model is None:
        _wide(target, out)
    else:
        for one in target or ("sm_90",):
            _model(model, one, dtype, width, heads, batch, time, as_json)


def _wide(targets: tuple[str, ...], out: Path | None) -> None:
    from benchmarks.wide import HEAD, KEPT, TARGETS, cells_of, wide_rows, write

    widths = (16, 6, 6, 16, 10, 7, 5, 8, 7, 6)
    click.echo(f"{'target':7}" + " ".join(name.ljust(size) for name, size in zip(HEAD, widths, strict=True)))
    for row in write(wide_rows(targets=targets or TARGETS), out or KEPT):
        texts = [text.ljust(size) for text, size in zip(cells_of(row), widths, strict=False)]
        click.echo(f"{row['target']:7}" + " ".join(texts))


def _model(
    model: str, target: str, dtype: str, width: tuple[int, ...], heads: int, batch: int, time: int, as_json: bool
) -> None:
    found = list(rows(source_of(model), target, dtype, batch, width, heads, time=time))
    if as_json:
        click.echo(json.dumps([row.record for row in found], indent=1))
        return
    click.echo(
        f"{'kernel':42}{'units':>6}{'regs':>6}{'spill':>6}{'KiB':>7}{'instr':>7}{'mma':>6}{'bar':>5}{'cycles':>8}"
    )
    for row in found:
        step = row.report.step
        cycles = f"{step.cycles:.0f}" if step and step.cycles else "-"
        per_step = (
            f"{step.instructions:7.0f}{step.matrix:6.0f}{step.barriers:5.0f}" if step else f"{'-':>7}{'-':>6}{'-':>5}"
        )
        mark = "*" if row.job.chosen else " "
        units = row.sizes.hidden // row.sizes.heads
        click.echo(
            f"{row.job.kernel:41}{mark}{units:6}{row.report.registers:6}{row.report.spill_bytes:6}"
            f"{row.report.shared_bytes / 1024:7.1f}{per_step}{cycles:>8}"
        )
    click.echo(f"* chosen for batch {batch} on {target}, {dtype}; instructions, products and barriers per time step")


if __name__ == "__main__":
    main()
