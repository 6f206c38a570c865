"""What every kernel of the library compiles to, kept in a file, to be compared before and after a change.

    python -m benchmarks run --suite static [--cells MODEL ...] [--target sm_90 ...] [--out FILE.jsonl]

A line of JSON for each kernel (see `benchmarks.static`) with the version of Triton. A run that was interrupted goes on
where it ended. `python -m benchmarks.compare` compares two such files; neither needs a GPU.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.static import rows, source_of
from rnngen.description import library

ROOT = Path(__file__).parent.parent
MODELS = (*library(), "examples/lstm_heads.toml")  # all of the library, and block-diagonal matrices
TYPES_AND_WIDTHS = (("bfloat16", 32), ("bfloat16", 64), ("float32", 32))
BATCH = 16


def tree() -> str:
    """A digest of all that decides what a kernel is: the compiler, the library, the templates, what picks constants."""
    kinds = ("rnngen/**/*.py", "rnngen/**/*.toml", "templates/**/*.jinja")
    files = [path for kind in kinds for path in ROOT.glob(kind)]
    digest = hashlib.sha256()
    for path in sorted(files):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


class OtherOrigin(ValueError):
    """A file has rows that another tree or another Triton made."""


def record(out: Path, models: Sequence[str], targets: Sequence[str]) -> None:
    """Compile what `out` has no rows of yet, and append it.

    Raises OtherOrigin if `out` has rows that another tree or another Triton made.
    """
    import triton

    origin = {"tree": tree(), "triton": triton.__version__}
    before = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    if others := [row for row in before if any(row[name] != value for name, value in origin.items())]:
        found = ", ".join(f"{name} {others[0][name]}, here {value}" for name, value in origin.items())
        raise OtherOrigin(f"{out} has rows of another origin ({found}). Name another file.")
    done = {(row["model"], row["target"], row["dtype"], row["hidden"] // row["heads"]) for row in before}
    cases = [(model, target, *size) for model, target, size in product(models, targets, TYPES_AND_WIDTHS)]
    for number, case in enumerate(cases, 1):
        if case in done:
            continue
        model, target, dtype, width = case
        began = time.monotonic()
        found = rows(source_of(model), target, dtype, BATCH, (width,), heads=1)
        lines = [json.dumps({"model": model, **origin, **row.record}) + "\n" for row in found]
        with out.open("a", encoding="utf-8") as file:
            file.write("".join(lines))  # at once: a case is there or not
        about = f"{number}/{len(cases)} {model} {target} {dtype} {width}"
        print(f"{about}: {len(lines)} kernels, {time.monotonic() - began:.0f} s", flush=True)
