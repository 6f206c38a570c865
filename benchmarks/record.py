"""What every kernel of the library compiles to, kept in a file, to be compared before and after a change.

    python -m benchmarks run --suite static [--cells MODEL ...] [--target sm_90 ...] [--out FILE.jsonl]

A line of JSON for each kernel (see `benchmarks.static`) with the version of Triton. A run that was interrupted goes on
where it ended. `python -m benchmarks.compare` compares two such files; neither needs a GPU.
"""

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.kept import Kept, OtherOrigin
from benchmarks.modules import tree
from benchmarks.static import rows, source_of
from rnngen.description import library

__all__ = ["MODELS", "OtherOrigin", "record"]

MODELS = (*library(), "examples/lstm_heads.toml")  # all of the library, and block-diagonal matrices
TYPES_AND_WIDTHS = (("bfloat16", 32), ("bfloat16", 64), ("float32", 32))
BATCH = 16


def record(out: Path, models: Sequence[str], targets: Sequence[str]) -> None:
    """Compile what `out` has no rows of yet, and append it.

    Raises OtherOrigin if `out` has rows that another tree or another Triton made.
    """
    import triton

    origin = {"tree": tree(), "triton": triton.__version__}
    kept = Kept(out, origin)
    cases = list(product(models, targets, TYPES_AND_WIDTHS))
    for number, (model, target, size) in enumerate(cases, 1):
        dtype, width = size
        name = f"{model} {target} {dtype} {width}"
        if name in kept.done:
            continue
        began = time.monotonic()
        found = list(rows(source_of(model), target, dtype, BATCH, (width,), heads=1))
        kept.add(name, [{"model": model, **origin, **row.record} for row in found])
        print(f"{number}/{len(cases)} {name}: {len(found)} kernels, {time.monotonic() - began:.0f} s", flush=True)
