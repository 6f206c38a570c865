"""How fast generated cells are, beside others.

    python -m benchmarks run [--suite cpu|gpu|static] [--cells ...] [--quick] [--minutes N] [--out FILE]
    python -m benchmarks report [FILE ...] [--out DIR]

`run` appends a row for each measurement to a file, a line of JSON, task by task. Without --out a whole suite goes to
`benchmarks/results/`, where it takes the place of the machine's former one, and what is less to `build/`. A whole suite
that was cut off, or that had no time for all, goes on where it was with the same command. `report` makes a page with
tables and pictures of such files. The suite of a GPU needs torch and Triton alone, and pytest to see whether kernels
are right; so does this file.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kept import Kept, OtherOrigin
from benchmarks.modules import ROOT
from benchmarks.problem import ARITHMETIC
from benchmarks.run import INTERRUPTED, UNFINISHED, measure, shown

RESULTS = ROOT / "benchmarks" / "results"
ROWS = ROOT / "build" / "benchmarks.jsonl"
ORIGIN = ("machine", "commit", "tree", "torch", "triton", "cuda", "cudnn", "python")
"""What must be the same for rows of one suite to stand in one file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all was measured, 1 if an answer was wrong or something failed, 75 if there is more to do for the same
    command, 130 if somebody interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure, and append a row for each measurement to a file")
    run.set_defaults(command=_run)
    run.add_argument("--suite", choices=("cpu", "gpu", "static"), default="cpu", help="static: what kernels compile to")
    run.add_argument("--cells", nargs="+", default=(), metavar="CELL", help="of the library")
    run.add_argument("--quick", action="store_true", help="a minute, for a first look")
    run.add_argument("--out", type=Path, metavar="FILE", help="where rows are appended")
    run.add_argument("--parts", nargs="+", default=(), metavar="PART", help="of the suite")
    run.add_argument("--hidden", type=_counts, nargs="+", default=(), help="units and features")
    run.add_argument("--batch", type=_counts, nargs="+", default=())
    run.add_argument("--time", type=_counts, nargs="+", default=(), help="steps")
    run.add_argument("--dtype", choices=ARITHMETIC, nargs="+", default=(), help="of a GPU; float32 is without tf32")
    run.add_argument("--minutes", type=_counts, metavar="N", help="begin nothing that would end later; 30 on a GPU")
    run.add_argument("--device", default="cuda", help="of the suite of a GPU: cpu tries it where there is none")
    run.add_argument("--target", nargs="+", default=("sm_90", "sm_80"), help="of the static suite: cards")
    report = commands.add_parser("report", help="write a page with tables and pictures of measurements")
    report.set_defaults(command=_report)
    report.add_argument("files", nargs="*", type=Path, metavar="FILE", help="by default all of benchmarks/results/")
    report.add_argument("--out", type=Path, metavar="DIR", help="by default docs/, and the table of README.md with it")
    given = parser.parse_args(arguments)
    try:
        return given.command(given, parser)
    except KeyboardInterrupt:
        print("Interrupted, before anything was measured")
        return INTERRUPTED


def _counts(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


# run


def _run(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if given.suite == "static":
        return _static(given, parser)
    import torch

    from benchmarks.machine import surroundings
    from benchmarks.modules import tree
    from benchmarks.suites import Wanted
    from rnngen.library import library

    on_gpu = given.suite == "gpu"
    if on_gpu and given.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no GPU here that torch can use, so there is nothing to time.")
        return 0
    suite = importlib.import_module(f"benchmarks.suites.{given.suite}")
    if strangers := set(given.parts) - set(getattr(suite, "PARTS", ())):
        parser.error(f"--parts: {', '.join(sorted(strangers))}; there are {', '.join(getattr(suite, 'PARTS', ()))}")
    if strangers := set(given.cells) - set(library()):
        parser.error(f"--cells: {', '.join(sorted(strangers))}; 'rnngen cells' lists those of the library")
    device = torch.device(given.device if on_gpu else "cpu")
    names = ("cells", "hidden", "batch", "time", "dtype", "parts")
    wanted = Wanted(**{name: tuple(getattr(given, name)) for name in names}, device=given.device, quick=given.quick)
    here = surroundings(device) | {"tree": tree("benchmarks/**/*.py")}
    tasks = list(suite.tasks(wanted))
    about = {"suite": given.suite, "quick": given.quick}
    minutes = given.minutes or getattr(suite, "MINUTES", math.inf)
    if given.quick or any(getattr(given, name) for name in names):
        return measure(tasks, Kept(given.out or ROWS), about, here, device, minutes)
    name = str(here["machine"]).replace(" ", "-").replace("/", "-").lower()
    results = RESULTS / f"{name}.jsonl"
    origin = about | {name: here[name] for name in ORIGIN}
    try:
        kept = Kept(given.out, origin) if given.out else _begun(results.with_suffix(".part"), origin)
    except OtherOrigin as error:
        parser.error(f"{error}. Name another file.")
    except OSError as error:
        parser.error(str(error))
    status = measure(tasks, kept, about, here, device, minutes)
    if status not in (INTERRUPTED, UNFINISHED) and not given.out:
        kept.path.replace(results)
        print(f"They are all of {given.suite}, and take the place of what was in {shown(results)}")
    return status


def _begun(path: Path, origin: dict[str, object]) -> Kept:
    """The file of a suite that has begun; one that began on other versions, or of another tree, makes way for it."""
    try:
        return Kept(path, origin)
    except OtherOrigin as reason:
        former = path.replace(path.with_suffix(".former"))
        print(f"A suite that was cut off is in {shown(former)} now, and this one begins anew: {reason}")
        return Kept(path, origin)


def _static(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from benchmarks.aot import TARGETS
    from benchmarks.modules import tree
    from benchmarks.record import MODELS, OtherOrigin, record

    out = given.out or ROOT / "build" / f"static-{tree()}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    models = given.cells or MODELS[: 2 if given.quick else None]
    if strangers := set(given.target) - set(TARGETS):
        parser.error(f"--target: {', '.join(sorted(strangers))}; there are {', '.join(TARGETS)}")
    try:
        record(out, models, given.target)
    except OtherOrigin as error:
        parser.error(f"{error}. Name another file.")
    except OSError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"Interrupted. What was compiled is in {shown(out)}, and the same command goes on there.")
        return INTERRUPTED
    print(f"The rows are in {shown(out)}")
    return 0


# report


def _report(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from benchmarks.report import NoRow, write

    files = given.files or sorted(RESULTS.glob("*.jsonl"))
    if not files:
        parser.error("there are no measurements yet: python -m benchmarks run")
    try:
        for path in write(files, given.out):
            print(shown(path))
    except (NoRow, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
