"""What a generated module imports.

`machine` is arithmetic that the compiler asks too, so nothing here imports torch until a name of the list is wanted.
"""

from importlib import import_module

PUBLISHED = {
    "check_module": "seal",
    "Cell": "cell",
    "Layer": "layer",
    "Recurrence": "recurrence",
    "Stack": "stack",
    "Weight": "cell",
    "Facts": "machine",
    "Pass": "scan",
    "Scan": "scan",
    "blocks": "linear",
    "detach": "stack",
    "filled": "direction",
    "outer": "linear",
    "product": "linear",
    "product_transposed": "linear",
    "loop": "reference",
    "elementwise": "launch",
    "product_into": "launch",
    "product_transposed_into": "launch",
    "resident": "launch",
    "stage": "launch",
    "log1p": "functions",
    "sigmoid": "functions",
    "tanh": "functions",
    "bounded": "tiles",
    "first": "tiles",
    "load1": "tiles",
    "load2": "tiles",
    "load3": "tiles",
    "load4": "tiles",
    "load_matrices": "tiles",
    "load_row": "tiles",
    "load_transposed": "tiles",
    "pack2": "tiles",
    "pack4": "tiles",
    "store1": "tiles",
    "store_stack": "tiles",
    "unpack2": "tiles",
    "unpack4": "tiles",
    "tl": "language",
    "triton": "language",
}


def __getattr__(name: str):
    if name not in PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLISHED[name]}"), name)


def __dir__() -> list[str]:
    return sorted(PUBLISHED)
