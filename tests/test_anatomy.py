"""`docs/anatomy.md` quotes `generated/lstm.py` and `generated/lstm.c` word for word."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "anatomy.md").read_text(encoding="utf-8")
FILES = {
    language: (ROOT / "generated" / name).read_text(encoding="utf-8")
    for language, name in {"python": "lstm.py", "c": "lstm.c"}.items()
}
BLOCKS = re.findall(r"```(python|c)\n(.*?)```", PAGE, re.DOTALL)
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
WORDS = sorted(set(re.findall(r"`([^`]+)`", PROSE)))
# What the page names that is no text of the files.
ELSEWHERE = {
    *("rnngen doctor", "generated/indrnn.py", "torch.func", "torch.compile"),
    *("lstm.c", "rnngen/runtime/c/", "sequential"),
}


def stands_in(text: str, language: str) -> bool:
    """Whether a file has the text, which ends where a line or a word does."""
    return re.search(rf"(?<!\w){re.escape(text.rstrip())}(?!\w)", FILES[language]) is not None


def test_the_page_quotes_every_part():
    assert len(BLOCKS) >= 15
    assert {language for language, _ in BLOCKS} == FILES.keys()
    longest = max(block.count("\n") for _, block in BLOCKS)
    assert longest <= 8, "a piece that is longer is not read"


@pytest.mark.parametrize(
    ("language", "block"), BLOCKS, ids=[f"{language}: {block.split(chr(10))[0].strip()}" for language, block in BLOCKS]
)
def test_a_block_stands_in_its_file(language, block):
    assert stands_in(block, language)


def test_blocks_come_in_the_order_of_their_files():
    languages = [language for language, _ in BLOCKS]
    assert languages == sorted(languages, reverse=True)
    for language, text in FILES.items():
        places = [text.index(block.rstrip()) for of, block in BLOCKS if of == language]
        assert places == sorted(places)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stands_in_a_file(word):
    assert any(stands_in(word, language) for language in FILES) != (word in ELSEWHERE)


@pytest.mark.parametrize("text", ["def lstm_forward(x)", "lstm_forwar", "nothing of it"])
def test_what_is_not_there_is_seen(text):
    assert not any(stands_in(text, language) for language in FILES)
