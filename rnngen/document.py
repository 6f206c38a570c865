"""A model file as values with places: `read` opens it safely, `parse` makes a `Document` of it.

The values come from tomllib. It gives no places, and a few short texts make it slow or raise something other
than its own error. So three readers share the regular expressions below: `_guard` looks for such texts before
tomllib sees them, tomllib finds the values, and `_Locator`, when the first place is asked for, finds where
they stand. It passes over a value in brackets, whose end `_guard` has noted, until a place inside is wanted.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, NoReturn

from .errors import Mistake, ModelError, visible
from .source import STDIN, Source, Span

__all__ = ["MOST_BYTES", "Document", "KeyPath", "Places", "Unreadable", "parse", "read", "read_stdin"]

MOST_BYTES = 256 * 1024
MOST_KEY_PARTS = 16  # tomllib takes 4.6 s for a key of 20 000 parts
DEEPEST = 32  # tomllib calls itself for each bracket, and Python gives up at a thousand calls
MOST_INTEGER_DIGITS = 19  # as many as 2**63 has; Python raises a plain ValueError from 4300 on
MOST_NUMBER_CHARACTERS = 64

KeyPath = tuple[str | int, ...]

# The longest strings have a hundred thousand characters, so no pattern may try its characters in two ways:
# `*+` and `++` give nothing back. (Not around groups: there they were wrong until Python 3.11.5.)
_TRIPLE = r"""
    \"{3} [^"\\]*+ (?: (?: \\. | "(?!"") ) [^"\\]*+ )* \"{3} "{0,2}
  | '{3} [^']*+ (?: '(?!'') [^']*+ )* '{3} '{0,2}
"""
_SINGLE = r"""
    " [^"\\\n]*+ (?: \\[^\n] [^"\\\n]*+ )* "
  | ' [^'\n]*+ '
"""
_PART = rf"(?: [A-Za-z0-9_-]++ | {_SINGLE} )"
_FLAGS = re.DOTALL | re.VERBOSE
_STRING_RE = re.compile(f"{_TRIPLE} | {_SINGLE}", _FLAGS)
_PART_RE = re.compile(_PART, _FLAGS)
_DOT_RE = re.compile(r"[ \t]*+\.[ \t]*+")
_BLANK_RE = re.compile(r"[ \t]*+")
_GAP_RE = re.compile(r"[ \t\n]*+(?:#[^\n]*+[ \t\n]*+)*")
_SCALAR_RE = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]*+|[^\s,\]}#]++")
_TOKEN_RE = re.compile(
    rf"""
    (?P<comment> \#[^\n]*+ )
  | (?P<string> {_TRIPLE} )
  | (?P<broken_string> \"{{3}} | '{{3}} )
  | (?P<word> {_PART} (?: [ \t]*+ \. [ \t]*+ {_PART} )* )
  | (?P<open> [\[{{] )
  | (?P<close> [\]}}] )
  | (?P<broken> ["'] )
  | [^\#"'A-Za-z0-9_\[\]{{}}-]++
    """,
    _FLAGS,
)
_INTEGER_RE = re.compile(r"-?[0-9][0-9_]*+")
_NUMBER_RE = re.compile(r"-?(?:0[xob]|[0-9])[0-9a-fA-F_.-]*+")
_ESCAPE_RE = re.compile(
    r"\\ (?: u[0-9A-Fa-f]{4} | U[0-9A-Fa-f]{8} | x[0-9A-Fa-f]{2} | (?P<trim> [ \t]*+\n[ \t\n]*+ ) | . )",
    _FLAGS,
)
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}  # \e and \x: TOML 1.1


class Unreadable(OSError):
    """There is no model to be read at the path. `str()` of it is a sentence that is safe to print."""


def read(path: str | os.PathLike[str]) -> Source:
    """The text of a model file: at most 256 KiB of UTF-8, with or without a byte order mark.

    Raises Unreadable if the path leads to nothing, to a directory or device, or to too much; ModelError if
    what is there is no text.
    """
    name = os.fsdecode(path)
    shown = visible(name)
    # A FIFO would keep open() waiting and a device may react to it, so look first. What is opened is looked
    # at again: it may have been exchanged, and then O_NONBLOCK keeps us from waiting.
    try:
        _must_be_a_file(os.stat(name), shown)
        file = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(file, "rb") as stream:
            _must_be_a_file(os.fstat(file), shown)
            content = stream.read(MOST_BYTES + 1)
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"'{shown}' cannot be read: {error.strerror or 'unknown reason'}.") from error
    except ValueError as error:  # a NUL in the path
        raise Unreadable(f"'{shown}' cannot be read: this is no path.") from error
    if len(content) > MOST_BYTES:  # it grew meanwhile, or gives no size at all
        raise _too_big(shown)
    return _decode(name, content)


def read_stdin(stream: BinaryIO | None) -> Source:
    """The text of a model that comes through standard input; the same limits and errors as those of `read`.

    stream: standard input itself, None where there is none.
    """
    if stream is None:
        raise Unreadable("There is no standard input to read a model from.")
    try:
        content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"'{STDIN}' cannot be read: {error.strerror or 'unknown reason'}.") from error
    if len(content) > MOST_BYTES:
        raise _too_big(STDIN)
    return _decode(STDIN, content)


def _must_be_a_file(status: os.stat_result, shown: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise Unreadable(f"'{shown}' is a directory, not a model file.")
    if not stat.S_ISREG(status.st_mode):
        hint = "a model is read from standard input where its name is '-'."
        raise Unreadable(f"'{shown}' is a device, pipe or socket, not a model file.\nHint: {hint}")
    if status.st_size > MOST_BYTES:
        raise _too_big(shown)


def _too_big(shown: str) -> Unreadable:
    return Unreadable(f"'{shown}' is larger than the {MOST_BYTES // 1024} KiB that a model file may have.")


def _decode(name: str, content: bytes) -> Source:
    hints = ("save the file as UTF-8.",)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        hints = ("the file looks like UTF-16; save it as UTF-8.",)
    bom = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    content = content[bom:]
    try:
        source = Source(name, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        # Show the text with the wrong bytes written out; up to the first of them the places are right.
        source = Source(name, content.decode("utf-8", "backslashreplace"))
        start = len(content[: error.start].decode("utf-8").replace("\r\n", "\n"))
        message = f"The file is not UTF-8 at byte {error.start + bom}."
        note = f"this byte is 0x{content[error.start]:02x}; bytes are counted from 0."
        _reject("not-utf8", message, source, start, start + 4, "not UTF-8", notes=(note,), hints=hints)
    if (nul := source.text.find("\0")) >= 0:
        message = "The file holds a NUL character, which no text has."
        _reject("nul-character", message, source, nul, nul + 1, "NUL", hints=hints)
    return source


def _reject(
    code: str,
    message: str,
    source: Source,
    start: int,
    end: int,
    label: str = "",
    notes: tuple[str, ...] = (),
    hints: tuple[str, ...] = (),
) -> NoReturn:
    """Raises ModelError with this one mistake: nothing more can be found in a text that is not understood."""
    raise ModelError([Mistake(code, message, source, source.span(start, end), label, notes, hints)])


def parse(source: Source) -> Document:
    """The values of a TOML text. Raises ModelError, with one mistake, if it is no TOML or too deep to be a
    model.
    """
    brackets = _guard(source)
    try:
        data = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError([_explain(error, source, brackets)]) from None
    except RecursionError:
        # `_guard` has counted the brackets, so this is only if the caller itself stands deep in calls.
        message = "The brackets in this file are nested too deep."
        raise ModelError([Mistake("nested-too-deep", message, source, None)]) from None
    except ValueError as error:
        message = f"The file is not valid TOML: {error}."
        raise ModelError([Mistake("toml-syntax", message, source, None)]) from None
    return Document(source, data, brackets)


@dataclass(frozen=True, slots=True)
class _Brackets:
    """Of each bracket that is closed, behind what it is; and where the last bracket or string begins that is
    still open at the end, if there is one.
    """

    ends: dict[int, int]
    unclosed: int | None


def _guard(source: Source) -> _Brackets:
    """Rejects what would cost tomllib more than it is worth. The text may be wrong in any way; all that must
    hold is that up to the first wrong place we cut it the way tomllib does, which stops there.
    """
    opened: list[int] = []
    ends: dict[int, int] = {}
    for token in _TOKEN_RE.finditer(source.text):
        kind, start, end = token.lastgroup, token.start(), token.end()
        if kind == "word":
            if end - start > MOST_INTEGER_DIGITS:
                _guard_word(source, start, end)
        elif kind == "open":
            opened.append(start)
            if len(opened) > DEEPEST:
                message = f"Brackets and braces are nested more than {DEEPEST} deep here."
                _reject("nested-too-deep", message, source, start, end, "one too many")
        elif kind == "close":
            if opened:
                ends[opened.pop()] = end
        elif kind is not None and kind.startswith("broken"):  # a string without an end: tomllib says so
            return _Brackets(ends, start)
    return _Brackets(ends, opened[-1] if opened else None)


def _guard_word(source: Source, start: int, end: int) -> None:
    """Rejects a dotted key, or a number, that is too long. Shorter words need no look: 17 parts take 33
    characters.
    """
    text = source.text[start:end]
    if text.count(".") >= MOST_KEY_PARTS and len(_PART_RE.findall(text)) > MOST_KEY_PARTS:
        message = f"This dotted key has more than {MOST_KEY_PARTS} parts."
        _reject("key-too-long", message, source, start, end, "too many parts")
    if _INTEGER_RE.fullmatch(text):
        digits = len(text) - text.count("_") - text.count("-")
        if digits > MOST_INTEGER_DIGITS:
            message = f"An integer may have at most {MOST_INTEGER_DIGITS} digits; this one has {digits}."
            _reject("number-too-long", message, source, start, end, "too many digits")
    elif len(text) > MOST_NUMBER_CHARACTERS and _NUMBER_RE.fullmatch(text):
        message = f"A number may have at most {MOST_NUMBER_CHARACTERS} characters; this one has {len(text)}."
        _reject("number-too-long", message, source, start, end, "too long")


def _explain(error: tomllib.TOMLDecodeError, source: Source, brackets: _Brackets) -> Mistake:
    """The mistake that tomllib's error is about."""
    text = source.text
    said, _, place = str(error).removesuffix(")").rpartition(" (at ")
    numbers = re.fullmatch(r"line (\d+), column (\d+)", place)
    at = source.offset(Span(int(numbers[1]), int(numbers[2]), 0)) if numbers else len(text)
    # Cannot declare, overwrite, redefine, mutate: something is there already.
    if said.startswith(("Cannot ", "Duplicate ")) and (twice := _find_twice(text, brackets, at)):
        return _explain_twice(twice, source)

    notes: tuple[str, ...] = ()
    unclosed = brackets.unclosed
    if unclosed is not None and unclosed < at and text[at : at + 1] in ("", "\n"):
        opening = source.span(unclosed, unclosed + 1)
        mark = text[unclosed] * (3 if text.startswith(('"""', "'''"), unclosed) else 1)
        notes = (f"the {mark} at line {opening.line}, column {opening.column} has no end.",)
    if at >= len(text):
        at = len(text.rstrip(" \t\n"))
    hints: tuple[str, ...] = ()
    end = at + 1
    if said == "Invalid value" and (scalar := _SCALAR_RE.match(text, at)):
        end = scalar.end()
        if scalar[0].lower() in ("true", "false", "inf", "nan"):
            hints = (f"did you mean '{scalar[0].lower()}'?",)
        elif scalar[0].isidentifier():
            hints = (f'a text stands in quotes: "{scalar[0]}".',)
    message = f"The file is not valid TOML: {said[:1].lower()}{said[1:]}."
    return Mistake("toml-syntax", message, source, source.span(at, end), "", notes, hints)


def _find_twice(text: str, brackets: _Brackets, good: int) -> _Twice | None:
    """The first key that is in the way of another, in a text that tomllib has accepted up to `good`."""
    try:
        _Locator(text, brackets, good).statements()
    except _Twice as twice:
        return twice
    except (IndexError, ValueError, OverflowError, RecursionError):
        pass  # the locator sees it otherwise than tomllib, went on, and met a text that is no TOML
    return None


def _explain_twice(twice: _Twice, source: Source) -> Mistake:
    here = twice.here
    key = ".".join(name for name, _, _ in twice.parts)
    first = source.span(here.key_start, here.key_end)
    hints: tuple[str, ...] = ()
    if twice.brackets == 1 and here.kind == _TABLES:
        hints = (f"to add another element, write [[{key}]].",)
    elif twice.brackets == 2 and here.kind == _TABLE:
        hints = (f"for several elements, write [[{key}]] in both places.",)
    return Mistake(
        "duplicate-key",
        f"The key '{key}' is given twice.",
        source,
        source.span(twice.parts[0][1], twice.parts[-1][2]),
        "given before",
        (f"it was first given at line {first.line}, column {first.column}.",),
        hints,
    )


@dataclass(frozen=True)
class Document:
    """A parsed model file: `data` as tomllib gives it, and the place of everything in it.

    A path leads to a value from the outside in: `("layers", 0, "cell")`. The places are looked for when the
    first one is asked for. Every method raises KeyError for a path that leads to nothing.
    """

    source: Source
    data: dict[str, Any]
    _brackets: _Brackets = field(repr=False, compare=False)
    _texts: dict[KeyPath, _Text] = field(default_factory=dict, init=False, repr=False, compare=False)

    def key_span(self, path: KeyPath) -> Span:
        """The place of the last key of a path. An element of `[[tables]]` has the key in its header, an
        element of an array in a line has none and gives its value, the document gives its first character.
        """
        place = self._place(path)
        if place.key_start < 0:
            return self.source.span(place.start, place.end)
        return self.source.span(place.key_start, place.key_end)

    def value_span(self, path: KeyPath) -> Span:
        """The place of a value. A table has the place of its header, brackets included; one that only came to
        be by a longer or dotted key has the place of that header or key.
        """
        place = self._place(path)
        return self.source.span(place.start, place.end)

    def is_inline(self, path: KeyPath) -> bool:
        """Whether a value is a table in { }."""
        place = self._place(path)
        return place.kind == _VALUE and self.source.text[place.start] == "{"

    def text_span(self, path: KeyPath, offset: int, length: int = 1) -> Span:
        """The place in the file of `length` characters of a text, from character `offset` of the decoded text
        on: an escape counts as the one character it stands for. At or behind the end of the text it is the
        place of the closing quote, with no length. Raises TypeError if the value is not a text.
        """
        text = self._texts.get(path)
        if text is None:
            place = self._place(path)
            if place.kind != _VALUE or self.source.text[place.start] not in "\"'":
                raise TypeError(f"the value at {path} is not a text")
            text = self._texts[path] = _Text(self.source.text, place.start, place.end)
        start = text.start_of(offset)
        end = text.end_of(offset + length - 1) if length > 0 else start
        return self.source.span(start, max(start, end))

    @cached_property
    def _locator(self) -> _Locator:
        locator = _Locator(self.source.text, self._brackets)
        locator.statements()
        return locator

    def _place(self, path: KeyPath) -> _Place:
        locator = self._locator
        place = locator.root
        for step in path:
            try:
                place = locator.children(place)[step]
            except KeyError:
                raise KeyError(path) from None
        return place


@dataclass(frozen=True)
class Places:
    """Where in its document a table stands, and what stands in it."""

    document: Document
    path: KeyPath

    def key(self, *path: str | int) -> Span:
        """The place of a key, or of the table that lacks it."""
        return self.document.key_span(self._existing(path))

    def value(self, *path: str | int) -> Span:
        """The place of a value, or of the table that lacks it."""
        return self.document.value_span(self._existing(path))

    def entry(self, key: str, number: int, name: str) -> Span:
        """The place of an entry of a list, or of a key of the table that may stand in its place."""
        return self.key(key, name) if isinstance(self.table.get(key), dict) else self.value(key, number)

    def inline(self, *path: str | int) -> bool:
        """Whether a table stands in { }, or the one that lacks it: no line can be added to it."""
        return self.document.is_inline(self._existing(path))

    def text(self, offset: int, length: int) -> Span:
        """A place in the step's text."""
        return self.document.text_span((*self.path, "step"), offset, length)

    @property
    def table(self) -> dict[str, Any]:
        """The table itself."""
        data: dict[Any, Any] = self.document.data
        for part in self.path:
            data = data[part]
        return data

    def _existing(self, path: KeyPath) -> KeyPath:
        """The path from the outside in, as far as the file has it."""
        path = (*self.path, *path)
        data: Any = self.document.data
        for depth, part in enumerate(path):
            try:
                data = data[part]
            except (KeyError, IndexError, TypeError):
                return path[:depth]
        return path


# What made a place.
_VALUE = 0  # a key and a value: nothing can be added to it
_DOTTED = 1  # a dotted key
_IMPLIED = 2  # a header longer than its own
_TABLE = 3  # [its own header]
_TABLES = 4  # [[its own header]]; the children are the elements


class _Place:
    """Where a value stands: offsets of its key (-1: it has none) and of the value, and the places inside of
    it, as far as they were looked for.
    """

    __slots__ = ("children", "end", "key_end", "key_start", "kind", "start")

    def __init__(self, kind: int, key_start: int, key_end: int, start: int, end: int) -> None:
        self.kind = kind
        self.key_start, self.key_end = key_start, key_end
        self.start, self.end = start, end
        self.children: dict[str | int, _Place] = _NOTHING

    def put(self, name: str | int, place: _Place) -> None:
        if self.children is _NOTHING:
            self.children = {}
        self.children[name] = place


_NOTHING: dict[str | int, _Place] = {}  # shared by all that nothing was found in, and never written to

_Part = tuple[str, int, int]  # one part of a dotted key, decoded, and where it starts and ends


class _Twice(Exception):
    """The key `parts`, in so many `brackets`, leads to `here`, which allows nothing more."""

    def __init__(self, here: _Place, parts: list[_Part], brackets: int) -> None:
        super().__init__(here, parts, brackets)
        self.here, self.parts, self.brackets = here, parts, brackets


class _Locator:
    """Finds the places of a text that tomllib has accepted. `pos` is where it stands.

    Where tomllib has stopped at a key that is given twice, `good` is how far it had come: then it looks for
    that key, and raises _Twice at the first. What ends before `good` has none inside.
    """

    def __init__(self, text: str, brackets: _Brackets, good: int | None = None) -> None:
        self.text = text
        self.ends = brackets.ends
        self.strict = good is not None
        self.good = len(text) if good is None else good
        self.pos = 0
        self.root = self.table = _Place(_TABLE, -1, -1, 0, 0)

    def children(self, place: _Place) -> dict[str | int, _Place]:
        """The places inside of a place."""
        if place.kind == _VALUE and place.children is _NOTHING and self.text[place.start] in "[{":
            self.pos = place.start
            self.inside(place)
        return place.children

    def statements(self) -> None:
        while True:
            self.gap(0)
            if self.pos >= len(self.text):
                return
            if self.text[self.pos] == "[":
                self.header()
            else:
                self.pair(self.table)

    def header(self) -> None:
        start = self.pos
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.blanks(brackets)
        parts = self.key()
        self.pos = end = self.pos + brackets
        table = self.descend(self.root, parts, brackets, start, end)
        name, key_start, key_end = parts[-1]
        here = table.children.get(name)
        kind = _TABLE if brackets == 1 else _TABLES
        if here is None:
            here = _Place(kind, key_start, key_end, start, end)
            table.put(name, here)
        elif self.strict and here.kind != (_IMPLIED if brackets == 1 else _TABLES):
            raise _Twice(here, parts, brackets)
        if brackets == 2:
            self.table = _Place(_TABLE, key_start, key_end, start, end)
            here.put(len(here.children), self.table)
        else:
            # A longer header may have made this table before; its own is the better place.
            here.kind = kind
            here.key_start, here.key_end = key_start, key_end
            here.start, here.end = start, end
            self.table = here

    def pair(self, table: _Place) -> None:
        start = self.pos
        parts = self.key()
        self.blanks(1)  # the equals sign
        if len(parts) > 1:
            table = self.descend(table, parts, 0, start, parts[-1][2])
        name, key_start, key_end = parts[-1]
        if self.strict and name in table.children:
            raise _Twice(table.children[name], parts, 0)
        place = self.value()
        place.key_start, place.key_end = key_start, key_end
        table.put(name, place)

    def descend(self, table: _Place, parts: list[_Part], brackets: int, start: int, end: int) -> _Place:
        """The table that the last part of a key is to be put in."""
        for i, (name, key_start, key_end) in enumerate(parts[:-1]):
            here = table.children.get(name)
            if here is None:
                here = _Place(_IMPLIED if brackets else _DOTTED, key_start, key_end, start, end)
                table.put(name, here)
            elif self.strict and (here.kind == _VALUE or (not brackets and here.kind >= _TABLE)):
                raise _Twice(here, parts[: i + 1], brackets)
            table = here.children[len(here.children) - 1] if here.kind == _TABLES else here
        return table

    def key(self) -> list[_Part]:
        """The parts of a dotted key. Goes on to what stands behind it."""
        parts = []
        while True:
            part = _match(_PART_RE, self.text, self.pos)
            start, end = part.span()
            name = part[0]
            if name[0] == '"':
                name = _ESCAPE_RE.sub(_unescape, name[1:-1])
            elif name[0] == "'":
                name = name[1:-1]
            parts.append((name, start, end))
            self.pos = end
            dot = _DOT_RE.match(self.text, end)
            if dot is None:
                self.blanks(0)
                return parts
            self.pos = dot.end()

    def value(self) -> _Place:
        text, start = self.text, self.pos
        char = text[start]
        place = _Place(_VALUE, -1, -1, start, start)
        if char in "[{":
            end = self.ends.get(start)
            if end is None or end > self.good:
                self.inside(place)
            else:
                self.pos = end
        else:
            pattern = _STRING_RE if char in "\"'" else _SCALAR_RE
            self.pos = _match(pattern, text, start).end()
        place.end = self.pos
        return place

    def inside(self, place: _Place) -> None:
        """The places in an array or a table in { }, without what is inside of them. Goes on behind it."""
        text = self.text
        end = "]" if text[self.pos] == "[" else "}"
        self.gap(1)
        while text[self.pos] != end:
            if end == "]":
                place.put(len(place.children), self.value())
            else:
                self.pair(place)
            self.gap(0)
            if text[self.pos] == ",":
                self.gap(1)
        self.pos += 1

    def blanks(self, characters: int) -> None:
        """Passes over so many characters and the blanks behind."""
        self.pos = _match(_BLANK_RE, self.text, self.pos + characters).end()

    def gap(self, characters: int) -> None:
        """Passes over so many characters and the blanks, line ends and comments behind."""
        self.pos = _match(_GAP_RE, self.text, self.pos + characters).end()


def _match(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str]:
    """What stands at a place of good TOML. Raises ValueError where the text is none."""
    found = pattern.match(text, start)
    if found is None:
        raise ValueError("this is no TOML")
    return found


class _Text:
    """Where each character of a decoded string stands in the file.

    The string is cut into runs: where a run starts in the decoded text, where in the file, and how many
    characters of the file make one of the run: 1 in plain text, more for an escape, which is a run of its
    own.
    """

    def __init__(self, text: str, start: int, end: int) -> None:
        quotes = 3 if text.startswith(('"""', "'''"), start) else 1
        literal = text[start] == "'"
        start, end = start + quotes, end - quotes
        if quotes == 3 and text.startswith("\n", start):
            start += 1
        self.decoded_at, self.file_at, self.width = [0], [start], [1]
        decoded = 0
        escapes = () if literal else _ESCAPE_RE.finditer(text, start, end)
        for escape in escapes:
            decoded += escape.start() - self.file_at[-1]
            if escape["trim"] is None:
                self._run(decoded, escape.start(), escape.end() - escape.start())
                decoded += 1
            self._run(decoded, escape.end(), 1)
        self.end = end
        self.length = decoded + end - self.file_at[-1]

    def _run(self, decoded: int, start: int, width: int) -> None:
        if self.decoded_at[-1] == decoded:  # the run before is empty
            self.decoded_at.pop(), self.file_at.pop(), self.width.pop()
        self.decoded_at.append(decoded)
        self.file_at.append(start)
        self.width.append(width)

    def start_of(self, offset: int) -> int:
        if offset >= self.length:
            return self.end
        offset = max(offset, 0)
        run = bisect_right(self.decoded_at, offset) - 1
        return self.file_at[run] + offset - self.decoded_at[run]

    def end_of(self, offset: int) -> int:
        """Behind a character, or behind the text."""
        if offset >= self.length:
            return self.end
        run = bisect_right(self.decoded_at, offset) - 1
        return self.start_of(offset) + self.width[run]


def _unescape(escape: re.Match[str]) -> str:
    kind, digits = escape[0][1], escape[0][2:]
    if kind in "uUx" and digits:
        return chr(int(digits, 16))
    return "" if escape["trim"] else _ESCAPES.get(kind, kind)
