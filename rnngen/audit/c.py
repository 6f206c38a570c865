"""The last look at the C text beside a module, read by its tokens: functions over rows of numbers, and nothing else.

What such a text may say is little: one header, functions of its own, numbers, and the functions that the header gives
it. There is no text, no type, no pointer to a function and no word to a compiler that it could have from elsewhere.
"""

import re
from collections.abc import Iterator, Sequence

from rnngen.audit.lines import Unsafe, check_lines
from rnngen.emit.c.spelling import FUNCTIONS, KEYWORDS

_INCLUDE = '#include "rnngen.h"'
_TYPES = frozenset("REAL int int32_t int64_t void".split())
_RECORDS = frozenset("call product scan".split())  # that rnngen.h has as a struct
_OF_RECORDS = frozenset("T B heads backwards sizes call tensors products from to".split())
_CONTROL = frozenset("if for return".split())
_WORDS = _TYPES | _CONTROL | frozenset("const restrict struct else NULL FEW".split())  # of a body
# What the templates call of rnngen.h; the rest is what operations are spelled with.
OF_TEMPLATES = frozenset(
    """
    EACH EACH_OF at begin begun boundary counts cut cut_units dense dense_transposed headed headed_transposed put
    put_units run taken tensors_of
    """.split()
)
OF_HEADER = OF_TEMPLATES | FUNCTIONS
_CALLERS = OF_HEADER | _CONTROL
_TAKEN = OF_HEADER | _WORDS | KEYWORDS
# A digraph is no token here, nor is what has a dot, a quote, a hash or a backslash in it.
_TOKEN = re.compile(
    r"(?P<token>[A-Za-z]\w*|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?(?![\w.])"
    r"|(?!<:|:>|<%|%>|%:|/[/*])(?:->|\+\+|&&|\|\||[=!<>]=|[][(){},;=+*/%<>?:&!-]))"
    r"|\n| +|//[^\n]*"
)
_OPENED = {")": "(", "]": "[", "}": "{"}
_RECORD = rf"struct (?:{'|'.join(sorted(_RECORDS))})"
# On tokens with a space between: what stands before a body, and where a body makes names.
_PARAMETER = rf"(?:const )?(?:REAL|int|int64_t|{_RECORD}) (?:\* )?(?:restrict )?(\w+)"
_HEAD = re.compile(rf"(?:static (?:inline )?void|int) (\w+) \( {_PARAMETER}(?: , {_PARAMETER})* \)")
_PARAMETERS = re.compile(rf"(?<=[(,] ){_PARAMETER}(?= [,)])")
_DECLARED = re.compile(rf"(?:\b(?:REAL|int|int32_t|int64_t|const|{_RECORD})|\*|,) (\w+)(?= (?:\[ [0-9]* ?\] )?= )")
_COUNTED = re.compile(r"\bEACH(?:_OF)? \( (\w+) ,")
_PASSED = ["run", "(", "&", "scan", ","]  # stands before a function that is not called

_Token = tuple[str, int]  # with its line


def audit_c(content: bytes) -> None:
    """Raises Unsafe if these bytes are no functions of the allowed kinds, call what is neither one of them nor given by
    the header, use a name that they do not declare, or define one twice.
    """
    check_lines(content)
    defined: set[str] = set()
    for head, body in _functions(list(_tokens(_without_include(content.decode("ascii"))))):
        found = _HEAD.fullmatch(_joined(head))
        if not found:
            raise _at(head[0], "this is no function")
        if found[1] in defined | _TAKEN:
            raise _at(head[0], f"the name {found[1]} is defined twice")
        own = set(_PARAMETERS.findall(found[0])) | set(_DECLARED.findall(_joined(body)))
        own.update(_COUNTED.findall(_joined(body)))
        if taken := sorted(own & _TAKEN):
            raise _at(head[0], f"the name {taken[0]} has a meaning already")
        _check_body(body, own, defined)
        defined.add(found[1])


def _without_include(text: str) -> str:
    """The text with an empty line in the place of the one that includes the header."""
    lines = text.split("\n")
    if lines.count(_INCLUDE) != 1:
        raise Unsafe("it does not include rnngen.h once")
    for number, line in enumerate(lines, 1):
        if line.endswith("\\") or "??" in line:  # which goes on in the next one, if trigraphs are read
            raise Unsafe(f"line {number} does not end where it seems to")
    place = lines.index(_INCLUDE)
    if any(line and not line.startswith("//") for line in lines[:place]):
        raise Unsafe(f"line {place + 1}: something stands before what is included")
    return "\n".join([*lines[:place], "", *lines[place + 1 :]])


def _tokens(text: str) -> Iterator[_Token]:
    """Words, numbers and signs."""
    line, end = 1, 0
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            break
        end = token.end()
        if token.lastgroup == "token":
            yield token[0], line
        elif token[0] == "\n":
            line += 1
    if end != len(text):
        raise Unsafe(f"line {line}: {text[end : end + 20].split()[0]!a} is not allowed")


def _functions(tokens: Sequence[_Token]) -> Iterator[tuple[Sequence[_Token], Sequence[_Token]]]:
    """Of each function what stands before its body, and that."""
    start, body = 0, 0
    opened: list[str] = []
    for place, token in enumerate(tokens):
        sign = token[0]
        if sign in ("(", "[", "{"):
            if sign == "{" and not opened:
                body = place
            opened.append(sign)
        elif sign in _OPENED:
            if not opened or opened.pop() != _OPENED[sign]:
                raise _at(token, f"nothing is open that {sign} closes")
            if sign == "}" and not opened:
                yield tokens[start : max(body, start + 1)], tokens[body : place + 1]
                start = place + 1
    if start != len(tokens):
        raise _at(tokens[start], "this is no function")


def _check_body(body: Sequence[_Token], own: set[str], functions: set[str]) -> None:
    """Every name is declared, called as a function or a member of what the header has, and nothing else is called."""
    words = [word for word, _ in body]
    for place, (word, before, after) in enumerate(zip(words, ["", *words], [*words[1:], ""], strict=False)):
        token = body[place]
        if word == "(" and (before in (")", "]") or before[0].isdigit()):
            raise _at(token, "a call of what has no name is not allowed")
        if not word[0].isalpha():
            continue
        if after == "(":
            known = word in _CALLERS or word in functions
        elif before == "->":
            known = word in _OF_RECORDS
        elif before == "struct":
            known = word in _RECORDS
        else:
            known = word in own or word in _WORDS
            known = known or (word in functions and words[max(place - len(_PASSED), 0) : place] == _PASSED)
        if not known:
            raise _at(token, f"the name {word} is not allowed here")


def _joined(tokens: Sequence[_Token]) -> str:
    return " ".join(word for word, _ in tokens)


def _at(token: _Token, message: str) -> Unsafe:
    return Unsafe(f"line {token[1]}: {message}")
