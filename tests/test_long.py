"""What docs/long.md shows runs, and the example learns."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "long.md").read_text(encoding="utf-8")


def run(*command: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pieces_of_a_file_give_what_the_whole_does(tmp_path):
    commands = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (text,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert commands == ["rnngen compile lstm\n"]
    run(sys.executable, "-m", "rnngen", "compile", "lstm", folder=tmp_path)
    run(sys.executable, "-c", text, folder=tmp_path)


def test_the_example_learns_on_sequences_of_many_steps():
    pytest.importorskip("tqdm")
    output = run(sys.executable, "-m", "examples.long", "--updates", "60", "--steps", "20000", folder=ROOT)
    *_, told, report = output.splitlines()
    ours, mean, best = (float(number) for number in re.findall(r"([0-9.]+) %", told))
    assert 90 < ours <= best
    assert mean <= best
    assert report.startswith("Report(sweep='forward', chunks=")
