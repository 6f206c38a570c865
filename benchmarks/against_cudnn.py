"""The generated LSTM and GRU beside torch.nn's, which run cuDNN: first both answers are judged, then both are timed.

    python -m benchmarks.against_cudnn [--dtype bfloat16] [--hidden 64] [--batch 16] [--time 1024] [--out FILE]

It needs torch, Triton and a checkout. Both layers have the same weights and the same arithmetic, and run in one
process, a pair at a time and first in turn, each from a cold L2 cache. The judge is torch.nn's layer in float64 on the
CPU, where no cuDNN is. A row has the errors of both, the quartiles of both times and of their ratio pair by pair, and
where it was made. Rows are appended to the file as they come, a line of JSON each; a size that fails is a row, too.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class Arithmetic:
    """A type, and how products of float32 are computed: "ieee", or "tf32" with operands of 10 bits after the point.

    limit: the relative error, in the root mean square against float64, up to which an answer counts as right.
    """

    dtype: torch.dtype
    products: str
    limit: float


ARITHMETIC = {
    "float32": Arithmetic(torch.float32, "ieee", 1e-4),
    "tf32": Arithmetic(torch.float32, "tf32", 1e-2),
    "bfloat16": Arithmetic(torch.bfloat16, "ieee", 5e-2),
    "float16": Arithmetic(torch.float16, "ieee", 1e-2),
}
JUDGED = 16  # sequences of a batch: in float64 a whole one may not fit the host's memory
UNMEASURED = 3  # rounds before the first that counts: kernels are compiled in them
FLUSH_BYTES = 256 * 2**20  # more than the L2 cache of any GPU so far


@dataclass(frozen=True)
class Size:
    """One comparison. hidden: units, and features of the input. arithmetic: a name in ARITHMETIC."""

    cell: str
    arithmetic: str
    time: int
    batch: int
    hidden: int


class Wrong(Exception):
    """An answer that is too far from the judge's for its time to mean anything."""


# Where a row was made.


def surroundings(device: torch.device) -> dict[str, object]:
    """The card and the versions, None for what is not there."""
    from rnngen.runtime.language import MISSING, triton

    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "triton": None if MISSING else triton.__version__,
        "python": platform.python_version(),
        "commit": _answer("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"),
    }


SENSORS = {
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "sm_clock_most_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def sensors(device: torch.device) -> dict[str, str | None]:
    """What nvidia-smi says of the card at this moment; None where it says nothing."""
    found = None
    if device.type == "cuda":
        # torch counts the cards that it sees, nvidia-smi all of them.
        card = f"GPU-{getattr(torch.cuda.get_device_properties(device), 'uuid', '')}"
        query = f"--query-gpu={','.join(SENSORS.values())}"
        found = _answer("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", card)
    values = found.split(", ") if found else []
    return dict(zip(SENSORS, values, strict=True)) if len(values) == len(SENSORS) else dict.fromkeys(SENSORS)


def _answer(*command: str) -> str | None:
    """What a command prints, None if it is not there or fails."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


# The same arithmetic on both sides, and the judge.


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Within the block both cuDNN's recurrent layers and other products of float32 are computed so.

    torch's own defaults differ: tf32 for cuDNN's, IEEE for the others.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = precision
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def outcome(layer: nn.Module, x: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    """The output and every gradient, in float64 on the CPU."""
    layer.train()
    leaf = x.detach().clone().requires_grad_()
    y, _ = layer(leaf)
    y.backward(seeds)
    found = {name: parameter.grad for name, parameter in layer.named_parameters()} | {"y": y, "x": leaf.grad}
    layer.zero_grad()
    return {name: tensor.detach().double().cpu() for name, tensor in found.items()}


def judged(ours: nn.Module, theirs: nn.Module, x: Tensor, limit: float) -> dict[str, dict[str, float]]:
    """By name, of the output and of every gradient: the relative error of ours and of cuDNN's against float64.

    Sequences spread over the batch are judged; the others have no part in the loss, but are computed with them. Raises
    Wrong if ours is beyond the limit, and further off than twice cuDNN's.
    """
    some = torch.linspace(0, x.shape[1] - 1, min(JUDGED, x.shape[1])).long()
    seeds = torch.zeros(*x.shape[:2], ours.hidden_size, dtype=x.dtype)
    seeds[:, some] = torch.randn(x.shape[0], len(some), ours.hidden_size).to(x.dtype)
    judge = type(theirs)(theirs.input_size, theirs.hidden_size, dtype=torch.float64)
    judge.load_state_dict(theirs.state_dict())
    exact = outcome(judge, x[:, some.to(x.device)].double().cpu(), seeds[:, some].double())
    errors: dict[str, dict[str, float]] = {}
    for side, layer in (("ours", ours), ("cudnn", theirs)):
        for name, value in outcome(layer, x, seeds.to(x.device)).items():
            value = value[:, some] if name in ("x", "y") else value
            errors.setdefault(name, {})[side] = ((value - exact[name]).norm() / exact[name].norm()).item()
    wrong = [name for name, pair in errors.items() if not pair["ours"] <= max(limit, 2 * pair["cudnn"])]
    if wrong:
        told = ", ".join(f"{name} {errors[name]['ours']:.1e} (cuDNN {errors[name]['cudnn']:.1e})" for name in wrong)
        raise Wrong(f"beyond {limit:.0e} of float64, so nothing was timed: {told}")
    return errors


# Times.


def stopwatch(device: torch.device) -> Callable[[Callable[[], None]], float]:
    """A function that gives the milliseconds of another: by events of the GPU, behind a flush of its L2 cache."""
    if device.type != "cuda":

        def by_clock(function: Callable[[], None]) -> float:
            start = time.perf_counter()
            function()
            return 1000 * (time.perf_counter() - start)

        return by_clock
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def by_events(function: Callable[[], None]) -> float:
        flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop)

    return by_events


def timed(
    functions: dict[str, Callable[[], None]], pairs: int, milliseconds: Callable[[Callable[[], None]], float]
) -> dict[str, list[float]]:
    """Milliseconds of each function, `pairs` times after a few unmeasured rounds; which comes first alternates."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(pairs + UNMEASURED):
        for name in list(functions)[:: 1 if number % 2 else -1]:
            found = milliseconds(functions[name])
            if number >= UNMEASURED:
                times[name].append(found)
    return times


def forward(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """Inference: in training cuDNN would keep what a backward pass needs, and ours would not without a gradient."""
    layer.eval()

    def run() -> None:
        with torch.no_grad():
            layer(x)

    return run


def both(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """A training step without an optimizer."""
    layer.train()
    leaf = x.detach().clone().requires_grad_()
    seed = torch.ones(*x.shape[:2], layer.hidden_size, device=x.device, dtype=x.dtype)

    def run() -> None:
        layer(leaf)[0].backward(seed)
        layer.zero_grad()
        leaf.grad = None

    return run


MEASURED = {"forward": forward, "forward and backward": both}


def rows(size: Size, pairs: int, device: torch.device) -> Iterator[dict[str, object]]:
    """One row for the forward pass and one for forward and backward. Raises Wrong, or what torch raises."""
    arithmetic = ARITHMETIC[size.arithmetic]
    options = {"device": device, "dtype": arithmetic.dtype}
    torch.manual_seed(0)
    theirs = CELLS[size.cell](size.hidden, size.hidden, **options)
    ours = getattr(import_module(f"generated.{size.cell}"), size.cell.upper())(size.hidden, size.hidden, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(size.time, size.batch, size.hidden, **options)
    with products_in(arithmetic.products):
        errors = judged(ours, theirs, x, arithmetic.limit)
        for direction, make in MEASURED.items():
            times = timed({"ours": make(ours, x), "cudnn": make(theirs, x)}, pairs, stopwatch(device))
            ratios = [a / b for a, b in zip(times["ours"], times["cudnn"], strict=True)]
            row: dict[str, object] = {"direction": direction, "products": arithmetic.products, "pairs": pairs}
            row["training"] = ours.training
            for name, values in (("ours_ms", times["ours"]), ("cudnn_ms", times["cudnn"]), ("ratio", ratios)):
                row[name] = [round(quartile, 4) for quartile in statistics.quantiles(values, n=4)]
            for side in ("ours", "cudnn"):
                row[f"{side}_error"] = max(pair[side] for pair in errors.values())
            yield row | {"errors": errors} | sensors(device)


def compared(sizes: Sequence[Size], pairs: int, device: torch.device) -> Iterator[dict[str, object]]:
    """The rows of all sizes. Whatever a size raises is a row, and the next one has its turn."""
    here = surroundings(device)
    for size in sizes:
        about = {"when": datetime.now(UTC).isoformat(timespec="seconds")} | asdict(size)
        failure = None
        try:
            for row in rows(size, pairs, device):
                yield about | row | here
        except Exception as error:  # out of memory, a kernel that does not compile, a wrong answer: all are findings
            failure = f"{type(error).__name__}: {error}"[:2000]
        if failure:
            yield about | {"failure": failure} | sensors(device) | here
        if device.type == "cuda":
            torch.cuda.empty_cache()


def line(row: dict[str, object]) -> str:
    """A row for a reader."""
    size = f"{row['cell']:5} T {row['time']} B {row['batch']} H {row['hidden']} {row['arithmetic']}"
    if "failure" in row:
        return f"{size}: FAILED, {row['failure']}"
    return (
        f"{size}, {row['direction']}: ours {row['ours_ms'][1]:.3f} ms, cuDNN {row['cudnn_ms'][1]:.3f} ms, "
        f"ratio {row['ratio'][1]:.2f}; error {row['ours_error']:.1e}, cuDNN's {row['cudnn_error']:.1e}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, prints and appends; 1 if a size failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against_cudnn",
        description="Time the generated cells beside cuDNN's. Options that name sizes may be given several values.",
    )
    parser.add_argument("--cell", choices=CELLS, nargs="+", default=list(CELLS))
    parser.add_argument("--dtype", choices=ARITHMETIC, nargs="+", default=["bfloat16"], help="float32 is without tf32")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--time", type=int, nargs="+", default=[1024])
    parser.add_argument("--pairs", type=int, default=25, help="measurements of each, at least 2")
    parser.add_argument(
        "--device", default="cuda", help="cpu tries the program where there is no GPU; no cuDNN is there"
    )
    parser.add_argument("--out", type=Path, help="where rows are appended; else benchmarks/results/DATE-DEVICE.jsonl")
    given = parser.parse_args(arguments)
    if given.pairs < 2:
        parser.error("--pairs: quartiles need two measurements at least")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no GPU here that torch can use, so there is nothing to time.")
        return 0
    device = torch.device(given.device)
    sizes = [
        Size(cell, dtype, steps, batch, hidden)
        for dtype in given.dtype
        for cell in given.cell
        for steps in given.time
        for hidden in given.hidden
        for batch in given.batch
    ]
    name = str(surroundings(device)["device"]).replace(" ", "-").replace("/", "-").lower()
    out = given.out or RESULTS / f"{datetime.now(UTC).date().isoformat()}-{name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    for row in compared(sizes, given.pairs, device):
        failures += "failure" in row
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(line(row), flush=True)
    print(f"The rows are in {out}" + (f"; {failures} of {len(sizes)} sizes failed" if failures else ""))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
