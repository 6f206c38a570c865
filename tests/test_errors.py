"""Every mistake that the compiler knows: a bad model and the exact text a user sees, in `errors/`.

After a change that is meant, RNNGEN_UPDATE_ERRORS=1 writes the texts anew; their diff is read like code.
"""

import ast
import os
from pathlib import Path

import pytest

from rnngen.compile import compile_model
from rnngen.document import read
from rnngen.errors import ModelError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "errors"
MODELS = sorted(FOLDER.glob("*.toml"))
# The files whose mistakes are about a model's text; what `cli` and `write` say of files is tested with them.
STAGES = ("document", "equations", "cell", "lag", "description/*", "build", "compile", "passes/*")
REPORTERS = {"Mistake", "add", "report", "rejected", "mistake", "reject", "_reject"}


@pytest.fixture(autouse=True)
def _within_the_folder(monkeypatch):
    """A text says the name of the file as it was given."""
    monkeypatch.chdir(FOLDER)


def mistakes(model: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        compile_model(read(model.name))
    return caught.value


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_the_text_of_a_mistake(model):
    shown = f"{mistakes(model)}\n"
    expected = model.with_suffix(".txt")
    if os.environ.get("RNNGEN_UPDATE_ERRORS") == "1":
        expected.write_text(shown, encoding="utf-8")
    assert expected.exists(), f"{expected.name} is missing; see the top of this file"
    assert shown == expected.read_text(encoding="utf-8")


def test_no_text_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in MODELS}


def codes() -> dict[str, str]:
    """Each code in the sources, and a place where it is given."""
    found = {}
    for pattern in STAGES:
        for path in sorted((ROOT / "rnngen").glob(f"{pattern}.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(
                        func=ast.Name(id=name) | ast.Attribute(attr=name),
                        args=[ast.Constant(value=str(code)), *_],
                    ) if name in REPORTERS:
                        found.setdefault(code, f"{path.name}:{node.lineno}")
    return found


def test_every_code_has_a_model():
    shown = {mistake.code for model in MODELS for mistake in mistakes(model).mistakes}
    known = codes()
    assert len(known) > 30, "the way mistakes are reported has changed, and this test no longer finds it"
    assert {code: place for code, place in known.items() if code not in shown} == {}
    assert shown <= known.keys()


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_the_style_of_a_mistake(model):
    for mistake in mistakes(model).mistakes:
        assert mistake.message[0].isupper() or mistake.message[0] in "'\"", mistake
        assert mistake.message.endswith("."), mistake
        assert mistake.code == mistake.code.lower() and " " not in mistake.code
        assert not mistake.label.endswith("."), mistake
        for text in (*mistake.notes, *mistake.hints):
            assert text[0] != text[0].upper() or not text[0].isalpha(), mistake
            assert text.endswith((".", "?")) or ": " in text, mistake  # a line to write stands behind a colon
        assert mistake.span is not None, mistake


def test_mistakes_of_one_stage_come_together():
    several = [model for model in MODELS if len(mistakes(model).mistakes) >= 3]
    assert len(several) >= 20
