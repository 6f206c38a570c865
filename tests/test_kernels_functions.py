"""The functions that kernels call on tiles, over the whole range of their argument, judged by mpmath in units in the
last place, and beside torch's own.
"""

import math
from functools import cache
from pathlib import Path

import mpmath
import pytest
import torch
import triton
import triton.language as tl
from conftest import imported

from rnngen.runtime import functions
from rnngen.runtime.functions import log1p, remainder, sigmoid, tanh

mpmath.mp.prec = 150

EXACT = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "log1p": mpmath.log1p,
}
# The largest error in units in the last place, at x. In the sigmoid the exponent is a rounded product of a rounded
# number: it is off by up to |x| eps, and the power by as many parts of itself, which are up to 2 |x| units.
LIMIT = {
    "tanh": lambda x: 1 if abs(x) < 0.625 else 4,
    "sigmoid": lambda x: 2 + 2 * max(0, -x),
    "log1p": lambda x: 3,
}
KERNELS = {"tanh": tanh, "sigmoid": sigmoid, "log1p": log1p}
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
each_function = pytest.mark.parametrize("name", EXACT)


@triton.jit
def applied(function: tl.constexpr, x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, function(tl.load(x_ptr + n)))


def result(function, x):
    """The function on tiles at each of x."""
    padded = torch.cat([x, x.new_zeros(triton.next_power_of_2(len(x)) - len(x))])
    y = torch.empty_like(padded)
    applied[(1,)](function, padded, y, N=len(padded))
    return y[: len(x)]


def points(name, dtype):
    """Dense near 0, where the form changes, up to where every result has reached its end; subnormal numbers too."""
    smallest = torch.finfo(dtype).smallest_normal
    around = torch.tensor(0.625, dtype=dtype)
    around = torch.cat([around + k * torch.finfo(dtype).eps / 2 for k in torch.arange(-20, 21)[:, None]])
    wide = {"dtype": torch.float64}
    subnormal = smallest * torch.logspace(-6, 0, 40, **wide)
    tiny = torch.logspace(math.log10(smallest), -8, 150, **wide)
    found = [subnormal, tiny, torch.logspace(-8, 0, 500, **wide), torch.linspace(0, 2, 500, **wide)]
    found += [
        torch.linspace(2, 120, 400, **wide),
        torch.linspace(120, 800, 100, **wide),
        torch.logspace(3, 38, 60, **wide),
    ]
    x = torch.cat([*(part.to(dtype) for part in found), around])
    x = torch.cat([x, -x])
    if name == "log1p":  # its argument is above -1, and comes near
        x = torch.cat([x, torch.logspace(-7, 0, 100, **wide).to(dtype) - 1])
        x = x[x > -1]
    return x


@cache
def exact_at(name, argument):
    """What the function is there; ours and torch's are judged by it in turn."""
    return EXACT[name](mpmath.mpf(argument))


def errors(name, x, y):
    """In units in the last place of the exact result; those of subnormal numbers are as large as the smallest one's."""
    found = []
    eps, smallest = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).smallest_normal
    for argument, number in zip(x.tolist(), y.tolist(), strict=True):
        exact = exact_at(name, argument)
        _, exponent = mpmath.frexp(exact)
        unit = eps * max(mpmath.ldexp(1, exponent - 1), smallest)
        error = abs(mpmath.mpf(number) - exact)
        # Below the smallest normal number a GPU has 0, as torch has where the power overflows.
        found.append(0.0 if max(abs(exact), abs(number)) <= 2 * smallest and name == "sigmoid" else float(error / unit))
    return found


def worst(name, x, y):
    """The largest error as a part of what is allowed, and where it is."""
    pairs = zip(errors(name, x, y), x.tolist(), strict=True)
    return max(((error / LIMIT[name](at), at, error) for error, at in pairs), key=lambda found: found[0])


@each_type
@each_function
def test_over_the_whole_range(name, dtype):
    x = points(name, dtype)
    share, at, error = worst(name, x, result(KERNELS[name], x))
    assert share <= 1, f"{name}({at!r}) is off by {error:.1f} ulp"
    share, at, error = worst(name, x, getattr(torch, name)(x))
    assert share <= 1, f"torch's {name}({at!r}) is off by {error:.1f} ulp, so the judge is wrong"


@each_type
@each_function
def test_at_the_ends(name, dtype):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([inf, -inf, nan, 0.0, -0.0, -1.0, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    torch.testing.assert_close(result(KERNELS[name], x), getattr(torch, name)(x), equal_nan=True)


@each_type
def test_a_tanh_without_its_branch_near_zero_is_seen(dtype, tmp_path):
    text = Path(functions.__file__).read_text()
    branch = "tl.where(tl.abs(x) < 0.625, p * z * x + x, far)"
    assert branch in text
    path = tmp_path / "changed_functions.py"
    path.write_text(text.replace(branch, "far"))
    x = points("tanh", dtype)
    share, _, _ = worst("tanh", x, result(imported(path).tanh, x))
    assert share > 100


@triton.jit
def applied_to_two(function: tl.constexpr, x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(z_ptr + n, function(tl.load(x_ptr + n), tl.load(y_ptr + n)))


@each_type
def test_the_remainder_is_torchs(dtype):
    """Beside a multiple of b, where it jumps, either end is right to a rounding of a."""
    divisor = torch.tensor([0.1, 0.7, 1.0, 2.5, -0.3, -1.0, 1e-3], dtype=dtype)
    whole = torch.arange(-40, 40, dtype=dtype)[:, None] * divisor
    beside = [torch.nextafter(whole, torch.full_like(whole, way)) for way in (math.inf, -math.inf)]
    a = torch.stack([whole, *beside, whole + 0.25 * divisor])
    a, b = (tensor.flatten() for tensor in torch.broadcast_tensors(a, divisor))
    padded = triton.next_power_of_2(len(a)) - len(a)
    a, b = torch.cat([a, a.new_ones(padded)]), torch.cat([b, b.new_ones(padded)])
    got = torch.empty_like(a)
    applied_to_two[(1,)](remainder, a, b, got, N=len(a))
    assert (got * b >= 0).all() and (got.abs() <= b.abs()).all()
    off = (got - torch.remainder(a, b)).abs()
    assert (torch.minimum(off, (off - b.abs()).abs()) <= torch.finfo(dtype).eps * a.abs().clamp(min=1)).all()
    inside = slice(3 * whole.numel(), 4 * whole.numel())
    assert (off[inside] <= torch.finfo(dtype).eps * a[inside].abs().clamp(min=1)).all()


@pytest.mark.parametrize("scale", [10, 1e4, 1e6, 1e9])
@each_type
def test_the_remainder_of_a_large_quotient(dtype, scale):
    """To a rounding of b, however large a is."""
    torch.manual_seed(0)
    b = (torch.rand(1024, dtype=dtype) * 5 + 0.1) * torch.where(torch.rand(1024) < 0.3, -1, 1)
    a = (torch.rand(1024, dtype=dtype) - 0.3) * scale * b.abs()
    got = torch.empty_like(a)
    applied_to_two[(1,)](remainder, a, b, got, N=len(a))
    off = (got - torch.remainder(a, b)).abs()
    assert (torch.minimum(off, (off - b.abs()).abs()) <= torch.finfo(dtype).eps * b.abs()).all()
