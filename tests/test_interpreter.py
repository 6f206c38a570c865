"""A mended interpreter must agree with torch, which has its own bfloat16, written by others."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import kernels_for_interpreter as kernels
import pytest
import torch
import triton

from rnngen.runtime import language
from rnngen.runtime.interpreter import mend

mend()

TIE_DOWN = 1.00390625  # half-way between 1 and the next bfloat16, 1.0078125
TIE_UP = 1.01171875  # half-way between 1.0078125 and 1.015625


def bits(x):
    return x.view(torch.int16)


def assert_same(got, want):
    """Equal bit by bit, but any NaN for a NaN."""
    assert got.dtype == want.dtype
    nan = want.isnan()
    assert torch.equal(got.isnan(), nan)
    assert torch.equal(got[~nan].view(torch.uint8), want[~nan].view(torch.uint8))


def result(kernel, *args, like, **constants):
    """What the kernel leaves in an output, given after its arguments, with the shape and type of `like`."""
    y = torch.zeros_like(like)
    kernel[(1,)](*args, y, **constants)
    return y


@pytest.fixture
def random():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def every_bfloat16():
    """All 65536, among them infinities, NaN and subnormals."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)


@pytest.fixture
def around_every_bfloat16(every_bfloat16):
    """float32 numbers above every bfloat16: itself, the tie, next to each of them and in between."""
    lower = torch.tensor([0, 1, 0x4000, 0x7FFF, 0x8000, 0x8001, 0xC000, 0xFFFF], dtype=torch.int32)
    upper = bits(every_bfloat16).to(torch.int32) << 16
    return (upper[:, None] | lower).flatten().view(torch.float32)


def pairs(random, dtype=torch.bfloat16, n=2048):
    """Two vectors, of sizes that differ by up to 2**16, and with a few special numbers in each."""
    special = torch.tensor([0.0, -0.0, 1.0, float("inf"), -float("inf"), float("nan"), 3e38, -1e-39])
    scale = torch.exp2(torch.randint(-8, 9, (2, n), generator=random).float())
    a, b = torch.randn(2, n, generator=random) * scale
    a[:64], b[:64] = special.repeat(8), special.repeat_interleave(8)
    return a.to(dtype), b.to(dtype)


# Casts


@pytest.mark.parametrize("kernel", [kernels.cast, kernels.copy], ids=["explicit", "by_store"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_casts_to_bfloat16_round_to_nearest_even(kernel, dtype, around_every_bfloat16):
    x = around_every_bfloat16.to(dtype)
    want = x.to(torch.bfloat16)
    assert_same(result(kernel, x, like=want, N=len(x)), want)


@pytest.mark.parametrize(
    "number, nearest",
    [
        (TIE_DOWN, 1.0),
        (TIE_UP, 1.015625),
        (-TIE_DOWN, -1.0),
        (-TIE_UP, -1.015625),
        (TIE_DOWN + 2**-40, 1.0078125),
        (TIE_DOWN - 2**-40, 1.0),
        (TIE_UP + 2**-40, 1.015625),
        (TIE_UP - 2**-40, 1.0078125),
        (-TIE_DOWN - 2**-40, -1.0078125),
        (2.0**-134, 0.0),
        (2.0**-134 * (1 + 2**-40), 2.0**-133),
        (1e-300, 0.0),
        (3.3e38, 3.2965513712341624e38),
        (1e39, float("inf")),
        (-1e39, -float("inf")),
    ],
)
def test_float64_is_rounded_once(number, nearest):
    """Through float32, the numbers next to a tie would become the tie."""
    x = torch.full((16,), number, dtype=torch.float64)
    want = torch.full((16,), nearest, dtype=torch.float64).to(torch.bfloat16)
    assert_same(result(kernels.cast, x, like=want, N=16), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32, torch.int64])
def test_casts_to_bfloat16_from_other_types(dtype):
    x = torch.arange(-(2**11), 2**11).to(dtype)
    want = x.to(torch.bfloat16)
    assert_same(result(kernels.cast, x, like=want, N=len(x)), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_casts_from_bfloat16(dtype, every_bfloat16):
    want = every_bfloat16.to(dtype)
    assert_same(result(kernels.cast, every_bfloat16, like=want, N=len(want)), want)


def test_casts_from_bfloat16_to_integers_truncate():
    x = torch.linspace(-300, 300, 1024).to(torch.bfloat16)
    want = x.to(torch.int32)
    assert torch.equal(result(kernels.cast, x, like=want, N=len(x)), want)


def test_what_is_masked_off_has_the_given_value(random):
    x, _ = pairs(random, n=64)
    want = torch.cat([x[:37], torch.full((27,), 0.3, dtype=torch.bfloat16)])
    assert_same(result(kernels.copy_ragged, x, 37, like=want, other=0.3, N=64), want)


# Arithmetic


@pytest.mark.parametrize(
    "op, oracle",
    [
        ("add", torch.add),
        ("sub", torch.sub),
        ("mul", torch.mul),
        ("abs", lambda a, b: a.abs()),
        ("where", lambda a, b: torch.where(a > b, a, b)),
        ("lt", torch.lt),
        ("eq", torch.eq),
        ("ge", torch.ge),
        ("div", lambda a, b: a.float() / b.float()),  # Triton leaves the quotient in float32
    ],
)
def test_bfloat16_arithmetic_is_that_of_torch(op, oracle, random):
    a, b = pairs(random)
    want = oracle(a, b)
    assert_same(result(kernels.arithmetic, op, a, b, like=want, N=len(a)), want)


@pytest.mark.parametrize(
    "op, oracle", [("neg", lambda a, b: -a), ("maximum", torch.maximum), ("minimum", torch.minimum)]
)
def test_arithmetic_that_leaves_the_sign_of_zero_open(op, oracle, random):
    """Triton 3.6 negates by 0 - x."""
    a, b = (x.nan_to_num(nan=1.0) for x in pairs(random))
    want = oracle(a, b)
    assert torch.equal(result(kernels.arithmetic, op, a, b, like=want, N=len(a)), want)


def test_fma_rounds_once(random):
    a, b = pairs(random)
    exact = a.double() * b.double() + a.double()
    want = exact.to(torch.bfloat16)
    assert_same(result(kernels.arithmetic, "fma", a, b, like=want, N=len(a)), want)
    assert not torch.equal(a * b + a, want)


def test_fma_of_float32_rounds_once():
    a = torch.linspace(0.1, 1, 64)
    c = -(a * a)
    got = torch.empty_like(a)
    kernels.fma[(1,)](a, a, c, got, N=64)
    assert torch.equal(got, (a.double() * a.double() + c.double()).float())
    assert got.any()  # what a product alone is off by


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_literal_has_the_type_of_its_block(dtype, random):
    x, _ = pairs(random, dtype)
    c = torch.full_like(x, 0.3)
    assert_same(result(kernels.literal, "mul", x, like=x, N=len(x)), x * c)
    assert_same(result(kernels.literal, "rsub", x, like=x, N=len(x)), c - x)
    wide = x.float() if dtype == torch.bfloat16 else x
    want = wide / torch.full_like(wide, 0.3)
    assert_same(result(kernels.literal, "div", x, like=want, N=len(x)), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_float_argument_is_float32(dtype, random):
    x, _ = pairs(random, dtype)
    want = x * torch.full_like(x, 0.3, dtype=torch.float32)
    assert_same(result(kernels.scaled, x, 0.3, like=want, N=len(x)), want)


@pytest.mark.parametrize("flag", [False, True])
def test_a_bool_argument_is_a_condition(flag):
    x = torch.arange(16.0)
    assert torch.equal(result(kernels.choose, flag, x, like=x, N=16), -x if flag else 2 * x)


def test_constants_of_bfloat16():
    value = torch.full((16,), 0.3, dtype=torch.bfloat16)
    zero = torch.zeros_like(value)
    want = torch.stack([zero, value, zero, torch.stack([zero, value], 1).flatten()[:16]])
    assert_same(result(kernels.fill, like=want, value=0.3, N=16), want)


def test_overflow_is_silent():
    x = torch.tensor([-1e4, -100.0, 0.0, 1e4, -float("inf"), float("nan"), 1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = result(kernels.logistic, x, like=x, N=8)
    torch.testing.assert_close(y, torch.sigmoid(x), equal_nan=True)


# Products and reductions


@pytest.mark.parametrize("M, N, K", [(16, 16, 16), (16, 64, 32), (1, 32, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dot_multiplies_in_float32(M, N, K, dtype, random):
    a = torch.randn(M, K, generator=random).to(dtype)
    b = torch.randn(K, N, generator=random).to(dtype)
    want = a.float() @ b.float()
    got = result(kernels.dot, a, b, like=want, M=M, N=N, K=K, steps=1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_dot_of_whole_numbers_is_exact(random):
    a, b = torch.randint(-8, 9, (2, 32, 32), generator=random).to(torch.bfloat16)
    want = 3 * (a.float() @ b.float())
    assert torch.equal(result(kernels.dot, a, b, like=want, M=32, N=32, K=32, steps=3), want)


def test_dot_in_float64(random):
    a, b = torch.randn(2, 32, 32, generator=random, dtype=torch.float64)
    got = result(kernels.dot, a, b, like=a, M=32, N=32, K=32, steps=1)
    torch.testing.assert_close(got, a @ b, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "op, oracle", [("sum", torch.sum), ("max", torch.amax), ("min", torch.amin), ("argmax", torch.argmax)]
)
def test_reductions_of_bfloat16(op, oracle, random):
    x = torch.randn(8, 512, generator=random).to(torch.bfloat16)
    x[:4] = -x[:4].abs() - 0.1 * torch.rand(4, 1, generator=random)
    want = oracle(x, 1).to(torch.int32 if op == "argmax" else torch.bfloat16)
    got = result(kernels.reduce, op, x, like=want, ROWS=8, N=512)
    # A sum may differ in its last bit: float32 is added up in another order.
    torch.testing.assert_close(got, want, rtol=2**-7 if op == "sum" else 0, atol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "op, oracle, numbers", [("sum", torch.cumsum, [-8, -3, 1, 7]), ("prod", torch.cumprod, [-2, -1, 0.5, 1])]
)
def test_cumulated_bfloat16(op, oracle, numbers, reverse, random):
    """With numbers that need no rounding on the way."""
    x = torch.tensor(numbers)[torch.randint(4, (32,), generator=random)].to(torch.bfloat16)
    want = oracle(x.flip(0), 0).flip(0) if reverse else oracle(x, 0)
    assert_same(result(kernels.cumulate, op, x, like=x, N=32, reverse=reverse), want)


def test_scan_of_bfloat16_rounds_what_the_function_gives(random):
    decay, x = torch.rand(20, 2, generator=random).to(torch.bfloat16), torch.randn(20, 2, generator=random).bfloat16()
    for d, pair in zip(decay, x, strict=True):
        want = torch.stack([pair[0], d[1] * pair[0] + pair[1]])
        assert_same(result(kernels.linear_recurrence, d, pair, like=pair, N=2), want)


def test_scan_of_bfloat16(random):
    """With numbers that need no rounding on the way, in whatever order they are combined."""
    decay, x = (torch.randint(-1, 2, (32,), generator=random).to(torch.bfloat16) for _ in range(2))
    want = x.clone()
    for n in range(1, 32):
        want[n] = decay[n] * want[n - 1] + x[n]
    assert torch.equal(result(kernels.linear_recurrence, decay, x, like=x, N=32), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan_along_either_axis(random, axis, reverse, dtype):
    a, b = (torch.randn(8, 4, generator=random, dtype=dtype) for _ in range(2))
    y, most = torch.zeros_like(a), torch.zeros_like(a)
    kernels.scans_of_a_block[(1,)](a, b, y, most, ROWS=8, N=4, axis=axis, reverse=reverse)
    order = (lambda t: t.flip(axis)) if reverse else (lambda t: t)
    want, state = [], torch.zeros_like(a.select(axis, 0))
    for decay, given in zip(order(a).unbind(axis), order(b).unbind(axis), strict=True):
        state = decay * state + given
        want.append(state)
    torch.testing.assert_close(y, order(torch.stack(want, axis)), rtol=1e-6, atol=1e-6)
    assert torch.equal(most, order(order(b).cummax(axis).values))


# Loops, masks, offsets and shapes


@pytest.mark.parametrize("T", [0, 1, 5])
@pytest.mark.parametrize("kernel", [kernels.running_sum, kernels.running_sum_pipelined])
def test_a_range_ends_at_an_argument(kernel, T):
    x = torch.arange(float(T * 8)).reshape(T, 8)
    y = torch.zeros_like(x)
    kernel[(1,)](x, y, T, N=8)
    assert torch.equal(y, x.cumsum(0))


@pytest.mark.parametrize("T", [1, 5])
def test_a_range_runs_backward(T):
    x = torch.arange(float(T * 8)).reshape(T, 8)
    y = torch.zeros_like(x)
    kernels.running_sum_backward[(1,)](x, y, T, N=8)
    assert torch.equal(y, x.flip(0).cumsum(0).flip(0))


@pytest.mark.parametrize("length", [0, 5])
def test_a_mask_and_a_condition_on_a_scalar(length):
    x = torch.arange(1.0, 25).reshape(3, 8)
    y = torch.zeros_like(x)
    kernels.masked_by_scalar[(3,)](x, y, length, N=8)
    want = torch.where(torch.arange(8) < length, x, -1.0)
    want[0] = 0
    assert torch.equal(y, want)


def test_offsets_of_64_bits():
    want = torch.arange(16) * kernels.HUGE_STRIDE.value
    assert torch.equal(result(kernels.strided_offsets, like=want, N=16), want)
    x = torch.randn(16, 7)[:, 3]
    assert torch.equal(result(kernels.strided_copy, x, x.stride(0), like=torch.zeros(16), N=16), x)


def test_rearranging_bfloat16():
    B, H = 4, 8
    x = torch.arange(B * 4 * H).to(torch.bfloat16).reshape(B, 4 * H)
    joined = torch.zeros(B, 2 * H, dtype=torch.bfloat16)
    turned = torch.zeros(H, B, dtype=torch.bfloat16)
    kernels.rearranged[(1,)](x, joined, turned, B=B, H=H)
    gates = x.reshape(B, H, 4)
    assert torch.equal(joined, gates[:, :, [3, 0]].reshape(B, 2 * H))
    assert torch.equal(turned, gates[:, :, 1].T)


# All together


def lstm(x, r):
    """What kernels.lstm computes, in its rounding order."""
    h = c = torch.zeros(x.shape[2:], dtype=torch.bfloat16)
    hs, cs = [], []
    for x_t in x:
        i, f, g, o = (x_k.float() + h.float() @ r_k.float() for x_k, r_k in zip(x_t, r, strict=True))
        c = (f.sigmoid() * c.float() + i.sigmoid() * (2 * (2 * g).sigmoid() - 1)).to(torch.bfloat16)
        h = (o.sigmoid() * (2 * (2 * c.float()).sigmoid() - 1)).to(torch.bfloat16)
        hs.append(h)
        cs.append(c)
    return torch.stack(hs), torch.stack(cs)


def test_lstm_in_bfloat16(random):
    T, B, H = 3, 16, 32
    x = torch.randn(T, 4, B, H, generator=random).to(torch.bfloat16)
    r = (torch.randn(4, H, H, generator=random) / H**0.5).to(torch.bfloat16)
    h = torch.zeros(T, B, H, dtype=torch.bfloat16)
    c = torch.zeros_like(h)
    kernels.lstm[(1,)](x, r, h, c, T, B=B, H=H)
    for got, want in zip((h, c), lstm(x, r), strict=True):
        # exp of torch and of numpy differ in the last bit of float32, so a few results cross a tie.
        torch.testing.assert_close(got, want, rtol=2**-7, atol=2**-9)
        assert (got != want).float().mean() < 0.01


# The functions themselves


@pytest.mark.parametrize("value", ["1", "true", "ON", "Yes", "y", "0", "", "off", "2", None])
def test_the_wish_for_it_is_read_as_triton_reads_it(value, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    assert language._wanted() == triton.knobs.runtime.interpret


def test_mending_twice_is_mending_once():
    from triton.runtime import interpreter

    def state():
        owners = interpreter, interpreter.GridExecutor, interpreter.ReduceOps, interpreter.ScanOps
        return [dict(vars(owner)) for owner in owners], type(interpreter.interpreter_builder)

    before = state()
    mend()
    assert state() == before


COMPILE = """
import kernels_for_interpreter as kernels, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
if sys.argv[1] == "mended":
    from rnngen.runtime.interpreter import mend
    mend()
signature = {"x_ptr": "*bf16", "r_ptr": "*bf16", "h_ptr": "*bf16", "c_ptr": "*bf16", "T": "i32"}
source = ASTSource(kernels.lstm, signature | {"B": "constexpr", "H": "constexpr"}, {"B": 16, "H": 32})
print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
"""


def test_compiled_kernels_are_not_affected(tmp_path):
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "TRITON_INTERPRET": "0"}

    def compiled(how):
        # Each in its own cache, or the second would be handed the first one's.
        command = [sys.executable, "-c", COMPILE, how]
        cache = {"TRITON_CACHE_DIR": str(tmp_path / how)}
        return subprocess.run(command, env=env | cache, check=True, capture_output=True, text=True).stdout

    assert compiled("mended") == compiled("stock") != ""


def test_programs_may_wait_for_those_behind_them():
    """Which one after the other they could not."""
    y, counter = torch.zeros(6), torch.zeros(1, dtype=torch.int32)
    kernels.passed_on[(5,)](counter, y, first=0, launch_cooperative_grid=True)
    assert y.tolist() == [5, 4, 3, 2, 1, 0]


def test_programs_that_wait_for_one_another_are_told_so():
    y, counter = torch.zeros(6), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(Exception, match="5 programs wait for one another"):
        kernels.passed_on[(5,)](counter, y, first=1, launch_cooperative_grid=True)
    kernels.passed_on[(5,)](counter, y, first=0, launch_cooperative_grid=True)  # and nothing of it is left
    assert y.tolist() == [5, 4, 3, 2, 1, 0]


def test_what_a_program_raises_is_raised():
    """Here for an access beyond a tensor; the others are stopped where they wait."""
    y, counter = torch.zeros(5), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(Exception, match="out of bounds"):
        kernels.passed_on[(5,)](counter, y, first=0, launch_cooperative_grid=True)
