"""The places that `parse` finds, held to tomllib; what `read` refuses; and that no small file costs much."""

import datetime
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rnngen.document import MOST_BYTES, Document, Unreadable, parse, read
from rnngen.errors import ModelError
from rnngen.source import Source, Span

ROOT = Path(__file__).resolve().parent.parent


def document(text: str) -> Document:
    return parse(Source("m.toml", text))


def mistake(text: str):
    with pytest.raises(ModelError) as caught:
        document(text)
    (only,) = caught.value.mistakes
    return only


def shown(found: Document, span: Span) -> str:
    return found.source.text_of(span)


# ---- Source ----


def test_source_lines_spans_and_digest():
    source = Source("m.toml", "one\r\ntwo\r\n\r\nvier")
    assert source.text == "one\ntwo\n\nvier"
    assert [source.line(n) for n in range(6)] == ["", "one", "two", "", "vier", ""]
    assert source.span(4, 7) == Span(2, 1, 3)
    assert source.span(len(source.text), len(source.text)) == Span(4, 5, 0)
    assert source.text_of(Span(4, 2, 2)) == "ie"
    assert source.digest == Source("elsewhere", "one\ntwo\n\nvier").digest
    assert len(source.digest) == 64


@given(st.text(alphabet="ab\n\r\u2028é"), st.data())
def test_a_span_leads_back_to_its_characters(text, data):
    source = Source("m", text)
    start = data.draw(st.integers(0, len(source.text)))
    end = data.draw(st.integers(start, len(source.text)))
    span = source.span(start, end)
    assert source.text_of(span) == source.text[start:end]
    assert source.line(span.line) == source.text.split("\n")[span.line - 1]


# ---- places ----

MODEL = '''\
name   = "sunspots"
inputs = 1

[[layers]]
cell   = "lstm"   # [from] "the" library
hidden = 64

[[layers]]
dropout = 0.5
"or".'el se' . bare = 07:32:00

[cells.leaky]
states    = ["h",
  'c',   # a comment, with a ]
]
constants = { alpha = 0.3, nested = { deep = [1, 2] } }
step = """
n  = tanh(W @ x)\\n  \\
   h' = \\u0041 * n
"""
[cells.leaky.parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W", "V"] }
when = 1979-05-27 07:32:00Z
'''


@pytest.mark.parametrize(
    ("path", "line", "key", "value"),
    [
        (("name",), 1, "name", '"sunspots"'),
        (("layers",), 4, "layers", "[[layers]]"),
        (("layers", 0), 4, "layers", "[[layers]]"),
        (("layers", 0, "cell"), 5, "cell", '"lstm"'),
        (("layers", 1), 8, "layers", "[[layers]]"),
        (("layers", 1, "dropout"), 9, "dropout", "0.5"),
        (("layers", 1, "or"), 10, '"or"', "\"or\".'el se' . bare"),
        (("layers", 1, "or", "el se", "bare"), 10, "bare", "07:32:00"),
        (("cells",), 12, "cells", "[cells.leaky]"),
        (("cells", "leaky"), 12, "leaky", "[cells.leaky]"),
        (("cells", "leaky", "states", 1), 14, "'c'", "'c'"),
        (("cells", "leaky", "constants", "nested", "deep", 1), 16, "2", "2"),
        (("cells", "leaky", "parameters"), 21, "parameters", "[cells.leaky.parameters]"),
        (("cells", "leaky", "parameters", "weight_ih", "blocks", 1), 22, '"V"', '"V"'),
        (("cells", "leaky", "parameters", "when"), 23, "when", "1979-05-27 07:32:00Z"),
    ],
)
def test_places_in_a_model(path, line, key, value):
    found = document(MODEL)
    assert shown(found, found.key_span(path)) == key
    assert shown(found, found.value_span(path)) == value
    assert found.key_span(path).line == line


def test_places_inside_a_text():
    found = document(MODEL)
    path = ("cells", "leaky", "step")
    text = found.data["cells"]["leaky"]["step"]
    assert text == "n  = tanh(W @ x)\n  h' = A * n\n"
    assert found.text_span(path, text.index("W")) == Span(18, 11, 1)
    assert found.text_span(path, text.index("h'"), 2) == Span(19, 4, 2)
    assert shown(found, found.text_span(path, text.index("A"))) == "\\u0041"
    assert shown(found, found.text_span(path, text.index("A"), 3)) == "\\u0041 *"
    assert shown(found, found.text_span(path, text.index(")"), 6)) == ")\\n  \\\n   h'"
    end = found.text_span(path, len(text))
    assert end == Span(20, 1, 0) and found.text_span(path, 10**9, 5) == end


def test_what_has_no_place():
    found = document(MODEL)
    for path in [("nome",), ("layers", 2), ("name", "x"), ("layers", 0, "cell", 0)]:
        for ask in (found.key_span, found.value_span, lambda p: found.text_span(p, 0)):
            with pytest.raises(KeyError):
                ask(path)
    for path in [(), ("inputs",), ("layers",), ("layers", 1, "or"), ("cells", "leaky", "states")]:
        with pytest.raises(TypeError):
            found.text_span(path, 0)
    assert found.key_span(()) == found.value_span(()) == Span(1, 1, 0) == document("").key_span(())


def test_a_table_made_twice_has_the_place_of_its_own_header():
    found = document("[a.b]\nx = 1\n[a]\ny = 2\n")
    assert found.key_span(("a",)) == Span(3, 2, 1)
    assert found.key_span(("a", "b")) == Span(1, 4, 1)


def test_headers_lead_into_the_last_element():
    found = document("[[a]]\n[a.b]\nx = 1\n[[a]]\n[[a.c]]\n[[a.c]]\ny = 2\n")
    assert found.key_span(("a", 0, "b", "x")).line == 3
    assert found.key_span(("a", 1, "c", 1)).line == 6
    assert found.key_span(("a", 1, "c", 1, "y")).line == 7


# ---- places, held to tomllib ----

CHARACTERS = st.characters(codec="utf-8") | st.sampled_from("\"\"\"'''\\\n\t #[]{}=,.\rä\u202e😀")
SHORT = st.text(CHARACTERS, max_size=12)
BARE = st.text("abAB01_-", min_size=1, max_size=4)
BLANK = st.sampled_from(["", "", " ", "\t ", "  "])
GAP = st.sampled_from(["", "", " ", "\n", " # ] } \" ''' [\n", "\n\n\t"])
ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f"}


def is_control(char: str) -> bool:
    return (char < " " and char != "\t") or char == "\x7f"


@st.composite
def basic(draw, value, multi):
    """`value` in double quotes, some of its characters written as escapes."""
    out = []
    for char in value:
        must = char in '"\\' or (is_control(char) and not (multi and char == "\n"))
        if multi and draw(st.integers(0, 9)) == 0:
            out.append(draw(st.sampled_from(["\\\n", "\\  \n \t\n  "])))
            must = must or char in " \t\n"  # or it would be trimmed
        way = draw(st.integers(0, 9))
        if way == 0:
            out.append(f"\\U{ord(char):08x}")
        elif (way == 1 or must) and char not in ESCAPES and ord(char) < 0x10000:
            out.append(f"\\u{ord(char):04X}")
        elif must or (way == 2 and char in ESCAPES):
            out.append(ESCAPES[char])
        elif not out and multi and char == "\n":  # the first newline is trimmed
            out.append("\n\n")
        else:
            out.append(char)
    return "".join(out)


@st.composite
def string(draw, value, single_line=False):
    ways = [lambda: '"' + draw(basic(value, False)) + '"']
    if not single_line:
        first = draw(st.sampled_from(["", "\n"]))
        ways.append(lambda: '"""' + first + draw(basic(value, True)) + '"""')
    if "'" not in value and not any(map(is_control, value)):
        ways.append(lambda: f"'{value}'")
    if not single_line and "'''" not in value and not any(is_control(c) and c != "\n" for c in value):
        if not value.startswith("\n"):
            ways.append(lambda: f"'''{value}'''")
        ways.append(lambda: f"'''\n{value}'''")
    return draw(st.sampled_from(ways))()


@st.composite
def key(draw):
    parts = draw(st.lists(st.one_of(BARE, SHORT.flatmap(lambda t: string(t, True))), min_size=1, max_size=3))
    return (draw(BLANK) + "." + draw(BLANK)).join(parts)


SCALAR = st.one_of(
    SHORT.flatmap(string),
    st.sampled_from(['"""a"""""', '""""a"""', "'''b'''''", '""""""', "''''''", '""', "''"]),
    st.integers(-(10**18), 10**18).map(str),
    st.sampled_from(
        [
            "true",
            "false",
            "inf",
            "-nan",
            "+1_000",
            "0xdead_beef",
            "0o17",
            "0b101",
            "1e9",
            "-6.02e-23",
            "3.1_5",
        ]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(float(x))),
    st.datetimes(timezones=st.none() | st.just(datetime.UTC)).map(str),
    st.dates().map(str),
    st.times().map(str),
)


@st.composite
def array(draw, values):
    items = [draw(GAP) + value + draw(GAP) for value in draw(st.lists(values, max_size=3))]
    return "[" + ",".join(items) + (draw(st.sampled_from(["", ","])) if items else draw(GAP)) + draw(GAP) + "]"


@st.composite
def inline_table(draw, values):
    count = draw(st.integers(0, 3))
    return "{" + ",".join(draw(BLANK) + draw(pair(values)) for _ in range(count)) + draw(BLANK) + "}"


@st.composite
def pair(draw, values):
    return draw(key()) + draw(BLANK) + "=" + draw(BLANK) + draw(values) + draw(BLANK)


VALUE = st.recursive(SCALAR, lambda inner: array(inner) | inline_table(inner), max_leaves=6)
COMMENT = st.sampled_from(["", "", "# [x] = \"'''", "#"])
STATEMENT = st.one_of(
    st.builds("{}{}".format, pair(VALUE), COMMENT),
    st.builds("{}{}".format, pair(VALUE), COMMENT),
    st.builds("[{}{}{}]{}".format, BLANK, key(), BLANK, COMMENT),
    st.builds("[[{}{}{}]]{}".format, BLANK, key(), BLANK, COMMENT),
    COMMENT,
)


@st.composite
def toml(draw):
    """Statements that tomllib accepts: each one that it does not is left out."""
    text = ""
    for statement in draw(st.lists(STATEMENT, min_size=1, max_size=8)):
        longer = text + draw(BLANK) + statement + "\n"
        try:
            tomllib.loads(longer)
        except tomllib.TOMLDecodeError:
            continue
        text = longer
    return text


def same(a, b):
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def paths(value, path=()):
    """Every path of a value, and the value that it leads to."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in inner:
        yield from paths(child, (*path, step))


def name_is_inside(key: Span, value: Span) -> bool:
    """For headers and dotted keys, which make a table without writing it down."""
    return key != value and key.line == value.line and 0 <= key.column - value.column < value.length


SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SLOW
@given(toml())
@example(MODEL)
@example("a = '''\n\nx'''''\nb = \"\"\"\\\n  \\u00e4\"\"\"\"\"\n")
@example('"\\u0061"."\\"" = [{x.y = 1, x.z = [[]]}, {}]\n')
@example('a = """' + "\\\n" * 3 + '"""')
def test_every_path_has_the_place_of_its_value(text):
    found = document(text)
    assert same(found.data, tomllib.loads(text))
    for path, value in paths(found.data):
        if not path:
            continue
        written = shown(found, found.value_span(path))
        if isinstance(path[-1], str):
            name = shown(found, found.key_span(path))
            assert tomllib.loads(f"{name} = 1") == {path[-1]: 1}
        if isinstance(value, (dict, list)):
            if not name_is_inside(found.key_span(path), found.value_span(path)):
                assert same(tomllib.loads(f"v = {written}")["v"], value)
            continue
        assert same(tomllib.loads(f"v = {written}")["v"], value)
        if isinstance(value, str):
            for i, char in enumerate(value):
                one = shown(found, found.text_span(path, i))
                assert one == char or tomllib.loads(f'v = "{one}"')["v"] == char
            whole = shown(found, found.text_span(path, 0, len(value)))
            assert len(whole) >= len(value)


@SLOW
@given(toml(), st.data())
def test_a_broken_text_is_a_mistake_with_a_place(text, data):
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 2))
        text = text[:at] + data.draw(st.text("[]{}=,.#\"'\\\n ab1-", max_size=3)) + text[at + cut :]
    check_that_parse_agrees_with_tomllib(text)


@SLOW
@given(st.text(st.characters() | st.sampled_from("[]{}=,.#\"'\\\n ab1-")))
def test_any_text_is_a_document_or_a_mistake(text):
    check_that_parse_agrees_with_tomllib(text)


@SLOW
@given(st.text("[]{}=.\"'\n ab", max_size=40))
def test_any_text_of_brackets_and_keys_is_a_document_or_a_mistake(text):
    check_that_parse_agrees_with_tomllib(text)


def check_that_parse_agrees_with_tomllib(text):
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        found = mistake(text)
        assert found.span is not None and 1 <= found.span.line <= text.count("\n") + 1
        return
    found = document(text)
    assert same(found.data, expected)
    for path, _ in paths(found.data):
        found.key_span(path), found.value_span(path)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("text", "span", "said"),
    [
        ("a = foo\n", Span(1, 5, 3), "invalid value"),
        ("a = 1\nb = \n", Span(2, 5, 1), "invalid value"),
        ("a = [1,\n2\n\n", Span(2, 2, 1), "unclosed array"),
        ("x y = 1", Span(1, 3, 1), "expected '='"),
    ],
)
def test_toml_syntax(text, span, said):
    found = mistake(text)
    assert (found.code, found.span) == ("toml-syntax", span)
    assert said in found.message and found.message.endswith(".")


def test_toml_syntax_names_what_is_open_and_what_was_meant():
    assert mistake("a = [1,\n2\n").notes == ("the [ at line 1, column 5 has no end.",)
    assert mistake('a = """x\n').notes == ('the """ at line 1, column 5 has no end.',)
    assert mistake("a = 'x\nb = 1").notes == ("the ' at line 1, column 5 has no end.",)
    assert mistake("a = lstm").hints == ('a text stands in quotes: "lstm".',)
    assert mistake("a = True").hints == ("did you mean 'true'?",)


@pytest.mark.parametrize(
    ("text", "span", "first"),
    [
        ("hidden = 1\nx = 2\nhidden = '''\n'''\n", Span(3, 1, 6), (1, 1)),
        ("[a]\n[b]\n[a]\n", Span(3, 2, 1), (1, 2)),
        ("[[a]]\n[a]\n", Span(2, 2, 1), (1, 3)),
        ("[a]\n[[a]]\n", Span(2, 3, 1), (1, 2)),
        ("a = 1\na.b = 2\n", Span(2, 1, 1), (1, 1)),
        ("a = {}\n[a.b]\n", Span(2, 2, 1), (1, 1)),
        ("x = {a = 1, b.a = 2, a.b = 2}\n", Span(1, 22, 1), (1, 6)),
        ("x = {a = 1, a = 2}\n", Span(1, 13, 1), (1, 6)),
        ("[a]\n[a", Span(2, 2, 1), (1, 2)),
        ("a = []\n[[a]]\n", Span(2, 3, 1), (1, 1)),
    ],
)
def test_a_key_given_twice(text, span, first):
    found = mistake(text)
    assert (found.code, found.span) == ("duplicate-key", span)
    assert found.notes == (f"it was first given at line {first[0]}, column {first[1]}.",)


def test_a_list_of_tables_is_told_from_a_table():
    assert mistake("[[a]]\n[a]\n").hints == ("to add another element, write [[a]].",)
    assert mistake("[a]\n[[a]]\n").hints == ("for several elements, write [[a]] in both places.",)


@pytest.mark.parametrize(
    ("text", "code", "span"),
    [
        (".".join("a" * 17) + " = 1", "key-too-long", Span(1, 1, 33)),
        ("[x]\n'a.b' . " + ".".join("a" * 16) + " = 1", "key-too-long", Span(2, 1, 39)),
        ("[" + ".".join("a" * 17) + "]", "key-too-long", Span(1, 2, 33)),
        ("a = " + "[" * 33 + "]" * 33, "nested-too-deep", Span(1, 37, 1)),
        ("a = " + "{a=[" * 17, "nested-too-deep", Span(1, 69, 1)),
        ("a = 1" + "0" * 19, "number-too-long", Span(1, 5, 20)),
        ("a = -" + "9" * 5000, "number-too-long", Span(1, 5, 5001)),
        ("a = 0x" + "f" * 5000, "number-too-long", Span(1, 5, 5002)),
        ("a = 1." + "3" * 5000, "number-too-long", Span(1, 5, 5002)),
    ],
)
def test_guards(text, code, span):
    found = mistake(text)
    assert (found.code, found.span) == (code, span)


def test_what_the_guards_let_pass():
    found = document(
        ".".join("a" * 16) + " = -9_223_372_036_854_775_808\n"
        "b = " + "[" * 32 + "]" * 32 + "\n"
        "c = 'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[['\n"
        "# " + "{" * 99 + "9" * 99 + "\n"
        'd = """' + "[" * 99 + "9" * 99 + '"""\n'
        "e = 0.1000000000000000055511151231257827021181583404541015625\n"
        "f = 1979-05-27T00:32:00.999999999999999999999999-07:00\n"
    )
    assert list(found.data) == list("abcdef")


def test_no_recursion_error_escapes_however_deep_the_caller_stands():
    text = "a = " + "[" * 32 + "]" * 32

    def call(depth):
        return call(depth - 1) if depth else parse(Source("m", text))

    def depth_that_fails(deep):
        try:
            call(deep)
        except (ModelError, RecursionError) as error:
            return error
        return None

    found = [depth_that_fails(deep) for deep in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit(), 5)]
    assert any(isinstance(error, ModelError) for error in found)


# ---- reading ----


def test_read(tmp_path):
    file = tmp_path / "m.toml"
    file.write_bytes(b"\xef\xbb\xbfa = '\xc3\xa4'\r\nb = 1\r\n")
    source = read(file)
    assert (source.name, source.text) == (str(file), "a = 'ä'\nb = 1\n")
    file.write_bytes(b"#" * MOST_BYTES)
    assert len(read(str(file)).text) == MOST_BYTES


def test_read_keeps_the_path_as_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "m.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert read("./m.toml").name == "./m.toml"


@pytest.mark.parametrize(
    ("content", "code", "span", "message"),
    [
        (b"a = 1\r\nb = '\xff'\n", "not-utf8", Span(2, 6, 4), "The file is not UTF-8 at byte 12."),
        (b"\xef\xbb\xbfa = '\xe4'", "not-utf8", Span(1, 6, 4), "The file is not UTF-8 at byte 8."),
        (b"\xc3\xa4 \xed\xa0\x80", "not-utf8", Span(1, 3, 4), "The file is not UTF-8 at byte 3."),
        ("a = 1".encode("utf-16"), "not-utf8", Span(1, 1, 4), "The file is not UTF-8 at byte 0."),
        ("a = 1".encode("utf-16-le"), "nul-character", Span(1, 2, 1), "The file holds a NUL"),
        (b"a = 1\n# \x00", "nul-character", Span(2, 3, 1), "The file holds a NUL"),
    ],
)
def test_read_refuses_what_is_no_text(tmp_path, content, code, span, message):
    file = tmp_path / "m.toml"
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read(file)
    (found,) = caught.value.mistakes
    assert (found.code, found.span) == (code, span)
    assert found.message.startswith(message)
    assert found.hints


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_a_text_or_a_mistake(tmp_path, content):
    file = tmp_path / "m.toml"
    file.write_bytes(content)
    try:
        parse(read(file))
    except ModelError as error:
        assert str(error)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device", "large", "nul", "long"])
def test_read_refuses_what_is_no_file(tmp_path, kind):
    path = str(tmp_path / "m.toml")
    if kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "large":
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    elif kind == "nul":
        path += "\0"
    elif kind == "long":
        path += "x" * 5000
    with pytest.raises(Unreadable) as caught:
        read(path)
    assert isinstance(caught.value, OSError)
    assert str(caught.value).endswith(".") and "\0" not in str(caught.value)


def test_read_bounds_what_gives_no_size(tmp_path, monkeypatch):
    """As files under /proc do, or one that grows while it is read."""
    file = tmp_path / "m.toml"
    file.write_bytes(b"#" * (MOST_BYTES + 1))
    monkeypatch.setattr("rnngen.document._must_be_a_file", lambda status, shown: None)
    with pytest.raises(Unreadable, match="larger than the 256 KiB"):
        read(file)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_read_refuses_what_may_not_be_read(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text("")
    file.chmod(0)
    with pytest.raises(Unreadable, match="cannot be read: Permission denied"):
        read(file)


# ---- bounded work ----


def filled(unit: str, head: str = "", tail: str = "") -> str:
    """As many units as a file may hold; `{i}` in one counts them."""
    out, size, i = [head], len(head) + len(tail), 0
    while size + len(piece := unit.replace("{i}", str(i))) <= MOST_BYTES:
        out.append(piece)
        size += len(piece)
        i += 1
    return "".join(out) + tail


DOTTED = ".".join("abcdefghijklmno")
BOMBS = {
    "a key of many parts": filled("a.", "", "a=1"),
    "a header of many parts": filled("a.", "[", "a]"),
    "a quoted key of many parts": filled("'a' . ", "", "a=1"),
    "brackets": filled("["),
    "braces": filled("{a="),
    "a long integer": filled("9", "a="),
    "a long float": filled("9", "a=1."),
    "a long exponent": filled("9", "a=1e"),
    "integers": filled("1,", "a=[", "]"),
    "arrays": filled("[],", "a=[", "]"),
    "tables": filled("{a=1},", "a=[", "]"),
    "deep arrays": filled("[" * 30 + "]" * 30 + ",", "a=[", "]"),
    "deep tables": filled("{" + ("a." * 15 + "a={") * 29 + "}" * 30 + ",", "a=[", "]"),
    "an inline table": filled(DOTTED + ".a{i}=1,", "a={", "z=1}"),
    "headers": filled("[a{i}]\n"),
    "deep headers": filled(f"[{DOTTED}.a{{i}}]\n"),
    "elements": filled("[[a]]\n[[a.b]]\n"),
    "keys": filled("a{i}=1\n"),
    "deep keys": filled(DOTTED + ".a{i}=1\n", f"[{DOTTED}.z]\n"),
    "escaped keys": filled('"\\n{i}"=1\n'),
    "escapes": filled("\\n", 'a="', '"'),
    "quotes": filled('""a', 'a="""', '"""'),
    "escaped quotes": filled('\\"', 'a="""', '"""'),
    "trimmed lines": filled("\\\n", 'a="""', '"""'),
    "an open text": filled('\\"', 'a="""'),
    "an open literal": filled("''a", "a='''"),
    "an open array": filled("'',", "a=["),
    "comments": filled("#\n"),
    "a long line": filled(" ", "a=", "x"),
    "controls": filled("\x1b", "a='", "'"),
    "a key at last given twice": filled("a{i}=1\n", "", "a0=1\n"),
    "tables, and at last a key given twice": filled("{a=1},", "a=[", "{b=1,b=1}]"),
    "deep tables, and at last a key given twice": filled("{a={b=[{a=1}]}},", "a=" + "[" * 28, "{b=1,b=1}" + "]" * 28),
    "no separators": filled("-", "a="),
    "dots": filled("1.", "a="),
}
JUDGE = """
import resource, sys, time, tomllib
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_AS, (200_000_000, 200_000_000))  # all of Python included
from rnngen.document import parse, read
from rnngen.errors import ModelError
try:
    found = parse(read(sys.argv[1]))
    found.key_span(next(iter(found.data.items()))[:1] if found.data else ())
    for key, value in found.data.items():
        if isinstance(value, str):
            found.text_span((key,), len(value) // 2)
except ModelError as error:
    str(error)
used = time.process_time()  # since the process began, imports included
# As many bytes, plain lines, and tomllib alone: 0.1 s on an ordinary machine, which makes 0.6 s of six such times.
plain = "".join(f"a{i}=1\\n" for i in range(30_000))
begun = time.process_time()
tomllib.loads(plain)
print(used / (time.process_time() - begun))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS holds on Linux only")
@pytest.mark.parametrize("name", BOMBS)
def test_no_small_file_costs_much(tmp_path, name):
    assert len(BOMBS[name]) <= MOST_BYTES
    file = tmp_path / "m.toml"
    file.write_text(BOMBS[name], newline="")
    assert any(_cost(file) <= 6 for _ in range(3))  # what else the machine does only ever adds to a cost


def _cost(file: Path) -> float:
    done = subprocess.run([sys.executable, "-c", JUDGE, str(file)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_import_is_cheap_and_one_way():
    """No import of torch and the like; and the order of the pipeline: source, errors, document."""
    code = "import sys; before = set(sys.modules); import rnngen.{}; print(*sorted(set(sys.modules) - before))"
    expected = {
        "source": {"rnngen.source"},
        "errors": {"rnngen.source", "rnngen.errors"},
        "document": {"rnngen.source", "rnngen.errors", "rnngen.document"},
    }
    for module, ours in expected.items():
        done = subprocess.run(
            [sys.executable, "-c", code.format(module)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.split())
        assert {name for name in loaded if name.startswith("rnngen.")} == ours
        assert not {name.split(".")[0] for name in loaded} & {
            "torch",
            "triton",
            "numpy",
            "pydantic",
            "difflib",
        }
