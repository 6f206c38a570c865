"""The judge of everything else, judged by torch.nn, which knows three of the cells."""

import cells
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnngen import reference

LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
LENGTHS = (3, 5, 1)
OPTIONS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both directions": {"num_layers": 2, "bidirectional": True},
    "projected": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
}


@pytest.mark.parametrize("lengths", [(), LENGTHS], ids=["of one length", "of different lengths"])
@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in LAYERS for options in OPTIONS if name == "lstm" or options != "projected"],
)
def test_layers(name, options, lengths):
    options = OPTIONS[options]
    torch.manual_seed(0)
    layer = LAYERS[name](3, 4, dtype=torch.float64, **options)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    x = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    widths = {"h": layer.proj_size or 4, "c": 4} if name == "lstm" else {"h": 4}
    states = {
        key: torch.randn(rows, 3, width, dtype=torch.float64, requires_grad=True) for key, width in widths.items()
    }
    hx = tuple(states.values()) if name == "lstm" else states["h"]
    if lengths:
        packed, last = layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False), hx)
        want, _ = pad_packed_sequence(packed)
    else:
        want, last = layer(x, hx)
    wanted = [want, *(last if isinstance(last, tuple) else [last])]
    parameters = dict(layer.named_parameters())
    described = cells.forms(name)["infer"].cell
    y, after = reference.layers(described, x, states, parameters, bidirectional=layer.bidirectional, lengths=lengths)
    got = [y, *after.values()]
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    leaves = [x, *states.values(), *parameters.values()]
    for one, other in zip(gradients(got, leaves), gradients(wanted, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def gradients(results, leaves):
    loss = sum(
        (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)).sum() for result in results
    )
    return torch.autograd.grad(loss, leaves)


def test_a_reversed_layer_is_the_second_half_of_a_bidirectional_one():
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4, dtype=torch.float64, bidirectional=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    want, _ = layer(x)
    own = {name.removesuffix("_reverse"): p for name, p in layer.named_parameters() if name.endswith("_reverse")}
    states = {name: torch.zeros(1, 2, 4, dtype=torch.float64) for name in ("h", "c")}
    y, _ = reference.layers(cells.forms("lstm")["infer"].cell, x, states, own, reverse=True)
    torch.testing.assert_close(y, want[..., 4:])
