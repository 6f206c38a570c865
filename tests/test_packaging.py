"""The templates and the library are found from a wheel, an sdist, an editable install and a bare checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Compiles the LSTM with whatever rnngen is found, and says on stderr where that is.
COMPILE = """
import sys, rnngen.cli
print(rnngen.cli.__file__, file=sys.stderr)
rnngen.cli.main(["compile", "lstm", "--stdout"])
"""

pytest.importorskip("setuptools", minversion="77")


def source_files(*patterns: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}


def shipped() -> set[str]:
    """What a wheel must hold, beside its metadata, as paths of the repository."""
    return source_files("rnngen/**/*.py", "rnngen/cells/*.toml", "rnngen/runtime/c/*.[ch]", "templates/**/*.jinja")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what git would have, since setuptools writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in shipped() | source_files("*.toml", "*.md", "LICENSE", "MANIFEST.in", "tests/*.py"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return folder


def build(kind: str, checkout: Path, folder: Path) -> Path:
    """An archive made by the build backend in this environment: no network is needed."""
    call = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", call], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", checkout, folder)) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel, built from the sdist as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(sdist, folder / "sdist")  # a build leaves its work behind
    return build("wheel", copy, folder)


def compiled(folder: Path, elsewhere: Path) -> bytes:
    """The LSTM, compiled by the rnngen in a folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        cwd=elsewhere,
        env=environment | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert Path(done.stderr.decode().splitlines()[-1]).is_relative_to(folder), "another rnngen was found"
    return done.stdout


def test_every_package_is_listed():
    listed = set(PROJECT["tool"]["setuptools"]["packages"]) - {"rnngen.templates"}
    assert listed == {Path(name).parent.as_posix().replace("/", ".") for name in source_files("rnngen/**/*.py")}


def test_version_is_said_once_more_and_alike():
    from rnngen import VERSION

    assert PROJECT["project"]["version"] == VERSION


def test_wheel_holds_what_it_should_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    files = {name for name in names if ".dist-info/" not in name}
    assert files == {re.sub(r"^templates/", "rnngen/templates/", name) for name in shipped()}
    metadata = {name.split("/", 1)[1] for name in names} - {name.split("/", 1)[1] for name in files}
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"} <= metadata


def test_sdist_holds_what_a_build_needs_and_nothing_else(sdist):
    files = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    own = {name for name in files if "rnngen.egg-info" not in name} - {"PKG-INFO", "setup.cfg"}
    assert own == shipped() | {"pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"}


def test_same_bytes_from_wheel_sdist_and_checkout(wheel, sdist, checkout, tmp_path):
    installed = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(installed),
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (tmp_path / "elsewhere").mkdir()
    here, *others = (compiled(folder, tmp_path / "elsewhere") for folder in (checkout, installed, sdist))
    assert b"class LSTM(" in here
    assert others == [here, here]


def test_editable_install_finds_templates_and_cells(checkout, tmp_path):
    """An editable wheel holds no code, only a finder that leads to the checkout: it must work from afar."""
    call = f"from setuptools import build_meta; print(build_meta.build_editable({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", call], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as archive:
        archive.extractall(site)
    # Without this environment's own site, which may lead to another rnngen, but with its packages.
    packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    start = f"import site, sys; site.addsitedir({str(site)!r}); sys.path += {packages!r}\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", start + COMPILE], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert Path(done.stderr.decode().splitlines()[-1]).is_relative_to(checkout)
    assert b"class LSTM(" in done.stdout
