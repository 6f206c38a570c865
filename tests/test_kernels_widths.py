"""States of several widths, in the kernels that have no matrix: see widths.py."""

import pytest
import widths

from rnngen.runtime.schedules import possible


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return widths.module(tmp_path_factory.mktemp("widths")).widths_scan


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["plain", "masked"])
@pytest.mark.parametrize("schedule", possible(widths.program().forward.facts))
def test_kernels(scan, schedule, lengths, reverse):
    assert schedule in scan.forward.kernels
    widths.check(scan, lengths, reverse, schedule)
