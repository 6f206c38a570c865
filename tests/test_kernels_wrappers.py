"""Wrapped cells on the kernels of every schedule that they have, in Triton's interpreter."""

import pytest
from random_cells import Call, Trial, check

from rnngen.description import library

CALL = Call(time=3, batch=3, lengths=(2, 1, 3), resets=((1,), (), (0, 2)), reverse=True)
# A cell for each schedule, and all wrappers around one.
CASES = {
    ("lstm", "layer_norm, recurrent_dropout, zoneout, drop_connect"): ["cooperative", "resident", "stepwise"],
    ("indrnn", "zoneout"): ["elementwise", "stepwise"],
    ("mingru", "zoneout"): ["elementwise", "linear", "stepwise"],
    ("lstm", "clip"): ["cooperative", "resident", "stepwise"],
    ("mingru", "clip"): ["elementwise", "linear", "stepwise"],
    ("layer_norm_indrnn", "zoneout, clip"): ["elementwise", "stepwise"],
    ("narx", "zoneout, recurrent_dropout, clip"): ["cooperative", "resident", "stepwise"],
    ("lstmp", "recurrent_dropout, zoneout"): [
        "cooperative",
        "stepwise",
    ],  # 32 units of `proj` in float64 are too many for `resident`
}


@pytest.mark.parametrize(("name", "wrappers"), CASES)
def test_wrapped_cells(name, wrappers, module_of):
    text = f"{library()[name].text}\n# with {wrappers}\n"
    *run, _ = check(Trial(text, module_of(text)), CALL)
    assert sorted(run) == CASES[name, wrappers]
