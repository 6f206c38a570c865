"""What a layer keeps for its backward pass, by the kernels of every schedule, in Triton's interpreter."""

import pytest
import torch
from cells import ALL, LIBRARY, heads_for
from judge import compare

from rnngen.runtime import again
from rnngen.runtime.plan import NotPossible

T, B, I, H = 5, 2, 2, 3
OFTEN = ("lstm", "gru_v3", "indrnn", "mingru")  # of all schedules
CASES = [
    pytest.param(name, save, marks=() if name in OFTEN else pytest.mark.slow)
    for name in LIBRARY
    for save in ("states", "every 2")
]


def text_of(name: str, save: str) -> str:
    return f"{ALL.get(name, LIBRARY[name])}\n# save {save}\n"


@pytest.mark.parametrize(("name", "save"), CASES)
def test_every_kind(layer_of, name, save):
    layer_class = layer_of(text_of(name, save))
    for schedule in layer_class.cell.schedules:
        heads = heads_for(text_of(name, save), schedule)
        inputs = H * heads if layer_class.cell.inputs["x"] == "hidden" else I
        try:
            found = compare(
                layer_class,
                torch.float64,
                (T, B, inputs, H),
                schedule,
                heads=heads,
                lengths=(T, T - 1),
                resets=((2, 0), (3, 1)),
            )
        except NotPossible as reason:
            assert schedule in ("resident", "cooperative")
            assert "matri" in str(reason)
            continue
        assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


@pytest.mark.parametrize("save", ["states", "every 2"])
def test_the_forward_pass_has_the_same_bits(layer_of, save):
    usual, other = layer_of("lstm"), layer_of(text_of("lstm", save))
    x = torch.randn(T, B, I)
    for schedule in usual.cell.schedules:
        torch.manual_seed(0)
        plain, kept = usual(I, H, schedule=schedule), other(I, H, schedule=schedule)
        kept.load_state_dict(plain.state_dict())
        (y, (h, c)), (same, last) = plain(x), kept(x)
        assert all(map(torch.equal, (y, h, c), (same, *last)))


@pytest.mark.parametrize("schedule", ["resident", "stepwise"])
def test_projections_in_parts(layer_of, monkeypatch, schedule):
    monkeypatch.setattr(again, "AT_ONCE", 2 * B * 4 * H)  # two steps
    for reverse in (False, True):
        found = compare(
            layer_of(text_of("lstm", "states")),
            torch.float64,
            (T, B, I, H),
            schedule,
            reverse=reverse,
            lengths=(T, T - 1),
            resets=((2, 0), (3, 1)),
        )
        assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}


def test_both_directions(layer_of):
    for save in ("states", "every 2"):
        found = compare(
            layer_of(text_of("gru", save)), torch.float64, (T, B, I, H), "resident", both=True, lengths=(T, 2)
        )
        assert not {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}
