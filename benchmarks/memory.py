"""How much memory a training step takes, by how many steps a sequence has and what a layer keeps: `rnngen`'s `save`.

    python -m benchmarks.memory [--plot docs/performance/memory]

Each number is of a process of its own: what a training step of an LSTM of 32 units adds to it at its highest, beside x,
which has one feature, for one sequence of which the last output alone is used. It prints a table, and draws a picture
for a light and one for a dark page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.report.pictures import Theme

KINDS = ("gates", "states", "every")
UNITS, BATCH = 32, 1
TIMES = tuple(2**n for n in range(10, 21))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--alone", nargs=2, metavar=("KIND", "TIME"), help=argparse.SUPPRESS)
    parser.add_argument("--plot", type=Path, metavar="NAME", help="draw NAME-light.svg and NAME-dark.svg")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES, metavar="STEPS")
    given = parser.parse_args(arguments)
    if given.alone:
        print(json.dumps(measured(given.alone[0], int(given.alone[1]))))
        return
    found: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    print("| steps | " + " | ".join(f"`{kind}`, MB | ms" for kind in KINDS) + " |")
    print("|---" * (1 + 2 * len(KINDS)) + "|")
    for steps in given.times:
        cells = []
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.memory", "--alone", kind, str(steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parent.parent)
            answer = json.loads(done.stdout)
            found[kind][steps] = answer["peak_mb"]
            cells += [f"{answer['peak_mb']:.1f}", f"{answer['ms']:.0f}"]
        print(f"| {steps:,} | {' | '.join(cells)} |", flush=True)
    if given.plot:
        from benchmarks.report.pictures import draw_one

        for path in draw_one(given.plot, lambda theme: drawn(found, theme)):
            print(path)


def measured(kind: str, steps: int) -> dict[str, float]:
    """The highest growth of this process in a training step, and the time of the next one."""
    import torch

    from benchmarks.alone import peak_growth
    from rnngen.compile import compile_model
    from rnngen.library import library

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="rnngen-") as folder:
        module = compile_model(library()["lstm"], (), kind)
        for name, text in module.files.items():
            Path(folder, name).write_text(text)
        spec = spec_from_file_location(module.name, Path(folder, f"{module.name}.py"))
        assert spec is not None
        assert spec.loader is not None
        made: Any = module_from_spec(spec)
        sys.modules[module.name] = made
        spec.loader.exec_module(made)
        (layer_class,) = (v for v in vars(made).values() if isinstance(v, type) and v.__module__ == module.name)
        layer = layer_class(1, UNITS, last_only=True)

        def step(x: torch.Tensor) -> None:
            y, _ = layer(x)
            y.sum().backward()

        step(torch.randn(64, BATCH, 1))  # what is compiled, and what stays, is no part of it
        x = torch.randn(steps, BATCH, 1)
        peak = peak_growth(lambda: step(x))
        began = time.thread_time()
        step(x)
        return {"peak_mb": peak / 1e6, "ms": 1000 * (time.thread_time() - began)}


def drawn(found: Mapping[str, Mapping[int, float]], theme: Theme) -> Figure:
    """Memory against steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    from benchmarks.report.pictures import MARKERS

    colours = dict(zip(KINDS, ("torch.nn", "torch steps", "rnngen"), strict=True))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, points in found.items():
        style = {"color": theme.contenders[colours[kind]], "marker": MARKERS[colours[kind]]}
        axes.plot(list(points), [max(mb, 0.1) for mb in points.values()], label=f'"{kind}"', **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda mb, _: f"{mb:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("steps of a sequence")
    axes.set_ylabel("MB of a training step")
    axes.legend()
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
