"""`docs/anatomy.md` quotes `generated/lstm.py` word for word."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "anatomy.md").read_text(encoding="utf-8")
MODULE = (ROOT / "generated" / "lstm.py").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
WORDS = sorted(set(re.findall(r"`([^`]+)`", PROSE)))
# What the page names that is no text of the module.
ELSEWHERE = {"rnngen doctor", "generated/indrnn.py", "torch.func", "torch.compile"}


def stands_in(text: str) -> bool:
    """Whether the module has the text, which ends where a line or a word does."""
    return re.search(rf"(?<!\w){re.escape(text.rstrip())}(?!\w)", MODULE) is not None


def test_the_page_quotes_every_part():
    assert len(BLOCKS) >= 15
    longest = max(block.count("\n") for block in BLOCKS)
    assert longest <= 8, "a piece that is longer is not read"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0].strip())
def test_a_block_stands_in_the_module(block):
    assert stands_in(block)


def test_blocks_come_in_the_order_of_the_module():
    places = [MODULE.index(block.rstrip()) for block in BLOCKS]
    assert places == sorted(places)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stands_in_the_module(word):
    assert stands_in(word) != (word in ELSEWHERE)


@pytest.mark.parametrize("text", ["def lstm_forward(x)", "lstm_forwar", "nothing of it"])
def test_what_is_not_there_is_seen(text):
    assert not stands_in(text)
