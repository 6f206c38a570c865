"""Zoneout and DropConnect as Haste has them (LMNT 2020), in float64: its steps, written a second time from the
equations of its kernels, with the masks that a layer draws.

    lstm        lib/lstm_forward_gpu.cu.cc, PointwiseOperations; frameworks/pytorch/lstm.py, LSTMScript. h zones out, c
                does not
    gru         lib/gru_forward_gpu.cu.cc, PointwiseOperations; frameworks/pytorch/gru.py, GRUScript
    indrnn      lib/indrnn_forward_gpu.cu.cc, IndrnnFwdOps; frameworks/pytorch/indrnn.py, IndRNNScript
    DropConnect frameworks/pytorch/lstm.py and gru.py, forward: torch's dropout of the recurrent kernel

torchrecurrent, the other judge of cells, has none of these.
"""

import pytest
import torch
from conftest import imported
from torch import Tensor

from rnngen.compile import compile_model
from rnngen.library import library

T, B, I, H = 7, 3, 4, 5
RATE, DROP = 0.3, 0.4
CLASSES = {"lstm": "LSTMZoneout", "gru": "GRUZoneout", "indrnn": "IndRNNZoneout"}


def lstm(p: dict[str, Tensor], x: Tensor, old: list[Tensor]) -> list[Tensor]:
    h, c = old
    i, f, g, o = (x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return [o.sigmoid() * c.tanh(), c]


def gru(p: dict[str, Tensor], x: Tensor, old: list[Tensor]) -> list[Tensor]:
    (h,) = old
    (x_r, x_z, x_g), (h_r, h_z, h_g) = (
        (rows @ p[f"weight_{side}"].T + p[f"bias_{side}"]).chunk(3, 1) for rows, side in ((x, "ih"), (h, "hh"))
    )
    z = (x_z + h_z).sigmoid()
    return [z * h + (1 - z) * (x_g + (x_r + h_r).sigmoid() * h_g).tanh()]


def indrnn(p: dict[str, Tensor], x: Tensor, old: list[Tensor]) -> list[Tensor]:
    (h,) = old
    return [(x @ p["weight_ih"].T + p["weight_hh"] * h + p["bias"]).tanh()]


STEPS = {"lstm": lstm, "gru": gru, "indrnn": indrnn}


def haste(name: str, layer: torch.nn.Module, x: Tensor, old: list[Tensor], drop: float) -> tuple[Tensor, list[Tensor]]:
    """The output and the last states, of a layer's weights."""
    p = {weight.name: getattr(layer, f"{weight.name}_l0") for weight in layer.cell.weights}
    if layer.training and drop:
        kept = torch.rand(p["weight_hh"].shape) >= drop
        p["weight_hh"] = torch.where(kept, p["weight_hh"] / (1 - drop), 0)
    mask = (torch.rand(T, B, H) >= RATE).double() if layer.training else None
    outputs = []
    for t in range(T):
        h, *others = STEPS[name](p, x[t], old)
        h = RATE * old[0] + (1 - RATE) * h if mask is None else (h - old[0]) * mask[t] + old[0]
        old = [h, *others]
        outputs.append(h)
    return torch.stack(outputs), old


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "drop"), [("lstm", 0.0), ("lstm", DROP), ("gru", 0.0), ("gru", DROP), ("indrnn", 0.0)]
)
def test_a_layer_computes_what_haste_does(name, drop, training, tmp_path):
    wrappers = ["zoneout", "drop_connect"] if drop else ["zoneout"]
    made = compile_model(library()[name], wrappers)
    (tmp_path / f"{made.name}.py").write_text(made.text)
    layer_class = getattr(imported(tmp_path / f"{made.name}.py", made.name), CLASSES[name] + "DropConnect" * bool(drop))
    rates = {"zoneout": {"h": RATE}} | ({"drop_connect": drop} if drop else {})
    torch.manual_seed(0)
    layer = layer_class(I, H, dtype=torch.float64, **rates).train(training)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    old = [torch.randn(B, H, dtype=torch.float64, requires_grad=True) for _ in layer.cell.states]
    answers = []
    for theirs in (True, False):
        torch.manual_seed(1)
        if theirs:
            y, last = haste(name, layer, x, old, drop)
        else:
            hx = [state[None] for state in old]
            y, states = layer(x, tuple(hx) if len(hx) > 1 else hx[0])
            last = [state[0] for state in (states if isinstance(states, tuple) else (states,))]
        total = y.sin().sum() + sum(state.cos().sum() for state in last)
        answers.append([y, *last, *torch.autograd.grad(total, [x, *old, *layer.parameters()])])
    for want, got in zip(*answers, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
