"""The generated LSTM and GRU beside torch.nn's, which run cuDNN: first the answer is checked, then both are timed.

    python -m benchmarks.against_cudnn [--dtype bfloat16] [--hidden 64] [--batch 16] [--time 1024] [--save]

Both run in one process, in turn, a pair at a time, each from a cold L2 cache; a row has the median and the quartiles of
each, their ratio pair by pair, and the machine. It needs a GPU that torch can use, and says so where there is none.
"""

import json
import statistics
from collections.abc import Callable
from datetime import date
from pathlib import Path

import click
import torch
from torch import nn

RESULTS = Path(__file__).parent / "results"
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
# Relative error in the root mean square of ours against cuDNN's, both in the type that is timed.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}
FLUSH_BYTES = 256 * 2**20  # more than the L2 cache of any GPU so far


def machine() -> dict[str, str]:
    """What a row has to say about where it was made."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda or torch.version.hip),
        "cudnn": str(torch.backends.cudnn.version()),
        "date": date.today().isoformat(),
    }


def check(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """The relative error of the output and of every gradient. Raises ClickException if one is too large."""

    def run(layer: nn.Module) -> dict[str, torch.Tensor]:
        leaf = x.detach().clone().requires_grad_()
        y, _ = layer(leaf)
        y.backward(torch.ones_like(y))
        found = {name: parameter.grad for name, parameter in layer.named_parameters()} | {"y": y, "x": leaf.grad}
        layer.zero_grad()
        return found

    a, b = run(ours), run(theirs)
    errors = {name: ((a[name] - b[name]).float().norm() / b[name].float().norm()).item() for name in b}
    wrong = {name: error for name, error in errors.items() if not error <= AGREEMENT[x.dtype]}
    if wrong:
        raise click.ClickException(f"The answers differ, so nothing is timed: {wrong}")
    return errors


def timed(functions: dict[str, Callable[[], None]], pairs: int) -> dict[str, list[float]]:
    """Milliseconds of each function, in turn, `pairs` times after three unmeasured rounds."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(pairs + 3):
        for name, function in functions.items():
            flush.zero_()
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            stop.record()
            torch.cuda.synchronize()
            if number >= 3:
                times[name].append(start.elapsed_time(stop))
    return times


def rows(cell: str, dtype: torch.dtype, time: int, batch: int, hidden: int, pairs: int) -> list[dict[str, object]]:
    """One row for the forward pass and one for forward and backward."""
    from importlib import import_module

    module = import_module(f"generated.{cell}")
    theirs = CELLS[cell](hidden, hidden, device="cuda", dtype=dtype)
    ours = getattr(module, cell.upper())(hidden, hidden, device="cuda", dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(time, batch, hidden, device="cuda", dtype=dtype)
    errors = check(ours, theirs, x)

    def forward(layer: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                layer(x)

        return run

    def both(layer: nn.Module) -> Callable[[], None]:
        leaf = x.detach().clone().requires_grad_()
        seed = torch.ones(time, batch, hidden, device="cuda", dtype=dtype)

        def run() -> None:
            layer(leaf)[0].backward(seed)
            layer.zero_grad()
            leaf.grad = None

        return run

    found = []
    for direction, make in (("forward", forward), ("forward and backward", both)):
        times = timed({"ours": make(ours), "cudnn": make(theirs)}, pairs)
        ratios = [a / b for a, b in zip(times["ours"], times["cudnn"], strict=True)]
        sizes = {"time": time, "batch": batch, "hidden": hidden, "dtype": str(dtype).removeprefix("torch.")}
        row = {"cell": cell, "direction": direction} | sizes
        for name, values in (("ours_ms", times["ours"]), ("cudnn_ms", times["cudnn"]), ("ratio", ratios)):
            row[name] = [round(q, 4) for q in statistics.quantiles(values, n=4)]
        found.append(row | {"worst_error": max(errors.values()), "pairs": pairs} | machine())
    return found


@click.command()
@click.option("--cell", type=click.Choice(list(CELLS)), multiple=True, default=list(CELLS))
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="bfloat16", show_default=True)
@click.option("--hidden", type=int, multiple=True, default=(64, 128, 512), show_default=True)
@click.option("--batch", type=int, multiple=True, default=(16, 128), show_default=True)
@click.option("--time", type=int, default=1024, show_default=True)
@click.option("--pairs", type=int, default=25, show_default=True)
@click.option("--save", is_flag=True, help="Keep the rows in benchmarks/results.")
def main(
    cell: tuple[str, ...],
    dtype: str,
    hidden: tuple[int, ...],
    batch: tuple[int, ...],
    time: int,
    pairs: int,
    save: bool,
) -> None:
    """Time the generated cells beside cuDNN's. The quartiles are 25 %, 50 % and 75 %."""
    if not torch.cuda.is_available():
        click.echo("There is no GPU here that torch can use, so there is nothing to time.")
        return
    found = []
    sizes = [(name, width, count) for name in cell for width in hidden for count in batch]
    for name, width, count in sizes:
        for row in rows(name, getattr(torch, dtype), time, count, width, pairs):
            found.append(row)
            click.echo(
                f"{name:5} {row['direction']:21} T {time} B {count} H {width} {dtype}: "
                f"ours {row['ours_ms'][1]:.3f} ms, cuDNN {row['cudnn_ms'][1]:.3f} ms, ratio {row['ratio'][1]:.2f}"
            )
    if save:
        RESULTS.mkdir(exist_ok=True)
        gpu = torch.cuda.get_device_name().replace(" ", "-").lower()
        path = RESULTS / f"{date.today().isoformat()}-{gpu}-{dtype}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        click.echo(f"{len(found)} rows in {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
