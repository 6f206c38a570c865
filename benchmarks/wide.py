"""What layers too wide for one program compile to: the cooperative kernels, or why there is none.

    python -m benchmarks.static [--target sm_90 ...] [--out FILE.jsonl]

without a model, compiles LSTM, GRU and GRU v3 of 256 to 2048 units, for 16 and 64 of the batch, in bfloat16, forward
and adjoint. A row is what `benchmarks.static` says of a kernel, or has a `refusal`: why this schedule cannot run there.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.static import rows, source_of
from rnngen.compile import compiled
from rnngen.description import describe
from rnngen.explain import ITEM_SIZES
from rnngen.runtime.choose import answers_of
from rnngen.runtime.machine import MACHINES
from rnngen.runtime.plan import Sizes

MODELS = ("lstm", "gru", "gru_v3")
TARGETS = ("sm_80", "sm_90", "sm_120")
WIDTHS = (256, 512, 1024, 2048)
BATCHES = (16, 64)
DTYPE = "bfloat16"
SCHEDULE = "cooperative"
KEPT = Path(__file__).parent / "results" / "static" / "wide.jsonl"

Record = dict[str, object]


def wide_rows(
    models: Sequence[str] = MODELS,
    targets: Sequence[str] = TARGETS,
    widths: Sequence[int] = WIDTHS,
    batches: Sequence[int] = BATCHES,
) -> Iterator[Record]:
    """One row for each direction of each: a kernel, or a refusal."""
    for target in targets:
        for model in models:
            for batch in batches:
                for width in widths:
                    yield from _rows(model, target, width, batch)


def _rows(model: str, target: str, width: int, batch: int) -> Iterator[Record]:
    about: Record = {"model": model, "target": target, "hidden": width, "batch": batch, "dtype": DTYPE}
    refused = dict(_refusals(model, target, width, batch))
    plain = ((False, False),)
    found = rows(source_of(model), target, DTYPE, batch, (width,), 1, plain, schedules=(SCHEDULE,))
    kernels = {row.job.direction: row.record for row in found} if len(refused) < 2 else {}
    for direction in ("forward", "adjoint"):
        if direction in refused:
            yield about | {"direction": direction, "refusal": refused[direction]}
        else:
            yield about | kernels[direction]


def _refusals(model: str, target: str, width: int, batch: int) -> Iterator[tuple[str, str]]:
    """Each direction that the schedule cannot run, and why."""
    (cell,) = describe(source_of(model)).cells
    (program,) = compiled([cell])
    for direction, chain in (("forward", program.forward), ("adjoint", program.backward)):
        others = tuple((name, size) for name, size in cell.sizes.items() if name in chain.facts.dimensions)
        sizes = Sizes(batch, width, 1, ITEM_SIZES[DTYPE], others=others)
        answer = answers_of(chain.facts, sizes, MACHINES[target])[SCHEDULE]
        if isinstance(answer, str):
            yield direction, answer


def write(found: Iterable[Record], out: Path) -> Iterator[Record]:
    """Keep rows in a file, line by line as they come, in place of what was in it."""
    import triton

    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for row in found:
            file.write(json.dumps(row | {"triton": triton.__version__}) + "\n")
            file.flush()
            yield row


def read(path: Path) -> list[Record]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


HEAD = ("kernel", "units", "batch", "programs", "registers", "spills", "KiB", "weights", "cycles", "us")


def cells_of(row: Record) -> tuple[str, ...]:
    """A row in words, under HEAD; of a refusal its reason comes last.

    programs: units x batch of each, and how many; weights: how often a step reads them; us: at the clock of an H100.
    """
    first = (f"{row['model']} {row['direction']}", str(row["hidden"]), str(row["batch"]))
    if "refusal" in row:
        return (*first, str(row["refusal"]))
    constants, step = row["constants"], row["step"]
    assert isinstance(constants, dict) and isinstance(step, dict)
    groups = -(-int(str(row["batch"])) // constants["BB"])
    programs = f"{groups * constants['SLICES'] * constants['PARTS']} of {constants['KU']} x {constants['BB']}"
    figures = [row["registers"], row["spill_bytes"], f"{int(str(row['shared_bytes'])) / 1024:.0f}"]
    cycles = "" if step["cycles"] is None else f"{step['cycles']:.0f}"
    us = "" if step["microseconds"] is None else f"{step['microseconds']:.2f}"
    return (*first, programs, *map(str, figures), f"{step['weights']:g}", cycles, us)


def markdown(found: Sequence[Record]) -> str:
    """A table for each target, and the refusals behind it."""
    parts = []
    for target in dict.fromkeys(str(row["target"]) for row in found):
        here = [row for row in found if row["target"] == target]
        lines = ["| " + " | ".join(HEAD) + " |", "| --- |" + " ---: |" * (len(HEAD) - 1)]
        lines += ["| " + " | ".join(cells_of(row)) + " |" for row in here if "refusal" not in row]
        refused: dict[str, list[str]] = {}
        for row in here:
            if "refusal" in row:
                what = f"{row['model']} {row['direction']} {row['hidden']} x {row['batch']}"
                refused.setdefault(str(row["refusal"]), []).append(what)
        reasons = [f"* {', '.join(what)}: {reason}." for reason, what in refused.items()]
        card = MACHINES[target].card
        parts.append("\n".join([f"**{target}** ({card})", "", *lines, "", *reasons]).rstrip())
    return "\n\n".join(parts) + "\n"
