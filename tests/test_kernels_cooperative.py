"""The cooperative schedule in Triton's interpreter: several programs in random order, with every access in order.

Programs have 8 units here, so that layers as small as other tests' have several. What finds nothing here is found to
find what there is to be found: each way to make the exchange wrong is planted once.
"""

import re
import sys
from pathlib import Path

import pytest
import torch
from cells import ALL, SAMPLE, heads_for
from conftest import imported
from judge import compare
from lockstep import checked
from test_kernels_bounds import changed_class
from test_kernels_scan import alternating, cases
from triton.runtime.errors import InterpreterError

from rnngen.runtime import slices
from rnngen.runtime.choose import choose
from rnngen.runtime.language import interpreting
from rnngen.runtime.launch import Arguments
from rnngen.runtime.schedules import cooperative

CELLS = [(name, reverse) for name, schedule, reverse in alternating(cases(ALL)) if schedule == "cooperative"]
RESETS = ((0, 1), (1, 0), (2, 0), (2, 2))


def setup_module():
    assert interpreting()


@pytest.fixture(params=[1], autouse=True)
def parts(request, monkeypatch):
    """Slices of 8 units, and how many programs have the same."""
    monkeypatch.setattr(cooperative, "SLICES", (8,))
    monkeypatch.setattr(cooperative, "TILES", (8,))
    monkeypatch.setattr(cooperative, "PARTS", (request.param,))
    choose.cache_clear()
    yield request.param
    choose.cache_clear()


def check(layer_of, name, sizes, seed=0, dtype=torch.float64, **options):
    """What it computes, and that no access is out of order. The programs of each launch."""
    with checked(seed) as found:
        errors = compare(
            layer_of(ALL[name]), dtype, sizes, "cooperative", heads=heads_for(ALL[name], "cooperative"), **options
        )
    assert not {name: pair for name, pair in errors.items() if not pair[0] <= pair[1]}
    assert min(found.programs) > 1 and found.pauses > sum(found.programs)
    return found.programs


@pytest.mark.parametrize(("name", "reverse"), CELLS, ids=str)
def test_every_cell(layer_of, name, reverse):
    """One with a ragged slice, in sequences of different lengths."""
    check(layer_of, name, (3, 2, 3, 19), reverse=reverse, lengths=[2, 3])


@pytest.mark.parametrize(("name", "reverse"), CELLS, ids=str)
def test_every_cell_with_resets(layer_of, name, reverse):
    check(layer_of, name, (4, 3, 2, 9), reverse=not reverse, resets=RESETS)


@pytest.mark.parametrize("name", [name for name in ("lstm", "gru_v3", "heads") if name in ALL])
def test_both_directions_at_once(layer_of, name):
    """Whose programs wait for those of their own direction."""
    check(layer_of, name, (3, 3, 3, 10), both=True, lengths=[2, 3, 1])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(("hidden", "programs"), [(9, 2), (17, 3), (40, 5), (121, 16)])
@pytest.mark.parametrize("name", ["lstm", "gru_v3"])
def test_programs(layer_of, name, hidden, programs, seed):
    assert check(layer_of, name, (3, 2, 2, hidden), seed) == [programs] * 2


@pytest.mark.parametrize("parts", [2, 4], indirect=True)
@pytest.mark.parametrize("name", ["lstm", "gru_v3", "normed_gates"])
def test_parts_of_sums(layer_of, name, parts):
    """Of which only one stores, and sends numbers; some have no unit."""
    assert check(layer_of, name, (3, 3, 2, 19), resets=RESETS) == [3, 3 * parts]


def test_groups_of_a_batch(layer_of):
    assert check(layer_of, "gru_v3", (2, 17, 2, 12)) == [6, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SAMPLE)
def test_types(layer_of, name, dtype):
    if (name, "cooperative") in cases([name]):
        check(layer_of, name, (3, 3, 2, 20), dtype=dtype)


@pytest.mark.parametrize("name", ["gru_v3", "rnn"])
def test_few_rows_in_half_precision(layer_of, name):
    """Which are multiplied in several products."""
    check(layer_of, name, (3, 3, 2, 70), dtype=torch.bfloat16)


def test_parts_of_a_sum_may_be_larger_than_the_largest_float16(layer_of):
    """The columns of this matrix are 0 as a whole; of either slice alone they are 160000."""
    layer = layer_of("rnn")(3, 16, schedule="cooperative", dtype=torch.float16)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_hh_l0[..., :8, :] = 2e4
        layer.weight_hh_l0[..., 8:, :] = -2e4
    with checked(0):
        y, _ = layer(torch.zeros(3, 1, 3, dtype=torch.float16))
        (gradient,) = torch.autograd.grad(y[-1].sum(), [layer.bias_ih_l0])
    assert gradient.tolist() == torch.ones_like(gradient).tolist()


def test_the_order_changes_no_bit(layer_of):
    layer = layer_of("lstm")(3, 20, schedule="cooperative", dtype=torch.bfloat16)
    x = torch.randn(4, 9, 3, dtype=torch.bfloat16)
    answers = []
    for seed in range(3):
        with checked(seed):
            y, _ = layer(x)
            answers.append([y, *torch.autograd.grad(y.float().square().sum(), layer.parameters())])
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


# Whatever is wrong with an exchange is seen, in whatever order programs come.


def run(layer_class, seed=0):
    """Both directions of a scan by two groups of three programs, which change places only where they wait."""
    layer = layer_class(2, 17, schedule="cooperative")
    with checked(seed, 0) as found:
        y, _ = layer(torch.randn(8, 9, 2))
        y.sum().backward()
    return found.programs


IN_KERNELS = {
    "no wait": (r"await_others\(counter, \(turn \+ 1\) \* GROUP\)", "pass", "reads what another"),
    "a turn too early": (r"\(turn \+ 1\) \* GROUP", "turn * GROUP", "another"),
    "one too few": (r"\(turn \+ 1\) \* GROUP", "(turn + 1) * GROUP - 1", "another"),
    "one too many": (r"\(turn \+ 1\) \* GROUP", "(turn + 1) * GROUP + 1", "wait for one another"),
    "no arrival": (r"arrive\(counter\)", "pass", "wait for one another"),
    "an arrival too early": (r"( +)(send_tile.+\n) +(arrive.+\n)", r"\1\3\1\2", "another"),
    "an arrival twice": (r"( +)(arrive.+\n)", r"\1\2\1\2", "another"),
    "a late reset": (r"(    counter = .+\n)", r"\1    tl.store(counter, 0, mask=place == 0)\n", "another"),
    "a counter of two groups": (r"group \* 32", "0", "another|wait"),
}
IN_FUNCTIONS = {
    "a single buffer": ("send_tile", "turn % 2 * SLOTS", "0 * SLOTS", "another"),
    "a single buffer of sums": ("send_sums", "turn % 2 * SLOTS", "0 * SLOTS", "another"),
    "a relaxed wait": ("await_others", 'sem="acquire"', 'sem="relaxed"', "reads what another"),
    "a relaxed arrival": ("arrive", 'sem="release"', 'sem="relaxed"', "reads what another"),
    "no barrier behind the wait": ("await_others", "    tl.debug_barrier()\n", "", "no barrier"),
    "no barrier before the arrival": ("arrive", "    tl.debug_barrier()\n", "", "may not have stored"),
}


def test_without_a_fault(tmp_path):
    assert run(changed_class(tmp_path, str)) == [6, 6]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", IN_KERNELS)
def test_faults_in_kernels(tmp_path, fault, seed):
    wanted, instead, message = IN_KERNELS[fault]

    def change(text):
        head, name, rest = text.partition("def lstm_forward_cooperative")
        kernel, end, rest = rest.partition("@triton.jit")
        kernel, count = re.subn(wanted, instead, kernel)
        assert count
        return head + name + kernel + end + rest

    with pytest.raises(InterpreterError, match=message):
        run(changed_class(tmp_path, change), seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", IN_FUNCTIONS)
def test_faults_in_functions(tmp_path, monkeypatch, fault, seed):
    function, wanted, instead, message = IN_FUNCTIONS[fault]
    head, name, rest = Path(slices.__file__).read_text().partition(f"def {function}(")
    body, end, rest = rest.partition("@triton.jit")
    assert wanted in body
    path = tmp_path / "changed_slices.py"
    path.write_text(head + name + body.replace(wanted, instead) + end + rest)
    layer_class = changed_class(tmp_path, str)
    wrong = getattr(imported(path, f"changed_slices_{tmp_path.name}"), function)
    monkeypatch.setattr(sys.modules[layer_class.__module__], function, wrong)
    with pytest.raises(InterpreterError, match=message):
        run(layer_class, seed)


def test_counters_that_were_not_set_to_zero(layer_of, monkeypatch):
    """As a launch leaves them behind."""
    usual, kept = Arguments.exchange, {}

    def exchange(self, room, counters):
        *found, fresh = usual(self, room, counters)
        return [*found, kept.setdefault(counters, fresh)]

    monkeypatch.setattr(Arguments, "exchange", exchange)
    layer = layer_of("lstm")
    with pytest.raises(InterpreterError, match="another"):
        run(layer)
