"""Functions that kernels call on tiles, in float32 or float64, right over the whole range of their argument."""

from rnngen.runtime.language import tl, triton


@triton.jit
def sigmoid(x):
    # For very negative x the power overflows to infinity and the quotient is 0: never NaN.
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def tanh(x):
    # Away from 0 by the exponential, which gives +-1 at +-infinity. Near 0, where that form loses all digits, by the
    # minimax approximations of the Cephes library (Moshier 1989), exact at 0, with a relative error of about one ulp.
    far = 1.0 - 2.0 / (1.0 + tl.exp2(x * 2.8853900817779268))
    z = x * x
    if x.dtype == tl.float64:
        p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
        q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
        p = p / q
    else:
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = p * z - 5.37397155531e-2
        p = p * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
    return tl.where(tl.abs(x) < 0.625, p * z * x + x, far)


@triton.jit
def log1p(x):
    # log(1 + x) with the rounding of 1 + x taken out again (Kahan 1965, in Goldberg 1991, theorem 4), which at infinity
    # would be infinity by infinity.
    y = 1.0 + x
    return tl.where((y == 1.0) | (y == float("inf")), x, tl.log(y) * (x / (y - 1.0)))


@triton.jit
def remainder(a, b):
    # a - floor(a / b) * b, of the sign of b. What is left is a number of a's type, and fma rounds nothing else. A large
    # quotient is off by as much as its last digit, and leaves a second one; a small one may have been rounded to a
    # whole number, or below one.
    r = tl.fma(-tl.floor(a / b), b, a)
    r = tl.fma(-tl.floor(r / b), b, r)
    r = tl.where(r * b < 0, r + b, r)
    return tl.where((r - b) * b >= 0, r - b, r)
