"""MODEL on the command line: a file, a cell of the library, or standard input."""

from __future__ import annotations

import os
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnngen.source import Source


def open_model(model: str) -> Source:
    """The text of a model, under the name that the user gave it.

    Raises Unreadable; ModelError if it is no text.
    """
    from rnngen.document import Unreadable, read, read_stdin
    from rnngen.errors import did_you_mean, visible
    from rnngen.library import library

    if model == "-":
        return read_stdin(sys.stdin.buffer if sys.stdin else None)
    cells = library()
    is_path = model.endswith(".toml") or PurePath(model).name != model
    if not is_path and model in cells:
        return cells[model]
    if is_path or os.path.exists(model):
        try:
            return read(model)
        except Unreadable as error:
            stem = PurePath(model).name.removesuffix(".toml")
            if stem not in cells or os.path.lexists(model):
                raise
            hint = f"the library has a cell '{stem}'; leave out the '.toml'."
            raise Unreadable(f"{error}\nHint: {hint}") from error
    hint = did_you_mean(model, cells) or "'rnngen cells' lists the library"
    if os.path.exists(f"{model}.toml"):
        hint = f"did you mean '{visible(model)}.toml'?"
    shown = visible(model[:200])
    raise Unreadable(f"There is no cell '{shown}' in the library, and no such file.\nHint: {hint}")
