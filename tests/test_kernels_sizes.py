"""Kernels of cells that have dimensions of their own, wider and narrower than the layer."""

import pytest
import torch
from cells import ALL

from rnngen.runtime.plan import NotPossible

CALLS = [
    ("low_rank", "resident", 5, {"rank": 13}),
    ("low_rank", "resident", 14, {"rank": 1}),
    ("low_rank", "stepwise", 5, {"rank": 70}),
    ("projected", "resident", 15, {"narrow": 7}),
    ("projected", "resident", 3, {"narrow": 13}),
    ("projected", "stepwise", 40, {"narrow": 2}),
    ("foretelling", "resident", 6, {"wide": 23}),
    ("apart", "elementwise", 5, {"narrow": 3, "wide": 150}),  # more units than a program has without sums
    ("apart", "stepwise", 34, {"narrow": 80, "wide": 3}),
]


@pytest.mark.parametrize("resets", [False, True], ids=["whole", "resets"])
@pytest.mark.parametrize(("name", "schedule", "hidden", "sizes"), CALLS)
def test_kernels_equal_the_reference(name, schedule, hidden, sizes, resets, layer_of):
    torch.manual_seed(0)
    layer = layer_of(ALL[name])(4, hidden, dtype=torch.float64, schedule=schedule, **sizes)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    states = layer.initial_state(3)
    states = [torch.randn_like(s) for s in (states if isinstance(states, tuple) else [states])]
    leaves = [t.requires_grad_() for t in (x, *states)] + list(layer.parameters())
    options = {"resets": torch.rand(5, 3) < 0.4, "reset_to": _as_given(states)} if resets else {}
    if resets and schedule == "elementwise":
        with pytest.raises(NotPossible, match="several widths"):
            layer(x, _as_given(states), **options)
        return
    found = []
    for function in (layer, layer.reference):
        y, last = function(x, _as_given(states), **options)
        results = [y, *(last if isinstance(last, tuple) else (last,))]
        loss = sum((r * torch.linspace(-1, 2, r.numel(), dtype=r.dtype).view_as(r)).sum() for r in results)
        found.append([*results, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def _as_given(states):
    return tuple(states) if len(states) > 1 else states[0]


def test_where_tiles_end(layer_of):
    layer = layer_of(ALL["low_rank"])(4, 8, schedule="resident", rank=200)
    with pytest.raises(NotPossible, match="200 units are wider than the 64"):
        layer(torch.randn(2, 1, 4))
