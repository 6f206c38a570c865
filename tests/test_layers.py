"""Imports go one way, and generated modules import what is published and nothing else."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx as nx
import pytest

import rnngen
import rnngen.runtime

ROOT = Path(rnngen.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "cells")
HEAVY = {"torch", "triton", "numpy"}
VAGUE = re.compile(r"(utils?|helpers?|base|managers?|common|misc|tools?|data|info)$")


def stages() -> list[str]:
    """The stages in the order that the package's docstring lists them in."""
    return listed(ROOT)


def listed(package: Path) -> list[str]:
    """The names at the left of the docstring of a package."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False)
    return re.findall(r"^    (\w+)/?  ", docstring, re.MULTILINE)


def imports_of(path: Path, at_once: bool = False) -> set[str]:
    """Full names of the modules that a file imports; those in functions too, unless only what it imports at once."""
    found = set()
    package = ["rnngen", *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text())
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            modules = [alias.name for alias in node.names if module == "rnngen" and alias.name != "VERSION"]
            found |= {module} | {f"{module}.{name}" for name in modules}
    return found - {"rnngen"}


def stage_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_the_docstring_lists_every_stage():
    present = {stage_of(path) for path in FILES} - {"__init__", "__main__"}
    assert present - set(stages()) == set()
    missing = set(stages()) - present - {"schedules", "cli"}
    assert missing == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    order = stages()
    stage = stage_of(path)
    own = {name.split(".")[1] for name in imports_of(path) if name.startswith("rnngen.")}
    if stage == "__init__":
        assert imports_of(path) == set()
    elif stage == "runtime":
        assert own <= {"runtime"}, "the runtime imports nothing of the compiler"
    elif stage != "__main__":
        later = {name for name in own if order.index(name) > order.index(stage)} - {"runtime"}
        assert not later, f"{stage} stands before {later}"
        if "runtime" in own:  # arithmetic that both halves need, and no torch with it
            torch = {"rnngen.runtime.language", "rnngen.runtime.launch", "rnngen.runtime.layer"}
            child = torch if stage == "verify" else set()  # it has torch
            assert {n for n in imports_of(path) if "runtime" in n} <= child | {
                "rnngen.runtime.choose",
                "rnngen.runtime.compiler",
                "rnngen.runtime.drawn",
                "rnngen.runtime.layout",
                "rnngen.runtime.machine",
                "rnngen.runtime.memory",
                "rnngen.runtime.plan",
                "rnngen.runtime.schedules",
                "rnngen.runtime.seal",
                "rnngen.runtime",
            }


def test_the_picture_shows_the_imports():
    """Its arrows are the imports between stages, but for those that lead along others."""
    found = nx.DiGraph()
    for path in FILES:
        stage = stage_of(path)
        if stage in stages() and stage != "runtime":
            names = {name.split(".")[1] for name in imports_of(path) if name.startswith("rnngen.")}
            found.add_edges_from((stage, name) for name in names - {stage, "runtime"})
    page = (ROOT.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    arrows = re.findall(r"^    (\w+) --> (\w+)$", page, re.MULTILINE)
    assert len(arrows) == len(set(arrows))
    assert set(arrows) == set(nx.transitive_reduction(found).edges)


@pytest.mark.parametrize("package", ["cli", "description", "explain"])
def test_within_a_package_imports_go_one_way(package):
    order = listed(ROOT / package)
    files = {path.stem: path for path in (ROOT / package).glob("*.py") if path.stem != "__init__"}
    assert set(order) == files.keys()
    for name, path in files.items():
        own = {module.split(".")[2] for module in imports_of(path) if module.startswith(f"rnngen.{package}.")}
        assert own <= set(order[: order.index(name)]), f"{name} stands before them"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_compiler_needs_no_torch(path):
    if stage_of(path) not in ("runtime", "reference"):
        runs_modules = stage_of(path) in (
            "verify",
            "doctor",
        )  # in a child process, or to look at the installation
        heavy = {name.split(".")[0] for name in imports_of(path, at_once=runs_modules)} & HEAVY
        assert not heavy


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is(path):
    assert not VAGUE.match(path.stem)
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_types_are_checked_but_in_jitted_functions():
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] and settings["files"] == ["rnngen"]
    (left_out,) = [row["module"] for row in settings["overrides"] if row.get("ignore_errors")]
    jitted = {f"rnngen.runtime.{path.stem}" for path in FILES if "\n@triton.jit\n" in path.read_text()}
    assert set(left_out) == jitted | {"rnngen.runtime.interpreter"}


def test_a_compile_loads_no_torch():
    """In a process of its own, since this one has torch by now."""
    text = (
        "import sys\n"
        "from rnngen.compile import compile_model\n"
        "from rnngen.description import library\n"
        "compile_model(library()['lstm'])\n"
        "print(sorted({'torch', 'triton', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_and_the_runtime_are_light():
    text = "import sys, rnngen, rnngen.runtime\nprint(sorted({'torch', 'triton', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_published_name_exists():
    assert dir(rnngen.runtime) == sorted(rnngen.runtime.PUBLISHED)
    for name in dir(rnngen.runtime):
        assert getattr(rnngen.runtime, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = rnngen.runtime.nothing_such


def test_generated_modules_import_published_names(module_of):
    import cells

    for text in cells.ALL.values():
        tree = ast.parse(Path(module_of(text).__file__).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert names <= {"torch", "torch.nn.functional", "triton", "triton.language"}
            elif isinstance(node, ast.ImportFrom):
                assert node.module in ("torch", "rnngen.runtime")
                if node.module == "rnngen.runtime":
                    assert {alias.name for alias in node.names} <= rnngen.runtime.PUBLISHED.keys()
