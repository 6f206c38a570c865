"""How a mistake is drawn, and that no text in it can do anything to a terminal."""

import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnngen.errors import Mistake, Mistakes, ModelError, did_you_mean, render, visible
from rnngen.source import Source, Span

LSTM = Source("lstm.toml", '\n\n\n\nf = "sigmoid(W_f @ x + R_g @ h + b_f)"\n')


def test_the_form():
    mistake = Mistake(
        code="unknown-name",
        message="Unknown name 'R_g' in equation 'f' of cell 'lstm'.",
        source=LSTM,
        span=Span(5, 24, 3),
        label="not a parameter, state or input",
        notes=("the parameters are 'W_f', 'R_f' and 'b_f'.",),
        hints=("did you mean 'R_f'?",),
    )
    expected = """\
File "lstm.toml", line 5, column 24
5 | f = "sigmoid(W_f @ x + R_g @ h + b_f)"
                           ^^^ not a parameter, state or input
Unknown name 'R_g' in equation 'f' of cell 'lstm'. [unknown-name]
Note: the parameters are 'W_f', 'R_f' and 'b_f'.
Hint: did you mean 'R_f'?"""
    assert render(mistake) == expected
    colored = render(mistake, color=True)
    assert colored != expected
    for code in ("\x1b[1m", "\x1b[1;31m", "\x1b[36m", "\x1b[0m"):
        colored = colored.replace(code, "")
    assert colored == expected


def test_without_a_place():
    mistake = Mistake("no-layers", "The model has no layers.", LSTM, None, label="x", hints=("add a layer.",))
    assert render(mistake) == "The model has no layers. [no-layers]\nHint: add a layer."


def drawn(line: str, column: int, length: int, label: str = "") -> tuple[str, str]:
    """The line that is shown and the line with the carets, both without the gutter."""
    lines = render(Mistake("c", "M.", Source("m", line), Span(1, column, length), label)).split("\n")
    assert len(lines) == 4
    return lines[1].removeprefix("1 |").removeprefix(" "), lines[2].removeprefix("    ")


def test_tabs_and_controls_keep_the_caret_in_place():
    assert drawn("\ta = 1", 2, 1) == (" a = 1", " ^")
    assert drawn("\x1b[2Ja = 1", 5, 1) == (r"\x1b[2Ja = 1", "       ^")
    assert drawn("a\u202eb", 2, 1) == (r"a\u202eb", " ^^^^^^")
    assert drawn("日本 = x", 6, 1) == ("日本 = x", "       ^")
    assert drawn("e\u0301 = x", 6, 1) == (r"e\u0301 = x", " " * 10 + "^")
    assert drawn("a\ud800b", 3, 1) == (r"a\ud800b", " " * 7 + "^")


def test_ends_of_lines():
    assert drawn("a =", 4, 1) == ("a =", "   ^")
    assert drawn("a =", 2, 99) == ("a =", " ^^")
    assert drawn("", 1, 0, "here") == ("", "^ here")
    assert drawn("a", 40, 3) == ("a", " ^")


def test_a_long_line_is_clipped_around_the_caret():
    line = "x" * 500 + "R_g" + "y" * 500
    shown, carets = drawn(line, 501, 3)
    assert shown == "..." + "x" * 40 + "R_g" + "y" * 57 + "..."
    assert carets == " " * 43 + "^^^"
    assert drawn(line, 1, 1)[0] == "x" * 100 + "..."
    assert drawn(line, 501, 503)[1] == " " * 43 + "^" * 60
    exact = "x" * 100
    assert drawn(exact, 100, 1) == (exact, " " * 99 + "^")


def test_a_line_of_a_megabyte_is_quick_to_draw():
    line = "\u202e" * 500_000 + "R" + "\u202e" * 500_000
    shown, carets = drawn(line, 500_001, 1)
    assert len(shown) < 110 and shown[carets.index("^")] == "R"


NASTY = st.text(st.characters() | st.sampled_from("\t\r\n\x1b\x9b\u202e\u2028\u200d日e\u0301😀"), max_size=300)


@given(NASTY, st.integers(0, 320), st.integers(0, 50), NASTY)
def test_nothing_reaches_the_terminal_but_what_it_prints(text, start, length, words):
    source = Source(words, text)
    span = source.span(min(start, len(source.text)), min(start, len(source.text)) + length)
    lines = render(Mistake("c", words, source, span, words, (words,), (words,))).split("\n")
    assert len(lines) == 6
    for line in lines:
        assert line.isprintable()
        assert not any(unicodedata.category(char).startswith("M") for char in line)


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.integers(0, 199))
def test_the_caret_is_under_its_character(text, at):
    line = text.replace("\n", "") + "x"
    at = min(at, len(line) - 1)
    shown, carets = drawn(line, at + 1, 1)
    columns = "".join(c + ("\0" if unicodedata.east_asian_width(c) in "WF" else "") for c in shown)
    marked = columns[carets.index("^") : carets.index("^") + carets.count("^")].replace("\0", "")
    if at < len(line) - 1 or line[at] != " ":
        assert marked.rstrip() == visible(line[at]).rstrip()


def test_long_sentences_are_cut():
    text = render(Mistake("c", "x" * 10_000, None, None, notes=("y" * 10_000,)))
    assert len(text) < 1300 and text.count("...") == 2 and "... [c]" in text


def test_mistakes_come_in_the_order_of_their_places():
    mistakes = Mistakes(LSTM)
    assert not mistakes
    mistakes.check()
    mistakes.add("late", "Late.", Span(5, 8, 1))
    mistakes.add("other", "Other.", Span(1, 1, 1), source=Source("other.toml", "x"))
    mistakes.add("early", "Early.", Span(5, 7, 1), hints=[None, "do it.", ""], notes=[did_you_mean("x", [])])
    mistakes.add("nowhere", "Nowhere.", None)
    assert len(mistakes) == 4
    with pytest.raises(ModelError) as caught:
        mistakes.check()
    assert [m.code for m in caught.value.mistakes] == ["nowhere", "early", "late", "other"]
    assert caught.value.mistakes[1].hints == ("do it.",) and caught.value.mistakes[1].notes == ()
    assert str(caught.value).count("\n\n") == 3


@pytest.mark.parametrize(("found", "said"), [(100, ""), (101, "and 1 more."), (137, "and 37 more.")])
def test_a_hundred_mistakes_are_shown_and_the_rest_counted(found, said):
    mistakes = Mistakes(LSTM)
    for number in range(found):
        mistakes.add("c", f"Mistake {number}.", None)
    with pytest.raises(ModelError) as caught:
        mistakes.check()
    assert len(caught.value.mistakes) == found
    shown = str(caught.value).split("\n\n")
    assert shown[:100] == [f"Mistake {number}. [c]" for number in range(100)]
    assert shown[100:] == [said] * bool(said)


def test_the_search_for_mistakes_has_an_end():
    mistakes = Mistakes(LSTM)
    with pytest.raises(ModelError) as caught:
        for number in range(10_000):
            mistakes.add("c", f"Mistake {number}.", None)
    assert str(caught.value).endswith("\n\nand at least 900 more.")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("word", "candidates", "meant"),
    [
        ("hiden", ["inputs", "hidden", "cell"], "hidden"),
        ("LSTM", ["gru", "lstm"], "lstm"),
        ("R_g", ["R_f", "R_i", "b_f"], "R_f"),
        ("R_g", {"R_i", "R_f", "R_o"}, "R_f"),
        ("x", ["h", "c"], None),
        ("hidden", ["hidden"], None),
        ("h" * 100_000, ["h" * 100_000 + "x"], None),
    ],
)
def test_did_you_mean(word, candidates, meant):
    assert did_you_mean(word, candidates) == (meant and f"did you mean '{meant}'?")
