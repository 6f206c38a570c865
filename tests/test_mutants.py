"""What `make mutants` is made of: mutants that apply, and only those that could be noticed."""

from pathlib import Path

import mutate
import pytest


def test_every_hand_made_mutant_applies():
    """And each is another program. A row whose text is gone has to follow it."""
    found = mutate.handmade()
    assert len(found) >= 45
    for mutant in found:
        if mutant.file.endswith(".py"):
            assert mutate.differs(mutant.file, mutant.before, mutant.after), mutant.origin


def test_a_hand_made_mutant_that_would_be_left_out_is_named(monkeypatch):
    row = {"name": "one of another house", "file": "rnngen/cli/group.py", "old": "import", "new": "export"}
    gone = {"name": "one of a file that is gone", "file": "rnngen/emit/gone.py", "old": "a", "new": "b"}
    lost = {"name": "one that has lost its text", "file": "rnngen/ops.py", "old": "no such text", "new": ""}
    monkeypatch.setattr(mutate, "rows", lambda name: [row, gone, lost])
    with pytest.raises(mutate.Fault) as fault:
        mutate.handmade()
    told = str(fault.value)
    assert "one of another house: rnngen/cli/group.py is no file of ops, passes, emit, runtime, templates\n" in told
    assert "one of a file that is gone: rnngen/emit/gone.py is no file of " in told
    assert "one that has lost its text: rnngen/ops.py has its text 0 times" in told


def test_every_equivalent_mutant_is_of_a_line_that_is_there():
    assert all(mutate.equivalents().values())


def test_every_file_has_judges_that_exist():
    files = [file for area in mutate.AREAS for file in mutate.files(area)]
    assert len(files) > 40
    for tests in (tests for file in files for tests in mutate.judges(file)):
        assert all((Path(__file__).parent / word).is_file() for word in tests.split() if word.endswith(".py")), tests


@pytest.mark.parametrize(
    ("after", "told_apart"),
    [
        ("def f(a: int) -> int:\n    return a + 2\n", True),
        ("def f(a: float) -> list:\n    return a + 1\n", False),
        ('def f(a: int) -> int:\n    "Adds."\n    return a + 1\n', False),
        ("def f(a: int) -> int:\n    return a + 1  # more\n", False),
        ("def f(a: int) -> int:\n    return b + 1\n", False),  # found by any call
        ("def f(a: int) -> int:\n    break\n", False),
        ("def f(a: int) -> int:\n    return a + 1\n    return a\n", False),
        ("def f(a: int) -> int:\n    return a +\n", False),
    ],
)
def test_a_mutant_differs_in_what_a_test_could_notice(after, told_apart):
    assert mutate.differs("f.py", "def f(a: int) -> int:\n    return a + 1\n", after) == told_apart


LOOP = "def f(rows):\n    for row in rows:\n        if row:\n            row.g()\n{}"


@pytest.mark.parametrize(
    ("end", "told_apart"),
    [("            continue\n", False), ("        continue\n", False), ("            break\n", True)],
)
def test_a_loop_that_goes_on_is_the_same_loop(end, told_apart):
    assert mutate.differs("f.py", LOOP.format(""), LOOP.format(end)) == told_apart


@pytest.mark.parametrize(
    ("before", "after", "told_apart"),
    [
        ("step_at(begin + count, T, second, BACKWARDS, BOTH)", "count", True),
        ("B, tl.int64) + row_0\n", "B, tl.int64) + row_0  # later\n", False),
        ("num_stages=STAGES", "num_stages=", False),
    ],
)
def test_a_template_differs_in_the_code_it_gives(before, after, told_apart):
    file = "templates/triton/resident.py.jinja"
    text = (mutate.ROOT / file).read_text()
    assert text.count(before) == 1
    assert mutate.differs(file, text, text.replace(before, after)) == told_apart
