"""States of several widths, on the CPU path: see widths.py."""

import pytest
import torch
import widths
from widths import BATCH, HIDDEN, INPUTS, TIME


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return widths.module(tmp_path_factory.mktemp("widths")).widths_scan


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["plain", "masked"])
def test_the_steps_in_torch(scan, lengths, reverse):
    widths.check(scan, lengths, reverse)


def test_shapes_without_data(scan):
    with torch.device("meta"):
        streams = [torch.empty(TIME, BATCH, n) for n in (HIDDEN, INPUTS)]
        states = [torch.empty(BATCH, n, requires_grad=True) for n in (HIDDEN, INPUTS)]
    order = [leaf.shape[0] for leaf in widths.program().scan.leaves("input")]
    streams = streams if order == ["hidden", "inputs"] else streams[::-1]
    parameters = [t.to("meta") for t in widths.operands(torch.float32)[2].values()]
    outputs, last = scan(streams, states, parameters)
    assert [tuple(output.shape) for output in outputs] == [(TIME, BATCH, HIDDEN)]
    assert [tuple(state.shape) for state in last] == [(BATCH, HIDDEN), (BATCH, INPUTS)]
    gradients = torch.autograd.grad(last[1].sum() + outputs[0].sum(), states)
    assert [gradient.shape for gradient in gradients] == [state.shape for state in states]


def test_a_batch_of_batches(scan):
    streams, states, parameters = widths.operands()
    groups = [[t.detach() for t in group.values()] for group in (streams, states, parameters)]
    both = [[torch.stack([t, t.flip(-1)]) for t in group] for group in groups[:2]]
    run = torch.func.vmap(lambda xs, hs: scan(xs, hs, groups[2]))
    outputs, last = run(*both)
    for member in range(2):
        want, want_last = scan([t[member] for t in both[0]], [t[member] for t in both[1]], groups[2])
        for one, other in zip([*outputs, *last], [*want, *want_last], strict=True):
            torch.testing.assert_close(one[member], other)


def test_the_choice_knows_the_widths(scan):
    assert scan.forward.facts == widths.program().forward.facts
    assert scan.adjoint.facts == widths.program().backward.facts
    assert scan.forward.facts.dimensions == ("hidden", "inputs")
