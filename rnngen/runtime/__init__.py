"""What a generated module imports.

`machine` is arithmetic that the compiler asks too, so nothing here imports torch until a name of the list is wanted.
"""

from importlib import import_module

_PUBLISHED = {
    "Cell": "layer",
    "Layer": "layer",
    "Stack": "layer",
    "Weight": "layer",
    "Facts": "machine",
    "Pass": "scan",
    "Scan": "scan",
    "blocks": "linear",
    "outer": "linear",
    "product": "linear",
    "product_transposed": "linear",
    "loop": "reference",
}


def __getattr__(name: str):
    if name not in _PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLISHED[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_PUBLISHED)
