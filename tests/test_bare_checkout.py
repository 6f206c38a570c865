"""Beside a GPU there may be no more than torch, Triton and pytest, and no network: what is for a GPU must run there."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rnngen import doctor

ROOT = Path(__file__).resolve().parent.parent
# In the place of an environment of its own: this one, without what the project needs beyond torch, Triton and pytest.
BARE = """
import socket, sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = {"click", "hypothesis", "jinja2", "networkx", "onnx", "pydantic", "xdist"}
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

def refuse(*args):
    raise OSError("there is no network here")

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.fixture
def bare(tmp_path):
    """Runs Python from a checkout with nothing but torch, Triton and pytest."""
    (tmp_path / "sitecustomize.py").write_text(BARE)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        clean |= {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
        clean |= {"RNNGEN_NATIVE": "0"}  # a first compile is told on stderr
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=clean | environment, capture_output=True, text=True
        )

    return run


@pytest.mark.parametrize("package", ["click", "hypothesis", "pydantic", "jinja2", "networkx"])
def test_the_packages_are_really_missing(bare, package):
    assert f"No module named '{package}'" in bare("-c", f"import {package}").stderr


def test_doctor_runs_and_names_what_is_missing(bare):
    done = bare("-m", "rnngen", "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "click and jinja2 and networkx and pydantic are missing, so no model compiles" in done.stdout
    assert "Tensors on the CPU take the CPU path" in done.stdout
    assert bare("-m", "rnngen", "doctor", "--json").stdout.startswith("{")
    refused = bare("-m", "rnngen", "doctor", "generated", "nosuch.py")
    assert (refused.returncode, refused.stdout, refused.stderr) == (
        2,
        "",
        "Error: 'nosuch.py' cannot be read: No such file or directory.\n",
    )


def test_doctor_names_what_a_gpu_lacks(monkeypatch):
    gpu = {"device": "cuda:0", "name": "H100", "capability": "9.0"}
    monkeypatch.setattr(doctor, "_gpus", lambda torch: ([gpu], ""))
    monkeypatch.setattr(doctor, "which", lambda tool: f"/usr/bin/{tool}" if tool == "cc" else None)  # not asked for
    monkeypatch.delenv("CC", raising=False)
    assert "There is no C compiler" in doctor.report([], in_json=False)
    monkeypatch.setenv("CC", "cc")
    assert "C compiler" not in doctor.report([], in_json=False)
    monkeypatch.delenv("CC")
    monkeypatch.setattr(doctor, "which", lambda tool: f"/usr/bin/{tool}" if tool == "clang" else None)
    assert "C compiler" not in doctor.report([], in_json=False)
    monkeypatch.setattr("rnngen.runtime.language.MISSING", "Triton 3.5 is installed, and kernels need Triton 3.6")
    assert "take the CPU path there, which is slow: Triton 3.5" in doctor.report([], in_json=False)


def test_doctor_says_what_a_driver_said(monkeypatch):
    """In an exception for one of two cards, and in the warning with which torch finds no card at all."""
    import torch

    def name(number: int) -> str:
        if number:
            raise RuntimeError("CUDA error: uncorrectable ECC\x1b error\nCompile with TORCH_USE_CUDA_DSA")
        return "H100"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    found = doctor.diagnose()
    assert found["gpus"] == [{"device": "cuda:0", "name": "H100", "capability": "9.0"}]
    assert found["sentences"][-1] == (
        "Asked about GPUs, torch says: RuntimeError: CUDA error: uncorrectable ECC\\x1b error Compile with "
        "TORCH_USE_CUDA_DSA"
    )

    def too_old() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    told = doctor.report([], in_json=False).splitlines()
    assert any(line.startswith("torch ") and "kernels run only in Triton's interpreter" in line for line in told)
    assert "Asked about GPUs, torch says: CUDA initialization: The NVIDIA driver on your system is too old" in told
    monkeypatch.undo()
    assert "torch says" not in doctor.report([], in_json=False)


def test_other_commands_name_the_package_that_they_lack(bare):
    done = bare("-m", "rnngen", "compile", "lstm")
    assert done.returncode == 2
    assert done.stderr == "Error: The package 'click' is not installed: pip install click\n"


def test_the_benchmarks_of_a_gpu_run(bare, tmp_path):
    """What has to be compiled first says why it is not there."""
    command = ["-m", "benchmarks", "run", "--suite", "gpu", "--device", "cpu", "--quick", "--time", "3"]
    done = bare(*command, "--hidden", "8", "--cells", "lstm", "gru", "mingru", "--out", str(tmp_path / "rows.jsonl"))
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len([row for row in rows if "ms" in row]) == 8
    (lacking,) = (row["skipped"] for row in rows if row["cell"] == "mingru" and row["contender"] == "rnngen")
    assert "The package 'click' is not installed" in lacking


# A Triton that is there and no kernel can be had from, by the text of its file, and what is said of it.
OLD = "import triton\ntriton.__version__ = '3.5.1'"  # this one, for torch looks far into it
TRITONS = {
    "old": (OLD, "Triton 3.5.1 is installed, and kernels need Triton 3.6 or newer"),
    "broken": ("raise ImportError('undefined symbol: PyFoo')", "(ImportError: undefined symbol: PyFoo)"),
    "without a package": ("import a_package_it_needs", "(ModuleNotFoundError: No module named 'a_package_it_needs')"),
    "without a library": ("raise OSError('libcudart.so: cannot open')", "(OSError: libcudart.so: cannot open)"),
    "without a version": ("", "(AttributeError: module 'triton' has no attribute '__version__')"),
    "half there": ("__version__ = '3.6.0'", "(ModuleNotFoundError: No module named 'triton.language')"),
}
SURVIVED = {name: TRITONS[name] for name in ("old", "broken", "without a package")}  # torch fails beside the others
LAYER = """
import torch
from generated.lstm import LSTM
layer, x = LSTM(3, 4), torch.ones(2, 1, 3)
for _ in range(2):
    y, _ = layer(x)
    y.sum().backward()
torch.testing.assert_close(y, layer.reference(x)[0])
"""


@pytest.fixture
def triton(tmp_path):
    """Puts a package called triton, with this text, before the one that is installed, or makes that one old."""

    def put(text: str) -> None:
        (tmp_path / "triton").mkdir()
        file = tmp_path / ("sitecustomize.py" if text == OLD else "triton/__init__.py")
        with file.open("a") as stream:
            stream.write(text)

    return put


@pytest.mark.parametrize("text, told", TRITONS.values(), ids=TRITONS)
def test_a_generated_module_is_imported_beside_a_triton_without_kernels(bare, triton, text, told):
    triton(text)
    done = bare("-c", "import generated.lstm\nfrom rnngen.runtime.language import MISSING\nprint(MISSING)")
    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout
    assert done.stdout.endswith("kernels need Triton 3.6 or newer\n")


@pytest.mark.parametrize("text, told", SURVIVED.values(), ids=SURVIVED)
def test_and_runs_its_torch_steps_and_says_so_where_the_interpreter_was_wanted(bare, triton, text, told):
    triton(text)
    done = bare("-W", "error", "-c", LAYER)
    assert (done.returncode, done.stderr) == (0, "")
    done = bare("-c", LAYER, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count("TRITON_INTERPRET is set, and scans on 'cpu' run step by step in torch all the same: ") == 1
    )
    assert told in done.stderr


# The whole file on six cards takes minutes; one cell on the smallest of them shows that it runs.
ALL = "every_schedule or lengths or mistakes"
CARDS = ["A10", "A100", "H100", "RTX5090", "MI300X"]
RUNS = [("T4", "mistakes or (lstm and not heads and not float64 and (every_schedule or lengths))")]
RUNS += [pytest.param(card, ALL, marks=pytest.mark.slow) for card in CARDS]


@pytest.mark.parametrize("card, which", RUNS)
def test_the_tests_for_a_gpu_run(bare, card, which):
    """On a GPU that is not there, so that their numbers count for nothing; what they ask and skip is the card's."""
    command = ["-m", "pytest", "-p", "tests.on_a_pretended_gpu", "tests/test_gpu.py", "-q", "-rs", "-k", which]
    done = bare(*command, PRETENDED_GPU=card)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert ("has no bfloat16" in done.stdout) == (card == "T4")
