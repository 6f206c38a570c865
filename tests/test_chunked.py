"""Time in chunks: the answer is the cell's whatever it forgets, and what was done for it is said."""

import copy
import math
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from cells import ALL, INVENTED, LIBRARY, SAMPLE
from judge import compare
from pretended_gpu import CARDS, pretended
from random_cells import in_chunks
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnngen.runtime import agreement
from rnngen.runtime.agreement import Report
from rnngen.runtime.layout import Layout
from rnngen.runtime.side_by_side import _OfGradients

T, B, I, H = 11, 2, 2, 3  # five chunks of two steps, behind one that comes before them
# Passes that may be spent on repairs, beyond which chunks run one by one.
WORK = {"repaired": math.inf, "one by one": 0}
LONG = 600


CASES = [(name, "repaired") for name in LIBRARY] + [(name, "one by one") for name in SAMPLE]
SLOW = [(name, "repaired") for name in INVENTED] + [(name, "one by one") for name in LIBRARY if name not in SAMPLE]


@pytest.mark.parametrize(("name", "work"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_every_cell_gives_its_own_answer(name, work, layer_of):
    """Sequences of several lengths, with resets, in both directions: outputs, states, and all gradients in float64."""
    layer = layer_of(name if name in LIBRARY else ALL[name])
    inputs = H if layer.cell.inputs["x"] == "hidden" else I
    options = {"both": True, "lengths": (T, T - 4), "resets": [(3, 0), (6, 1)]}
    with in_chunks(WORK[work]):
        found = compare(layer, torch.float64, (T, B, inputs, H), "chunked 2 1", **options)
    # Chunks agree to 4 units in the last place, 1e-15, beside the sums in another order that the judge allows for.
    assert not {key: pair for key, pair in found.items() if not pair[0] <= 10 * pair[1]}


LATCH = """
name = "latch"
states = ["h"]
inputs = { keep = { shape = [] } }
step = "h' = keep * h + W @ x"
[parameters]
W = { shape = ["hidden", "inputs"] }
"""


@pytest.fixture
def class_of(layer_of, native_of):
    """The class of a cell whose steps run in torch, or in native code."""

    def class_of(cell: str, native: bool) -> type[nn.Module]:
        layer_class = layer_of(cell)
        return getattr(native_of(cell), layer_class.__name__) if native else layer_class

    return class_of


def forgetting(layer_class, **options) -> nn.Module:
    """A layer whose state fades by half in a step or two."""
    torch.manual_seed(0)
    layer = layer_class(I, 8, **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                weight.mul_(0.5)
    return layer


def remembering(layer_class, **options) -> nn.Module:
    layer = forgetting(layer_class, **options)
    with torch.no_grad():
        layer.block("b_if").fill_(20.0)
    return layer


def answer(layer, schedule, x, hx=None) -> list[torch.Tensor]:
    """The output, the last states, and the gradients of a sum of both."""
    layer.schedule = schedule
    x = x.detach().clone().requires_grad_()
    y, state = layer(x, hx)
    outputs = [y, *(state if isinstance(state, tuple) else (state,))]
    loss = sum((one * torch.linspace(-1, 2, one.numel(), dtype=one.dtype).view(one.shape)).sum() for one in outputs)
    return [*(one.detach() for one in outputs), *torch.autograd.grad(loss, [x, *layer.parameters()])]


def errors(found, exact) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_what_forgets_is_right_after_one_pass(name, native, reverse, class_of):
    """Within twice the rounding error of the plain scan."""
    layer_class = class_of(name, native)
    layer = forgetting(layer_class, reverse=reverse)
    x = torch.randn(LONG + 1, 3, I)
    exact = answer(copy.deepcopy(layer).double(), "auto", x.double())
    plain = errors(answer(layer, "auto", x), exact)
    found = errors(answer(layer, "chunked 50 40", x), exact)
    assert not [pair for pair in zip(found, plain, strict=True) if not pair[0] <= 2 * pair[1] + 1e-7]
    before = LONG // 12, 40
    assert layer.report() == [Report("forward", 12, *before), Report("adjoint", 12, *before)]
    with torch.no_grad():
        y, _ = layer(x)
    assert layer.report() == [Report("forward", 12, *before)]
    layer.schedule = "auto"
    assert torch.allclose(y, layer(x)[0], atol=1e-6)


def test_what_remembers_runs_as_it_would(layer_of):
    """To the bit, after a look at a few chunks."""
    layer = remembering(layer_of("lstm"))
    x = torch.randn(LONG, 2, I)
    for one, other in zip(answer(layer, "chunked 50 40", x), answer(layer, "auto", x), strict=True):
        assert torch.equal(one, other)
    layer.schedule = "chunked 50 40"
    layer(x)
    assert layer.report() == [Report("forward", 1, LONG, 0)]


def test_what_forgets_slowly_is_repaired(layer_of):
    """After a warm-up of 10 steps chunks are apart, and not after the 100 of a chunk."""
    layer = forgetting(layer_of("gru"))
    with torch.no_grad():
        layer.block("b_iz").fill_(1.4)
    x = torch.randn(LONG, 2, I)
    plain = answer(layer, "auto", x)
    with in_chunks():
        found = answer(layer, "chunked 100 10", x)
    assert max(errors(found, plain)) < 2e-6
    forward, adjoint = layer.report()
    assert forward.passes == 2 == adjoint.passes
    assert forward.repaired == 2 * (LONG // 100 - 1)
    assert forward.step_by_step == 0 == adjoint.step_by_step


def test_a_sample_is_judged_by_itself(layer_of):
    """One that does not forget, beside one whose states are a thousand times as large and does: by the largest of the
    batch the first one would have been right from the start.
    """
    torch.manual_seed(0)
    layer = layer_of(LATCH)(1, 4)
    x = torch.stack((torch.full((LONG, 1), 1e-4), torch.randn(LONG, 1) * 1e3), 1)
    keep = torch.stack((torch.full((LONG,), 0.999), torch.full((LONG,), 0.1)), 1)
    with torch.no_grad(), in_chunks():
        plain, _ = layer(x, keep=keep)
        layer.schedule = "chunked 50 25"
        found, _ = layer(x, keep=keep)
    for sample in range(2):
        assert errors([found[:, sample]], [plain[:, sample]]) < [1e-6]
    assert layer.report()[0].repaired > 0 or layer.report()[0].step_by_step > 0


LEAKY = """
name = "leaky"
states = ["h"]
inputs = { a = { shape = ["hidden"] } }
step = "h' = a * h + W @ x"
[parameters]
W = { shape = ["hidden", "inputs"] }
"""


@pytest.mark.parametrize("looks", [False, True], ids=["at once", "after a look"])
def test_a_count_of_what_is_rare_is_kept_beside_what_is_large(looks, layer_of):
    """It takes in less over a chunk than a unit in the last place of the largest of the state, and of its adjoint."""
    torch.manual_seed(0)
    layer = layer_of(LEAKY)(1, 2)
    small = torch.tensor([1.0, 1e-9])
    with torch.no_grad():
        layer.block("W").copy_(small[:, None])
    x, a = torch.rand(LONG, 1, 1), torch.tensor([0.3, 1.0]).expand(LONG, 1, 2)

    def found(schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        hx = torch.zeros(1, 1, 2, requires_grad=True)
        y, _ = layer(x, hx, a=a)
        return [one[..., 1].detach() for one in (y, *torch.autograd.grad((y * small).sum(), hx))]

    with nullcontext() if looks else in_chunks():
        assert max(errors(found("chunked 50 25"), found("auto"))) < 1e-6


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
def test_what_rounding_makes_of_an_element_says_nothing_of_others(native, class_of):
    """The gradient of the first of two elements fades slowly behind a loss in the middle; that of the second is zero
    there, and takes in the first one's near the end of the sequence alone. What it takes in of one unit is far from
    zero, and yet no reason to take the first one for right.
    """
    text = """
name = "lent"
states = ["h"]
inputs = { g = { shape = ["hidden"] } }
step = "h' = 0.7 * h + g * (U @ h) + W @ x"
[parameters]
W = { shape = ["hidden", "inputs"] }
U = { shape = ["hidden", "hidden"] }
"""
    layer_class = class_of(text, native)
    torch.manual_seed(0)
    layer = layer_class(1, 2)
    with torch.no_grad():
        layer.block("U").copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        layer.block("W").fill_(1.0)
    g = torch.zeros(LONG, 1, 2)
    g[500:] = 1.0

    def found(schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        x = torch.ones(LONG, 1, 1, requires_grad=True)
        y, _ = layer(x, g=g)
        (d,) = torch.autograd.grad(y[330, 0, 0], x)  # 30 steps behind where its chunk begins
        return [d]

    with in_chunks():
        assert max(errors(found("chunked 50 25"), found("auto"))) < 1e-6


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
def test_what_is_nearly_forgotten_is_not_yet_in_half_precision(number, layer_of):
    """States there go from step to step in float32, so the plain scan is no more than one rounding off."""
    dtype = getattr(torch, number)
    torch.manual_seed(0)
    layer = layer_of(LEAKY)(1, 4).to(dtype)
    with torch.no_grad():
        layer.block("W").fill_(0.125)
    x = torch.rand(LONG, 1, 1).to(dtype)
    a = torch.full((LONG, 1, 4), (3 * torch.finfo(dtype).eps) ** (1 / 40)).to(dtype)

    def found(layer: nn.Module, schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        own = x.to(layer.block("W").dtype).requires_grad_()
        y, _ = layer(own, a=a.to(own.dtype))
        return [y.detach(), *torch.autograd.grad(y.sum(), own)]

    exact = found(copy.deepcopy(layer).double(), "auto")
    plain = errors(found(layer, "auto"), exact)
    with in_chunks():
        chunked = errors(found(layer, "chunked 50 40"), exact)
    assert not [pair for pair in zip(chunked, plain, strict=True) if not pair[0] <= 2 * pair[1]]


def test_a_batch_of_nothing(layer_of):
    layer = forgetting(layer_of("lstm"), schedule="chunked 50 40", return_state=False)
    x = torch.randn(LONG, 0, I, requires_grad=True)
    y = layer(x)
    assert y.shape == (LONG, 0, 8)
    y.sum().backward()
    assert torch.func.vmap(layer)(torch.randn(0, LONG, 2, I)).shape == (0, LONG, 2, 8)


def test_a_chunk_that_is_not_right_is_seen(layer_of):
    """The judge: if nothing is ever apart, the answer is wrong."""
    layer = remembering(layer_of("lstm"))
    x = torch.randn(LONG, 2, I)
    plain = answer(layer, "auto", x)
    with in_chunks(), mock.patch.object(agreement.Apart, "outlook", return_value=(0, 0.0)):
        found = answer(layer, "chunked 50 40", x)
    assert min(errors(found, plain)) > 1e-3


@pytest.mark.parametrize("of_state", [False, True], ids=["of an output", "of a state"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
def test_behind_a_loss_at_the_end_alone_an_adjoint_fades_to_nothing(native, reverse, of_state, class_of):
    """What is left of it at the ends of chunks is not held against itself: it is added to what was large. One sample is
    shorter, so its loss comes within a chunk. That of the last state comes in before all chunks.
    """
    layer_class = class_of("lstm", native)
    layer = forgetting(layer_class, reverse=reverse)
    lengths = torch.tensor([LONG, 433])
    last = torch.zeros(2, dtype=torch.long) if reverse else lengths - 1
    x = torch.randn(LONG, 2, I)

    def found(schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        leaf = x.clone().requires_grad_()
        y, (h, _) = layer(pack_padded_sequence(leaf, lengths))
        rows, _ = pad_packed_sequence(y)
        loss = (h if of_state else rows[last, torch.arange(2)]).square().sum()
        return list(torch.autograd.grad(loss, [leaf, *layer.parameters()]))

    assert max(errors(found("chunked 50 40"), found("auto"))) < 2e-6
    assert layer.report() == [Report("forward", 12, 50, 40), Report("adjoint", 12, 50, 40)]


def test_what_is_no_number_is_of_its_own_sample(layer_of):
    """Others run side by side; what was no number runs no more often than its chunks."""
    layer = forgetting(layer_of("lstm"))
    x = torch.randn(LONG, 3, I)
    x[333, 1] = math.nan
    plain, _ = layer(x)
    layer.schedule = "chunked 50 40"
    found, _ = layer(x)
    assert torch.equal(plain.isnan(), found.isnan())
    assert torch.allclose(plain, found, atol=1e-6, equal_nan=True)
    (report,) = layer.report()
    # What comes after chunk 6 knows of it by its warm-up, the four behind by what they follow.
    assert report == Report("forward", 12, 50, 40, step_by_step=4)


@pytest.mark.parametrize("near", [True, False])
def test_a_few_rows_that_were_nearly_right_change_the_sums_by_what_they_were_off(near, native_of):
    """Of a cell that forgets slowly for a while, and in one step elsewhere: all weights have their gradients from one
    pass. Where it forgets hardly at all they take another.
    """
    torch.manual_seed(0)
    layer = native_of(LATCH).Latch(I, 4)
    x, keep = torch.randn(LONG, 1, I), torch.full((LONG, 1), 0.1)
    keep[200:300] = 0.85 if near else 0.99

    def found(schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        leaves = [one.clone().requires_grad_() for one in (x, keep)]
        y, _ = layer(leaves[0], keep=leaves[1])
        weights = torch.linspace(-1, 2, y.numel()).view(y.shape)
        return list(torch.autograd.grad((y * weights).sum(), [*leaves, *layer.parameters()]))

    plain = found("auto")
    whole = mock.patch.object(_OfGradients, "whole", autospec=True, side_effect=_OfGradients.whole)
    with in_chunks(), whole as run:
        assert max(errors(found("chunked 50 40"), plain)) < 2e-6
    assert 1 <= layer.report()[-1].repaired <= 3
    assert run.call_count == (1 if near else 2)


def test_what_is_remembered_for_a_while_alone_runs_again(layer_of):
    """Of a cell that keeps what it has for three chunks, and forgets within a few steps elsewhere, those two that
    follow on chunks without an end of it.
    """
    torch.manual_seed(0)
    layer = layer_of(LATCH)(I, 4)
    x, keep = torch.randn(LONG, 1, I), torch.full((LONG, 1), 0.1)
    keep[180:330] = 1.0
    plain, _ = layer(x, keep=keep)
    layer.schedule = "chunked 50 40"
    found, _ = layer(x, keep=keep)
    assert torch.allclose(plain, found, rtol=1e-5, atol=1e-5)
    assert layer.report() == [Report("forward", 12, 50, 40, step_by_step=2)]


def test_padding_takes_its_start_as_it_is(layer_of):
    """Whole chunks of it forget nothing, and pass on what they get: the last state is that of the last step."""
    layer = forgetting(layer_of("lstm"))
    lengths = torch.tensor([LONG, 130, 55])
    x = pack_padded_sequence(torch.randn(LONG, 3, I), lengths)
    y, (h, c) = layer(x)
    layer.schedule = "chunked 50 40"
    z, (k, d) = layer(x)
    assert torch.allclose(y.data, z.data, atol=1e-6)
    assert torch.allclose(h, k, atol=1e-6)
    assert torch.allclose(c, d, atol=1e-6)
    rows, _ = pad_packed_sequence(z)
    assert torch.equal(k[0, 2], rows[54, 2])
    assert layer.report() == [Report("forward", 12, 50, 40)]


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_what_is_behind_padding_begins_with_what_is_in_front_of_it(backwards):
    """Chunk by chunk, of chunks that are nothing but padding here and there, the first ones too."""
    count, batch, steps = 40, 3, 2
    torch.manual_seed(0)
    valid = (torch.rand(count, batch) < 0.4).int().flatten()[None, :, None].repeat(steps, 1, 1)
    runs = mock.Mock(valid=valid)
    begin, ends = torch.randn(2, count * batch, 4)
    found = agreement.Chunks(runs, [begin], count, steps, 1, backwards)._linked([ends])[0].view(count, batch, 4)
    order = range(count)[::-1] if backwards else range(count)
    for sample in range(batch):
        state = begin.view(count, batch, 4)[order[0], sample]
        for chunk in order:
            assert torch.equal(found[chunk, sample], state)
            if valid[0, chunk * batch + sample]:
                state = ends.view(count, batch, 4)[chunk, sample]


def test_a_reset_is_a_free_start(layer_of):
    """A cell that remembers everything, and is reset within every warm-up."""
    layer = remembering(layer_of("lstm"))
    x = torch.randn(LONG, 1, I)
    resets = torch.zeros(LONG, 1, dtype=torch.bool)
    resets[::10] = True
    plain, _ = layer(x, resets=resets)
    layer.schedule = "chunked 50 40"
    found, _ = layer(x, resets=resets)
    assert torch.allclose(plain, found, atol=1e-6)
    assert layer.report() == [Report("forward", 12, 50, 40)]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"proj_size": 3}], ids=str)
def test_every_scan_of_a_call_has_its_row(options, layer_of):
    layer = forgetting(layer_of("lstm"), **options)
    x = torch.randn(LONG, 2, I)
    plain = answer(layer, "auto", x)
    found = answer(layer, "chunked 50 40", x)
    assert max(errors(found, plain)) < 2e-6
    runs = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    assert [row.sweep for row in layer.report()] == ["forward"] * runs + ["adjoint"] * runs


def test_what_is_done_depends_on_no_earlier_call(layer_of):
    layer = forgetting(layer_of("gru"))
    x = torch.randn(LONG, 2, I)
    first = answer(layer, "chunked 50 40", x)
    answer(layer, "chunked 50 40", 1e3 * torch.randn(LONG, 2, I))
    for one, other in zip(first, answer(layer, "chunked 50 40", x), strict=True):
        assert torch.equal(one, other)


def test_a_call_that_is_short_is_one_chunk(layer_of):
    layer = forgetting(layer_of("lstm"), schedule="chunked")
    layer(torch.randn(700, 2, I))
    assert layer.report() == [Report("forward", 1, 700, 0)]
    layer(torch.randn(1, 2, I))
    assert layer.report() == [Report("forward", 1, 1, 0)]
    layer.step(torch.randn(2, I))


@pytest.mark.parametrize("number", ["double", "half"])
def test_half_precision_and_double(number, layer_of):
    layer = forgetting(layer_of("lstm"))
    x = torch.randn(LONG, 2, I)
    exact = answer(copy.deepcopy(layer).double(), "auto", x.double())
    layer, x = (copy.deepcopy(layer).double(), x.double()) if number == "double" else (layer.bfloat16(), x.bfloat16())
    plain = errors(answer(layer, "auto", x), exact)
    found = errors(answer(layer, "chunked 100 80", x), exact)
    assert not [pair for pair in zip(found, plain, strict=True) if not pair[0] <= 2 * pair[1] + 1e-14]
    assert layer.report()[0].chunks == 6


def test_autocast(layer_of):
    layer = forgetting(layer_of("lstm"))
    x = torch.randn(LONG, 2, I)
    with torch.autocast("cpu", torch.bfloat16):
        plain, _ = layer(x)
        layer.schedule = "chunked 50 40"
        found, _ = layer(x)
    assert found.dtype == plain.dtype
    assert torch.allclose(plain.float(), found.float(), atol=2e-2)


def test_a_compiled_graph_runs_chunks_too(layer_of):
    layer = forgetting(layer_of("gru"))
    x = torch.randn(LONG, 2, I, requires_grad=True)
    plain, _ = layer(x)
    layer.schedule = "chunked 50 40"
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found, _ = compiled(x)
    assert torch.allclose(plain, found, atol=1e-6)
    (one,), (other,) = (torch.autograd.grad(y.square().sum(), x) for y in (plain, found))
    assert torch.allclose(one, other, atol=1e-5)
    assert layer.report() == []


@pytest.mark.parametrize("schedule", ["chunked 50 40", "chunked"])
def test_a_graph_of_any_length_is_the_plain_scan(schedule, layer_of):
    """How many chunks there are follows from the time, and a graph must not be of one time alone."""
    layer = forgetting(layer_of("gru"))
    x, longer = torch.randn(LONG, 3, I), torch.randn(LONG + 100, 5, I)
    plain, _ = layer(longer)
    layer.schedule = schedule
    torch._dynamo.mark_dynamic(x, 0)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(x)
    time, batch = torch.export.Dim("time", max=10**6), torch.export.Dim("batch", max=64)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: time, 1: batch},)).module()
    for run in (compiled, exported):
        assert torch.allclose(run(longer)[0], plain, atol=1e-6)


def test_threads_change_no_bit_where_sizes_are_given(native_of):
    layer = forgetting(native_of("lstm").LSTM)
    x, threads, found = torch.randn(LONG, 3, I), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(answer(layer, "chunked 50 40", x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_vmap(layer_of):
    layer = forgetting(layer_of("gru"), return_state=False)
    x = torch.randn(3, LONG, 2, I)
    plain = torch.stack([layer(one) for one in x])
    layer.schedule = "chunked 50 40"
    assert torch.allclose(torch.func.vmap(layer)(x), plain, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
def test_a_second_derivative(native, reverse, class_of):
    """By the torch steps of the whole, of a state that is given too, with resets and lengths."""
    layer_class = class_of("gru", native)
    layer = forgetting(layer_class, reverse=reverse, dtype=torch.float64)
    x, hx = torch.randn(61, 2, I, dtype=torch.float64), torch.randn(1, 2, 8, dtype=torch.float64)
    resets = pack_padded_sequence(torch.rand(61, 2, 1) < 0.05, torch.tensor([61, 33]))
    resets = resets._replace(data=resets.data.squeeze(-1))

    def found(schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        leaves = [one.clone().requires_grad_() for one in (x, hx)]
        y, state = layer(pack_padded_sequence(leaves[0], torch.tensor([61, 33])), leaves[1], resets=resets)
        wanted = [*leaves, *layer.parameters()]
        first = torch.autograd.grad(y.data.pow(3).sum() + state.pow(2).sum(), wanted, create_graph=True)
        return list(torch.autograd.grad(sum(d.pow(2).sum() for d in first), wanted))

    with in_chunks():
        assert max(errors(found("chunked 12 8"), found("auto"))) < 1e-12


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
def test_batches_of_gradients(native, class_of):
    layer_class = class_of("gru", native)
    layer = forgetting(layer_class, dtype=torch.float64)
    x = torch.randn(61, 2, I, dtype=torch.float64)
    incoming = torch.randn(3, 61, 2, 8, dtype=torch.float64)

    def found(schedule: str) -> list[torch.Tensor]:
        layer.schedule = schedule
        leaf = x.clone().requires_grad_()
        y, _ = layer(leaf)
        found = torch.autograd.grad(y, [leaf, *layer.parameters()], incoming, is_grads_batched=True)
        return [one.detach() for one in found]

    with in_chunks():
        assert max(errors(found("chunked 12 8"), found("auto"))) < 1e-12


def test_the_capture_of_a_graph_is_refused(layer_of):
    with pretended(CARDS["H100"]), mock.patch.object(torch.cuda, "is_current_stream_capturing", return_value=True):
        layer = layer_of("lstm")(I, 8, device="cuda", schedule="chunked 50 40")
        with pytest.raises(RuntimeError, match="looks at its chunks while it runs"):
            layer(torch.randn(LONG, 2, I, device="cuda"))


@pytest.mark.parametrize(
    "schedule", ["chunked 0", "chunked 12 24", "chunked 12 3 4", "chunked x", "chunked -3", "chunked  4", "chunked ٣"]
)
def test_sizes_that_cannot_be(schedule, layer_of):
    with pytest.raises(ValueError, match="takes the least steps of a chunk"):
        layer_of("lstm")(I, H, schedule=schedule)


@pytest.mark.parametrize(("time", "batch", "at_once"), [(16384, 1, 16), (16411, 1, 16), (10**6 + 3, 4, 8448)])
def test_chunks_are_as_long_as_there_is_use_for_more(time, batch, at_once):
    """And a prime number of steps leaves few over, which run one after another."""
    layout = Layout.of("chunked", time, batch, at_once)
    assert layout.count * layout.steps + layout.before == time
    assert layout.before < layout.steps / 16
    assert layout.steps >= 4 * layout.warm_up
    assert layout.count <= at_once // batch


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes
def test_a_trace_is_of_any_length(layer_of):
    layer = forgetting(layer_of("lstm"), schedule="chunked 50 40")
    traced = torch.jit.trace(layer, torch.randn(LONG, 2, I))
    x = torch.randn(LONG + 100, 2, I)
    assert torch.allclose(traced(x)[0], layer(x)[0], atol=1e-6)


def test_chunks_are_programs_of_a_launch(layer_of):
    """Of a sequence on an H100: 32 chunks, 8 to a program, where the plain scan has one program; and as many steps in a
    row as a chunk and its warm-up have, of all. Estimated from these alone, it would take a twenty-fifth of the time.
    """
    time = 16384
    with pretended(CARDS["H100"], compiling=False) as card, torch.no_grad():
        layer = layer_of("lstm")(I, 64, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(time, 1, I, device="cuda", dtype=torch.bfloat16)
        layer(x)
        (plain,) = [launch for launch in card.launches if "resident" in launch.kernel]
        card.launches.clear()
        layer.schedule = "chunked"
        with mock.patch.object(agreement.Apart, "outlook", return_value=(0, 0.0)):
            layer(x)
    warm_up, whole = [launch for launch in card.launches if "resident" in launch.kernel]
    assert plain.grid[:2] == (1, 1)
    assert warm_up.grid[:2] == whole.grid[:2] == (4, 1)
    assert (warm_up.arguments["T"], whole.arguments["T"]) == (128, 512)
    assert plain.arguments["T"] / 640 == 25.6


@pytest.mark.parametrize("save", ["every 250", "states"])
def test_what_is_kept_is_a_choice_here_too(save, layer_of):
    """Steps that run again run in chunks again."""
    layer = forgetting(layer_of(f"# save {save}\n{LIBRARY['lstm']}" if save == "states" else "lstm"))
    x = torch.randn(LONG, 2, I)
    plain = answer(layer, "auto", x)
    layer.save = save
    assert max(errors(answer(layer, "chunked 50 40", x), plain)) < 2e-6
    assert {row.chunks for row in layer.report()} <= {12, 5, 2}
    assert layer.report()[0].chunks > 1
