"""Every example of `docs/extending.md`, applied to a copy of the code, works there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# Language, the file that the first line names, and what stands below it.
BLOCKS = re.findall(r"^```(\w+)\n(?:#|\{#) (\S+)(?: #\})?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
FOLDERS = "tests|rnngen|runtime|emit|passes|wrappers|description|templates|docs|benchmarks"
ROW = re.compile(rf"`((?:{FOLDERS})/[\w./]*\.\w+)`")


def applied(language: str, file: Path, text: str) -> None:
    """Write a file that is new, or change one that is there: what a diff has before stands in it exactly once."""
    if language != "diff":
        assert not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    for part in text.split("@@\n"):
        lines = part.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        there = file.read_text(encoding="utf-8")
        assert there.count(before) == 1, f"{file.name} has {there.count(before)} times:\n{before}"
        file.write_text(there.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy with every example of the page."""
    folder = tmp_path_factory.mktemp("changed")
    for name in ("rnngen", "templates", "benchmarks", "generated"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for language, name, text in BLOCKS:
        applied(language, folder / name, text)
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """What a Python of the copy prints."""
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}
    known |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cell(folder: Path, name: str, update: str, shape: str = '"hidden"') -> str:
    """The file of a small cell."""
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nstates = ["h"]\nstep = "{update}"\n[parameters]\n'
        'weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }\n'
        f'weight_hh = {{ shape = [{shape}], blocks = ["u"] }}\n'
    )
    return str(path)


def test_every_kind_has_an_example():
    kinds = {name: language for language, name, _ in BLOCKS}
    assert len(BLOCKS) == 28
    assert {Path(name).suffix for name in kinds} == {".toml", ".py", ".jinja", ".h"}


@pytest.mark.parametrize("name", sorted(set(ROW.findall(PAGE))))
def test_a_file_that_is_named_is_there(name):
    new = {file for language, file, _ in BLOCKS if language != "diff"}
    assert name in new or (ROOT / name).exists() or (ROOT / "rnngen" / name).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_a_test_that_is_named_is_there(name):
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))


def test_a_cell(changed):
    assert "leaky" in run(changed, "-m", "rnngen", "cells")
    assert "all within tolerance" in run(
        changed, "-m", "rnngen", "verify", "leaky", "--path", "torch", "--dtype", "float64"
    )


def test_an_operation_and_a_schedule(changed):
    """By native code and, in the interpreter, by the kernels."""
    model = cell(changed, "shortened", "h' = tanh(W @ x + u * h) * rsqrt(1 + h * h)")
    assert re.search(r"whole +0\.\d+ us a step", run(changed, "-m", "rnngen", "explain", model))
    order = ("-m", "rnngen", "verify", model, "--dtype", "float32")
    assert "all within tolerance" in run(changed, *order, "--schedule", "whole", TRITON_INTERPRET="1")
    if COMPILER:
        assert "all within tolerance" in run(changed, *order, "--path", "native")


def test_an_operation_across_units(changed):
    """Beside a product and before one, on all paths."""
    update = "h' = tanh(W @ x + u @ (h * energy(h)) - 0.1 * energy(tanh(h)))"
    model = cell(changed, "crowd", update, '"hidden", "hidden"')
    assert re.search(r"resident +it cannot compute 'energy'", run(changed, "-m", "rnngen", "explain", model))
    order = ("-m", "rnngen", "verify", model, "--dtype", "float64")
    for path in ("torch", "native") if COMPILER else ("torch",):
        assert "all within tolerance" in run(changed, *order, "--path", path)
    assert "all within tolerance" in run(changed, *order, TRITON_INTERPRET="1")


def test_a_target(changed):
    run(changed, "-m", "rnngen", "compile", "lstm")
    found = run(changed, "-c", "import lstm; print(lstm.lstm_scan.adjoint.outline()[0][0])")
    assert found.strip() == "('saved', 'd_y', 'd_h', 'd_c')"


def test_a_machine(changed):
    assert "on sm_87" in run(changed, "-m", "rnngen", "explain", "lstm", "--machine", "sm_87")


def test_a_pass(changed):
    model = cell(changed, "quarter", "h' = tanh(W @ x + (u * h) / 4)")
    shown = {after: run(changed, "-m", "rnngen", "show", model, "--after", after) for after in ("simplify", "divide")}
    assert "/ 4" in shown["simplify"] and "* 0.25" in shown["divide"] and "/ 4" not in shown["divide"]


WRAPPED = """
import sys
sys.path.insert(0, sys.argv[1])
import cells, torch
from rnngen import reference
from rnngen.wrappers import WRAPPERS
from rnngen.passes.verify import verify

found = cells.forms("lstm")["infer"]
values = cells.random_values("lstm")
made = verify(WRAPPERS["leak"](found)).cell
text = cells.ALL["lstm"].replace("c' =", "c_new =").replace("h' = o * tanh(c')", '''h_new = o * tanh(c_new)
c' = c + 0.1 * (c_new - c)
h' = h + 0.1 * (h_new - h)''')
want = cells.forms(text)["infer"].cell
run = lambda graph: reference.scan(graph, {"x": values.x}, values.states, values.weights)
(got, last), (y, states) = run(made), run(want)
torch.testing.assert_close([got["y"], *last.values()], [y["y"], *states.values()], rtol=1e-13, atol=1e-13)
assert not torch.allclose(got["y"], run(found.cell)[0]["y"])
print("equal")
"""


def test_a_wrapper(changed):
    """It is the cell written out, and so is the module."""
    assert run(changed, "-c", WRAPPED, str(ROOT / "tests")).strip() == "equal"
    order = ("-m", "rnngen", "verify", "indrnn", "--with", "leak", "--path", "torch", "--dtype", "float64")
    assert "all within tolerance" in run(changed, *order)


def test_a_contender(changed):
    """It is judged, and then timed."""
    order = (
        "run",
        "--parts",
        "sizes",
        "--cells",
        "lstm",
        "--hidden",
        "8",
        "--batch",
        "2",
        "--time",
        "4",
        "--out",
        "rows",
    )
    told = run(changed, "-m", "benchmarks", *order, "--quick")
    assert len(re.findall(r"torch\.nn cells (?:forward|both): [\d.]+ ms, [\d.]+ of torch\.nn .*, error \d", told)) == 2
