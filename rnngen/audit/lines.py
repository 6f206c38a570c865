"""What a generated text may hold in whatever language: printable ASCII, and no command in a comment or a string."""

import re

# What a program takes for a command wherever it stands, be it in a comment or in a string.
_COOKIE = re.compile(rb"coding[:=][ \t]*[-_.a-zA-Z0-9]")  # PEP 263, less what must stand before it
_COOKIE_LINES = 2
_MODELINE = re.compile(rb"\b(?:vi|vim|ex)(?:[<=>]?[0-9]+)?:|-\*-", re.IGNORECASE)
_MODELINES = 5  # at either end, unless the user of vim says otherwise
_LOCAL_VARIABLES = re.compile(rb"Local Variables:", re.IGNORECASE)
_LAST_PAGE = 3000  # characters of it in which Emacs looks for them


class Unsafe(AssertionError):
    """The generated text holds what it never should: a fault of ours, whatever the model says."""


def check_lines(content: bytes) -> None:
    """Raises Unsafe if a line holds another character, or is a command to Python's decoder or to an editor."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not (line.isascii() and line.decode("ascii").isprintable()):
            raise Unsafe(f"line {number} holds a character that is not printable ASCII")
    if any(map(_COOKIE.search, lines[:_COOKIE_LINES])):
        raise Unsafe("it begins with an encoding cookie")
    edges = (*lines[:_MODELINES], *lines[-_MODELINES - 1 :])  # behind the last line there is an empty one
    if any(map(_MODELINE.search, edges)) or _LOCAL_VARIABLES.search(content, max(len(content) - _LAST_PAGE, 0)):
        raise Unsafe("it holds a command for an editor")
