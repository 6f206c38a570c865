"""Random cells for as long as there is time: `make fuzz SECONDS=600 SEED=1`.

Three processes: two run the CPU path, by the torch steps and in native code, the third the kernels of every schedule in
Triton's interpreter.
Hypothesis draws and shrinks. What it finds is written to `found/`, where the tests run it from then on; a second
failure of the same kind is counted and no more.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from conftest import Modules
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from random_cells import FOUND, Call, Trial, Wrong, calls, cells, check, kept

import rnngen
from rnngen.errors import ModelError
from rnngen.runtime.language import interpreting

PACKAGE = Path(rnngen.__file__).parent
SHRINKING = 60  # seconds, for one failure
CALLS = {"torch": 3, "native": 4, "kernels": 2}  # of each cell: to compile it takes longer than a call on the CPU path


def fuzz(seconds: float, number: int, folder: Path) -> int:
    """Run the processes, print what they did, and give the number of failures, each now a file in the folder."""
    started = []
    for path in CALLS:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": str(int(path == "kernels"))}
        order = [sys.executable, __file__, f"--seconds={seconds}", f"--seed={number}", f"--found={folder}"]
        started.append(subprocess.Popen([*order, f"--only={path}"], stdout=subprocess.PIPE, env=environment, text=True))
    odd = 0
    try:
        for process, path in zip(started, CALLS, strict=True):
            lines = process.communicate()[0].splitlines()
            if process.returncode:
                raise RuntimeError(f"the process for {path} ended with exit code {process.returncode}")
            odd += _print_report(path, number, json.loads(lines[-1]))
    finally:
        for process in started:
            process.kill()
    return odd


def _print_report(path: str, number: int, report: dict) -> int:
    minutes = report["seconds"] / 60
    title = {"torch": "The CPU path", "native": "Native code", "kernels": "Kernels, interpreted"}[path]
    tally, failures = report["tally"], report["failures"]
    print(f"{title}, seed {number}: {report['seconds']:.0f} s")
    for name, count in sorted(tally.items(), key=lambda item: (item[0] not in ("cells", "rejected"), item)):
        print(f"  {name:<28} {count:7d}   {count / minutes:7.1f} a minute")
    for failure in failures:
        print(f"  FAILED after {failure['cells']} cells and {failure['seconds']:.0f} s: {failure['kind']}")
        print(f"    {failure['message']}\n    kept, shrunk, as {failure['file']}")
    print(f"  {len(failures)} kinds of failure\n" if failures else "  nothing failed\n", flush=True)
    return len(failures)


class _Session:
    """One process at work. tally: what was done so far, by name. failures: a record of each kind that was found."""

    def __init__(self, path: str, seconds: float, number: int, folder: Path, modules: Callable):
        self.path, self.number, self.folder, self.modules = path, number, folder, modules
        self.began = time.monotonic()
        self.ends = self.began + seconds
        self.tally: Counter[str] = Counter()
        self.failures: dict[str, dict] = {}
        self.shrinking = 0.0  # when that has to end, if a failure is being shrunk
        self.seen: dict[tuple[str, Call], Exception] = {}  # what failed in this round
        self.last: tuple[str, Call] = ("", Call())
        self.failure: dict = {}  # when the first of a kind was seen

    def run(self) -> dict:
        rounds = 0
        while time.monotonic() < self.ends:
            options = settings(max_examples=100, derandomize=False, deadline=None, print_blob=False)
            options = settings(options, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
            draw = seed(self.number * 1000 + rounds)(options(given(st.data())(self._one)))
            self.seen, self.shrinking = {}, 0.0
            try:
                draw()
            except Exception:
                if not self.seen:
                    raise
                self._keep()
            rounds += 1
        return {
            "seconds": time.monotonic() - self.began,
            "tally": dict(self.tally),
            "failures": list(self.failures.values()),
        }

    def _one(self, data: st.DataObject) -> None:
        """Draw a cell and some calls, and check them. Raises what is wrong with it, if that is of a new kind."""
        text = data.draw(cells())
        drawn = [data.draw(calls(text)) for _ in range(CALLS[self.path])]
        if time.monotonic() > self.ends and not self.shrinking:
            return
        self.tally["cells"] += not self.shrinking
        for call in drawn:
            try:
                self._check(text, call)
            except ModelError:
                self.tally["rejected"] += not self.shrinking
                return
            except Exception as error:
                self._fail(text, call, error)

    def _check(self, text: str, call: Call) -> None:
        if self.shrinking and time.monotonic() > self.shrinking:  # hypothesis ends when nothing smaller fails
            if (text, call) in self.seen:
                raise self.seen[text, call]
            return
        for run in check(Trial(text, self.modules(text)), call):
            if not self.shrinking:
                self._count(run, call)

    def _count(self, run: str, call: Call) -> None:
        self.tally[run] += 1
        if run == "reference":
            return
        kinds = {"masked": bool(call.lengths), "reversed": call.reverse, "bidirectional": call.bidirectional}
        kinds |= {"two layers": call.num_layers > 1, "projected": bool(call.proj_size), "heads": call.heads > 1}
        kinds |= {"several steps": call.time > 1, "float32": call.dtype == "float32"}
        self.tally.update(f"{run}, {kind}" for kind, on in kinds.items() if on)

    def _fail(self, text: str, call: Call, error: Exception) -> None:
        kind = _kind(error)
        if kind in self.failures:
            self.tally[f"again: {kind}"] += 1
            return
        if not self.shrinking:
            self.shrinking = time.monotonic() + SHRINKING
            self.failure = {"cells": self.tally["cells"], "seconds": time.monotonic() - self.began}
        self.seen[text, call] = error
        self.last = text, call
        raise error

    def _keep(self) -> None:
        """Write a failure down, shrunk, so that the tests have it from now on."""
        text, call = self.last
        error = self.seen[self.last]
        kind = _kind(error)
        stem = f"{'_'.join(kind.lower().split()[:2])}_{sha256(text.encode()).hexdigest()[:8]}"
        file = self.folder / f"{stem}.toml"
        self.folder.mkdir(exist_ok=True)
        file.write_text(kept(text, call))
        record = {"kind": kind, "message": str(error).splitlines()[0][:200] if str(error) else "", "file": str(file)}
        self.failures[kind] = self.failure | record


def _kind(error: Exception) -> str:
    """Failures of one kind are taken for one fault: those of a path, or from one place in the code."""
    if isinstance(error, Wrong):
        return f"{error.path} wrong"
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if Path(frame.filename).is_relative_to(PACKAGE)]
    place = f" in {Path(frames[-1].filename).name}, {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{place}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=FOUND, help="where what is found is written")
    parser.add_argument("--only", choices=list(CALLS), help="one process, whose report is a line of JSON")
    given_ = parser.parse_args()
    if not given_.only:
        sys.exit(1 if fuzz(given_.seconds, given_.seed, given_.found) else 0)
    if interpreting() != (given_.only == "kernels"):
        parser.error("kernels are interpreted where TRITON_INTERPRET=1, and nowhere else")
    if interpreting():
        from bounds import watch

        watch()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RNNGEN_CACHE"] = str(Path(folder, "cache"))
        modules = Modules(Path(folder), native=given_.only == "native")
        session = _Session(given_.only, given_.seconds, given_.seed, given_.found, modules)
        print(json.dumps(session.run()))


if __name__ == "__main__":
    main()
