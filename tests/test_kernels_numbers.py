"""Numbers that a step takes in beside x, which kernels read in the type of the sums, in Triton's interpreter."""

import pytest
import torch
from cells import LIBRARY
from test_inputs import TIMED, B, H, I, T, late

# A cell by products, one without within the loop, and one that is linear: by each schedule that it has.
ALONE = """
name   = "alone"
states = ["h"]
inputs = { tau = { shape = [] } }
step   = "h' = FORM"
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
b = { shape = ["hidden"], blocks = ["b"] }
"""
CELLS = {
    "phased": LIBRARY["phased_lstm"],
    "timed": TIMED,
    "elementwise": ALONE.replace("FORM", "tanh(W @ x + 0.5 * h + b * sin(tau))"),
    "linear": ALONE.replace("FORM", "0.9 * cos(tau) * h + b * sin(tau) * (W @ x)"),
}
SCHEDULES = [
    *(("phased", schedule) for schedule in ("resident", "stepwise")),
    *(("timed", schedule) for schedule in ("resident", "stepwise")),
    *(("elementwise", schedule) for schedule in ("elementwise", "stepwise")),
    *(("linear", schedule) for schedule in ("elementwise", "linear", "stepwise")),
]


@pytest.mark.parametrize(("name", "schedule"), SCHEDULES)
def test_numbers_are_not_rounded_to_half_precision(name, schedule, layer_of):
    torch.manual_seed(0)
    layer = layer_of(CELLS[name])(I, H, dtype=torch.bfloat16, schedule=schedule)
    exact = layer_of(CELLS[name])(I, H, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x, tau = torch.randn(T, B, I).bfloat16().requires_grad_(), late().requires_grad_()
    time = next(name for name, of in layer.cell.inputs.items() if not of)
    beside = {name: x.detach() for name in layer.cell.inputs if name == "u"}
    y, _ = layer(x, **beside, **{time: tau})
    doubled = {name: rows.double() for name, rows in beside.items()}
    theirs, _ = exact.reference(x.double(), **doubled, **{time: tau.double()})
    assert (y.double() - theirs).norm() < 0.03 * theirs.norm()
    ours, want = (torch.autograd.grad(out.double().sum(), (x, tau)) for out in (y, theirs))
    for one, other in zip(ours, want, strict=True):
        assert (one.double() - other.double()).norm() < 0.06 * other.double().norm()
