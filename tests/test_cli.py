"""The commands: what they print and write, and with which exit code they end, whatever is done to them."""

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from cells import SAMPLE
from click.testing import CliRunner, Result

from rnngen import write as write_module
from rnngen.cli import main
from rnngen.compile import PASSES, Module, compile_model, forms_of
from rnngen.description import describe, library
from rnngen.description.tables import LayerTable
from rnngen.emit.listing import as_json, as_mermaid, as_text
from rnngen.emit.torch.spelling import SPELLING
from rnngen.errors import MOST_COUNTED
from rnngen.runtime.schedules import SCHEDULES
from rnngen.runtime.seal import NO_DIGEST, Unfit, c_text, condition, sealed
from rnngen.source import Source
from rnngen.verify import OWN, TOLERANCES, Case, Plan
from rnngen.write import Unwritable, write

ROOT = Path(__file__).resolve().parent.parent
COMPILES = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler on this machine: none of cc, gcc and clang",
)
POSIX = pytest.mark.skipif(os.name != "posix", reason="devices, links and signals of POSIX")

CELL = """\
name   = "leaky"
states = ["h"]
constants = { alpha = 0.3 }
step   = \"\"\"
n  = tanh(W @ x + U @ h + b)
h' = (1 - alpha) * h + alpha * n
\"\"\"

[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
bias      = { shape = ["hidden"],           blocks = ["b"] }
"""
TYPO = CELL.replace("U @ h", "V @ h")

MODEL = """\
name   = "two"
inputs = 3

[[layers]]
cell   = "lstm"
hidden = 4

[[layers]]
cell   = "indrnn"
hidden = 4
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in an empty directory, with no terminal."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "RNNGEN_TRACEBACK", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, **options) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)

    return run


def python(*arguments: object, environment=(), **options) -> subprocess.CompletedProcess:
    """A process of its own with this checkout on its path."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment)
    env = {name: value for name, value in env.items() if value is not None}
    options = {"capture_output": True, "timeout": 60} | options
    return subprocess.run([sys.executable, *map(str, arguments)], env=env, check=False, **options)


def rnngen(*arguments: object, **options) -> subprocess.CompletedProcess:
    return python("-m", "rnngen", *arguments, **options)


def both(sentence: str, name: str) -> str:
    """A line for each file of a module."""
    return "".join(f"{sentence.format(f'{name}{suffix}')}\n" for suffix in (".c", ".py"))


WROTE, CURRENT, STALE, MISSING = "wrote {}", "{} is up to date", "{} is stale", "{} is missing"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Compile.


def test_compile_writes_the_module_and_says_so(run):
    result = run("compile", "lstm", "-o", "out/deep")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == both(WROTE, Path("out/deep/lstm"))
    wanted = compile_model(library()["lstm"]).files
    assert {path.name: path.read_text() for path in Path("out/deep").iterdir()} == wanted
    assert set(wanted) == {"lstm.c", "lstm.py"}


def test_by_default_it_writes_here(run, tmp_path):
    Path("model.toml").write_text(CELL)
    assert run("compile", "model.toml").stdout == both(WROTE, "leaky")
    assert files(tmp_path) == {"model.toml", "leaky.c", "leaky.py"}


def test_unchanged_bytes_keep_their_time(run):
    run("compile", "gru")
    for name in ("gru.c", "gru.py"):
        os.utime(name, (1, 1))
    result = run("compile", "gru", "rnn")
    assert result.stdout == both(CURRENT, "gru") + both(WROTE, "rnn")
    assert Path("gru.c").stat().st_mtime == Path("gru.py").stat().st_mtime == 1
    Path("gru.c").unlink()
    assert run("compile", "gru").stdout == "wrote gru.c\ngru.py is up to date\n"
    assert Path("gru.py").stat().st_mtime == 1


def test_a_new_version_replaces_an_old_one_and_keeps_its_mode(run):
    Path("model.toml").write_text(CELL)
    run("compile", "model.toml")
    os.chmod("leaky.py", 0o640)
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    assert run("compile", "model.toml").stdout == both(WROTE, "leaky")
    assert stat.S_IMODE(Path("leaky.py").stat().st_mode) == 0o640
    assert "0.4" in Path("leaky.py").read_text()


@POSIX
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path):
    script = "import os; os.umask(0o027); from rnngen.cli import main; main(['compile', 'rnn'])"
    assert python("-c", script, cwd=tmp_path).returncode == 0
    assert stat.S_IMODE((tmp_path / "rnn.py").stat().st_mode) == 0o640


def test_check_writes_nothing_and_lists_what_is_stale_or_missing(run, tmp_path):
    Path("model.toml").write_text(CELL)
    run("compile", "model.toml", "lstm")
    assert run("compile", "model.toml", "lstm", "--check").exit_code == 0
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    old = Path("leaky.py").read_bytes()
    result = run("compile", "model.toml", "lstm", "gru", "--check")
    assert result.exit_code == 1
    assert result.stdout == both(STALE, "leaky") + both(CURRENT, "lstm") + both(MISSING, "gru")
    assert Path("leaky.py").read_bytes() == old
    assert files(tmp_path) == {"model.toml", "leaky.c", "leaky.py", "lstm.c", "lstm.py"}
    Path("lstm.c").unlink()
    result = run("compile", "lstm", "--check")
    assert (result.exit_code, result.stdout) == (1, "lstm.c is missing\nlstm.py is up to date\n")


def test_check_makes_no_directory(run, tmp_path):
    assert run("compile", "lstm", "--check", "-o", "out").exit_code == 1
    assert files(tmp_path) == set()


def test_diff_shows_what_would_change_and_writes_nothing(run):
    Path("model.toml").write_text(CELL)
    run("compile", "model.toml")
    old = Path("leaky.py").read_bytes()
    assert run("compile", "model.toml", "--diff").stdout == ""
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    result = run("compile", "model.toml", "--diff")
    assert result.exit_code == 0
    assert result.stdout.startswith("--- leaky.c\n+++ leaky.c\n@@ ")
    assert "\n--- leaky.py\n+++ leaky.py\n@@ " in result.stdout
    assert re.search(r"^-.*0\.3", result.stdout, re.MULTILINE)
    assert re.search(r"^\+.*0\.4", result.stdout, re.MULTILINE)
    assert Path("leaky.py").read_bytes() == old
    assert run("compile", "model.toml", "--diff", "--check").exit_code == 1


def test_the_diff_of_a_missing_file_begins_at_nothing(run, tmp_path):
    result = run("compile", "rnn", "--diff")
    assert result.stdout.startswith("--- /dev/null\n+++ rnn.c\n@@ -0,0 +1,")
    assert "\n--- /dev/null\n+++ rnn.py\n@@ -0,0 +1," in result.stdout
    assert files(tmp_path) == set()


def test_stdout_prints_the_module_alone(run, tmp_path):
    result = run("compile", "rnn", "--stdout")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout_bytes == compile_model(library()["rnn"]).text.encode()
    assert files(tmp_path) == set()


@pytest.mark.parametrize("extra", [["--check"], ["--diff"], ["--json"], ["-o", "x"], ["gru"]])
def test_stdout_goes_with_nothing_else(run, extra):
    assert run("compile", "rnn", "--stdout", *extra).exit_code == 2


def test_the_result_in_json(run):
    Path("bad.toml").write_text(TYPO)
    record = json.loads(run("compile", "lstm", "--json", "-o", "out").stdout)
    assert record == {
        "files": [
            {"model": "lstm", "file": f"out/lstm{suffix}", "status": "written", "error": None}
            for suffix in (".c", ".py")
        ],
        "mistakes": [],
        "all_found": True,
    }
    result = run("compile", "bad.toml", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    record = json.loads(result.stdout)
    assert record["files"][0]["status"] == "rejected"
    first = record["mistakes"][0]
    assert (first["file"], first["line"], first["column"], first["length"]) == ("bad.toml", 5, 19, 1)
    assert first["code"] == "unknown-name"
    assert set(first) == {"file", "line", "column", "length", "code", "message", "label", "notes", "hints"}


def test_the_same_file_gives_the_same_bytes_from_wherever_it_is_compiled(run, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "leaky.toml").write_text(CELL)
    (folder / "lstm.toml").write_text(library()["lstm"].text)
    for name in ("leaky.toml", "lstm.toml"):
        texts = {
            run("compile", path, "--stdout").stdout for path in (f"models/{name}", f"./models//{name}", folder / name)
        }
        monkeypatch.chdir(folder)
        texts.add(run("compile", name, "--stdout").stdout)
        monkeypatch.chdir(tmp_path)
        (text,) = texts
        assert f"# Source: {name}, sha256 " in text
        assert str(tmp_path) not in text and "models" not in text
    assert text == run("compile", "lstm", "--stdout").stdout
    assert run("compile", "models/leaky.toml", "-o", "models").exit_code == 0
    monkeypatch.chdir(folder)
    assert run("compile", "leaky.toml", "--check").stdout == both(CURRENT, "leaky")


def test_a_checkout_with_other_line_ends_is_not_stale(run):
    run("compile", "lstm")
    other = {name: Path(name).read_bytes().replace(b"\n", b"\r\n") for name in ("lstm.c", "lstm.py")}
    for name, content in other.items():
        Path(name).write_bytes(content)
    assert run("compile", "lstm", "--check").stdout == both(CURRENT, "lstm")
    assert run("compile", "lstm", "--diff").stdout == ""
    assert run("compile", "lstm").stdout == both(CURRENT, "lstm")
    assert {name: Path(name).read_bytes() for name in other} == other


def test_two_models_for_one_file_are_refused(run, tmp_path):
    Path("a.toml").write_text(CELL)
    Path("b.toml").write_text(CELL.replace("0.3", "0.4"))
    result = run("compile", "a.toml", "b.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: 'a.toml' and 'b.toml' would both be written to 'leaky.py'.\n")
    assert result.stderr.count("Error: ") == 1
    assert files(tmp_path) == {"a.toml", "b.toml"}


# The model is rejected, or cannot be read.


def test_mistakes_are_drawn_and_nothing_is_written(run, tmp_path):
    Path("good.toml").write_text(CELL)
    Path("bad.toml").write_text(TYPO)
    Path("worse.toml").write_text("name = ")
    result = run("compile", "good.toml", "bad.toml", "worse.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "\x1b" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        'File "bad.toml", line 5, column 19',
        "5 | n  = tanh(W @ x + V @ h + b)",
        " " * 22 + "^ not a parameter, state or input",
    ]
    assert "[unknown-name]" in result.stderr
    assert 'File "worse.toml", line 1' in result.stderr
    assert lines[-1] == "Nothing was written."
    assert files(tmp_path) == {"good.toml", "bad.toml", "worse.toml"}


def test_what_is_beyond_the_hundredth_mistake_is_counted(run):
    wrong = "".join(f"e{n} = {' + '.join(f'q{n}_{k}' for k in range(27))}\n" for n in range(5))
    uses = " + ".join(f"e{n}" for n in range(5))
    Path("bad.toml").write_text(CELL.replace("h' =", f"{wrong}h' = w1 + w2 + {uses} +"))
    for command in ("compile", "show"):
        result = run(command, "bad.toml")
        assert (result.exit_code, result.stderr.count("[unknown-name]")) == (1, 100)
        assert result.stderr.endswith("\n\nand 37 more.\n")
    record = json.loads(run("compile", "bad.toml", "--json").stdout)
    assert (len(record["mistakes"]), record["all_found"]) == (137, True)
    result = run("compile", "bad.toml", "./bad.toml")
    assert result.stderr.endswith("\n\nand 174 more.\nNothing was written.\n")


def test_a_search_that_is_given_up_says_so(run):
    wrong = "".join(f"e{n} = {' + '.join(f'q{n}_{k}' for k in range(25))}\n" for n in range(MOST_COUNTED // 25))
    Path("bad.toml").write_text(CELL.replace("h' =", f"{wrong}h' ="))
    assert run("compile", "bad.toml").stderr.endswith("\n\nand at least 900 more.\n")
    record = json.loads(run("compile", "lstm", "bad.toml", "--json").stdout)
    assert (len(record["mistakes"]), record["all_found"]) == (MOST_COUNTED, False)


def test_mistakes_show_the_path_as_it_was_given(run, tmp_path):
    Path("bad.toml").write_text(TYPO)
    for command in ("compile", "show", "verify"):
        result = run(command, tmp_path / "bad.toml")
        assert result.exit_code == 1
        assert result.stderr.startswith(f'File "{tmp_path / "bad.toml"}", line 5, column 19\n')


def test_show_reports_the_mistakes_of_all_cells_together(run):
    table = "\n[cells.{}]\nstates = ['h']\nstep = \"h' = tanh(W @ h + U @ x + nothing)\"\n[cells.{}.parameters]\n"
    table += "w = {{ shape = ['hidden', 'hidden'], blocks = ['W'] }}\n"
    table += "u = {{ shape = ['hidden', 'inputs'], blocks = ['U'] }}\n"
    layers = "[[layers]]\ncell = 'a'\nhidden = 4\n[[layers]]\ncell = 'b'\nhidden = 4\n"
    Path("m.toml").write_text(f"name = 'm'\ninputs = 3\n{layers}{table.format('a', 'a')}{table.format('b', 'b')}")
    result = run("show", "m.toml")
    assert result.exit_code == 1
    assert result.stderr.count("[unknown-name]") == 2


@pytest.mark.parametrize("command", ["compile", "show", "verify"])
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("nothing.toml", "'nothing.toml' cannot be read: No such file or directory."),
        ("lstm.toml", "Hint: the library has a cell 'lstm'; leave out the '.toml'."),
        ("lstmm", "There is no cell 'lstmm' in the library, and no such file.\nHint: did you mean 'lstm'?"),
        ("a\x1b[31m\n", "There is no cell 'a\\x1b[31m\\x0a' in the library"),
        ("folder/", "'folder/' is a directory, not a model file."),
        ("a\0b.toml", "cannot be read"),
        pytest.param("/dev/zero", "is a device, pipe or socket", marks=POSIX),
    ],
)
def test_unreadable_input(run, command, model, sentence):
    Path("folder").mkdir()
    result = run(command, model)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile"],
        ["compile", "lstm", "--nothing"],
        ["nothing"],
        ["show"],
        ["cells", "nothing"],
        ["show", "lstm", "--format", "x"],
    ],
)
def test_wrong_usage(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert "Traceback" not in result.stderr


# Places that cannot be written to, and files that are somebody's.


def test_a_module_of_another_model_does_not_go_unnoticed(run, tmp_path):
    """It can be made again, so that it is replaced, but who imports it gets another network."""
    own = CELL.replace('"leaky"', '"lstm"')
    Path("leaky.toml").write_text(own)
    Path("lstm.toml").write_text(own)
    told = "Note: 'lstm.py' was the module of another model until now, made by: rnngen compile {}\nHint: with another "
    assert run("compile", "lstm").stderr == ""
    for model, former in (("leaky.toml", "lstm"), ("lstm.toml", "leaky.toml"), ("lstm", "lstm.toml")):
        assert "lstm.py is stale" in run("compile", model, "--check").stdout
        result = run("compile", model)
        assert (result.exit_code, result.stdout) == (0, both(WROTE, "lstm"))
        assert result.stderr.startswith(told.format(former))
        assert run("compile", model).stderr == ""
    # One that was edited, or lies elsewhere now, is no other model.
    run("compile", "lstm.toml")
    Path("lstm.toml").write_text(own.replace("0.3", "0.4"))
    assert (result := run("compile", "lstm.toml")).stdout == both(WROTE, "lstm")
    assert result.stderr == ""
    (tmp_path / "models").mkdir()
    Path("lstm.toml").rename(tmp_path / "models" / "lstm.toml")
    assert run("compile", "models/lstm.toml").stderr == ""


@pytest.mark.parametrize("name", ["lstm.py", "lstm.c"])
def test_an_edited_file_is_left_alone_unless_forced(run, name):
    run("compile", "lstm")
    edited = Path(name).read_text().replace("sigmoid", "tanh", 1)
    Path(name).write_text(edited)
    other = "lstm.c" if name == "lstm.py" else "lstm.py"
    Path(other).unlink()
    for _ in range(2):
        result = run("compile", "lstm", "gru")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"'{name}' was edited by hand" in result.stderr
        assert Path(name).read_text() == edited
        assert not Path(other).exists() and not Path("gru.py").exists()
    result = run("compile", "lstm", "--check")
    assert result.exit_code == 1
    lines = {f"{name} was edited by hand, or is not rnngen's", f"{other} is missing"}
    assert set(result.stdout.splitlines()) == lines
    assert f"--- {name}\n" in run("compile", "lstm", "--diff").stdout
    assert run("compile", "lstm", "--force").stdout == both(WROTE, "lstm")
    assert run("compile", "lstm", "--check").exit_code == 0


@pytest.mark.parametrize("name", ["lstm.py", "lstm.c"])
@pytest.mark.parametrize(
    "content", [b"", b"print('mine')\n", b"int mine;\n", b"\xff\xfe\0", b"# Generated by rnngen 0.0.1\n"]
)
def test_a_file_of_the_users_is_left_alone(run, tmp_path, name, content):
    Path(name).write_bytes(content)
    assert run("compile", "lstm").exit_code == 2
    assert run("compile", "lstm", "--diff").exit_code == 0
    assert Path(name).read_bytes() == content
    assert files(tmp_path) == {name}


@pytest.mark.parametrize("suffix", [".py", ".c"])
def test_the_condition_of_a_file(suffix):
    module = compile_model(library()["rnn"])
    text = (module.text if suffix == ".py" else module.beside[suffix]).encode()
    digest = re.search(rb"Body:   sha256 (\w+)", text)[1]
    for content, expected in (
        (text, "intact"),
        (text.replace(b"\n", b"\r\n"), "intact"),
        (text + b"\n", "edited"),
        (text.replace(b"rnn.toml", b"run.toml", 1), "edited"),
        (text.replace(digest, sha256(text).hexdigest().encode()), "edited"),
        (text.replace(digest, b""), "edited"),
        (text[:-1], "edited"),
        (text[:-2], "cut off"),
        (text[:30], "cut off"),
        (b"\n" + text, "foreign"),
        (b"", "foreign"),
    ):
        assert condition(content) == expected, content[:200]


@POSIX
def test_links_are_followed_only_within_their_directory(run, tmp_path):
    Path("out").mkdir()
    Path("elsewhere.py").write_text("mine")
    Path("out/lstm.py").symlink_to("../elsewhere.py")
    for extra in ([], ["--force"], ["--check"], ["--diff"]):
        result = run("compile", "lstm", "-o", "out", *extra)
        assert result.exit_code == 2
        assert "is a link that leads out of its directory" in result.stderr
    assert Path("elsewhere.py").read_text() == "mine"
    Path("out/lstm.py").unlink()
    Path("out/lstm.py").symlink_to("lstm_1.py")
    assert run("compile", "lstm", "-o", "out").exit_code == 0
    assert Path("out/lstm.py").is_symlink()
    assert condition(Path("out/lstm_1.py").read_bytes()) == "intact"
    Path("circle").mkdir()
    Path("circle/lstm.py").symlink_to("lstm.py")
    assert run("compile", "lstm", "-o", "circle").exit_code == 2


@POSIX
def test_places_that_are_no_places(run):
    Path("file").write_text("")
    Path("out/lstm.py").mkdir(parents=True)
    os.mkfifo("gru.py")
    for arguments, sentence in (
        (["lstm", "-o", "file"], "'file' is not a directory."),
        (["lstm", "-o", "file/deeper"], "'file' is not a directory."),
        (["lstm", "-o", "out"], "'out/lstm.py' cannot be written: it is a directory."),
        (["gru"], "'gru.py' cannot be written: it is a device, pipe, socket or circle of links."),
        (["rnn", "-o", "/proc/nothing"], "'/proc/nothing' cannot be written: No such file or directory."),
    ):
        result = run("compile", *arguments)
        assert result.exit_code == 2, arguments
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr


def test_a_write_protected_file_is_left_alone(run):
    Path("model.toml").write_text(CELL)
    run("compile", "model.toml")
    old = Path("leaky.py").read_bytes()
    beside = Path("leaky.c").read_bytes()
    os.chmod("leaky.py", 0o444)
    assert run("compile", "model.toml").stdout == both(CURRENT, "leaky")
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    result = run("compile", "model.toml")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: 'leaky.py' cannot be written: it is write-protected.\n",
    )
    assert (Path("leaky.c").read_bytes(), Path("leaky.py").read_bytes()) == (beside, old)


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("replace", errno.EACCES, 2),
        ("replace", errno.ENOSPC, 1),
        ("fsync", errno.ENOSPC, 1),
        ("fsync", errno.EIO, 1),
        ("open", errno.EROFS, 2),
        ("open", errno.EACCES, 2),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_the_old_file_survives_a_failing_write(run, tmp_path, monkeypatch, call, number, code, before):
    Path("model.toml").write_text(CELL)
    if before:
        run("compile", "model.toml")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    old["model.toml"] = Path("model.toml").read_bytes()
    kept = getattr(os, call)

    def fails(*arguments, **options):
        if call == "open" and not str(arguments[0]).endswith(".tmp"):
            return kept(*arguments, **options)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(write_module.os, call, fails)
    result = run("compile", "model.toml")
    monkeypatch.undo()
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"Error: 'leaky.c' cannot be written: {os.strerror(number)}.\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("error", [PermissionError(errno.EPERM, "Not yours"), KeyboardInterrupt()])
def test_a_module_that_fails_takes_its_c_text_back(run, tmp_path, monkeypatch, before, error):
    """As in a shared folder, where the text beside a module of another user's may be one's own."""
    Path("model.toml").write_text(CELL)
    if before:
        run("compile", "model.toml")
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept, placed = os.replace, []

    def fails(temporary, target):
        if target.suffix == ".py":
            raise error
        placed.append(target.name)
        kept(temporary, target)

    monkeypatch.setattr(write_module.os, "replace", fails)
    result = run("compile", "model.toml")
    monkeypatch.undo()
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert placed == ["leaky.c"] * (2 if before else 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


@POSIX
def test_a_limit_on_file_size_leaves_no_half_file(tmp_path):
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        f"from rnngen.cli import main; main(['compile', 'lstm', '-o', {str(tmp_path)!r}])"
    )
    result = python("-B", "-c", script)
    assert result.returncode == 1
    assert result.stderr.decode() == f"Error: '{tmp_path / 'lstm.c'}' cannot be written: File too large.\n"
    assert files(tmp_path) == set()


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_no_half_file_after_a_signal(tmp_path, name):
    (tmp_path / "model.toml").write_text(CELL)
    assert rnngen("compile", "model.toml", cwd=tmp_path).returncode == 0
    old = (tmp_path / "leaky.py").read_bytes()
    (tmp_path / "model.toml").write_text(CELL.replace("0.3", "0.4"))
    script = (
        "import os, signal, time; from rnngen.cli import main\n"
        f"os.replace = lambda *_: (os.kill(os.getpid(), signal.{name}), time.sleep(9))\n"
        "main(['compile', 'model.toml'])"
    )
    result = python("-c", script, cwd=tmp_path)
    assert result.returncode == (130 if name == "SIGINT" else -signal.SIGKILL)
    assert b"Traceback" not in result.stderr
    assert (tmp_path / "leaky.py").read_bytes() == old
    if name == "SIGINT":
        assert files(tmp_path) == {"model.toml", "leaky.c", "leaky.py"}
    assert rnngen("compile", "model.toml", cwd=tmp_path).stdout.decode() == both(WROTE, "leaky")


@POSIX
def test_a_kill_between_the_files_is_seen(tmp_path):
    """The module is then the old one, and its C text that of the new one."""
    (tmp_path / "model.toml").write_text(CELL)
    assert rnngen("compile", "model.toml", cwd=tmp_path).returncode == 0
    old = {name: (tmp_path / name).read_bytes() for name in ("leaky.c", "leaky.py")}
    assert c_text(tmp_path / "leaky.py") == old["leaky.c"]
    (tmp_path / "model.toml").write_text(CELL.replace("0.3", "0.4"))
    script = (
        "import os, signal; from rnngen.cli import main\n"
        "kept = os.replace\n"
        "def replace(old, new): os.kill(os.getpid(), signal.SIGKILL) if new.suffix == '.py' else kept(old, new)\n"
        "os.replace = replace; main(['compile', 'model.toml'])"
    )
    assert python("-c", script, cwd=tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "leaky.c").read_bytes() != old["leaky.c"]
    assert (tmp_path / "leaky.py").read_bytes() == old["leaky.py"]
    with pytest.raises(Unfit, match=r"leaky\.c is not the one that was written with leaky\.py: rnngen compile model"):
        c_text(tmp_path / "leaky.py")
    told = rnngen("compile", "model.toml", cwd=tmp_path).stdout.decode()
    assert told == "leaky.c is up to date\nwrote leaky.py\n"


def test_what_brings_an_edited_c_text_back(tmp_path):
    """Not the command that made it, which leaves alone what a person has edited."""
    (tmp_path / "model.toml").write_text(CELL)
    assert rnngen("compile", "model.toml", cwd=tmp_path).returncode == 0
    written = (tmp_path / "leaky.c").read_bytes()
    (tmp_path / "leaky.c").write_bytes(written + b"// mine\n")
    with pytest.raises(Unfit) as unfit:
        c_text(tmp_path / "leaky.py")
    _, command = str(unfit.value).split(": ")
    program, *arguments = command.split()
    assert program == "rnngen" and rnngen(*arguments, cwd=tmp_path).returncode == 0
    assert c_text(tmp_path / "leaky.py") == written


@POSIX
def test_what_a_kill_left_behind_goes_with_the_next_write(tmp_path):
    now = time.time()
    gone, kept = ".leaky.py.0123456789ab.tmp", {".leaky.py.ba9876543210.tmp": now}  # another process may be writing it
    kept |= dict.fromkeys((".other.py.0123456789ab.tmp", ".leaky.py.0123.tmp", "leaky.py.0123456789ab.tmp"), 1)
    for name, changed in {gone: now - 2 * 3600, **kept}.items():
        (tmp_path / name).write_text("half a module")
        os.utime(tmp_path / name, (changed, changed))
    (tmp_path / ".leaky.py.000000000000.tmp").mkdir()
    (tmp_path / ".leaky.py.111111111111.tmp").symlink_to(tmp_path / "leaky.py")
    os.utime(tmp_path / ".leaky.py.000000000000.tmp", (1, 1))
    os.utime(tmp_path / ".leaky.py.111111111111.tmp", (1, 1), follow_symlinks=False)
    assert write({tmp_path / "leaky.py": b"1"})
    others = {".leaky.py.000000000000.tmp", ".leaky.py.111111111111.tmp", "leaky.py"}
    assert files(tmp_path) == {*kept, *others}
    (tmp_path / gone).write_text("half a module")
    os.utime(tmp_path / gone, (1, 1))
    assert not write({tmp_path / "leaky.py": b"1"})
    assert gone in files(tmp_path), "nothing was written, so nothing is touched"


def test_write_says_what_it_wrote(tmp_path):
    path, other = tmp_path / "a" / "b.py", tmp_path / "a" / "b.c"
    assert write({other: b"1", path: b"1"}) == {other, path}
    assert write({other: b"1", path: b"1"}) == set()
    assert write({other: b"1", path: b"2"}) == {path}
    assert path.read_bytes() == b"2"
    with pytest.raises(Unwritable, match="is not a directory"):
        write({other: b"3", path / "c.py": b""})
    assert other.read_bytes() == b"1"


# Standard output, interruptions, faults.


@POSIX
@pytest.mark.parametrize(
    "arguments", [["cells"], ["show", "lstm"], ["compile", "lstm", "--stdout"], ["show", "--help"]]
)
def test_a_closed_pipe_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    result = rnngen(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


@POSIX
@pytest.mark.parametrize("arguments", [["cells"], ["compile", "lstm", "--stdout"], ["--version"]])
def test_a_closed_output_is_no_success(arguments):
    result = rnngen(*arguments, capture_output=False, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert (result.returncode, result.stderr) == (141, b"")


@POSIX
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["cells"], ["show", "lstm"], ["compile", "lstm", "--stdout"], ["--help"]])
def test_a_full_disk_behind_stdout(arguments):
    with open("/dev/full", "w") as full:
        result = rnngen(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr == b"Error: the output cannot be written: No space left on device.\n"


@POSIX
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_nobody_listens_at_all():
    with open("/dev/full", "w") as full:
        result = rnngen("compile", "nothing", capture_output=False, stdout=full, stderr=full)
    assert result.returncode == 1


def test_an_interruption(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rnngen.compile.compile_model", interrupted)
    result = run("compile", "lstm")
    assert (result.exit_code, result.stdout) == (130, "")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("error", [KeyError("x\x1b\n"), AssertionError(), RecursionError("deep"), MemoryError()])
def test_a_fault_of_ours(run, monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr("rnngen.compile.compile_model", broken)
    result = run("compile", "lstm")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"Error: rnngen itself has failed, sorry: {type(error).__name__}: ")
    assert "Please report it" in result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 2
    for result in (
        run("--traceback", "compile", "lstm"),
        run("compile", "lstm", env={"RNNGEN_TRACEBACK": "1"}),
    ):
        assert result.exit_code == 3
        assert "Traceback" in result.stderr
        assert "in broken" in result.stderr


# Colours.


def test_colours_are_for_terminals_without_no_color(run, monkeypatch):
    Path("bad.toml").write_text(TYPO)
    run("compile", "rnn")
    Path("rnn.py").write_text("mine\n")
    for arguments in (["compile", "bad.toml"], ["compile", "rnn", "--diff"]):
        assert "\x1b[" in run(*arguments, color=True).output
        assert "\x1b" not in run(*arguments).output
        assert "\x1b" not in run(*arguments, color=True, env={"NO_COLOR": "1"}).output
        assert "\x1b" not in run(*arguments, color=True, env={"TERM": "dumb"}).output
        assert "\x1b[" in run(*arguments, color=True, env={"NO_COLOR": ""}).output


def test_colours_can_be_forced(run):
    """As force-color.org and no-color.org have it; where both speak, the one that forbids."""
    Path("bad.toml").write_text(TYPO)
    run("compile", "rnn")
    Path("rnn.py").write_text("mine\n")
    for arguments in (["compile", "bad.toml"], ["compile", "rnn", "--diff"], ["show", "bad.toml"]):
        assert "\x1b[" in run(*arguments, env={"FORCE_COLOR": "1"}).output
        assert "\x1b[" in run(*arguments, env={"FORCE_COLOR": "1", "TERM": "dumb"}).output
        assert "\x1b" not in run(*arguments, env={"FORCE_COLOR": ""}).output
        assert "\x1b" not in run(*arguments, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).output


# The same input, the same bytes; quickly, and without torch.


def test_the_same_bytes_everywhere(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.toml").write_text(MODEL)
    seen = set()
    for seed, folder, locale in (
        ("0", tmp_path, "C"),
        ("1", tmp_path / "sub", "C.UTF-8"),
        ("2", tmp_path, ""),
    ):
        environment = {"PYTHONHASHSEED": seed, "LC_ALL": locale, "PYTHONUTF8": None, "PYTHONIOENCODING": None}
        commands = [["compile", tmp_path / "model.toml", "--stdout"]]
        commands += [["show", tmp_path / "model.toml", "--format", form] for form in ("text", "mermaid", "json")]
        script = "import sys, json; from rnngen.cli import main\n"
        script += "for arguments in json.loads(sys.argv[1]):\n"
        script += "    try: main(arguments)\n    except SystemExit as end: assert not end.code\n"
        listed = json.dumps([[str(argument) for argument in command] for command in commands])
        result = python("-c", script, listed, environment=environment, cwd=folder)
        assert (result.returncode, result.stderr) == (0, b"")
        seen.add(result.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "arguments",
    [["compile", "lstm", "--stdout"], ["show", "lstm"], ["cells", "--json"], ["schema"], ["explain", "lstm"]],
)
def test_no_import_of_torch(arguments):
    script = (
        "import sys; from rnngen.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'triton', 'numpy', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    result = python("-c", script)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("package", ["pydantic", "networkx", "jinja2"])
def test_a_package_that_is_missing_is_named(package):
    script = f"import sys; sys.modules[{package!r}] = None\nfrom rnngen.cli import main\nmain(['show', 'lstm'])"
    result = python("-c", script)
    assert result.returncode == 2
    assert result.stderr.decode() == f"Error: The package '{package}' is not installed: pip install {package}\n"


def loaded(*arguments: str, environment: dict[str, str] | None = None) -> set[str]:
    """The modules that a command has imported by its end."""
    script = f"import sys; from rnngen.cli import main\ntry: main({arguments}, 'rnngen')\nexcept SystemExit: pass\n"
    result = python("-c", script + "print(*sys.modules, file=sys.stderr)", environment=environment or {})
    assert result.returncode == 0
    return set(result.stderr.decode().split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_click_alone(option):
    found = loaded(option)
    assert {".".join(name.split(".")[:2]) for name in found if name.startswith("rnngen")} == {"rnngen", "rnngen.cli"}
    assert not {"pydantic", "networkx", "jinja2"} & found


def test_a_command_imports_no_other():
    commands = {f"rnngen.cli.{name}" for name in main.commands}
    assert loaded("cells", "lstm") & commands == {"rnngen.cli.cells"}
    assert loaded("--version") & commands == set()


@pytest.mark.parametrize(
    "words", ["compile ls", "show lstm --after s", "explain lstm --machine sm", "verify lstm --schedule r", "co"]
)
def test_completion_loads_no_compiler(words):
    environment = {"_RNNGEN_COMPLETE": "bash_complete", "COMP_WORDS": f"rnngen {words}"}
    found = loaded(environment=environment | {"COMP_CWORD": str(len(words.split()))})
    assert not {"pydantic", "networkx", "jinja2", "rnngen.compile"} & found


# Show.


def test_show_reads_like_the_paper(run):
    result = run("show", "lstm", "--after", "save")
    assert (result.exit_code, result.stderr) == (0, "")
    scan = result.stdout.partition("scan: ")[2].partition("\n\n")[0].splitlines()[1:]
    assert scan == [
        "  input      weight_ih_x_b                        (4, hidden)",
        "  mask       valid                                scalar",
        "  state      h                                    (hidden)",
        "  state      c                                    (hidden)",
        "  parameter  weight_hh                            (4, hidden, hidden)",
        "  weight_hh_h = weight_hh @ h                     (4, hidden)",
        "  i = sigmoid(weight_ih_x_b[0] + weight_hh_h[0])  (hidden)",
        "  f = sigmoid(weight_ih_x_b[1] + weight_hh_h[1])  (hidden)",
        "  g = tanh(weight_ih_x_b[2] + weight_hh_h[2])     (hidden)",
        "  o = sigmoid(weight_ih_x_b[3] + weight_hh_h[3])  (hidden)",
        "  c' = f * c + i * g                              (hidden)",
        "  h' = o * tanh(c')                               (hidden)",
        "  h'.kept = kept(valid, h', h)                    (hidden)",
        "  c'.kept = kept(valid, c', c)                    (hidden)",
        "  saved = [c, i, f, g, o]                         (5, hidden)",
        "  next       h = h'.kept",
        "  next       c = c'.kept",
        "  output     y = h'.kept                          (hidden)",
        "  output     saved                                (5, hidden)",
    ]


def test_before_shapes_are_known_none_are_shown(run):
    Path("model.toml").write_text(CELL)
    assert run("show", "model.toml", "--after", "resolve").stdout == (
        "leaky, after resolve\n\n"
        "cell: one step\n"
        "  input      x\n"
        "  state      h\n"
        "  parameter  weight_ih\n"
        "  parameter  weight_hh\n"
        "  parameter  bias\n"
        "  constant   alpha = 0.3\n"
        "  n = tanh(weight_ih @ x + weight_hh @ h + bias)\n"
        "  h' = (1 - alpha) * h + alpha * n\n"
        "  output     y = h'\n"
    )


def test_products_keep_their_brackets():
    step = "y = U @ (r * h) * (r * (U @ h)) - (r - (h - -x_2))\n"
    step += "r = W @ (x)\nx_2 = W @ x / (r * h) * 2\nh' = y * 0.5"
    text = CELL.replace("n  = tanh(W @ x + U @ h + b)\nh' = (1 - alpha) * h + alpha * n", step)
    text = text.replace("constants = { alpha = 0.3 }\n", "").replace(
        'bias      = { shape = ["hidden"],           blocks = ["b"] }\n', ""
    )
    shown = as_text(next(forms_of(describe(Source("t.toml", text)).cells[0]))[1])
    assert "y = weight_hh @ (r * h) * (r * (weight_hh @ h)) - (r - (h - -x_2))" in shown
    assert "x_2 = weight_ih @ x / (r * h) * 2" in shown


def test_the_way_back_reads_like_the_paper(run):
    _, adjoint, gradients = re.split(r"\n(?=adjoint: |gradients: )", run("show", "rnn", "--after", "save").stdout)
    assert "  d_h'.1.masked = or_zero(valid, (d_y + d_h) * (1 - h' * h'))" in adjoint
    assert "  d_h.weight_hh_h.kept = kept(valid, weight_hh.T @ d_h'.1.masked, d_h)" in adjoint
    assert "  d_weight_hh = sum(d_weight_ih_x_b @ h.T)" in gradients


def test_a_chart_has_no_sign_in_a_label_that_mermaid_would_read():
    text = CELL.replace("h' = (1 - alpha) * h + alpha * n", "h' = where(alpha < n, n, where(h > 1, h, 1))")
    chart = as_mermaid([next(forms_of(describe(Source("t.toml", text)).cells[0]))[1]])
    assert "where(alpha #lt; n, n, where(h #gt; 1, h, 1))" in chart
    assert not [label for label in re.findall(r'"(.*)"', chart) if set(label) & set('<>"')]


def test_a_chart_shows_what_comes_in_with_slanted_sides():
    found = dict(forms_of(describe(library()["rnn"]).cells[0]))["cut"]
    chart = as_mermaid([found])
    for name in ("weight_ih_x_b", "valid"):
        assert f'[/"{name}"/]' in chart
    assert '(["h"])' in chart and '[("weight_hh")]' in chart


def test_the_stages_are_the_compilers(run):
    names = ["resolve", "infer", "unpack", "wrap", *(step.__name__ for step in PASSES.steps)]
    (cell,) = describe(library()["rnn"]).cells
    assert names == [name for name, _ in forms_of(cell)]
    listed = " ".join(run("show", "--help").stdout.split())
    assert ", ".join(names[:-1]) + f" or {names[-1]};" in listed
    assert run("show", "rnn").stdout == run("show", "rnn", "--after", names[-1]).stdout
    assert "kept(valid, h', h)" in run("show", "rnn", "--after", "mask").stdout
    assert "valid" not in run("show", "rnn", "--after", "expand").stdout
    result = run("show", "rnn", "--after", "hoits")
    assert result.exit_code == 2
    assert "there is no pass 'hoits'; did you mean 'hoist'?" in result.stderr
    assert ", ".join(names) in run("show", "rnn", "--after", "zzz").stderr


@pytest.mark.parametrize("cell", SAMPLE)
def test_every_stage_of_every_cell_can_be_shown(cell):
    for stage, program in forms_of(describe(library()[cell]).cells[0]):
        text = as_text(program)
        assert all(f"\n{name}: " in f"\n{text}" for name, graph in program.graphs().items() if graph.values)
        assert not any(line != line.rstrip() for line in text.splitlines())
        record = json.loads(as_json([program], stage))
        assert record["after"] == stage
        assert list(record["cells"][0]["graphs"]) == list(program.graphs())
        chart = as_mermaid([program])
        assert chart.startswith("flowchart TD\n")
        assert (
            chart.count("subgraph") == chart.count("\n  end") == sum(bool(g.values) for g in program.graphs().values())
        )
        defined = set(re.findall(r"^ +(\w+)[\[(]", chart, re.MULTILINE))
        for start, end in re.findall(r"^ +(\w+) (?:-->|-\. next \.->) (\w+)$", chart, re.MULTILINE):
            assert {start, end} <= defined


def test_json_has_everything_and_is_stable(run):
    first = run("show", "lstm", "--format", "json").stdout
    record = json.loads(first)
    assert record["format"] == 1
    scan = record["cells"][0]["graphs"]["scan"]
    assert scan["states"] == [{"name": "h", "update": "h'.kept"}, {"name": "c", "update": "c'.kept"}]
    (first_link, second_link) = record["cells"][0]["chains"]["scan"]
    assert (first_link["across"], first_link["values"]) == ([], [])
    assert [across["name"] for across in second_link["across"]] == ["weight_hh_h"]
    assert ["weight_hh_h", 3] in second_link["takes"] and ["h'.kept", 0] in second_link["gives"]
    assert set(scan["values"][0]) == {"name", "op", "operands", "shape", "attribute", "line"}
    assert first == run("show", "lstm", "--format", "json").stdout


def test_show_shows_every_cell_of_a_model(run):
    Path("model.toml").write_text(MODEL)
    text = run("show", "model.toml", "--after", "pack").stdout
    assert text.startswith("lstm, after pack\n")
    assert "\n\nindrnn, after pack\n" in text


# Cells, version, help.


def test_cells_lists_the_library(run):
    text = run("cells").stdout
    assert sorted(re.findall(r"^  (\w+) +\w+ +[0-9]{4}", text, re.MULTILINE)) == list(library())
    assert max(map(len, text.splitlines())) <= 100
    records = json.loads(run("cells", "--json").stdout)
    assert [record["name"] for record in records] == list(library())
    lstm = json.loads(run("cells", "lstm", "--json").stdout)
    assert lstm["states"] == ["h", "c"]
    assert lstm["year"] == 2000
    assert all(record["paper"] and record["note"] is not None for record in records)
    assert lstm["class"] == "LSTM"
    assert lstm["source"] == library()["lstm"].text
    assert run("cells", "gru", "--source").stdout == library()["gru"].text
    assert "did you mean 'gru'?" in run("cells", "grue").stderr


def test_cells_are_found_by_what_their_files_say(run):
    assert re.findall(r"^  (\w+)", run("cells", "--find", "mujika").stdout, re.MULTILINE) == ["cell", "fs_lstm"]
    result = run("cells", "--find", "no cell says this")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No file of the library has the text 'no cell says this'." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--source"], "--source prints the file of one cell: rnngen cells NAME --source."),
        (["gru", "--source", "--json"], "--source, --json and --markdown print different things; choose one."),
        (["gru", "--markdown"], "--find and --markdown are for the list, and not for one cell."),
        (["gru", "--find", "gru"], "--find and --markdown are for the list, and not for one cell."),
    ],
)
def test_cells_refuses_what_it_would_ignore(run, arguments, sentence):
    result = run("cells", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in " ".join(result.stderr.split())


def test_version_and_help(run):
    assert re.fullmatch(r"rnngen \d+\.\d+\.\d+\n", run("--version").stdout)
    for command in ("compile", "show", "cells", "verify", "doctor"):
        assert command in run("--help").stdout
        assert run(command, "--help").exit_code == 0


def test_the_list_of_commands_is_not_cut(run):
    text = " ".join(run("--help", terminal_width=60).stdout.split())
    assert "..." not in text.partition("Commands:")[2]
    for command in main.commands.values():
        assert command.get_short_help_str(1000) in text


# Explain.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lstm", "--heads", "3"], "The cell 'lstm' has no block-diagonal parameter, so --heads would do nothing."),
        (
            ["two.toml", "--hidden", "64"],
            "The layers of a stack have sizes of their own, so --hidden would do nothing.",
        ),
        (["two.toml", "--heads", "1"], "The layers of a stack have sizes of their own, so --heads would do nothing."),
        (["blocks.toml", "--hidden", "10", "--heads", "3"], "10 hidden units cannot be divided evenly among 3 heads."),
        (["dense.toml"], "No layer of 'thick' is recurrent, so there is no schedule to choose."),
        (["lstm", "--hidden", "65537"], "65537 is not in the range 1<=x<=65536."),
        (["blocks.toml", "--heads", "100000000000"], "is not in the range 1<=x<=65536."),
        (["lstm", "--batch", "0"], "0 is not in the range 1<=x<=2147483647."),
        (["lstm", "--batch", "2147483648"], "is not in the range 1<=x<=2147483647."),
        (["lstm", "--machine", "sm90"], "there is no target 'sm90'; did you mean 'sm_90'?"),
        (["lstm", "--machine", "h100"], "there is no target 'h100'; the H100 is sm_90"),
        (["lstm", "--machine", "NVIDIA A100"], "there is no target 'NVIDIA A100'; the A100 is sm_80"),
        (["lstm", "--machine", "rtx-4090"], "there is no target 'rtx-4090'; the GeForce RTX 4090 is sm_89"),
        (["lstm", "--machine", "MI300x"], "there is no target 'MI300x'; the MI300X is gfx942"),
        (["lstm", "--machine", "sm_87"], "there is no target 'sm_87'; the targets are sm_75 (T4), sm_80 (A100), "),
        (["lstm", "--machine", "gfx90a"], "there is no target 'gfx90a'; the targets are sm_75 (T4), sm_80 (A100), "),
        (["lstm", "--machine", "sm_10"], "there is no target 'sm_10'; the targets are sm_75 (T4), sm_80 (A100), "),
        (["lstm", "--target", "cpu"], "there is no target 'cpu'; native code on a CPU is c"),
        (["lstm", "--time", "0"], "0 is not in the range 1<=x<=2147483647."),
        (["lstm", "--plot", "lstm.pdf"], "--plot writes .svg or .png files, by the end of their name."),
        (["lstm", "--plot", "lstm.svg", "--target", "c"], "and there are none for a CPU; name a GPU with --target."),
    ],
)
def test_explain_refuses_what_it_would_ignore(run, arguments, sentence):
    Path("two.toml").write_text(MODEL)
    Path("blocks.toml").write_text(CELL.replace('blocks = ["U"]', 'blocks = ["U"], heads = true'))
    Path("dense.toml").write_text('name = "thick"\ninputs = 2\n[[layers]]\ndense = 1\n')
    result = run("explain", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in " ".join(result.stderr.split())


def test_explain_takes_what_it_uses(run):
    Path("two.toml").write_text(MODEL)
    Path("blocks.toml").write_text(CELL.replace('blocks = ["U"]', 'blocks = ["U"], heads = true'))
    assert "leaky: 12 units in 3 heads" in run("explain", "blocks.toml", "--hidden", 12, "--heads", 3).stdout
    assert "lstm: 128 units, batch 16" in run("explain", "lstm", "--heads", 1).stdout
    assert "lstm: 4 units" in run("explain", "two.toml").stdout


def test_the_sizes_of_explain_are_those_of_a_file():
    limits = {option.name: option.type for option in main.commands["explain"].params}
    for name in ("hidden", "heads"):
        metadata = LayerTable.model_fields["hidden"].metadata
        assert (limits[name].min, limits[name].max) == (metadata[0].ge, metadata[-1].le)


# Completion.


def completions(run, *words: str, shell: str = "bash") -> list[str]:
    """What the shell is told when the last of the words is to be completed."""
    environment = {"_RNNGEN_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(["rnngen", *words])}
    result = run(prog_name="rnngen", env=environment | {"COMP_CWORD": str(len(words))})
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_words_are_completed(run):
    for name in ("leaky.toml", "lstm_of_mine.toml", "models/deep.toml", "models/notes.txt", ".hidden.toml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(CELL)
    for command in ("compile", "show", "explain", "verify"):
        assert completions(run, command, "ls") == ["lstm", "lstmp", "lstm_of_mine.toml"]
    assert completions(run, "compile", "m") == [*(n for n in library() if n.startswith("m")), "models/deep.toml"]
    assert completions(run, "compile", "models/") == ["models/deep.toml"]
    assert completions(run, "compile", "lstm", "ind") == ["indrnn"]
    assert completions(run, "compile", "[") == []
    assert completions(run, "cells", "gru") == ["gru", "gru_flux", "gru_v3"]
    passes = [step.__name__ for step in PASSES.steps]
    assert completions(run, "show", "lstm", "--after", "") == ["resolve", "infer", "unpack", "wrap", *passes]
    assert completions(run, "verify", "lstm", "--schedule", "") == list(SCHEDULES)
    for option in ("--target", "--machine"):
        assert completions(run, "explain", "lstm", option, "sm_9") == ["sm_90"]
    assert completions(run, "explain", "lstm", "--dtype", "b") == ["bfloat16"]
    assert "compile" in completions(run, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_readme_says_how_to_turn_completion_on(run, shell, monkeypatch):
    line = f"_RNNGEN_COMPLETE={shell}_source rnngen"
    assert line in (ROOT / "README.md").read_text()
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", staticmethod(lambda: None))
    result = run(prog_name="rnngen", env={"_RNNGEN_COMPLETE": f"{shell}_source"})
    assert result.exit_code == 0
    assert f"_RNNGEN_COMPLETE={shell}_complete" in result.stdout


# Verify and doctor.


WEIGHTS = ("weight_ih", "weight_hh", "bias")


def test_verify_compares_every_name(run):
    result = run("verify", "indrnn", "--path", "torch", "--dtype", "float64", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "The CPU path, in torch." in result.stdout
    for dtype in ("float64", "bfloat16"):
        table = result.stdout.partition(f"IndRNN, {dtype}: at most {TOLERANCES[dtype].limit:.0e}")[2].partition("\n\n")[
            0
        ]
        rows = [line.split("  ")[1].strip() for line in table.splitlines()[1:]]
        names = ["y", "last h", "d_x", "d_h", "d_weight_ih_l0", "d_weight_hh_l0", "d_bias_l0", "d_initial_h"]
        names += ["d_first_h"]  # of what resets return to
        weights = [f"d_{weight}_l{place}" for place in ("0_reverse", "1", "1_reverse") for weight in WEIGHTS]
        assert rows == [*names, *weights, "d_weight_hr_l0", OWN]
    assert result.stdout.endswith("16 runs compared, all within tolerance\n")


def test_verify_says_once_that_nothing_could_be_compared(run):
    Path("dense.toml").write_text('name = "thick"\ninputs = 2\n[[layers]]\ndense = 1\n')
    result = run("verify", "dense.toml", "--path", "torch", "--dtype", "float32")
    assert (result.exit_code, result.stdout) == (1, "The CPU path, in torch.\n")
    assert result.stderr.endswith("Error: Nothing could be compared: the module has no recurrent layer.\n")


def test_verify_runs_a_dtype_that_is_repeated_once(run, monkeypatch):
    asked = []

    def stream(source, module, path, dtypes, schedules, wrappers, save):
        assert not (wrappers or save)
        asked.append((dtypes, schedules))
        yield Plan("Here.", 1)
        yield Case("A", "resident", "float32", "T=1", {"y": 0.0})

    monkeypatch.setattr("rnngen.verify.verify", stream)
    dtypes = ("--dtype", "float64", "--dtype", "float32", "--dtype", "float64")
    result = run("verify", "rnn", *dtypes, "--schedule", "resident", "--schedule", "resident")
    assert (result.exit_code, asked) == (0, [(("float64", "float32"), ("resident",))])


def test_verify_offers_the_dtypes_that_have_a_tolerance():
    option = next(parameter for parameter in main.commands["verify"].params if parameter.name == "dtypes")
    assert list(option.type.choices) == list(TOLERANCES)


def test_verify_sees_a_wrong_gradient(run, monkeypatch):
    def wrong(*arguments):
        module = compile_model(*arguments)
        assert "d_weight_hh_1.sum(0)" in module.text or ".sum(0)" in module.text
        return Module(module.name, module.text.replace(".sum(0)", ".sum(0) * 1.01"), module.beside)

    monkeypatch.setattr("rnngen.compile.compile_model", wrong)
    result = run("verify", "indrnn", "--path", "torch", "--dtype", "float32")
    assert result.exit_code == 1
    wrong = [line.split()[0] for line in result.stdout.splitlines() if "WRONG" in line]
    assert wrong == [f"d_weight_hh_l{place}" for place in ("0", "0_reverse", "1", "1_reverse")]


def test_verify_sees_a_wrong_spelling(run, monkeypatch):
    """One that the module's own reference shares with its CPU path."""
    Path("leaky.toml").write_text(CELL)
    monkeypatch.setitem(SPELLING.calls, "tanh", "torch.sin({0})")
    result = run("verify", "leaky.toml", "--path", "torch", "--dtype", "float64", "--dtype", "bfloat16")
    assert result.exit_code == 1
    for dtype in ("float64", "bfloat16"):
        table = result.stdout.partition(f"Leaky, {dtype}: ")[2].partition("\n\n")[0]
        wrong = [line.split("  ")[1].strip() for line in table.splitlines() if "WRONG" in line]
        assert {"y", "d_x", "d_weight_hh_l0", OWN} <= set(wrong)


def test_verify_approves_of_nothing_that_is_not_finite(run):
    """No number is as right as any other."""
    Path("leaky.toml").write_text(CELL.replace("tanh(", "tanh(log(h) + "))
    result = run("verify", "leaky.toml", "--path", "torch", "--dtype", "float64")
    assert result.exit_code == 1
    assert " cannot be compared: the cell as it was described is not finite there" in result.stdout
    assert not re.search(r"^  (y|d_h) .* ok ", result.stdout, re.MULTILINE)


# A cell that amplifies rounding a million times, and its gradients so too.
UNSTEADY = CELL.replace("h' = (1 - alpha) * h + alpha * n", "h' = alpha * h + sin(1e6 * n)")


def test_verify_judges_an_unsteady_cell_by_how_far_rounding_moves_it(run):
    Path("leaky.toml").write_text(UNSTEADY.replace(" + U @ h", " + 1e-9 * (U @ h)"))
    result = run("verify", "leaky.toml", "--path", "torch", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    (row,) = re.findall(r"^  y .*", result.stdout, re.MULTILINE)
    assert re.search(r"e-1[01]  ok  .* \(unsteady: rounding alone moves the reference by \d\.\de-1[01]\)$", row)


def test_verify_approves_of_no_cell_that_rounding_moves_by_all_that_it_is(run):
    Path("leaky.toml").write_text(UNSTEADY)
    result = run("verify", "leaky.toml", "--path", "torch", "--dtype", "float32")
    assert result.exit_code == 1
    assert re.search(
        r" cannot be compared: rounding alone moves the cell as it was described by up to \d+% ", result.stdout
    )
    assert not re.search(r"^  (y|d_h) .* ok ", result.stdout, re.MULTILINE)


def test_verify_sees_a_wrong_gradient_of_an_unsteady_cell(run, monkeypatch):
    def wrong(*arguments):
        module = compile_model(*arguments)
        assert "torch.cos(1000000 * n)" in module.text
        text = module.text.replace("torch.cos(1000000 * n)", "1.0000001 * torch.cos(1e6 * n)")
        return Module(module.name, text, module.beside)

    Path("leaky.toml").write_text(UNSTEADY.replace(" + U @ h", " + 1e-9 * (U @ h)"))
    monkeypatch.setattr("rnngen.compile.compile_model", wrong)
    result = run("verify", "leaky.toml", "--path", "torch", "--dtype", "float64")
    found = [line.split()[0] for line in result.stdout.splitlines() if "WRONG" in line]
    assert {"d_x", "d_weight_ih_l0", "d_weight_hh_l0", "d_bias_l0"} <= set(found)
    assert not {"y", "last"} & set(found)


def test_verify_draws_numbers_that_the_type_can_hold(run):
    """A divisor that is positive in use and drawn around zero makes a large number; a second layer takes its `exp`."""
    Path("leaky.toml").write_text(
        CELL.replace('["h"]', '["h", "c"]')
        .replace("constants = { alpha = 0.3 }", 'output = "y"')
        .replace("n  = tanh(W @ x + U @ h + b)\n", "n = exp(W @ x)\ny = (U @ h + n) / (c + n)\n")
        .replace("(1 - alpha) * h + alpha * n", "exp(-exp(b)) * h + n * (W @ x)\nc' = exp(-exp(b)) * c + n")
    )
    result = run("verify", "leaky.toml", "--path", "torch", "--dtype", "float32")
    assert result.exit_code == 0, result.output


def test_verify_reports_what_fails_or_is_left_out(run, monkeypatch):
    def stream(*_):
        yield Plan("Here.", 3)
        yield Case("A", "resident", "float32", "T=1", {"y": float("nan"), "d_x": 1e-9})
        yield Case("A", "stepwise", "float32", "T=1", failure="RuntimeError: no")
        yield Case("A", "resident", "float32", "T=2", skipped="too wide")

    monkeypatch.setattr("rnngen.verify.verify", stream)
    result = run("verify", "rnn")
    assert result.exit_code == 1
    assert re.search(r"y +nan  WRONG  resident, T=1\n", result.stdout)
    assert "FAILED 1 times, first on stepwise, T=1: RuntimeError: no" in result.stdout
    assert "left out T=2: too wide" in result.stdout
    assert result.stdout.endswith("1 runs compared, 2 wrong\n")


def test_verify_knows_no_such_schedule(run):
    result = run("verify", "rnn", "--schedule", "stepwisee", "--dtype", "float32")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no schedule 'stepwisee'; did you mean 'stepwise'?" in result.stderr
    result = run("verify", "rnn", "--schedule", "stepwise", "--schedule", "elementwise", "--dtype", "float32")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No layer has the schedule elementwise; there are cooperative, resident, stepwise." in result.stderr


@pytest.mark.parametrize("path", ["torch", "native"])
def test_the_cpu_path_has_no_schedules(run, path):
    result = run("verify", "rnn", "--path", path, "--schedule", "stepwise")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--schedule is for kernels, and --path {path} runs none." in result.stderr


@COMPILES
def test_verify_runs_native_code(run):
    """In the types that it has, and says by which compiler."""
    result = run("verify", "indrnn", "--path", "native")
    assert result.exit_code == 0, result.output
    assert re.match(r"The CPU path, in native code by \S.*\.\n", result.stdout)
    assert re.findall(r"^IndRNN, (\w+):", result.stdout, re.MULTILINE) == ["float64", "float32"]
    assert result.stdout.endswith("16 runs compared, all within tolerance\n")


@COMPILES
def test_verify_sees_a_wrong_line_of_c(run, monkeypatch):
    """And no other path does."""

    def wrong(*arguments):
        module = compile_model(*arguments)
        (digest,) = {sha256(text.encode()).hexdigest() for text in module.beside.values()}
        beside = {".c": module.beside[".c"].replace(" = tanh_(", " = 1.01 * tanh_(")}
        assert beside != module.beside
        text = module.text.replace(digest, sha256(beside[".c"].encode()).hexdigest())
        return Module(module.name, sealed_again(text), beside)

    monkeypatch.setattr("rnngen.compile.compile_model", wrong)
    Path("leaky.toml").write_text(CELL)
    result = run("verify", "leaky.toml", "--path", "native", "--dtype", "float64")
    assert result.exit_code == 1
    assert re.search(r"^  y .* WRONG ", result.stdout, re.MULTILINE)
    assert run("verify", "leaky.toml", "--path", "torch", "--dtype", "float64").exit_code == 0


def sealed_again(text: str) -> str:
    """A module that was changed, as if it had been written so."""
    return sealed(re.sub(r"(# Body:   sha256 )\w{64}", rf"\g<1>{NO_DIGEST}", text, count=1))


def test_native_code_has_no_half_precision(run):
    result = run("verify", "rnn", "--path", "native", "--dtype", "float32", "--dtype", "bfloat16")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "There is native code in float64 and float32; --path torch runs bfloat16." in result.stderr


@POSIX
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"RNNGEN_NATIVE": "0"}, "RNNGEN_NATIVE is 0"),
        ({"CC": "no_such_compiler"}, "CC names 'no_such_compiler', which is not there"),
        ({"CC": "false"}, "does not compile a line of C"),
    ],
)
def test_verify_says_why_there_is_no_native_code(tmp_path, environment, reason):
    environment |= {"RNNGEN_CACHE": str(tmp_path / "cache")}
    order = ("-m", "rnngen", "verify", "indrnn", "--dtype", "float64", "--path")
    result = python(*order, "native", environment=environment, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: No native code can run: ") and reason in result.stderr
    assert result.stderr.endswith("; --path torch works without it.\n")


@COMPILES
def test_the_path_torch_compiles_nothing(tmp_path):
    environment = {"RNNGEN_CACHE": str(tmp_path / "cache"), "RNNGEN_NATIVE": "1"}
    for path, made in (("torch", False), ("native", True)):
        order = ("-m", "rnngen", "verify", "indrnn", "--dtype", "float64", "--path", path)
        assert python(*order, environment=environment).returncode == 0
        assert any(file.suffix == ".so" for file in tmp_path.rglob("*")) == made


def test_a_crash_of_the_verifier_is_ours(run, monkeypatch):
    monkeypatch.setattr("rnngen.compile.compile_model", lambda *_: Module("m", "import os; os._exit(7)", {}))
    result = run("verify", "rnn", "--path", "torch")
    assert result.exit_code == 3
    assert "ended early, with exit code 7" in result.stderr


def test_doctor_says_what_runs_where(run):
    result = run("doctor")
    assert result.exit_code == 0
    assert re.search(r"^torch +\d", result.stdout, re.MULTILINE)
    assert "Tensors on the CPU take the CPU path" in result.stdout
    record = json.loads(run("doctor", "--json").stdout)
    assert {"rnngen", "python", "torch", "triton", "numpy"} <= record["versions"].keys()
    interpreting = python("-m", "rnngen", "doctor", environment={"TRITON_INTERPRET": "1"}, cwd=ROOT, text=True).stdout
    assert "TRITON_INTERPRET is set" in interpreting
    assert "take the CPU path" not in interpreting


@pytest.mark.parametrize(
    "missing, told, environment",
    [
        (["torch"], "torch is missing, so no generated module can run here", {}),
        (["triton", "numpy"], "which is slow: the package 'triton' is not installed", {}),
        (["numpy"], "import of numpy halted", {"TRITON_INTERPRET": "1"}),
    ],
)
def test_doctor_works_where_a_package_is_missing(missing, told, environment):
    script = f"import sys; sys.modules |= dict.fromkeys({missing!r})\n"
    script += "from rnngen.cli import main; main(['doctor'])"
    result = python("-c", script, environment=environment, cwd=ROOT)
    text = result.stdout.decode()
    assert (result.returncode, result.stderr) == (0, b"")
    for package in missing:
        assert re.search(rf"^{package} +missing$", text, re.MULTILINE)
    assert told in text


def test_doctor_answers_for_every_file_that_is_named(run, tmp_path):
    (tmp_path / "mine.py").write_text("import torch\n")
    run("compile", "rnn", "gru", "-o", str(tmp_path))
    (tmp_path / "gru.py").write_bytes((tmp_path / "gru.py").read_bytes() + b"a = 1\n")
    named = [str(tmp_path / f"{name}.py") for name in ("rnn", "mine", "gru")]
    answers = run("doctor", *named).stdout.splitlines()[-3:]
    assert answers[0] == f"{named[0]} is as it was written."
    assert answers[1] == f"{named[1]} is no module of rnngen's."
    assert answers[2] == f"{named[2]} was edited by hand: rnngen compile --force gru"
    records = json.loads(run("doctor", "--json", *named).stdout)["modules"]
    assert [record["condition"] for record in records] == ["intact", "foreign", "edited"]
    assert run("doctor", str(tmp_path)).stdout.splitlines()[-1] == answers[2]  # of a folder, what is wrong
    assert "rnn.py" not in run("doctor", str(tmp_path)).stdout


def test_doctor_reads_no_more_than_a_module_can_be(run, tmp_path):
    with (tmp_path / "large.py").open("wb") as stream:
        stream.write(b"# Generated by rnngen ")
        stream.truncate(2**32)
    assert "large.py is larger than a module of rnngen's can be." in run("doctor", "large.py").stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_doctor_refuses_a_file_that_does_not_exist(run, tmp_path, options):
    result = run("doctor", *options, "nosuch.py", str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: 'nosuch.py' cannot be read: No such file or directory.\n"


def test_doctor_reports_a_broken_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    result = python("-m", "rnngen", "doctor", environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert result.returncode == 0
    assert b"Importing torch fails" in result.stdout
    assert b"libcudart.so" in result.stdout


def test_verify_needs_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module', name='torch')")
    result = python("-m", "rnngen", "verify", "rnn", environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert result.returncode == 2
    assert result.stderr.endswith(
        b"Error: The package 'torch' is not installed, and nothing can be verified without it.\n"
    )


@pytest.mark.parametrize(
    "file, text, told",
    [
        ("triton.py", "raise ModuleNotFoundError(name='triton')", "the package 'triton' is not installed, and kernels"),
        ("sitecustomize.py", "import triton\ntriton.__version__ = '3.5.1'", "Triton 3.5.1 is installed, and kernels"),
        ("triton.py", "raise ImportError('a\x1b library')", "importing 'triton' fails (ImportError: a\\x1b library)"),
    ],
    ids=["missing", "old", "broken"],
)
def test_verify_runs_kernels_or_says_why_there_are_none(tmp_path, file, text, told):
    (tmp_path / file).write_text(text)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = python("-m", "rnngen", "verify", "indrnn", "--dtype", "float64", environment=environment, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Error: No kernel can run: {told}" in result.stderr
    assert result.stderr.endswith("; --path torch works without it.\n")
    order = ("verify", "indrnn", "--dtype", "float64", "--path", "torch")
    result = python("-m", "rnngen", *order, environment=environment, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("The CPU path, in torch.\n")


def test_verify_runs_with_the_rnngen_that_was_called(tmp_path):
    """And not with another one that is installed too."""
    (tmp_path / "rnngen").mkdir()
    (tmp_path / "rnngen" / "__init__.py").write_text("raise ImportError('another version')")
    order = ("verify", "indrnn", "--path", "torch", "--dtype", "float64")
    result = python("-m", "rnngen", *order, environment={"PYTHONPATH": str(tmp_path)}, cwd=ROOT)
    assert result.returncode == 0, result.stderr
