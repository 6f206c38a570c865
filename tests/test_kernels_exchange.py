"""The kernel by which an exchange is timed, in Triton's interpreter."""

import pytest
import torch

from benchmarks import gauges


@pytest.mark.parametrize("programs", [1, 2, 7])
def test_programs_wait_for_one_another_as_often_as_they_are_told(programs):
    """Each arrives once a turn; one that waited for more than there are would never end."""
    counter = torch.zeros(gauges.LINE, dtype=torch.int32)
    options = {"launch_cooperative_grid": True} if programs > 1 else {}
    gauges.turns[(programs, 1)](counter, 5, GROUP=programs, num_warps=4, enable_fp_fusion=True, **options)
    assert counter[0] == 5 * programs and not counter[1:].any()
