"""Contenders side by side in one process: every answer is judged, and those that are right are timed, in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.contenders import CONTENDERS, OTHER_CELL, PLAIN
from benchmarks.contenders.run import Run
from benchmarks.contenders.torch_nn import CLASSES, layer_of
from benchmarks.machine import AVAILABLE, keep_to
from benchmarks.problem import Absent, Case, Problem, products_in

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, object]

JUDGED = 16  # sequences of a batch: in float64 a whole one may not fit the host's memory
UNMEASURED = 2  # rounds before the first that counts: kernels are compiled in them, and caches filled
FLUSH_BYTES = 256 * 2**20  # more than the L2 cache of any GPU so far
FAR = 2.5  # times the one that all are compared with: who takes longer is timed apart, since rounds would be few
DIRECTIONS = ("forward", "both")


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure: so many seconds in a row, and how many rounds at least and at most."""

    seconds: float
    least: int
    most: int


class Wrong(Exception):
    """An answer that is too far from the judge's for its time to mean anything."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Contenders on one case. over: the one by which ratios are. directions: of DIRECTIONS.

    about: what else its rows say.
    """

    part: str
    case: Case
    contenders: tuple[str, ...]
    over: str
    budget: Budget
    directions: tuple[str, ...] = DIRECTIONS
    about: tuple[tuple[str, object], ...] = ()

    @property
    def cost(self) -> float:
        """About how long it takes, in seconds, on one thread of a CPU; on a GPU kernels are compiled first."""
        if self.case.device.startswith("cuda"):
            case, cores = self.case, max(1, len(AVAILABLE))
            looped = case.time * 1e-3 * self.budget.least if "loop" in self.contenders else 0
            judged = 48e-10 * case.time * min(case.batch, JUDGED) * case.hidden**2 / cores
            return 6 + 2 * len(self.directions) * self.budget.seconds + looped + judged
        steps = self.case.time * (20e-6 + 1e-9 * self.case.batch * self.case.hidden**2 / 10)
        return 1 + 2 * self.budget.seconds + steps * self.budget.least * len(self.contenders)

    @property
    def facts(self) -> dict[str, object]:
        return {"part": self.part, **asdict(self.case), **dict(self.about)}

    def __str__(self) -> str:
        return f"{self.part}: {self.case}"

    def rows(self) -> Iterator[Row]:
        """A row for each contender and direction, or one for a contender that is absent, wrong or fails."""
        import torch

        if self.case.device.startswith("cuda"):  # then all threads of the CPU are the judge's
            torch.cuda.empty_cache()  # of the case before
        else:
            keep_to(self.case.threads)
        problem = Problem(self.case)
        with products_in(problem.arithmetic.products):
            runs: dict[str, Run] = {}
            for name in self.contenders:
                try:
                    runs[name] = CONTENDERS[name].build(problem)
                except Absent as reason:
                    yield self._row(name, skipped=str(reason))
                except Exception as error:  # anything may happen in somebody's code, and is a finding
                    yield self._row(name, failure=said(error))
            if not runs:
                return
            judgement = judged(runs, problem)
            for name, fault in judgement.faults.items():
                del runs[name]
                yield self._row(name, failure=fault)
            for direction in self.directions:
                yield from self._timed(direction, runs, judgement)

    def _timed(self, direction: str, runs: Mapping[str, Run], judgement: Judgement) -> Iterator[Row]:
        functions, warm = {}, {}
        clock = stopwatch(self.case.device)
        for name, run in runs.items():
            function = getattr(run, direction)
            try:
                warm[name] = min(clock(function)[0] for _ in range(UNMEASURED))
                functions[name] = function
            except Exception as error:
                yield self._row(name, direction=direction, failure=said(error))
        done: set[str] = set()
        for group in apart(warm, self.over):
            times = timed({name: functions[name] for name in group}, self.budget, clock)
            for name, samples in times.items():
                if name in done:
                    continue  # the one that all are compared with, once more
                done.add(name)
                pairs = zip(samples, times.get(self.over, ()), strict=self.over in times)
                yield self._row(
                    name,
                    direction=direction,
                    version=runs[name].version,
                    error=judgement.errors.get(name),
                    first_s=judgement.seconds.get(name),
                    rounds=len(samples),
                    ms=quartiles(wall for wall, _ in samples),
                    cpu_ms=quartiles(own for _, own in samples) if self.case.device == "cpu" else None,
                    ratio=quartiles(ours / theirs for (ours, _), (theirs, _) in pairs) if self.over in times else None,
                )

    def _row(self, name: str, **facts: object) -> Row:
        known = {key: fact for key, fact in facts.items() if fact not in ("", None)}
        return {**self.facts, "contender": name, "over": self.over, **known}


# The judge.


@dataclass(frozen=True, slots=True)
class Judgement:
    """errors: of contenders that are right, the largest relative error. faults: of the others, a sentence. seconds: how
    long the first answer of each took, output and gradients; something may be compiled for it.
    """

    errors: dict[str, float]
    faults: dict[str, str]
    seconds: dict[str, float]


def judged(runs: Mapping[str, Run], problem: Problem) -> Judgement:
    """The output and every gradient of each contender, beside the judge: torch.nn's layer in float64 on the CPU, where
    no cuDNN is, or for a cell that it has not the layer's `reference`.

    Sequences spread over the batch are judged; the others have no part in the loss, but are computed with them. One is
    wrong if it is beyond the limit of the arithmetic, and further off than twice torch's own answer in that type.
    """
    import torch

    x = problem.rows["x"]
    some = torch.linspace(0, x.shape[1] - 1, min(JUDGED, x.shape[1])).long()
    exact, own = exact_answer(problem, some)
    seeds = torch.zeros(*x.shape[:2], own.shape[-1], dtype=x.dtype)
    seeds[:, some] = own.to(x.dtype)
    errors: dict[str, dict[str, float]] = {}
    faults, seconds = {}, {}
    for name, run in runs.items():
        if name == OTHER_CELL:
            continue
        begun = time.perf_counter()
        try:
            found = run.outcome(seeds)
        except Exception as error:
            faults[name] = said(error)
            continue
        seconds[name] = round(time.perf_counter() - begun, 4)
        errors[name] = {
            what: relative_error(value[:, some] if what in problem.rows or what == "y" else value, exact[what])
            for what, value in found.items()
            if what in exact
        }
    plain = next((errors[name] for name in PLAIN if name in errors), {})
    for name in list(errors):
        try:
            check(errors[name], plain, problem.arithmetic.limit)
        except Wrong as fault:
            faults[name] = said(fault)
            del errors[name]
    return Judgement({name: max(found.values()) for name, found in errors.items()}, faults, seconds)


def exact_answer(problem: Problem, some: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The output and the gradients in float64, of these sequences alone, from the same rounded numbers; and what was
    drawn for the gradient of the output.
    """
    import torch

    from benchmarks.modules import layer_class

    case = problem.case
    rows = {name: value[:, some.to(value.device)].double().cpu() for name, value in problem.rows.items()}
    leaf = rows.pop("x").requires_grad_()
    peer = case.cell in CLASSES
    exact = {"device": "cpu", "dtype": torch.float64}
    if peer:
        layer = layer_of(case.cell, problem, **exact)
    else:
        layer = layer_class(case.cell, native=False)(case.hidden, case.hidden, **exact)
    layer.load_state_dict(problem.weights)
    y, _ = layer(leaf) if peer else layer.reference(leaf, **rows)
    generator = torch.Generator().manual_seed(3)
    seeds = torch.randn(y.shape, generator=generator).to(problem.dtype)
    y.backward(seeds.double())
    found = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    return {**found, "x": leaf.grad, "y": y.detach()}, seeds


def relative_error(found: Tensor, exact: Tensor) -> float:
    """In the root mean square; infinite for what is no number."""
    error, size = (found - exact).norm().item(), exact.norm().item()
    if not math.isfinite(error):
        return math.inf
    return error / size if size else float(error > 0)


def check(errors: Mapping[str, float], plain: Mapping[str, float], limit: float) -> None:
    """Raises Wrong with all that is too far off. plain: torch's own errors in that type."""
    wrong = [name for name, error in errors.items() if not error <= max(limit, 2 * plain.get(name, 0.0))]
    if wrong or "y" not in errors:
        told = ", ".join(f"{name} {errors[name]:.1e} (torch's own {plain.get(name, 0):.1e})" for name in wrong)
        raise Wrong(f"beyond {limit:.0e} of float64, so it is not timed: {told}")


# Times.


Clock = Callable[[Callable[[], None]], tuple[float, float]]


def stopwatch(device: str) -> Clock:
    """A function that gives the milliseconds of another, by the clock and of the processor: on a CPU those of all
    threads of the process, on a GPU twice those between two of its events, behind a flush of its L2 cache.
    """
    import torch

    if not device.startswith("cuda"):

        def by_clock(function: Callable[[], None]) -> tuple[float, float]:
            own, start = time.process_time(), time.perf_counter()
            function()
            return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - own)

        return by_clock
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def by_events(function: Callable[[], None]) -> tuple[float, float]:
        flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        stop.record()
        torch.cuda.synchronize()
        return (start.elapsed_time(stop),) * 2

    return by_events


def apart(warm: Mapping[str, float], over: str) -> Iterator[tuple[str, ...]]:
    """The names in groups that are timed together: those that take long have one of their own, with `over` in it.

    warm: about how long each takes.
    """
    limit = FAR * warm.get(over, math.inf)
    slow = tuple(name for name in warm if warm[name] > limit)
    yield tuple(name for name in warm if name not in slow)
    if slow:
        yield (over, *slow)


def timed(
    functions: Mapping[str, Callable[[], None]], budget: Budget, clock: Clock
) -> dict[str, list[tuple[float, float]]]:
    """What the clock says of each function, round by round, until the budget is spent."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    begun = time.perf_counter()
    for number in range(budget.most):
        if number >= budget.least and time.perf_counter() - begun > budget.seconds:
            break
        for name in in_turn(list(functions), number):
            samples[name].append(clock(functions[name]))
    return samples


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: over twice as many rounds as there are names, each is as often at every place, and as often
    behind every other, which leaves the caches to it (Williams 1949).
    """
    count = len(names)
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    order = [names[(place + number) % count] for place in zigzag]
    return order[::-1] if number // count % 2 else order


def quartiles(values: Iterable[float]) -> list[float]:
    """Three, to four digits."""
    return [float(f"{value:.4g}") for value in statistics.quantiles(values, n=4, method="inclusive")]


def said(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast torch multiplies two matrices of float32 on one thread, by its usual product or by oneDNN, whichever is
    faster here: what floors are made of.
    """

    size: int = 1024
    part: str = "floor"
    cost: float = 2.0

    @property
    def facts(self) -> dict[str, object]:
        return {"part": self.part, "hidden": self.size}

    def __str__(self) -> str:
        return "floor: products"

    def rows(self) -> Iterator[Row]:
        import torch
        from torch.utils.mkldnn import to_mkldnn

        keep_to(1)
        a, clock = torch.randn(self.size, self.size), stopwatch("cpu")
        ways = {"torch.mm": lambda: torch.mm(a, a)}
        if torch.backends.mkldnn.is_available():
            linear, of_its_own = to_mkldnn(torch.nn.Linear(self.size, self.size)), a.to_mkldnn()
            ways["oneDNN"] = lambda: linear(of_its_own)
        with torch.no_grad():
            shortest = {name: min(clock(way)[1] for _ in range(12)) for name, way in ways.items()}
        name = min(shortest, key=lambda name: shortest[name])
        rate = 2 * self.size**3 / shortest[name] / 1e6
        yield {**self.facts, "contender": name, "gflops": round(rate, 1)}
