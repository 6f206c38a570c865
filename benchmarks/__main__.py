"""How fast generated cells are, beside others.

    python -m benchmarks run [--suite cpu|gpu|static] [--cells ...] [--quick] [--out FILE]
    python -m benchmarks report [FILE ...] [--out DIR]

`run` appends a row for each measurement to a file as it comes, a line of JSON. Without --out a whole suite goes to
`benchmarks/results/`, where it takes the place of the machine's former one, and what is less to `build/`. `report`
makes a page with tables and pictures of such files. The suite of a GPU needs torch and Triton alone, and so does this
file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.modules import ROOT
from benchmarks.problem import ARITHMETIC
from benchmarks.run import INTERRUPTED, measure, shown

RESULTS = ROOT / "benchmarks" / "results"
ROWS = ROOT / "build" / "benchmarks.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all was measured, 1 if an answer was wrong or something failed, 130 if somebody interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure, and append a row for each measurement to a file")
    run.set_defaults(command=_run)
    run.add_argument("--suite", choices=("cpu", "gpu", "static"), default="cpu", help="static: what kernels compile to")
    run.add_argument("--cells", nargs="+", default=(), metavar="CELL", help="of the library")
    run.add_argument("--quick", action="store_true", help="a minute, for a first look")
    run.add_argument("--out", type=Path, metavar="FILE", help="where rows are appended")
    run.add_argument("--parts", nargs="+", default=(), metavar="PART", help="of the suite of a CPU")
    run.add_argument("--hidden", type=_counts, nargs="+", default=(), help="units and features")
    run.add_argument("--batch", type=_counts, nargs="+", default=())
    run.add_argument("--time", type=_counts, nargs="+", default=(), help="steps")
    run.add_argument("--dtype", choices=ARITHMETIC, nargs="+", default=(), help="of a GPU; float32 is without tf32")
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
    here = surroundings(device)
    name = str(here["machine"]).replace(" ", "-").replace("/", "-").lower()
    tasks = list(suite.tasks(wanted))
    about = {"suite": given.suite, "quick": given.quick}
    if given.out or given.quick or any(getattr(given, name) for name in names):
        return measure(tasks, given.out or ROWS, about, here, device)
    kept = RESULTS / f"{name}.jsonl"
    new = kept.with_suffix(".part")
    new.unlink(missing_ok=True)
    status = measure(tasks, new, about, here, device)
    if status != INTERRUPTED:
        new.replace(kept)
        print(f"They are all of {given.suite}, and take the place of what was in {shown(kept)}")
    return status


def _static(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from benchmarks.aot import TARGETS
    from benchmarks.record import MODELS, OtherOrigin, record, tree

    out = given.out or ROOT / "build" / f"static-{tree()}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    models = given.cells or MODELS[: 2 if given.quick else None]
    if strangers := set(given.target) - set(TARGETS):
        parser.error(f"--target: {', '.join(sorted(strangers))}; there are {', '.join(TARGETS)}")
    try:
        record(out, models, given.target)
    except (OtherOrigin, OSError) as error:
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
