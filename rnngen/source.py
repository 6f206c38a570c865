"""The text of a model file, and places in it.

A place is a `Span`: a line, a column and a length, the way an editor counts them. Everything that is later
said about a model (an error, a comment in the generated module) leads back to a span of a `Source`.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

__all__ = ["STDIN", "Source", "Span"]

STDIN = "<stdin>"  # the name of a text that came through standard input
# What a file's name may show of itself in a generated module. No sign of it is a command for Python, an editor or a
# shell within quotes: a coding cookie and a modeline need a colon or an equals sign, and none is written behind it.
_PLAIN = re.compile(r"[A-Za-z0-9 _.,+@()<>-]")


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

    @property
    def file_name(self) -> str:
        """The name without a folder."""
        return PurePath(self.name).name

    @cached_property
    def label(self) -> str:
        """The file's name as a generated module writes it, the same from wherever the file is compiled: all but the
        plainest characters as the bytes that they are on disk, `\\xe4`, which a shell reads in `$'...'`.
        """
        return "".join(char if _PLAIN.fullmatch(char) else _escaped(char) for char in self.file_name)

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


def _escaped(char: str) -> str:
    undecodable = "\udc80" <= char <= "\udcff"  # how Python holds a byte of a name that is not UTF-8
    encoded = char.encode("utf-8", "surrogateescape" if undecodable else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in encoded)
