"""Whether kernels are right on the card that is here, by `tests/test_gpu.py`: what is wrong need not be timed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.machine import AVAILABLE
from benchmarks.modules import ROOT

Row = dict[str, object]

CHECKS = "tests/test_gpu.py"
DTYPES = ("bfloat16", "float32", "float16", "float64")
NAMED = 20  # failures that a row names
COMPILERS = 8  # processes at most, each of which compiles kernels on a core


@dataclass(frozen=True, slots=True)
class Correctness:
    """The checks of one type, "" for those of none, in a process of their own: a kernel that writes where it must not
    takes no other task with it.

    checks: a file of pytest's, from the root of the repository. seconds: how long they may take, before they count as
    hanging.
    """

    arithmetic: str
    checks: str = CHECKS
    seconds: float = 480
    part: str = "correctness"

    @property
    def cost(self) -> float:
        """Nearly all of it is compiling, which the processes share: on sm_90 the checks of bfloat16 have 259 kernels,
        and 65 of them took 93 s on a core of a CPU server.
        """
        return 400 / _processes()

    @property
    def facts(self) -> Row:
        return {"part": self.part, "contender": "rnngen", "arithmetic": self.arithmetic or "any"}

    def __str__(self) -> str:
        return f"{self.part}: {self.arithmetic or 'others'}"

    @property
    def which(self) -> str:
        """The checks as pytest selects them: every name of a type is a part of its checks' names."""
        if not self.arithmetic:
            return " and not ".join(("test", *DTYPES))
        longer = [name for name in DTYPES if self.arithmetic in name and self.arithmetic != name]
        return " and not ".join((self.arithmetic, *longer))

    def rows(self) -> Iterator[Row]:
        """One: how many are right, which are wrong, and how many this card has no room or no type for."""
        if importlib.util.find_spec("pytest") is None:
            yield {**self.facts, "skipped": "pytest is not installed: pip install pytest"}
            return
        with tempfile.TemporaryDirectory(prefix="rnngen-") as folder:
            report = Path(folder) / "checks.xml"
            options = ["-q", "-k", self.which, "-p", "no:cacheprovider", f"--junitxml={report}"]
            if (processes := _processes()) > 1:
                options += ["-n", str(processes)]
            command = [sys.executable, "-m", "pytest", self.checks, *options]
            status, said = _ended(command, self.seconds)
            if status is None:
                why = f"the checks were not done within {self.seconds:g} s, so they hang or the machine is slow: {said}"
                yield {**self.facts, "failure": why}
            elif not report.exists():
                yield {**self.facts, "failure": f"pytest ended with {status} and without a report: {said}"}
            else:
                yield {**self.facts, **_outcome(ElementTree.parse(report).getroot())}


def _processes() -> int:
    return max(1, min(COMPILERS, len(AVAILABLE))) if importlib.util.find_spec("xdist") else 1


def _ended(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """The exit status of a command, None if it had to be ended, and the last of what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryFile() as printed:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            status: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if child.poll() is None:
                child.kill()  # its workers end when they hear no more of it
                child.wait()
        printed.seek(0)
        return status, " ".join(printed.read().decode("utf-8", "replace").split())[-300:]


def _outcome(report: ElementTree.Element) -> Row:
    """Of a report in JUnit's form, which pytest writes."""
    cases = list(report.iter("testcase"))
    wrong = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    seconds = sum(float(suite.get("time", 0)) for suite in report.iter("testsuite"))
    row: Row = {"passed": len(cases) - len(wrong) - skipped, "left_out": skipped, "seconds": round(seconds, 1)}
    if wrong:
        names = [f"{case.get('name')}: {_reason(case)}" for case in wrong[:NAMED]]
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        row |= {"wrong": len(wrong), "failure": f"{len(wrong)} of {len(cases)} are wrong: {'; '.join(names)}{more}"}
    # A process of its own that finds no GPU has judged nothing.
    none = [
        found
        for case in cases
        if (found := case.find("skipped")) is not None and "collection" in found.get("message", "")
    ]
    if none or not cases:
        row["failure"] = f"no check ran: {' '.join((none[0].text or '').split()) if none else 'pytest found none'}"
    return row


def _reason(case: ElementTree.Element) -> str:
    """What pytest says of a failure, in a few words."""
    found = next(one for kind in ("failure", "error") if (one := case.find(kind)) is not None)
    return " ".join((found.get("message") or "").split())[:120]
