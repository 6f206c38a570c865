"""A kernel whose mask is dropped is caught, whatever becomes of what it reads."""

import re
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import imported

import rnngen.runtime.tiles
from rnngen.compile import compile_model
from rnngen.description import library
from rnngen.runtime.seal import NO_DIGEST, sealed

NUMBERS = count()
# (a text of the module or of the tiles, what becomes of it)
STEPWISE = [
    (r"(tl\.load\(h_ptr \+ batch \* H \+ unit), mask=inside, other=0\.0", r"\1"),
    (r"(tl\.load\(weight_hh_h_ptr \+ batch \* \(4 \* H\) \+ 3 \* H \+ unit), mask=inside, other=0\.0", r"\1"),
    (r"(tl\.store\(c_ptr \+ batch \* H \+ unit, c_next_1), mask=inside", r"\1"),
    (r"row = tl\.cast\(time, tl\.int64\) \* B \+ batch", "row = tl.cast(time, tl.int64) * B + batch + 1"),
]
TILES = [
    ("load1", "(unit < D) & (batch < left)", "(unit < D)"),
    ("load1", "(unit < D) & (batch < left)", "(batch < left)"),
    ("load_stack", " & (batch < left)", ""),
    ("store1", "(unit < D) & (batch < left)", "(unit < D)"),
    ("load_row", "batch < left", "batch < BB"),
    ("load_matrices", "(unit < D) & (column < D)", "(unit < D)"),
    ("load_transposed", " & (row < D)", ""),
]


def lstm(tmp_path, change):
    """The class of a module of the LSTM whose text was changed."""
    text = change(compile_model(library()["lstm"]).text)
    # Scans of one name share torch's operators, with the kernels of the module that was imported first.
    text = re.sub(r'"(lstm|lstm_masked)_[0-9a-f]{12}"', rf'"\1_{next(NUMBERS)}"', text)
    text = sealed(re.sub(r"(?<=# Body:   sha256 )[0-9a-f]{64}", NO_DIGEST, text, count=1))
    path = tmp_path / "changed.py"
    path.write_text(text)
    return imported(path, f"changed_{tmp_path.name}").LSTM


def run(layer_class, schedule):
    """Both directions of a scan, with sequences of different lengths."""
    layer = layer_class(2, 3, schedule=schedule)
    x = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 2), torch.tensor([3, 2]))
    y, _ = layer(x)
    y.data.sum().backward()


def test_every_access_of_a_kernel_is_within_its_tensor(tmp_path):
    for schedule in ("stepwise", "resident"):
        run(lstm(tmp_path, str), schedule)


@pytest.mark.parametrize(("wanted", "instead"), STEPWISE)
def test_a_dropped_mask_of_a_stage_is_seen(tmp_path, wanted, instead):
    def change(text):
        changed, count = re.subn(wanted, instead, text)
        assert count
        return changed

    with pytest.raises(Exception, match="out of bounds"):
        run(lstm(tmp_path, change), "stepwise")


@pytest.mark.parametrize(("function", "wanted", "instead"), TILES)
def test_a_dropped_mask_of_a_tile_is_seen(tmp_path, monkeypatch, function, wanted, instead):
    head, name, rest = Path(rnngen.runtime.tiles.__file__).read_text().partition(f"def {function}(")
    body, end, rest = rest.partition("@triton.jit")
    assert body.count(wanted) == 1
    path = tmp_path / "changed_tiles.py"
    path.write_text(head + name + body.replace(wanted, instead) + end + rest)
    tiles = imported(path, f"changed_tiles_{tmp_path.name}")
    # Functions call one another by their names in the module: load4 calls load_stack.
    names = [name for name in vars(rnngen.runtime.tiles) if name.startswith(("load", "store"))]
    layer_class = lstm(tmp_path, str)
    module = sys.modules[layer_class.__module__]
    for name in names:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, getattr(tiles, name))
    with pytest.raises(Exception, match="out of bounds"):
        run(layer_class, "resident")
