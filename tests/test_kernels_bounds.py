"""A kernel whose mask is dropped is caught, whatever becomes of what it reads."""

import re
import sys
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import imported
from kernels_for_interpreter import narrow_offsets

from rnngen.compile import compile_model
from rnngen.description import library
from rnngen.runtime.seal import NO_DIGEST, sealed

NUMBERS = count()
# (a text of the module or of the tiles, what becomes of it)
# (a module of the runtime, a function, a text of it, what becomes of it)
DROPPED = [
    ("units", "load_units", "mask=unit < width, other=0.0", "mask=unit < width + 1, other=0.0"),
    ("units", "store_units", ", mask=unit < width", ""),
    ("chunks", "load_chunk", "inside & (unit < width)", "inside"),
    ("chunks", "load_chunk", "inside & (unit < width)", "(unit < width)"),
    ("chunks", "load_flags", "mask=inside, other=0", "mask=inside | True, other=0"),
    ("chunks", "store_chunk", "inside & (unit < width)", "inside"),
    ("chunks", "store_chunk", "inside & (unit < width)", "(unit < width)"),
    ("tiles", "load1", "(unit < D) & (batch < left)", "(unit < D)"),
    ("tiles", "load1", "(unit < D) & (batch < left)", "(batch < left)"),
    ("tiles", "load_stack", " & (batch < left)", ""),
    ("tiles", "store1", "(unit < D) & (batch < left)", "(unit < D)"),
    ("tiles", "load_row", "batch < left", "batch < BB"),
    ("tiles", "stack_of_matrices", "(unit < ROWS) & (column < COLUMNS)", "(unit < ROWS)"),
    ("tiles", "stack_of_transposed", " & (row < COLUMNS)", ""),
    ("slices", "row_tile", "inside & (column < COLUMNS)", "inside"),
    ("slices", "load_rows", "(part < RUN) & (unit < ROWS)", "(part < RUN)"),
    ("slices", "load_columns", "inside & (row < COLUMNS)", "inside"),
    ("slices", "load_columns", "(stacked < RUN) & (unit < ROWS)", "(stacked < RUN)"),
    ("steps", "step_before", "tl.where(count > begin, left, 0)", "left"),
]
ROW = (r"row = tl\.cast\(time, tl\.int64\) \* B \+ batch", "row = tl.cast(time, tl.int64) * B + batch + 1")


CLASSES = {"lstm": "LSTM", "mingru": "MinGRU"}


def changed_class(tmp_path, change, cell="lstm"):
    """The class of a cell's module whose text was changed."""
    text = change(compile_model(library()[cell]).text)
    # Scans of one name share torch's operators, with the kernels of the module that was imported first.
    text = re.sub(rf'"{cell}_[0-9a-f]{{12}}"', f'"{cell}_{next(NUMBERS)}"', text)
    text = sealed(re.sub(r"(?<=# Body:   sha256 )[0-9a-f]{64}", NO_DIGEST, text, count=1))
    path = tmp_path / "changed.py"
    path.write_text(text)
    return getattr(imported(path, f"changed_{tmp_path.name}"), CLASSES[cell])


def run(layer_class, schedule, dtype=torch.float32):
    """Both directions of a scan, with sequences of different lengths."""
    layer = layer_class(2, 3, schedule=schedule, dtype=dtype)
    x = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 2, dtype=dtype), torch.tensor([3, 2]))
    y, _ = layer(x)
    y.data.sum().backward()


def test_every_access_of_a_kernel_is_within_its_tensor(tmp_path):
    for cell, schedule in (
        ("lstm", "stepwise"),
        ("lstm", "resident"),
        ("lstm", "cooperative"),
        ("mingru", "elementwise"),
        ("mingru", "linear"),
    ):
        run(changed_class(tmp_path, str, cell), schedule)
    run(changed_class(tmp_path, str), "resident", torch.bfloat16)  # which stores a step during the next one


def test_a_row_too_far_is_seen(tmp_path):
    def change(text):
        changed, count = re.subn(*ROW, text)
        assert count
        return changed

    with pytest.raises(Exception, match="out of bounds"):
        run(changed_class(tmp_path, change), "stepwise")


def test_an_offset_beyond_32_bits_is_seen():
    y = torch.zeros(16, dtype=torch.int64)
    narrow_offsets[(1,)](y, 2**27, N=16)
    with pytest.raises(Exception, match="goes beyond int32"):
        narrow_offsets[(1,)](y, 2**28, N=16)


@pytest.mark.parametrize(("part", "function", "wanted", "instead"), DROPPED)
def test_a_dropped_mask_is_seen(tmp_path, monkeypatch, part, function, wanted, instead):
    own = import_module(f"rnngen.runtime.{part}")
    head, name, rest = Path(own.__file__).read_text().partition(f"def {function}(")
    body, end, rest = rest.partition("@triton.jit")
    assert body.count(wanted) == 1
    path = tmp_path / f"changed_{part}.py"
    path.write_text(head + name + body.replace(wanted, instead) + end + rest)
    changed = imported(path, f"changed_{part}_{tmp_path.name}")
    # Functions call one another by their names in their module: load_tiles calls load_stack.
    schedule = {"units": "stepwise", "chunks": "linear", "slices": "cooperative"}.get(part, "resident")
    layer_class = changed_class(tmp_path, str, "mingru" if schedule == "linear" else "lstm")
    module = sys.modules[layer_class.__module__]
    for name in [name for name in vars(own) if name.startswith(("load", "store", "step"))]:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, getattr(changed, name))
    with pytest.raises(Exception, match="out of bounds"):
        run(layer_class, schedule, torch.bfloat16 if part == "steps" else None)
