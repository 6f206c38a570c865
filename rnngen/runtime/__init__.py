"""What a generated module imports.

Machines and plans are arithmetic that the compiler asks too, so nothing here imports torch until a name of the list
is wanted.
"""

from importlib import import_module
from typing import Any

PUBLISHED = {
    "check_module": "seal",
    "Across": "plan",
    "Cell": "cell",
    "Drawn": "drawn",
    "Facts": "plan",
    "Layer": "layer",
    "Recurrence": "recurrence",
    "Stack": "stack",
    "Weight": "cell",
    "Scan": "scan",
    "Sweep": "sweep",
    "blocks": "linear",
    "delayed": "delay",
    "detach": "stack",
    "filled": "direction",
    "outer": "linear",
    "product": "linear",
    "product_for_scan": "linear",
    "product_into": "linear",
    "product_transposed": "linear",
    "product_transposed_into": "linear",
    "clip_gradient": "reference",
    "loop": "reference",
    "stage": "schedules.stepwise",
    "begun": "steps",
    "boundary": "steps",
    "counted": "steps",
    "cut": "steps",
    "expand": "steps",
    "kept": "steps",
    "or_zero": "steps",
    "step_at": "steps",
    "step_before": "steps",
    "fill_chunks": "chunks",
    "first_chunks": "chunks",
    "load_chunk": "chunks",
    "load_flags": "chunks",
    "old_values": "chunks",
    "row_at": "chunks",
    "store_chunk": "chunks",
    "summed": "chunks",
    "widened": "chunks",
    "add_sums": "slices",
    "arrive": "slices",
    "await_others": "slices",
    "load_ahead": "slices",
    "load_columns": "slices",
    "load_rows": "slices",
    "member": "slices",
    "multiply_rows": "slices",
    "receive_numbers": "slices",
    "receive_sums": "slices",
    "receive_tiles": "slices",
    "send_numbers": "slices",
    "send_sums": "slices",
    "send_tile": "slices",
    "step_after": "slices",
    "store_slice": "slices",
    "tiles_of": "slices",
    "log1p": "functions",
    "remainder": "functions",
    "sigmoid": "functions",
    "tanh": "functions",
    "fill_numbers": "tiles",
    "fill_tiles": "tiles",
    "first_tiles": "tiles",
    "largest_tiles": "tiles",
    "load_matrices": "tiles",
    "load_numbers": "tiles",
    "load_row": "tiles",
    "load_tiles": "tiles",
    "load_transposed": "tiles",
    "load_vectors": "tiles",
    "multiply": "tiles",
    "multiply_transposed": "tiles",
    "store_numbers": "tiles",
    "store_tiles": "tiles",
    "sum_tiles": "tiles",
    "fill_units": "units",
    "first_units": "units",
    "largest_units": "units",
    "load_scalars": "units",
    "load_units": "units",
    "store_units": "units",
    "sum_units": "units",
    "units_of": "units",
    "tl": "language",
    "triton": "language",
}


def __getattr__(name: str) -> Any:  # as different as the names are
    if name not in PUBLISHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLISHED[name]}"), name)


def __dir__() -> list[str]:
    return sorted(PUBLISHED)
