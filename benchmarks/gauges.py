"""What the constants of a machine are fitted to: how fast a card copies, multiplies, ticks, launches and exchanges, and
how long sweeps of cells take by each schedule. Every gauge is a task of the suite of a GPU; `benchmarks.fit` takes its
rows from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from benchmarks.problem import ARITHMETIC, Absent, Case, products_in
from benchmarks.suites import Task
from rnngen.runtime.language import again_launched, tl, triton
from rnngen.runtime.slices import arrive, await_others

if TYPE_CHECKING:
    from rnngen.runtime.plan import Facts, Sizes

Row = dict[str, object]

PART = "calibration"
LAUNCHES = 200  # in a row; a driver takes about a thousand before it makes the host wait
TURNS = 2000
STEPS = 512
INPUTS = 8  # features: what is timed is the sweep alone
LINE = 32  # integers of a line of the cache


def tasks(device: str) -> list[Task]:
    """All of them, in two minutes if kernels compile as fast as they do on a CPU server."""
    half = half_of_the_card()
    sweeps = [Sweeps(schedule, Case(*case, device=device)) for schedule, case in _sweeps(half)]
    sweeps.append(Sweeps("resident", Case("lstm", STEPS, 64, 32, half, device), both=True))
    products = [Products(arithmetic, device) for arithmetic in (half, "float32", "float64")]
    return [Sheet(device), Clock(device), Copy(device), *products, Launches(device), Exchange(device), *sweeps]


def half_of_the_card() -> str:
    """The type of half precision in which it multiplies; the other one is emulated on old ones."""
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _sweeps(half: str) -> Iterator[tuple[str, tuple[str, int, int, int, str]]]:
    """A schedule, and cell, steps, batch, units and arithmetic: a few widths of each, in half precision and one in
    float32.
    """
    for hidden, batch in ((1024, 16), (512, 16), (512, 64), (256, 16)):
        yield "cooperative", ("lstm", STEPS, batch, hidden, half)
    yield "cooperative", ("gru_v3", STEPS, 16, 512, half)
    yield "cooperative", ("layer_norm_lstm", STEPS, 16, 512, half)  # of which the model is known to say too little
    yield "cooperative", ("lstm", STEPS, 16, 256, "float32")
    for hidden, batch in ((128, 16), (64, 16), (64, 256), (32, 16)):
        yield "resident", ("lstm", STEPS, batch, hidden, half)
    yield "resident", ("lstm", STEPS, 16, 64, "float32")
    for cell, hidden in (("lstm", 128), ("gru_v3", 128), ("indrnn", 128), ("lstm", 2048)):
        yield "stepwise", (cell, STEPS, 16, hidden, half)
    for hidden in (256, 4096):
        yield "elementwise", ("indrnn", STEPS, 16, hidden, half)
    for hidden in (64, 1024):
        yield "linear", ("mingru", 4 * STEPS, 16, hidden, half)


def median_ms(function: Callable[[], object]) -> float:
    """Of a function on the card, from a cold L2 cache."""
    from triton.testing import do_bench

    return float(do_bench(function, return_mode="median"))


def _four(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


@dataclass(frozen=True, slots=True)
class _Gauge:
    device: str
    part: str = field(default=PART, init=False)
    cost: float = field(default=2.0, init=False)
    contender = ""

    @property
    def facts(self) -> Row:
        return {"part": self.part, "contender": self.contender}

    def __str__(self) -> str:
        return f"{self.part}: {self.contender}"


class Sheet(_Gauge):
    """The row that the card has in the table of machines: what is fitted begins from it."""

    contender = "data sheet"

    def rows(self) -> Iterator[Row]:
        import torch

        from rnngen.runtime.launch import machine_of

        yield {**self.facts, "sheet": asdict(machine_of(torch.device(self.device)))}


class Clock(_Gauge):
    """From a kernel that waits for a number of cycles to pass; nvidia-smi's word for it is in the row as well."""

    contender = "clock"

    def rows(self) -> Iterator[Row]:
        import torch

        if torch.version.hip:
            yield {**self.facts, "skipped": "on AMD torch has no kernel that waits for a number of cycles"}
            return
        cycles = 10_000_000
        milliseconds = median_ms(lambda: torch.cuda._sleep(cycles))
        yield {**self.facts, "clock_ghz": _four(cycles / milliseconds / 1e6)}


class Copy(_Gauge):
    """Of a tensor far larger than a cache, read and written."""

    contender = "copy"

    def rows(self) -> Iterator[Row]:
        import torch

        size = min(2**30, torch.cuda.mem_get_info()[0] // 8)
        there = torch.empty(size, dtype=torch.uint8, device=self.device)
        here = torch.empty_like(there)
        milliseconds = median_ms(lambda: here.copy_(there))
        yield {**self.facts, "gb_s": _four(2 * size / milliseconds / 1e6)}


@dataclass(frozen=True, slots=True)
class Products:
    """Of two large matrices, by torch; float32 as it is, without tf32."""

    arithmetic: str
    device: str
    part: str = PART
    cost: float = 2.0

    @property
    def facts(self) -> Row:
        return {"part": self.part, "contender": "torch.mm", "arithmetic": self.arithmetic}

    def __str__(self) -> str:
        return f"{self.part}: torch.mm {self.arithmetic}"

    def rows(self) -> Iterator[Row]:
        import torch

        dtype = getattr(torch, self.arithmetic)
        size = 8192 if dtype.itemsize == 2 else 4096
        a = torch.randn(size, size, device=self.device, dtype=dtype)
        out = torch.empty_like(a)
        with products_in("ieee"):
            milliseconds = median_ms(lambda: torch.mm(a, a, out=out))
        yield {**self.facts, "tflops": _four(2 * size**3 / milliseconds / 1e9)}


@triton.jit(do_not_specialize=["T"])
def turns(counter, T, GROUP: tl.constexpr):
    """Programs of one group that wait for one another T times, as those of `cooperative` do, and do nothing else."""
    for turn in tl.range(0, T, num_stages=1):
        arrive(counter)
        await_others(counter, (turn + 1) * GROUP)


class Launches(_Gauge):
    """Of a kernel of Triton's as `stepwise` launches it, and of a small product of torch's: what the host needs for
    each, and the card, which has them one behind another in a CUDA graph.
    """

    contender = "launch"

    def rows(self) -> Iterator[Row]:
        import torch

        dtype = torch.float16
        a, b = (torch.zeros(rows, 64, device=self.device, dtype=dtype) for rows in (16, 64))
        out = torch.empty_like(a)
        counter = torch.zeros(LINE, dtype=torch.int32, device=self.device)
        compiled = turns[(1, 1)](counter, 0, GROUP=1, num_warps=1, enable_fp_fusion=True)[(1, 1, 1)]

        def stage() -> Callable[[], object]:
            again = again_launched(compiled, [counter], [1])  # on the stream that is current where it is made
            return lambda: again(0)

        for name, way in (("stage", stage), ("product", lambda: lambda: torch.mm(a, b, out=out))):
            yield {
                **self.facts,
                "contender": f"launch of a {name}",
                "host_us": _four(min(_host_us(way()) for _ in range(5))),
                "card_us": _four(_card_us(way)),
            }


def _host_us(launch: Callable[[], object]) -> float:
    import torch

    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(LAUNCHES):
        launch()
    return (time.perf_counter() - begun) / LAUNCHES * 1e6


def _card_us(way: Callable[[], Callable[[], object]]) -> float:
    import torch

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch = way()
        for _ in range(LAUNCHES):
            launch()
    return median_ms(graph.replay) / LAUNCHES * 1000


class Exchange(_Gauge):
    """A turn of programs that wait for one another and have nothing else to do, by their number."""

    contender = "exchange"

    def rows(self) -> Iterator[Row]:
        import torch

        most = torch.cuda.get_device_properties(torch.device(self.device)).multi_processor_count
        counter = torch.zeros(LINE, dtype=torch.int32, device=self.device)
        options = {"num_warps": 4, "launch_cooperative_grid": True, "enable_fp_fusion": True}

        def run(programs: int) -> None:
            counter.zero_()
            turns[(programs, 1)](counter, TURNS, GROUP=programs, **options)

        counts = [count for count in (2, 8, 16, 32, 64, 128) if count < most]
        found = {str(count): _four(median_ms(lambda count=count: run(count)) / TURNS * 1000) for count in counts}
        yield {**self.facts, "turn_us": found}


@dataclass(frozen=True, slots=True)
class Sweeps:
    """Both sweeps of a training step by one schedule: what each takes a step, and what the model says.

    both: of a bidirectional layer, whose directions are one launch.
    """

    schedule: str
    case: Case
    both: bool = False
    part: str = PART
    cost: float = 6.0

    @property
    def facts(self) -> Row:
        return {"part": self.part, **asdict(self.case), "contender": self.schedule}

    def __str__(self) -> str:
        return f"{self.part}: {self.schedule}, {self.case}{' both directions' if self.both else ''}"

    def rows(self) -> Iterator[Row]:
        import torch

        from benchmarks.modules import layer_class
        from rnngen.runtime.choose import choose
        from rnngen.runtime.launch import machine_of
        from rnngen.runtime.plan import NotPossible

        case, device = self.case, torch.device(self.case.device)
        options = {"device": case.device, "dtype": getattr(torch, case.arithmetic), "schedule": self.schedule}
        options["bidirectional"] = self.both
        found: list[tuple[Facts, Sizes, str, float]] = []
        try:
            layer = layer_class(case.cell)(INPUTS, case.hidden, **options)
            x = torch.randn(case.time, case.batch, INPUTS, device=device, dtype=options["dtype"])
            with products_in(ARITHMETIC[case.arithmetic].products), _timed(found):
                y, _ = layer(x)
                y.backward(torch.ones_like(y))
        except (Absent, NotPossible) as reason:
            yield {**self.facts, "skipped": str(reason)}
            return
        machine = machine_of(device)
        for facts, sizes, wanted, milliseconds in found:
            choice = choose(facts, sizes, machine, wanted)
            yield {
                **self.facts,
                "contender": choice.schedule,
                "direction": "adjoint" if facts.backwards else "forward",
                "step_us": _four(milliseconds / case.time * 1000),
                "estimated_us": _estimate(choice.schedule, facts, sizes, machine),
                "facts": asdict(facts),
                "call": asdict(sizes),
            }


def _estimate(schedule: str, facts: Facts, sizes: Sizes, machine: object) -> float:
    from rnngen.runtime.choose import plan_of

    return _four(plan_of(schedule, facts, sizes, machine).time)


@contextmanager
def _timed(found: list[tuple[Facts, Sizes, str, float]]) -> Iterator[None]:
    """Within the block every sweep is run until its time is known: its facts, its call, its schedule, milliseconds."""
    from rnngen.runtime import sweep

    whole = sweep.run

    def run(kernels: dict, facts: Facts, scan: object, schedule: str) -> None:
        milliseconds = median_ms(lambda: whole(kernels, facts, scan, schedule))
        found.append((facts, scan.call, schedule if schedule in kernels else "auto", milliseconds))

    sweep.run = run
    try:
        yield
    finally:
        sweep.run = whole
