"""The cells that come with rnngen: their descriptions, as they stand in `cells/`."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from rnngen.source import Source


@cache
def library() -> Mapping[str, Source]:
    """The cells that come with rnngen, by name."""
    folder = files("rnngen") / "cells"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {name.removesuffix(".toml"): Source(name, (folder / name).read_text(encoding="utf-8")) for name in names}
