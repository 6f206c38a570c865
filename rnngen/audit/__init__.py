"""The last look at generated texts: that they hold nothing which the emitter could not have meant.

A model file is data from a stranger. It is kept out of the output by construction: names are matched against a pattern,
strings are written by `ascii`, nothing else of it is copied. Here none of that is trusted, and each text is read in its
own language.
"""

from collections.abc import Callable, Mapping

from rnngen.audit.c import audit_c
from rnngen.audit.lines import Unsafe
from rnngen.audit.python import audit_python

__all__ = ["Unsafe", "audit"]

_AUDITS: Mapping[str, Callable[[bytes], None]] = {".py": audit_python, ".c": audit_c}


def audit(content: bytes, suffix: str = ".py") -> None:
    """Check the bytes of a generated file. suffix: of its name, which says the language.

    Raises Unsafe, which names the line, if they hold what no emitter writes.
    """
    _AUDITS[suffix](content)
