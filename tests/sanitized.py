"""Native code under gcc's sanitizers: `sanitized.py NAME...` runs these cells on awkward sizes, all without names.

It is a process of its own, in which libasan comes before all else: see `environment`. It ends with an error where code
reads or writes beyond its memory, or does what C leaves undefined.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

SIZES = ((1, 1, 1, 1), (7, 5, 3, 2), (2, 17, 16, 5), (3, 2, 17, 33), (40, 9, 33, 16))  # steps, batch, units, features
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1 -O0"  # after all others; at -O3 it takes minutes


def environment(folder: Path) -> dict[str, str] | None:
    """Of a process that runs this file, which writes to the folder; None where there is no gcc with sanitizers."""
    try:
        found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    library = found.stdout.strip()
    if not os.path.isabs(library):
        return None
    compiler = folder / "gcc"
    compiler.write_text(f'#!/bin/sh\nexec gcc "$@" {FLAGS}\n')
    compiler.chmod(0o755)
    options = {"CC": os.fspath(compiler), "RNNGEN_CACHE": os.fspath(folder / "native"), "RNNGEN_NATIVE": "1"}
    options |= {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "2"}
    return os.environ | options


def run(name: str, modules) -> None:
    """Forwards and backwards: plain, with lengths and with resets, in both directions, in float32 and float64."""
    import torch
    from cells import INVENTED, LIBRARY
    from torch.nn.utils.rnn import pack_padded_sequence

    module = modules((INVENTED | LIBRARY)[name])
    (layer_class,) = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    cell = layer_class.cell
    headed = any(weight.heads for weight in cell.weights)
    for number, (time, batch, hidden, inputs) in enumerate(SIZES):
        options = {"heads": 3} if headed and hidden % 3 == 0 else {}
        inputs = hidden if cell.inputs["x"] == "hidden" else inputs
        layer = layer_class(
            inputs, hidden, reverse=number % 2 == 1, dtype=(torch.float32, torch.float64)[number // 2 % 2], **options
        )
        forward = getattr(module, f"{cell.name}_scan").forward
        assert forward.function(layer._some.dtype), "there is no native code"
        widths = {"": (), "inputs": (inputs,), "hidden": (hidden,)}
        xs = {name: torch.randn(time, batch, *widths[of]).to(layer._some) for name, of in cell.inputs.items()}
        flags = torch.rand(time, batch) < 0.3
        lengths = torch.randint(1, time + 1, (batch,))
        lengths[0] = time
        for masked, reset in ((False, False), (True, False), (False, True), (True, True)):

            def packed(rows, lengths=lengths if masked else None):
                return rows if lengths is None else pack_padded_sequence(rows, lengths, enforce_sorted=False)

            x, *others = [packed(rows.requires_grad_()) for rows in xs.values()]
            given = dict(zip(list(xs)[1:], others, strict=True)) | ({"resets": packed(flags)} if reset else {})
            y, last = layer(x, **given)
            found = [y.data if masked else y, *(last if isinstance(last, tuple) else [last])]
            sum(one.sum() for one in found).backward()


def main() -> None:
    warnings.simplefilter("ignore")
    from cells import INVENTED, LIBRARY
    from conftest import Modules

    from rnngen.runtime import node, sweep

    def steps(*args: object) -> None:
        raise AssertionError("torch runs the steps")

    sweep.torch_steps = steps
    with tempfile.TemporaryDirectory() as folder:
        modules = Modules(Path(folder), native=True)
        for name in sys.argv[1:] or [*INVENTED, *LIBRARY]:
            for node.AT_ONCE, node.COPIED in ((2**20, 0), (64, 2**14)):
                run(name, modules)
    print("clean", flush=True)


if __name__ == "__main__":
    main()
