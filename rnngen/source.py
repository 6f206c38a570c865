"""The text of a model file, and places in it.

A place is a `Span`: a line, a column and a length, the way an editor counts them. Everything that is later
said about a model (an error, a comment in the generated module) leads back to a span of a `Source`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Source", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """`length` characters from `line` and `column`, both counted from 1. A span may run on over several
    lines.
    """

    line: int
    column: int
    length: int


@dataclass(frozen=True)
class Source:
    """A text and the name it has for the user: the path as it was given, shown and never opened.

    Lines end in "\\n" and in nothing else: "\\r\\n" is turned into it here, so that the text, its digest and
    all places are the same whichever editor wrote the file.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        if "\r\n" in self.text:
            object.__setattr__(self, "text", self.text.replace("\r\n", "\n"))

    @cached_property
    def digest(self) -> str:
        """The sha256 of the text, in hex."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def _line_starts(self) -> list[int]:
        starts, at = [0], self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def line(self, number: int) -> str:
        """The text of a line, without its end; "" for a line that the text does not have."""
        starts = self._line_starts
        if not 1 <= number <= len(starts):
            return ""
        end = starts[number] - 1 if number < len(starts) else len(self.text)
        return self.text[starts[number - 1] : end]

    def span(self, start: int, end: int) -> Span:
        """The span of the characters `start` to `end` (not included) of the text, counted from 0."""
        line = bisect_right(self._line_starts, start)
        return Span(line, start - self._line_starts[line - 1] + 1, end - start)

    def offset(self, span: Span) -> int:
        """Where a span starts in the text, counted from 0. Raises IndexError for a line the text does not
        have.
        """
        return self._line_starts[span.line - 1] + span.column - 1

    def text_of(self, span: Span) -> str:
        """The characters of a span. Raises IndexError for a line the text does not have."""
        start = self.offset(span)
        return self.text[start : start + span.length]
