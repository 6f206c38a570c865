"""Cells with layer norms against the equations of Haste (github.com/lmnt-com/haste, 0.5.0), written out here in torch.

A kernel of Haste is transposed and has its gates one after another in columns; those of its LSTM are i, g, f, o, and
of its GRU z, r, and the candidate g. gamma[0] is the gain of what is made of x, gamma[1] of what is made of h. Zoneout
is of h alone: in training a unit is new where the mask is 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from conftest import imported
from torch import Tensor

from rnngen.compile import compile_model
from rnngen.description import describe, library

RATE = 0.3
T, B, INPUTS, H = 5, 3, 2, 4


def normed(a: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
    """lib/layer_norm_forward_gpu.cu.cc: over a whole row, eps 1e-5."""
    mean = a.mean(-1, keepdim=True)
    scaled = (a - mean) / torch.sqrt((a - mean).square().mean(-1, keepdim=True) + 1e-5) * gamma
    return scaled if beta is None else scaled + beta


class Zoned(NamedTuple):
    """What becomes of a new h: ComputeCellOutput, and PointwiseOperations of the GRU, where ApplyZoneout."""

    rate: float
    mask: Tensor | None

    def __call__(self, t: int, new: Tensor, old: Tensor) -> Tensor:
        if self.mask is not None:
            return (new - old) * self.mask[t] + old
        return self.rate * old + (1 - self.rate) * new


def lstm(p: dict, x: Tensor, h: Tensor, c: Tensor, zoned: Zoned) -> list[Tensor]:
    """lib/layer_norm_lstm_forward_gpu.cu.cc: ComputeCellState, a norm of c with gamma_h and beta_h, ComputeCellOutput;
    frameworks/pytorch/layer_norm_lstm.py has them as LayerNormLSTMScript. Without gamma_h c is taken as it is.
    """
    ys = []
    of_x = normed(x @ p["kernel"], p["gamma"][0])
    for t in range(len(x)):
        v = of_x[t] + normed(h @ p["recurrent_kernel"], p["gamma"][1]) + p["bias"]
        i, g, f, o = v.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        seen = normed(c, p["gamma_h"], p["beta_h"]) if "gamma_h" in p else c
        h = zoned(t, torch.sigmoid(o) * torch.tanh(seen), h)
        ys.append(h)
    return [torch.stack(ys), h, c]


def gru(p: dict, x: Tensor, h: Tensor, zoned: Zoned) -> list[Tensor]:
    """lib/layer_norm_gru_forward_gpu.cu.cc: PointwiseOperations; frameworks/pytorch/layer_norm_gru.py has it as
    LayerNormGRUScript.
    """
    ys = []
    of_x = normed(x @ p["kernel"], p["gamma"][0]) + p["bias"]
    for t in range(len(x)):
        of_h = normed(h @ p["recurrent_kernel"], p["gamma"][1]) + p["recurrent_bias"]
        (x_z, x_r, x_g), (h_z, h_r, h_g) = of_x[t].chunk(3, -1), of_h.chunk(3, -1)
        z, r = torch.sigmoid(x_z + h_z), torch.sigmoid(x_r + h_r)
        h = zoned(t, z * h + (1 - z) * torch.tanh(x_g + r * h_g), h)
        ys.append(h)
    return [torch.stack(ys), h]


def indrnn(p: dict, x: Tensor, h: Tensor, zoned: Zoned) -> list[Tensor]:
    """lib/layer_norm_indrnn_forward_gpu.cu.cc: IndrnnFwdOps; frameworks/pytorch/layer_norm_indrnn.py has it as
    LayerNormIndRNNScript.
    """
    ys = []
    of_x = normed(x @ p["kernel"], p["gamma"][0]) + p["bias"]
    for t in range(len(x)):
        h = zoned(t, torch.tanh(of_x[t] + h * p["recurrent_scale"]), h)
        ys.append(h)
    return [torch.stack(ys), h]


def parameters(layer: torch.nn.Module, gates: str) -> dict[str, Tensor]:
    """Haste's of a layer of ours, its gates in the order of Haste. gates: ours, by the places of theirs."""

    def of(name: str) -> Tensor | None:
        tensor = getattr(layer, f"{name}_l0", None)
        if tensor is None or len(tensor) != len(gates) * H:
            return tensor
        return torch.cat([tensor.chunk(len(gates))[int(gate)] for gate in gates])

    biases = [bias for bias in (of("bias"), of("bias_ih"), of("bias_hh")) if bias is not None]
    gains = [gain for gain in (of("gain"), of("gain_ih"), of("gain_hh")) if gain is not None]
    found = {"kernel": of("weight_ih").mT, "gamma": torch.stack(gains), "bias": biases[0]}
    if (recurrent := of("weight_hh")).dim() == 1:
        return found | {"recurrent_scale": recurrent}
    found["recurrent_kernel"] = recurrent.mT
    if len(gates) == 3:
        second = biases[1]
        found["recurrent_bias"] = second if len(second) == 3 * H else torch.cat([second.new_zeros(2 * H), second])
    elif len(biases) == 2:
        found["bias"] = biases[0] + biases[1]
    if hasattr(layer, "gain_c_l0"):
        found |= {"gamma_h": layer.gain_c_l0, "beta_h": layer.bias_c_l0}
    return found


# Of ours, the equations of Haste's, and which of our gates are Haste's first, second and so on.
CELLS: dict[tuple[str, ...], tuple[Callable, str]] = {
    ("layer_norm_lstm",): (lstm, "0213"),
    ("lstm", "layer_norm"): (lstm, "0213"),
    ("layer_norm_gru_haste",): (gru, "012"),
    ("gru", "layer_norm"): (gru, "102"),
    ("layer_norm_indrnn",): (indrnn, "0"),
    ("indrnn", "layer_norm"): (indrnn, "0"),
}


@pytest.mark.parametrize("zoneout", ["none", "training", "evaluation"])
@pytest.mark.parametrize("names", CELLS, ids=" ".join)
def test_layer_norms_are_those_of_haste(names, zoneout, tmp_path):
    equations, gates = CELLS[names]
    name, *wrappers = names
    wrappers += ["zoneout"] if zoneout != "none" else []
    made = compile_model(library()[name], wrappers)
    (path := tmp_path / f"{made.name}.py").write_text(made.text)
    (cell,) = describe(library()[name], wrappers).cells
    rates = {"zoneout": {"h": RATE}} if zoneout != "none" else {}
    torch.manual_seed(0)
    layer = getattr(imported(path, f"haste_{made.name}"), cell.class_name)(INPUTS, H, dtype=torch.float64, **rates)
    layer.train(zoneout == "training")
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    first = [torch.randn(B, H, dtype=torch.float64, requires_grad=True) for _ in cell.states]

    torch.manual_seed(1)
    mask = (torch.rand(T, B, H) >= RATE).double() if zoneout == "training" else None
    zoned = Zoned(RATE if zoneout == "evaluation" else 0.0, mask)
    want = equations(parameters(layer, gates), x, *first, zoned)
    torch.manual_seed(1)
    states = [state[None] for state in first]
    y, last = layer(x, states[0] if len(states) == 1 else tuple(states))
    got = [y, *(state[0] for state in (last if isinstance(last, tuple) else (last,)))]
    leaves = [x, *first, *layer.parameters()]
    incoming = [torch.randn_like(tensor) for tensor in want]
    for ours, theirs in ((got, want), (_gradients(got, leaves, incoming), _gradients(want, leaves, incoming))):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def _gradients(outputs: list[Tensor], leaves: list[Tensor], incoming: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs, leaves, incoming)
