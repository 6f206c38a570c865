"""Random cells through the whole road, on the kernels of every schedule they have, in Triton's interpreter."""

import torch
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from test_random_cells import cells, check

from rnngen.errors import ModelError
from rnngen.runtime.machine import NotPossible


@given(text=cells(), reverse=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_cells(text, reverse, dtype, module_of, layer_of):
    note(text)
    try:
        layer_class = layer_of(text)
    except ModelError as error:
        note(str(error))
        reject()
    scan = getattr(module_of(text), f"{layer_class.cell.name}_scan")
    # In float32 rounding grows through five steps of arbitrary functions.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for schedule in scan.forward.launchers:
        try:
            check(layer_class, reverse=reverse, schedule=schedule, dtype=dtype, tolerance=tolerance)
        except NotPossible as reason:
            note(f"{schedule}: {reason}")
            assert schedule == "resident" and "heads" in str(reason)
