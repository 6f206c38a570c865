"""One contender in a process of its own: how long its first result takes, and how much memory a training step.

    python -m benchmarks.alone '{"cell": "lstm", "time": 64, ...}' CONTENDER [--memory]

It prints a line of JSON when the first result is there, an output and all gradients, and with --memory another one.
Nothing is imported before it is wanted, since that is part of the first result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.run import Run, TorchRun
from benchmarks.problem import Absent, Case, Problem

CACHES = ("RNNGEN_CACHE", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")
"""Variables that say where contenders keep what they have compiled."""
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class FirstResult:
    """How long it takes from the start of Python to the first result, twice: with empty caches, and then."""

    case: Case
    contender: str
    part: str = "first"
    cost: float = 8.0

    @property
    def facts(self) -> dict[str, object]:
        return {"part": self.part, **asdict(self.case), "contender": self.contender}

    def __str__(self) -> str:
        return f"{self.part}: {self.contender}, {self.case}"

    def rows(self) -> Iterator[dict[str, object]]:
        with tempfile.TemporaryDirectory(prefix="rnngen-") as folder:
            for cache in ("empty", "filled"):
                began = time.perf_counter()
                with answers_of(self.case, self.contender, {name: f"{folder}/{name}" for name in CACHES}) as answers:
                    answer = next(answers)
                    seconds = round(time.perf_counter() - began, 3)
                ready = "ready" in answer
                yield self.facts | ({"cache": cache, "seconds": seconds} if ready else answer)
                if not ready:
                    return


@dataclass(frozen=True, slots=True)
class Memory:
    """What a training step adds to a process, at its highest, and what its forward pass keeps for the backward one."""

    case: Case
    contender: str
    part: str = "memory"

    @property
    def cost(self) -> float:
        return 3 + self.case.time / 4000

    @property
    def facts(self) -> dict[str, object]:
        return {"part": self.part, **asdict(self.case), "contender": self.contender}

    def __str__(self) -> str:
        return f"{self.part}: {self.contender}, {self.case}"

    def rows(self) -> Iterator[dict[str, object]]:
        if not STATUS.exists():
            yield self.facts | {"skipped": "only Linux says what a process had at its highest, and can forget it"}
            return
        with answers_of(self.case, self.contender, {}, "--memory") as answers:
            answer = next(answers)
            yield self.facts | (next(answers) if "ready" in answer else answer)


@contextmanager
def answers_of(
    case: Case, contender: str, environment: dict[str, str], *options: str
) -> Iterator[Iterator[dict[str, object]]]:
    """What a process says that is begun for this alone, line by line; that it has ended is an answer too."""
    command = [sys.executable, "-m", "benchmarks.alone", json.dumps(asdict(case)), contender, *options]
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        assert child.stdout is not None  # but a pipe
        try:
            yield _answers(child, child.stdout, complaints)
        finally:  # also where somebody interrupts
            child.kill()
            child.wait()
            child.stdout.close()


def _answers(child: subprocess.Popen[bytes], lines: IO[bytes], complaints: IO[bytes]) -> Iterator[dict[str, object]]:
    yield from map(json.loads, lines)
    code = child.wait()
    complaints.seek(0)
    last = (complaints.read().decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
    yield {"failure": f"its process ended with exit code {code}: {last[:300]}"}


# The process itself.


def main(order: str, contender: str, *options: str) -> None:
    case = Case(**json.loads(order))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody else prints is no answer

    def answer(**facts: object) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    build = CONTENDERS[contender].build
    try:
        build(Problem(replace(case, time=1 if options else case.time), alone=True)).both()
    except Absent as reason:
        answer(skipped=str(reason))
        return
    answer(ready=True)
    if options:
        run = build(Problem(case, alone=True))
        answer(peak_mb=round(peak_growth(run.both) / 1e6, 1), saved_mb=_saved(run))


def _saved(run: Run) -> float | None:
    """In megabytes; None where it is not torch that differentiates."""
    return round(run.saved_bytes() / 1e6, 3) if isinstance(run, TorchRun) else None


def peak_growth(function: Callable[[], None]) -> int:
    """By how many bytes the process is larger at its highest than before, in resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = _kilobytes("VmRSS")
    function()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(name: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
