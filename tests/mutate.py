"""Mutants: small wrong changes of the compiler, the runtime and the templates, each of which some test has to find.

    python tests/mutate.py [--number 100] [--seed 1] [--workers 2] [--minutes 45]

A mutant is one line changed by a rule of universalmutator, or one of the hand-made ones in `mutants/handmade.toml`. It
is made in a copy of the repository, where the tests nearest to its file run (`mutants/judges.toml`) until one fails.
What survives is printed as a diff, and wants a test, or a row with the reason in `mutants/equivalent.toml`.

universalmutator knows text and rules, no syntax tree. Here that is what is needed: half of the compiler is text of
Triton and torch within strings and templates, where cosmic-ray and mutmut, which change expressions of Python, see one
constant; and a kernel stays one function in a file, as Triton reads it, where mutmut puts a switch around each.
"""

import ast
import builtins
import contextlib
import io
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from difflib import unified_diff
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import click
from jinja2 import ChoiceLoader, DictLoader, TemplateError

from rnngen.audit import Unsafe
from rnngen.compile import compile_model
from rnngen.description import library
from rnngen.emit.render import environment
from rnngen.source import Source

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).parent / "mutants"
AREAS = {
    "ops": ["rnngen/ops.py", "rnngen/build.py"],
    "passes": ["rnngen/chain.py", "rnngen/passes/*.py"],
    "emit": ["rnngen/emit/*.py", "rnngen/emit/*/*.py"],
    "runtime": ["rnngen/runtime/*.py", "rnngen/runtime/schedules/*.py"],
    "templates": ["templates/*/*.jinja"],
}
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "dist", "*.egg-info", ".*_cache")
MEMORY = 8 * 2**30  # bytes a test may have: a loop that never ends may fill a list


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed file. origin: the seed and number of its draw, or the name of a hand-made one."""

    area: str
    file: str
    before: str
    after: str
    origin: str

    @property
    def diff(self) -> str:
        lines = unified_diff(self.before.splitlines(True), self.after.splitlines(True), self.file, self.file, n=0)
        return "".join(lines)

    @property
    def changed(self) -> tuple[str, str]:
        """The lines that differ, before and after, without their indentation."""
        lines = self.diff.splitlines()[2:]
        return tuple("\n".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """by: the test that failed, or how its process ended; empty for a survivor."""

    kind: str
    by: str
    seconds: float


class Fault(click.ClickException):
    """What makes a run worthless: tests that fail unchanged, a row that fits nothing."""


# What is drawn.


def drawn(seed: int, number: int) -> Iterator[Mutant]:
    """Mutants without end: the areas in turn, of an area any line, of a line any mutant; no line twice."""
    chance = random.Random(seed)
    lines = {area: _lines(area) for area in AREAS}
    for found in lines.values():
        chance.shuffle(found)
    count = 0
    while count < number and any(lines.values()):
        for area, rest in lines.items():
            while rest and count < number:
                file, at = rest.pop()
                mutant = _mutant(area, file, at, chance, f"seed {seed}, number {count}")
                if mutant:
                    yield mutant
                    count += 1
                    break


def files(area: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for pattern in AREAS[area] for path in ROOT.glob(pattern))


def _lines(area: str) -> list[tuple[str, int]]:
    return [(file, at) for file in files(area) for at in range(len((ROOT / file).read_text().splitlines()))]


def _mutant(area: str, file: str, at: int, chance: random.Random, origin: str) -> Mutant | None:
    """A mutant of one line that may behave differently, if there is one."""
    from universalmutator.mutator import mutants_regexp  # here, for the hand-made ones need no engine

    before = (ROOT / file).read_text()
    lines = before.splitlines(keepends=True)
    rules = ["universal.rules", "python.rules"]
    rules += [str(DATA / "jinja.rules")] if area == "templates" else []
    with contextlib.redirect_stdout(io.StringIO()):  # it says which rules it reads
        changed = [line for _, line, _, _ in mutants_regexp([lines[at]], rules, ignorePatterns=[])]
    chance.shuffle(changed)
    for line in changed:
        after = "".join([*lines[:at], line, *lines[at + 1 :]])
        if differs(file, before, after):
            return Mutant(area, file, before, after, origin)
    return None


def differs(file: str, before: str, after: str) -> bool:
    """Whether a mutant may behave differently, and is not caught by whatever test comes first."""
    return _another_module(file, after) if file.endswith(".jinja") else _another_program(before, after)


def _another_program(before: str, after: str) -> bool:
    """Whether the second text is Python too, and does not differ only in what no value depends on.

    A name that is nowhere else in the file would be caught by any call, and says nothing of the tests.
    """
    try:
        compile(after, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return _meaning(before) != _meaning(after) and _names(after) <= _names(before) | vars(builtins).keys()


def _names(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {f".{node.attr}" for node in nodes if isinstance(node, ast.Attribute)}


class _Bare(ast.NodeTransformer):
    """Takes out docstrings, the words of an error, the order of imported names, annotations that nobody reads, and
    statements that are never reached or go on with a loop that goes on by itself.

    Triton reads `tl.constexpr`.
    """

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            rest = getattr(node, block, None)
            if isinstance(rest, list):
                ends = [n for n, part in enumerate(rest) if isinstance(part, _LEAVES)]
                setattr(node, block, rest[: ends[0] + 1] if ends else rest)
        if isinstance(node, ast.For | ast.While):
            _go_on(node.body)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        node.names.sort(key=ast.dump)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = ""
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for part in ast.walk(node):
            if isinstance(part, ast.arg) and part.annotation and "constexpr" not in ast.dump(part.annotation):
                part.annotation = None
        return self.generic_visit(node)


_LEAVES = ast.Continue | ast.Break | ast.Return | ast.Raise


def _go_on(body: list[ast.stmt]) -> None:
    """Take `continue` from the ends of a loop's body."""
    if body and isinstance(body[-1], ast.Continue):
        body.pop()
    elif body and isinstance(body[-1], ast.If):
        _go_on(body[-1].body)
        _go_on(body[-1].orelse)


def _meaning(text: str) -> str:
    return ast.dump(_Bare().visit(ast.parse(text)))


def _another_module(file: str, after: str) -> bool:
    """Whether a mutated template still gives Python, and other code for a model that is checked in."""
    made = environment(Path(file).parent.name)
    try:
        before = _unchanged()
        made.loader, own = ChoiceLoader([DictLoader({Path(file).name: after}), made.loader]), made.loader
        made.cache.clear()
        try:
            return any(_another_program(old, new) for old, new in zip(before, _generated(), strict=True))
        finally:
            made.loader = own
            made.cache.clear()
    except (TemplateError, Unsafe, TypeError, ValueError, LookupError, SyntaxError):
        return False


def _generated() -> list[str]:
    sources = [library()[name] for name in ("lstm", "gru_v3", "indrnn")]
    sources += [Source(path.name, path.read_text()) for path in sorted((ROOT / "examples").glob("*.toml"))]
    return [compile_model(source).text for source in sources]


_unchanged = cache(_generated)


# What is always there.


def rows(name: str) -> list[dict]:
    """The tables of a file of data."""
    path = DATA / f"{name}.toml"
    return tomllib.loads(path.read_text()).get(name.removesuffix("s"), [])


def handmade() -> list[Mutant]:
    """The mutants that a person thought of. Raises Fault for a row whose file lies in no area, or has not exactly one
    place with the text that is replaced.
    """
    areas = {file: area for area in AREAS for file in files(area)}
    texts = {row["file"]: (ROOT / row["file"]).read_text() for row in rows("handmade") if row["file"] in areas}
    lost = []
    for row in rows("handmade"):
        if row["file"] not in areas:
            lost.append(f"{row['name']}: {row['file']} is no file of {', '.join(AREAS)}")
        elif (count := texts[row["file"]].count(row["old"])) != 1:
            lost.append(f"{row['name']}: {row['file']} has its text {count} times")
    if lost:
        raise Fault("mutants/handmade.toml has to follow the code:\n" + "\n".join(lost))
    return [
        Mutant(
            areas[row["file"]],
            row["file"],
            text := texts[row["file"]],
            text.replace(row["old"], row["new"]),
            row["name"],
        )
        for row in rows("handmade")
    ]


def equivalents() -> dict[tuple[str, str, str], str]:
    """The reason, by a file and the lines before and after. Raises Fault if a file has lost its line."""
    known = {}
    for row in rows("equivalent"):
        lines = {line.strip() for line in (ROOT / row["file"]).read_text().splitlines()}
        if row["old"] not in lines:
            raise Fault(f"mutants/equivalent.toml: {row['file']} no longer has the line {row['old']!r}")
        known[row["file"], row["old"], row["new"]] = row["reason"]
    return known


# How it is judged.


@contextlib.contextmanager
def copy_of_the_tree(changes: dict[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "rnngen"
        shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
        for file, text in changes.items():
            (tree / file).write_text(text)
        yield tree


def _environment(tree: Path, interpreted: bool) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    own |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return own | ({"TRITON_INTERPRET": "1"} if interpreted else {})


def judges(file: str) -> list[str]:
    """The judges of a file, in their order."""
    for row in rows("judges"):
        if fnmatch(file, row["files"]):
            return row["tests"]
    raise Fault(f"mutants/judges.toml has no row for {file}")


def judge(tree: Path, tests: str, limit: float | None = None) -> str:
    """Run pytest's arguments in a tree until one test fails: its name, or how the run ended; empty if all passed."""
    words = shlex.split(tests)
    words = [str(Path("tests") / word) if word.startswith("test_") and ".py" in word else word for word in words]
    interpreted = any("test_kernels_" in word or "test_interpreter" in word for word in words)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *words]
    with subprocess.Popen(
        command,
        cwd=tree,
        env=_environment(tree, interpreted),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return "time ran out"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return ""
    if process.returncode in (4, 5) and "no tests ran" in said and "rror" not in said:
        raise Fault(f"mutants/judges.toml: '{tests}' collects no test:\n{said}")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return found[1] if found else f"pytest ended with {process.returncode}"


class Limits:
    """Seconds that each judge may take: three times what it takes unchanged, measured when it is first needed. The slow
    ones often are not.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._measuring: dict[str, Future[float]] = {}

    def of(self, tests: str) -> float:
        """Raises Fault if the judge fails without any mutant."""
        with self._guard:
            first = tests not in self._measuring
            future = self._measuring.setdefault(tests, Future())
        if first:
            try:
                future.set_result(_limit(tests))
            except Fault as fault:
                future.set_exception(fault)
        return future.result()


def _limit(tests: str) -> float:
    start = time.monotonic()
    with copy_of_the_tree({}) as tree:
        if by := judge(tree, tests):
            raise Fault(f"'{tests}' fails without any mutant: {by}")
    return 3 * (time.monotonic() - start) + 30


def judged(mutant: Mutant, limits: Limits, end: float) -> Verdict:
    """Judge one mutant in a copy of its own, unless the time has come to an end."""
    start = time.monotonic()
    if start > end:
        return Verdict("left out", "no time is left", 0.0)
    with copy_of_the_tree({mutant.file: mutant.after}) as tree:
        for tests in judges(mutant.file):
            if by := judge(tree, tests, limits.of(tests)):
                return Verdict("caught", by, time.monotonic() - start)
    return Verdict("survived", "", time.monotonic() - start)


@click.command()
@click.option("--number", default=100, show_default=True, help="Mutants drawn, beside the hand-made ones.")
@click.option("--seed", default=1, show_default=True, help="Of the draw.")
@click.option("--workers", default=2, show_default=True, help="Mutants judged at a time.")
@click.option("--minutes", default=45.0, show_default=True, help="After which no more are begun.")
def main(number: int, seed: int, workers: int, minutes: float) -> None:
    """Change the code in small ways and see whether a test notices."""
    start = time.monotonic()
    known = equivalents()
    mutants = [*handmade(), *drawn(seed, number)]
    reasons = {mutant: known.get((mutant.file, *mutant.changed)) for mutant in mutants}
    verdicts = {mutant: Verdict("equivalent", reason, 0.0) for mutant, reason in reasons.items() if reason}
    rest = [mutant for mutant in mutants if mutant not in verdicts]
    pool = ThreadPoolExecutor(workers)
    try:
        limits = Limits()
        running = {pool.submit(judged, mutant, limits, start + 60 * minutes): mutant for mutant in rest}
        for done in as_completed(running):
            mutant, verdict = running[done], done.result()
            verdicts[mutant] = verdict
            click.echo(f"{verdict.kind:<9} {verdict.seconds:4.0f} s  {mutant.origin}: {mutant.file}  {verdict.by}")
    finally:
        pool.shutdown(cancel_futures=True)
    click.echo("\n" + table(verdicts))
    survivors = [mutant for mutant in mutants if verdicts[mutant].kind == "survived"]
    for mutant in survivors:
        click.echo(f"\nsurvived: {mutant.origin}\n{mutant.diff}", nl=False)
    click.echo(f"\n{time.monotonic() - start:.0f} s")
    sys.exit(any(verdict.kind in ("survived", "left out") for verdict in verdicts.values()))


def table(verdicts: dict[Mutant, Verdict]) -> str:
    """How many of each kind an area has."""
    kinds = ("caught", "survived", "equivalent", "left out")
    text = f"{'area':<10}{'made':>6}" + "".join(f"{kind:>12}" for kind in kinds) + f"{'seconds':>10}\n"
    for area in (*AREAS, "all"):
        here = [verdict for mutant, verdict in verdicts.items() if area in (mutant.area, "all")]
        counts = Counter(verdict.kind for verdict in here)
        text += f"{area:<10}{len(here):>6}" + "".join(f"{counts[kind]:>12}" for kind in kinds)
        text += f"{sum(verdict.seconds for verdict in here):>10.0f}\n"
    return text


if __name__ == "__main__":
    main()
