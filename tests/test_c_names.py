"""Names of a user's that C, its libraries or the header of a module's C text have another use for."""

import re
import shutil
import subprocess

import pytest

from rnngen.compile import compile_model
from rnngen.emit.c.spelling import FUNCTIONS, KEYWORDS, SPELLING
from rnngen.runtime.compiler import FOLDER
from rnngen.source import Source
from rnngen.verify import Case, Plan, verify

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine: none of cc, gcc and clang")


@pytest.fixture(scope="module")
def given() -> tuple[set[str], set[str]]:
    """What is a macro for any name behind the header, and all words of the header."""
    command = [COMPILER, "-std=gnu11", "-fopenmp", "-DREAL=float", f"-I{FOLDER}", "-E", "-dM", "-include", "rnngen.h"]
    done = subprocess.run([*command, "-x", "c", "/dev/null"], capture_output=True, text=True, check=True)
    macros = set(re.findall(r"^#define ([A-Za-z]\w*)(?!\w|\()", done.stdout, re.MULTILINE))
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.h"))
    return macros, set(re.findall(r"[A-Za-z]\w*", text))


def test_macros_are_reserved(given):
    macros, _ = given
    assert {"NULL", "NAN", "REAL", "LANES"} <= macros
    assert macros <= SPELLING.reserved


def test_functions_that_are_spelled_are_in_the_header(given):
    _, words = given
    assert words >= FUNCTIONS


@pytest.mark.parametrize("word", ["static", "for", "asm", "typeof", "double"])
def test_keywords_are_keywords(word):
    assert word in KEYWORDS


WORDS = """
    double union struct short signed static register goto asm typeof void bool NULL NAN INFINITY M_PI HUGE errno stdin
    linux unix REAL R EACH EVERY LANES PANEL WIDE DIGITS VECTOR_BYTES vector unaligned product call scan multiply taken
    begin begun boundary counts cut put at dense run sum_ mean_ exp_ tanh_ sigmoid_ log_ max_ int64_t int32_t size_t
    log1 sin_ sqrt_ malloc memcpy free main T B H I heads tensors products first rows row r n t j room resets given
    h_to h_rooms h_row c_operand saved saved_unwanted saved_ y valid
""".split()


STATES = "double NULL errno linux REAL call rows row first j at put T H given".split()


def of_values() -> str:
    """A cell whose values and states have such names."""
    values = [word for word in WORDS if word not in STATES]
    lines, before = [], "W @ x + U @ w"
    for place, value in enumerate(values):
        lines.append(f"{value} = tanh(0.7 * {STATES[place % len(STATES)]} + 0.5 * ({before}))")
        before = value
    lines += [f"{state}' = 0.5 * {state} + 0.3 * {value}" for state, value in zip(STATES, values, strict=False)]
    return cell(STATES, [*lines, f"w' = tanh({before}) - 0.1 * mean({values[0]})"], [])


def of_parameters() -> str:
    """A cell whose parameters have such names; torch takes 64 arguments."""
    words = [*WORDS[:24:2], *WORDS[-30:]]
    lines = ["v = W @ x + U @ w", *(f"v{n} = tanh({word} * w + v{n - 1 if n else ''})" for n, word in enumerate(words))]
    return cell([], [*lines, f"w' = 0.5 * w + 0.3 * v{len(words) - 1}"], words)


def cell(states: list[str], lines: list[str], vectors: list[str]) -> str:
    step = "\n".join(lines)
    shapes = {
        "Ws": ("hidden', 'inputs", "W"),
        "Us": ("hidden', 'hidden", "U"),
        **{name: ("hidden", name) for name in vectors},
    }
    parameters = "\n".join(
        f"{name} = {{ shape = ['{of}'], blocks = ['{block}'] }}" for name, (of, block) in shapes.items()
    )
    start = f"name = 'words'\nstates = {['w', *states]}\noutput = \"w'\"\n"
    return f"{start}step = '''\n{step}\n'''\n[parameters]\n{parameters}\n"


@pytest.mark.parametrize("text", [of_values(), of_parameters()], ids=["values", "parameters"])
def test_cells_of_such_names_run(text):
    """In native code as in the reference."""
    source = Source("words.toml", text)
    plan, *cases = verify(source, compile_model(source), "native", ("float64",))
    assert isinstance(plan, Plan) and "native" in plan.where and cases
    for case in cases:
        assert isinstance(case, Case) and not (case.failure or case.skipped), case
        assert all(error <= case.limit(name) for name, error in case.errors.items()), case
