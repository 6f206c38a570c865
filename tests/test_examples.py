"""The README's commands and the examples do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^([ ]*)```(sh|toml|python)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PAGES = ["from_flux.md", "from_torch.md"]  # whose commands are run here, and their code by test_guide.py
FILE = re.compile(r"# (\w+\.(?:toml|py))\n")  # the first line of a block that the reader saves
# What sets a machine up: a test neither installs packages nor runs the tests.
SETUP = re.compile(r"(make|git|pip|cd) .*|\. \.venv/bin/activate")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return [(language, dedent(body)) for _, language, body in BLOCK.findall(text)]


@pytest.fixture
def run(tmp_path):
    """run(command): its output, in an empty folder, with `rnngen` and `python` those of this interpreter."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, arguments in (("python", ""), ("rnngen", " -m rnngen")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        script.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
    }

    def run(command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            ["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.mark.skipif(os.name != "posix", reason="the README is written for a POSIX shell")
def test_readme_from_top_to_bottom(run, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ran = []
    for language, text in blocks(README):
        if named := FILE.match(text):
            (tmp_path / named[1]).write_text(text)
        elif language == "sh":
            commands = [line for line in text.splitlines() if not SETUP.fullmatch(line)]
            ran += [(command, run(command)) for command in commands]
        else:
            (tmp_path / "block.py").write_text(text)
            ran.append((text, run("python block.py")))
    output = dict(ran)
    assert (tmp_path / "tired.py").exists()
    errors = [float(number) for number in re.findall(r"off by ([0-9.]+) sunspots", output["python train.py"])]
    assert len(errors) == 2
    assert errors[0] < 0.7 * errors[1], "the cell should foretell much better than 'same as last year'"


def test_first_screen():
    first_screen = "\n".join(README.splitlines()[:50])
    assert "make demo" in first_screen
    assert "make test" in first_screen


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.skipif(os.name != "posix", reason="run by a POSIX shell")
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages(page, run, tmp_path):
    commands = [
        text for language, text in blocks((ROOT / "docs" / page).read_text(encoding="utf-8")) if language == "sh"
    ]
    assert commands
    for command in commands:
        run(command)
        _, _, *cells = command.split()
        assert all((tmp_path / f"{cell}.py").exists() for cell in cells)


@pytest.mark.skipif(os.name != "posix", reason="run by a POSIX shell")
def test_the_guide(run):
    """Its own assertions are about shapes; the losses fall."""
    output = run("python -m examples.guide", ROOT)
    assert "a stack with states of its own: (10, 3)\n" in output
    losses = re.findall(r"loss ([0-9.]+), after 100 steps ([0-9.]+)", output)
    assert len(losses) == 3
    assert all(float(last) < float(first) / 2 for first, last in losses)


@pytest.mark.skipif(os.name != "posix", reason=".ci/run is a shell script")
def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    extraction = re.search(r"command=\$\((.*)\)\n", script)[1]
    done = subprocess.run(["bash", "-ec", extraction], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "make test\n"


@pytest.mark.skipif(os.name != "posix", reason="run by a POSIX shell")
def test_cell_of_its_own(run):
    output = run("python -m examples.sunspots --epochs 30", ROOT)
    *_, last = output.splitlines()
    ours, linear, last_year = map(float, re.findall(r"(?:carousel|regression|year) ([0-9.]+)", last))
    assert linear == pytest.approx(15.4, abs=0.1)  # these two do not depend on the training
    assert last_year == pytest.approx(30.4, abs=0.1)
    assert ours < 20


@pytest.mark.skipif(os.name != "posix", reason="run by a POSIX shell")
def test_demo(run, tmp_path):
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package)
    picture = tmp_path / "digits.png"
    output = run(f"python -m examples.digits --epochs 2 --picture '{picture}'", ROOT)
    *_, last = output.splitlines()
    ours, twin = re.findall(r"([0-9.]+)%", last)
    assert float(ours) > 50  # ten digits: a guess is right one time in ten
    assert ours == twin  # the same weights, batches and drops

    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert (width, height) == (1320, 840)
