"""Mistakes of the user: what they are made of, how they are collected, and how they are drawn.

A mistake is a record, and `render` is the only place that turns one into lines. A fault in rnngen itself is
no mistake: it stays an ordinary exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from .source import Source, Span

__all__ = ["Mistake", "Mistakes", "ModelError", "did_you_mean", "render", "render_all", "visible"]

MOST_MISTAKES = 100  # are shown, since nobody reads more
MOST_COUNTED = 1000  # then the search ends: a file of 256 KiB could hold a hundred thousand
WIDTH = 100  # terminal columns shown of a source line
BEFORE = 40  # of these, at most so many in front of the caret once the line is clipped
SENTENCE = 600  # characters shown of a message, label, note or hint: a name in it may be as long as the file
MOST_CANDIDATES = 256  # that a word is compared with, at 6 us each
LONGEST_NAME = 64  # difflib takes time quadratic in the length of a word


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a model.

    `code` is kebab-case and stable. `message` is one full sentence, `label` a few words for under the caret.
    A note states a fact, a hint gives an action. Without a `source` or a `span` the mistake has no place to
    show.
    """

    code: str
    message: str
    source: Source | None
    span: Span | None
    label: str = ""
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


class ModelError(Exception):
    """The model is rejected. `mistakes` are file by file and in the order of their places, those without one
    first; `str()` draws as many as anybody would read, and counts the rest.

    all_found: False if the search was given up, so that there may be more.
    """

    mistakes: tuple[Mistake, ...]
    all_found: bool

    def __init__(self, mistakes: Iterable[Mistake], all_found: bool = True) -> None:
        mistakes = tuple(mistakes)
        names = list(dict.fromkeys(m.source.name if m.source else "" for m in mistakes))

        def place(m: Mistake) -> tuple[int, int, int]:
            line, column = (m.span.line, m.span.column) if m.span else (0, 0)
            return names.index(m.source.name if m.source else ""), line, column

        self.mistakes = tuple(sorted(mistakes, key=place))
        self.all_found = all_found
        super().__init__(self.mistakes, all_found)

    def __str__(self) -> str:
        return render_all(self.mistakes, self.all_found)


Found = TypeVar("Found")


class Mistakes:
    """Collects the mistakes of a stage, so that all of them are reported together."""

    def __init__(self, source: Source | None = None) -> None:
        self.source = source
        self._collected: list[Mistake] = []

    def __bool__(self) -> bool:
        return bool(self._collected)

    def __len__(self) -> int:
        return len(self._collected)

    @property
    def enough(self) -> bool:
        """Whether no more will be shown, so that a remedy which takes long to find need not be."""
        return len(self._collected) >= MOST_MISTAKES

    def add(
        self,
        code: str,
        message: str,
        span: Span | None,
        label: str = "",
        *,
        notes: Iterable[str | None] = (),
        hints: Iterable[str | None] = (),
        source: Source | None = None,
    ) -> None:
        """Record a mistake in `source`, or else in the source of the collector.

        Notes and hints that are None or empty are left out, so that the answer of `did_you_mean` can be
        passed as it is. Raises ModelError with all that was collected when that is as much as anybody would
        want counted.
        """
        texts = tuple(filter(None, notes)), tuple(filter(None, hints))
        self._collected.append(Mistake(code, message, source or self.source, span, label, *texts))
        if len(self._collected) >= MOST_COUNTED:
            raise ModelError(self._collected, all_found=False)

    def check(self) -> None:
        """Raises ModelError if any mistake was recorded."""
        if self._collected:
            raise ModelError(self._collected)

    def checked(self, found: Found | None) -> Found:
        """What a stage has found; None only where it has recorded a mistake. Raises ModelError if any was."""
        self.check()
        if found is None:
            raise AssertionError("a model was rejected without a reason")
        return found


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """The hint that names the candidate most like `word`, or None where none is close.

    Of equally close ones the first is taken; a set, which has no first, is sorted before.
    """
    if len(word) > LONGEST_NAME:
        return None
    if isinstance(candidates, (set, frozenset)):
        candidates = sorted(candidates)
    candidates = [c for c in islice(candidates, MOST_CANDIDATES) if len(c) <= LONGEST_NAME and c != word]
    for candidate in candidates:
        if candidate.casefold() == word.casefold():
            return f"did you mean '{candidate}'?"

    from difflib import SequenceMatcher  # only needed once something is wrong

    best, best_ratio = None, 0.6
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(word)
    for candidate in candidates:
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() < best_ratio or matcher.quick_ratio() < best_ratio:
            continue
        ratio = matcher.ratio()
        if ratio > best_ratio or (best is None and ratio == best_ratio):
            best, best_ratio = candidate, ratio
    return None if best is None else f"did you mean '{best}'?"


def render_all(mistakes: Sequence[Mistake], all_found: bool = True, color: bool = False) -> str:
    """The first mistakes as `render` draws them, and how many there are besides."""
    drawn = [render(mistake, color) for mistake in mistakes[:MOST_MISTAKES]]
    if more := len(mistakes) - len(drawn):
        drawn.append(f"and {more if all_found else f'at least {more}'} more.")
    return "\n\n".join(drawn)


def render(mistake: Mistake, color: bool = False) -> str:
    """The mistake as lines for a terminal, without a newline at the end."""
    bold, red, cyan, reset = ("\x1b[1m", "\x1b[1;31m", "\x1b[36m", "\x1b[0m") if color else ("", "", "", "")
    lines = []
    source, span = mistake.source, mistake.span
    if source is not None and span is not None:
        lines.append(f'File "{_sentence(source.name)}", line {span.line}, column {span.column}')
        shown, before, marked = _clip(source.line(span.line), span.column - 1, span.length)
        gutter = f"{span.line} | "
        lines.append((gutter + shown).rstrip())
        label = f" {_sentence(mistake.label)}" if mistake.label else ""
        lines.append(" " * (len(gutter) + before) + f"{red}{'^' * marked}{label}{reset}")
    lines.append(f"{bold}{_sentence(mistake.message)} [{visible(mistake.code)}]{reset}")
    lines += [f"{cyan}Note:{reset} {_sentence(note)}" for note in mistake.notes]
    lines += [f"{cyan}Hint:{reset} {_sentence(hint)}" for hint in mistake.hints]
    return "\n".join(lines)


def visible(text: str) -> str:
    """`text` on one line, with each character that a terminal would act on, reorder or hide written as an
    escape.

    That is every character Python does not call printable (controls, bidi and zero-width marks, surrogates,
    unassigned ones), and the combining marks, which would be drawn over their neighbours. A tab becomes a
    space.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_cell, text))


def _sentence(text: str) -> str:
    return visible(text if len(text) <= SENTENCE else text[: SENTENCE - 3] + "...")


def _cell(char: str) -> str:
    """What is shown for one character."""
    if char == "\t":
        return " "
    if char.isascii():
        return char if char.isprintable() else f"\\x{ord(char):02x}"

    import unicodedata  # only needed for such characters

    if char.isprintable() and not unicodedata.category(char).startswith("M"):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _width(cell: str) -> int:
    """How many columns of a terminal a cell takes: East Asian wide characters take two."""
    if cell.isascii():
        return len(cell)

    import unicodedata

    return 2 if unicodedata.east_asian_width(cell) in ("W", "F") else 1


def _clip(line: str, start: int, length: int) -> tuple[str, int, int]:
    """What to show of a line whose characters from `start` on are marked: the text, and in terminal columns
    how much of it lies before the mark and how wide the mark is (at least 1). Looks at a bounded part of the
    line only.
    """
    start = min(start, len(line))
    first, before = start, 0
    # Everything in front is shown if the whole line fits; otherwise a few words of it.
    room = WIDTH if len(line) <= WIDTH and sum(map(_width, map(_cell, line))) <= WIDTH else BEFORE
    while first > 0 and before + (width := _width(_cell(line[first - 1]))) <= room:
        before += width
        first -= 1

    shown = [_cell(char) for char in line[first:start]]
    used, marked, last = before, 0, start
    while last < len(line) and used + (width := _width(cell := _cell(line[last]))) <= WIDTH:
        shown.append(cell)
        used += width
        if last < start + length:
            marked += width
        last += 1

    head, tail = "..." if first > 0 else "", "..." if last < len(line) else ""
    return head + "".join(shown) + tail, len(head) + before, max(marked, 1)
