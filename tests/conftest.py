"""What all tests share: modules compiled once a session, and which files run with Triton's interpreter."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

if importlib.util.find_spec("hypothesis"):  # beside a GPU there may be no more than torch, Triton and pytest
    from hypothesis import settings

    # The same examples every time, so that a run that fails fails again; the machine may be slow.
    settings.register_profile("same", derandomize=True, deadline=None)
    settings.load_profile("same")

# Triton reads TRITON_INTERPRET when it is imported, so one process runs either the files that need the interpreter or
# all others, for which a CPU tensor must not go to a kernel. Two runs of pytest make a whole; some files are in both.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def needs_interpreter(path: Path) -> bool:
    """Whether a test file runs kernels in Triton's interpreter."""
    return path.name == "test_interpreter.py" or path.name.startswith("test_kernels_")


def runs_either_way(path: Path) -> bool:
    """Whether a test file asks the same of the CPU path and of the kernels."""
    return path.name == "test_guide.py"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    elsewhere = needs_interpreter(collection_path) != INTERPRETED and not runs_either_way(collection_path)
    return True if is_test and elsewhere else None


def pytest_report_header() -> str:
    which = "only files that need" if INTERPRETED else "no files that need"
    return f"TRITON_INTERPRET: {'on' if INTERPRETED else 'off'}, {which} Triton's interpreter are collected"


# With RNNGEN_TEST_NATIVE=1 modules have their C beside them: what is asked of the torch steps is asked of native code.
NATIVE = os.environ.get("RNNGEN_TEST_NATIVE", "") == "1"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory) -> Iterator[None]:
    """Native code is kept in a folder of this session, which its processes share, and never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp()
        patch.setenv("RNNGEN_CACHE", str((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "native"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _bounds() -> None:
    """Where kernels are interpreted, every access of every one is checked."""
    if INTERPRETED:
        from bounds import watch

        watch()


class Modules:
    """Compiles and imports generated modules, each once. native: with their C beside them."""

    def __init__(self, folder: Path, native: bool = False):
        self.folder, self.native = folder, native
        self.known: dict[str, ModuleType] = {}

    def __call__(self, cell: str) -> ModuleType:
        """The generated module of a library cell's name or of the text of a model file.

        Raises ModelError if the text is rejected.
        """
        from cells import save_of, wrappers_of

        from rnngen.compile import compile_model
        from rnngen.description import library
        from rnngen.source import Source

        if cell not in self.known:
            source = library().get(cell) or Source("cell.toml", cell)
            generated = compile_model(source, wrappers_of(cell), save_of(cell))
            # Of this folder: what is unpickled is looked for by the name of its module, of which there is one.
            name = f"{self.folder.name}_{generated.name}_{sha256(cell.encode()).hexdigest()[:12]}"
            path = self.folder / f"{name}.py"
            for file, text in generated.files.items():
                if file.endswith(".py") or self.native:
                    path.with_suffix(Path(file).suffix).write_text(text)
            self.known[cell] = imported(path)
        return self.known[cell]


def imported(path: Path, name: str = "") -> ModuleType:
    """The module in a file, found again by its name when something of it is unpickled."""
    name = name or path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def module_of(tmp_path_factory) -> Modules:
    """module_of(name of a library cell, or text of a file): the imported module."""
    return Modules(tmp_path_factory.mktemp("generated"), NATIVE)


@pytest.fixture(scope="session")
def native_of(tmp_path_factory) -> Modules:
    """The same with the module's C beside it, which runs it on a CPU."""
    return Modules(tmp_path_factory.mktemp("native"), native=True)


@pytest.fixture(scope="session")
def layer_of(module_of):
    """layer_of(the same): the class of the module's only cell."""

    def layer_of(cell: str) -> type:
        module = module_of(cell)
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
        (found,) = own
        return found

    return layer_of
