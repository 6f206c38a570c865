"""Our own modules: those of `generated/`, and of other cells what `rnngen compile` writes into `build/benchmarks/`."""

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.problem import Absent
from rnngen.write import write as write_whole

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ROOT / "build" / "benchmarks"
CHECKED_IN = ROOT / "generated"
_current: set[str] = set()  # cells whose modules this process has written


def tree(*more: str) -> str:
    """A digest of all that decides what a kernel is: the compiler, the library, the templates, what picks constants;
    and of more files, by their patterns.
    """
    kinds = ("rnngen/**/*.py", "rnngen/**/*.toml", "templates/**/*.jinja", *more)
    files = [path for kind in kinds for path in ROOT.glob(kind)]
    digest = hashlib.sha256()
    for path in sorted(files):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def write(cells: Sequence[str]) -> None:
    """Write the modules of cells that are not checked in, all at once, and each once in a process.

    Raises Absent with what the compiler says.
    """
    wanted = [cell for cell in cells if cell not in _current and not (CHECKED_IN / f"{cell}.py").exists()]
    if not wanted:
        return
    command = [sys.executable, "-m", "rnngen", "compile", *wanted, "-o", str(WRITTEN), "--force"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Absent(f"rnngen compile: {done.stderr.strip()[:500]}")
    _current.update(wanted)


@cache
def module_file(cell: str) -> Path:
    """The module of a cell of the library; what the compiler writes beside it lies there. Raises Absent."""
    write([cell])
    checked_in = CHECKED_IN / f"{cell}.py"
    return checked_in if checked_in.exists() else WRITTEN / f"{cell}.py"


@cache
def layer_class(cell: str, native: bool = True) -> type:
    """The class of a cell's layer. native: with the C beside its module; else a copy of the module that has none, and
    runs its steps in torch. Raises Absent where the module cannot be written.
    """
    file = module_file(cell)
    if not native:
        alone = WRITTEN / "steps" / file.name
        write_whole({alone: file.read_bytes()})
        file = alone
    name = f"benchmarks_{'native' if native else 'steps'}_{cell}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (found,) = (one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name)
    return found
