/* The functions of a step, of one number each. REAL is float or double.
 *
 * They have no branches, so that a compiler turns a loop around them into vectors: each case is computed, from an
 * argument that does no harm, and the right one is chosen. Only in double some call the library, and their loops
 * stay as they are: sin, cos, erf and the remainder. In float each is within 2.5 units in the last place, in double
 * too; infinities, zeros with their signs and denormal numbers are as the library's, and NaN stays NaN. A product
 * and a sum may be contracted, but sums must not be reordered.
 */
#ifndef RNNGEN_FUNCTIONS_H
#define RNNGEN_FUNCTIONS_H

#include <math.h>
#include <stdint.h>

#ifndef REAL
#define REAL float
#endif
#define FUNCTION static inline __attribute__((always_inline, unused))
#define BY_WIDTH(narrow, wide) ((REAL)(WIDE ? (wide) : (narrow)))
#define JOINED(a, b) JOINED_(a, b)
#define JOINED_(a, b) a##b

/* DIGITS: of the fraction; BIAS: the exponent of 1. */
enum {
    WIDE = sizeof(REAL) == sizeof(double),
    DIGITS = WIDE ? 52 : 23,
    BIAS = WIDE ? 1023 : 127,
};

typedef uint32_t bits_of_float;
typedef uint64_t bits_of_double;
typedef JOINED(bits_of_, REAL) Bits;
typedef union {
    REAL number;
    Bits bits;
} Word;

FUNCTION Bits bits_of(REAL x)
{
    return (Word){.number = x}.bits;
}

FUNCTION REAL number_of(Bits bits)
{
    return (Word){.bits = bits}.number;
}

FUNCTION Bits sign_of(REAL x)
{
    return bits_of(x) & (Bits)1 << (8 * sizeof(REAL) - 1);
}

FUNCTION REAL abs_(REAL x)
{
    return number_of(bits_of(x) ^ sign_of(x));
}

/* A number that is not negative, with the sign of another. */
FUNCTION REAL with_sign(REAL x, REAL other)
{
    return number_of(bits_of(x) | sign_of(other));
}

/* Both are read, whichever it is: a loop that reads a number here and there becomes no vectors. */
FUNCTION REAL chosen(int whether, REAL one, REAL other)
{
    return whether ? one : other;
}

/* NaN where one is. In one choice of three GCC 12 sees branches, and leaves the loop as it is. */
FUNCTION REAL max_(REAL a, REAL b)
{
    REAL larger = a > b ? a : b;
    return a == a ? larger : a;
}

FUNCTION REAL min_(REAL a, REAL b)
{
    REAL smaller = a < b ? a : b;
    return a == a ? smaller : a;
}

FUNCTION REAL sqrt_(REAL x)
{
    return WIDE ? (REAL)__builtin_sqrt(x) : (REAL)__builtin_sqrtf(x);
}

/* Rounded to the nearest by a number so large that the sum has no digits for a fraction, and then down. */
FUNCTION REAL floor_(REAL x)
{
    REAL large = BY_WIDTH(0x1p23f, 0x1p52);
    REAL near = with_sign((abs_(x) + large) - large, x);
    REAL below = near > x ? near - 1 : near;
    return abs_(x) < large ? below : x;
}

/* An argument of exp as n log(2) + rest, |rest| <= log(2) / 2; power has n + bias in its last bits. */
typedef struct {
    REAL rest;
    Bits power;
} Parts;

FUNCTION Parts parts_of(REAL x, int bias)
{
    REAL shift = BY_WIDTH(0x1.8p23f, 0x1.8p52) + bias;
    REAL shifted = x * BY_WIDTH(0x1.715476p+0f, 0x1.71547652b82fep+0) + shift, n = shifted - shift;
    /* log(2) in two numbers; the first ends in zeros, so that its product with n is exact. */
    REAL rest = x - n * BY_WIDTH(0x1.62e4p-1f, 0x1.62e42feep-1);
    return (Parts){rest - n * BY_WIDTH(0x1.7f7d1cp-20f, 0x1.a39ef35793c76p-33), bits_of(shifted)};
}

/* exp(r) - 1 for |r| <= log(2) / 2 by a minimax polynomial, relatively within 2^-31 and 2^-61. */
FUNCTION REAL expm1_near_0(REAL r)
{
    REAL p;
    if (WIDE) {
        p = 0x1.1f609e217a6d4p-29;
        p = p * r + 0x1.af5fe6c7f6683p-26;
        p = p * r + 0x1.27e4e5455fb23p-22;
        p = p * r + 0x1.71ddf7b46810dp-19;
        p = p * r + 0x1.a01a01a33413bp-16;
        p = p * r + 0x1.a01a01b01f8a4p-13;
        p = p * r + 0x1.6c16c16c16b4dp-10;
        p = p * r + 0x1.111111110f62ap-7;
        p = p * r + 0x1.5555555555555p-5;
        p = p * r + 0x1.5555555555559p-3;
        p = p * r + 0.5;
    } else {
        p = 1.9945145e-4f;
        p = p * r + 1.393267e-3f;
        p = p * r + 8.333207e-3f;
        p = p * r + 4.166649e-2f;
        p = p * r + 1.6666667e-1f;
        p = p * r + 0.5f;
    }
    return p * (r * r) + r;
}

/* Only the size is cut off: of two comparisons in a row GCC 12 makes ways that it follows to the end, and chooses
 * there, which costs a sigmoid a quarter of its time. */
FUNCTION REAL exp_(REAL x)
{
    REAL last = BY_WIDTH(104, 746), size = abs_(x); /* inf from here on, or 0 */
    Parts parts = parts_of(with_sign(size > last ? last : size, x), 2 * BIAS);
    /* 2^n in two halves: after the first the number is a normal one; by the second it overflows, or loses digits. */
    Bits half = parts.power >> 1;
    REAL y = (1 + expm1_near_0(parts.rest)) * number_of(half << DIGITS);
    return y * number_of((parts.power - half) << DIGITS);
}

/* exp(-size) of a size, which does not overflow: what it may lose, it loses by a number that is known. */
FUNCTION REAL exp_minus(REAL size)
{
    REAL last = BY_WIDTH(104, 746); /* 0 from here on */
    Parts parts = parts_of(-(size > last ? last : size), BIAS + 64);
    return (1 + expm1_near_0(parts.rest)) * number_of(parts.power << DIGITS) * (REAL)0x1p-64;
}

/* By exp(-|x|), which is never large, and small where the sigmoid is. */
FUNCTION REAL sigmoid_(REAL x)
{
    REAL power = exp_minus(abs_(x));
    return (x < 0 ? power : 1) / (1 + power);
}

/* q / (q + 2), where q is exp(2 |x|) - 1. */
FUNCTION REAL tanh_(REAL x)
{
    REAL last = BY_WIDTH(10, 20), size = abs_(x); /* 1 from here on */
    Parts parts = parts_of(2 * (size > last ? last : size), BIAS);
    REAL power = number_of(parts.power << DIGITS);
    REAL q = power * expm1_near_0(parts.rest) + (power - 1);
    return with_sign(q / (q + 2), x);
}

/* A normal number that is positive as m 2^n, with m between sqrt(1/2) and sqrt(2); power is n + BIAS. */
typedef struct {
    REAL m, n;
    Bits power;
} Scaled;

FUNCTION Scaled scaled(REAL x)
{
    Bits lowest = WIDE ? (Bits)0x3fe6a09e667f3bcd : 0x3f3504f3, one = (Bits)BIAS << DIGITS;
    Bits bits = bits_of(x) + (one - lowest), power = bits >> DIGITS, fraction = bits & (((Bits)1 << DIGITS) - 1);
    /* A small whole number in the last bits of 2^DIGITS is added to it. */
    REAL shift = BY_WIDTH(0x1p23f, 0x1p52);
    return (Scaled){number_of(fraction + lowest), number_of(power | bits_of(shift)) - (shift + BIAS), power};
}

/* log(1 + f) + n log(2), 1 + f between sqrt(1/2) and sqrt(2). With s = f / (2 + f), log(1 + f) is 2 artanh(s), and that
 * 2 s + s z P(z), z = s^2, by a minimax polynomial relatively within 2^-30 and 2^-59. Since 2 s is f - s f, f can be
 * added last; it is exact. */
FUNCTION REAL log_near_1(REAL f, REAL n)
{
    REAL s = f / (2 + f), z = s * s, p;
    if (WIDE) {
        p = 0x1.2f0ec6965998cp-3;
        p = p * z + 0x1.39a0d1e9a702ep-3;
        p = p * z + 0x1.746647ba918e2p-3;
        p = p * z + 0x1.c71c51df3a49ap-3;
        p = p * z + 0x1.24924942241dfp-2;
        p = p * z + 0x1.999999997fa2cp-2;
        p = p * z + 0x1.5555555555593p-1;
    } else {
        p = 2.9871458e-1f;
        p = p * z + 3.9977568e-1f;
        p = p * z + 6.6666776e-1f;
    }
    REAL half = (REAL)0.5 * f * f;
    REAL high = n * BY_WIDTH(0x1.62e4p-1f, 0x1.62e42feep-1);
    REAL low = n * BY_WIDTH(0x1.7f7d1cp-20f, 0x1.a39ef35793c76p-33);
    return high - ((half - (s * (half + p * z) + low)) - f);
}

FUNCTION REAL log_(REAL x)
{
    REAL normal = BY_WIDTH(0x1p-126f, 0x1p-1022), inf = (REAL)INFINITY;
    Scaled of = scaled(x < normal ? x * BY_WIDTH(0x1p24f, 0x1p54) : x);
    REAL y = log_near_1(of.m - 1, x < normal ? of.n - BY_WIDTH(24, 54) : of.n);
    y = x < inf ? y : x;
    y = x == 0 ? -inf : y;
    return x < 0 ? (REAL)NAN : y;
}

/* Of the sum, with what it lost put back into its fraction. */
FUNCTION REAL log1p_(REAL x)
{
    REAL sum = 1 + x, added = sum - 1, lost = (1 - (sum - added)) + (x - added), inf = (REAL)INFINITY;
    Scaled of = scaled(sum);
    REAL f = of.m - 1;
    f = x < BY_WIDTH(0x1p64f, 0x1p64) ? f + lost * number_of((2 * BIAS - of.power) << DIGITS) : f;
    REAL y = log_near_1(f, of.n);
    y = x < inf ? y : x;
    y = sum == 0 ? -inf : y;
    y = sum < 0 ? (REAL)NAN : y;
    return abs_(x) < BY_WIDTH(0x1p-25f, 0x1p-54) ? x : y; /* with the sign of 0 */
}

/* log(1 + exp(-|x|)): of 1 + f between 1 and 2 the logarithm as above, with a P(z) relatively within 2^-33 and 2^-59
 * there. It takes 44 % of the time of the two functions, of which neither knows what numbers the other has. */
FUNCTION REAL log1p_exp_minus_abs_(REAL x)
{
    REAL f = exp_minus(abs_(x)), s = f / (2 + f), z = s * s, p;
    if (WIDE) {
        p = 0x1.5c5c2e5a386f8p-3;
        p = p * z + 0x1.55cf4815d94dap-4;
        p = p * z + 0x1.efd1921919599p-4;
        p = p * z + 0x1.10682e7450ac7p-3;
        p = p * z + 0x1.3b1dd3b679a98p-3;
        p = p * z + 0x1.745cb4591e59dp-3;
        p = p * z + 0x1.c71c741a0bddap-3;
        p = p * z + 0x1.2492492091045p-2;
        p = p * z + 0x1.99999999a06c3p-2;
        p = p * z + 0x1.5555555555535p-1;
    } else {
        p = 2.4289557e-1f;
        p = p * z + 2.1430741e-1f;
        p = p * z + 2.8616595e-1f;
        p = p * z + 3.999889e-1f;
        p = p * z + 6.6666675e-1f;
    }
    REAL half = (REAL)0.5 * f * f;
    return f - (half - s * (half + p * z));
}

/* By minimax polynomials: below 1 of (erf(x) - x) / x in x^2, relatively within 2^-29; from there of log(1 - erf(x))
 * / x, within 2^-31. */
FUNCTION float erf_of_float(float x)
{
    float size = __builtin_fabsf(x), z = x * x, p = 7.806904e-5f, q = -1.3958597e-5f;
    p = p * z - 7.997853e-4f;
    p = p * z + 5.187162e-3f;
    p = p * z - 2.6853347e-2f;
    p = p * z + 1.1283579e-1f;
    p = p * z - 3.7612626e-1f;
    p = p * z + 1.2837917e-1f;
    float far = size > 4 ? 4 : size; /* 1 from here on */
    q = q * far + 3.505552e-4f;
    q = q * far - 3.7573334e-3f;
    q = q * far + 2.400978e-2f;
    q = q * far - 1.0653055e-1f;
    q = q * far - 6.349697e-1f;
    q = q * far - 1.1286943f;
    return size < 1 ? p * x + x : (float)with_sign(1 - exp_(q * far), x);
}

FUNCTION REAL erf_(REAL x)
{
    return WIDE ? (REAL)erf(x) : (REAL)erf_of_float(x);
}

/* A float as quarters of a turn, of which only the last two bits count, and an angle up to pi / 4. */
typedef struct {
    float rest;
    bits_of_float quarters;
} Angle;

/* What is left without its quarters, which are counted. */
FUNCTION double rounded_off(double turns, bits_of_double *quarters)
{
    union {
        double number;
        bits_of_double bits;
    } of = {.number = turns + 0x1.8p50};
    *quarters += of.bits;
    return turns - (of.number - 0x1.8p50);
}

/* The size is multiplied by the bits of 1 / (2 pi) that matter to it: by 26 and by 26, exactly, and by the rest as a
 * number. Quarters are rounded off by a number so large that the sum ends with them, and soon, so that what is left is
 * exact where it is small: of both products, of their sum, and of that and the third. */
FUNCTION Angle angle_of(float x)
{
    double size = __builtin_fabsf(x);
    double a = 0x1.45f3068p-3, b = 0x1.7272208p-29, c = 0x1.4a7f09d5f47d5p-56;
    a = size < 0x1p51 ? a : 0x1.7272208p-29;
    b = size < 0x1p51 ? b : 0x1.4a7f09p-56;
    c = size < 0x1p51 ? c : 0x1.abe8fa9a6ee07p-81;
    a = size < 0x1p77 ? a : 0x1.4a7f09p-56;
    b = size < 0x1p77 ? b : 0x1.abe8fa8p-81;
    c = size < 0x1p77 ? c : 0x1.a6ee06db14acdp-109;
    a = size < 0x1p103 ? a : 0x1.abe8fa8p-81;
    b = size < 0x1p103 ? b : 0x1.a6ee06p-109;
    c = size < 0x1p103 ? c : 0x1.b6295993c439p-134;
    bits_of_double quarters = 0;
    double rest = rounded_off(size * a, &quarters);
    rest += rounded_off(size * b, &quarters);
    rest = rounded_off(rest, &quarters) + size * c;
    rest = rounded_off(rest, &quarters);
    return (Angle){(float)(rest * 0x1.921fb54442d18p+2), (bits_of_float)quarters};
}

/* By minimax polynomials, relatively within 2^-27 and 2^-33. */
FUNCTION float sin_near_0(float r)
{
    float z = r * r, p = -1.9515218e-4f;
    p = p * z + 8.3321603e-3f;
    p = p * z - 1.6666655e-1f;
    return p * (z * r) + r;
}

FUNCTION float cos_near_0(float r)
{
    float z = r * r, p = 2.4433083e-5f;
    p = p * z - 1.3887316e-3f;
    p = p * z + 4.1666646e-2f;
    return p * (z * z) + (1 - 0.5f * z);
}

/* The sine of an angle and of so many quarters more, with a sign turned where `turned` has its bit. */
FUNCTION float sin_by_quarters(float rest, bits_of_float quarters, bits_of_float turned)
{
    union {
        float number;
        bits_of_float bits;
    } y = {.number = quarters & 1 ? cos_near_0(rest) : sin_near_0(rest)};
    y.bits ^= (quarters & 2) << 30 ^ turned;
    return y.number;
}

FUNCTION float sin_of_float(float x)
{
    union {
        float number;
        bits_of_float bits;
    } of = {.number = x};
    Angle angle = angle_of(x);
    return sin_by_quarters(angle.rest, angle.quarters, of.bits & 0x80000000);
}

FUNCTION float cos_of_float(float x)
{
    Angle angle = angle_of(x);
    return sin_by_quarters(angle.rest, angle.quarters + 1, 0);
}

FUNCTION REAL sin_(REAL x)
{
    return WIDE ? (REAL)sin(x) : (REAL)sin_of_float((float)x);
}

FUNCTION REAL cos_(REAL x)
{
    return WIDE ? (REAL)cos(x) : (REAL)cos_of_float((float)x);
}

/* Whether the quotient may be so large that a remainder takes more than one step: 2^27 or more, or no number. */
FUNCTION int far_(REAL a, REAL b)
{
    return !(abs_(a) * (REAL)0x1p-27 < abs_(b));
}

/* What is left of a when the nearest whole number of b is taken away, exactly: in double a product of 29 bits and a
 * float is exact, and ten times 29 bits are all that a quotient of two floats can have. Where it is not far, the last
 * step alone does something. */
FUNCTION float to_nearest(float a, float b, int steps)
{
    double rest = a, by = b == INFINITY ? 0x1p200 : b == -INFINITY ? -0x1p200 : b;
    double inverse = 1 / by, scale = steps > 1 ? 0x1p261 : 1, shift = 0x1.8p52;
    for (int step = 0; step < steps; step++, scale *= 0x1p-29)
        rest -= ((rest * (inverse / scale) + shift) - shift) * (by * scale);
    return (float)rest;
}

/* With the sign of b, as torch.remainder. */
FUNCTION REAL remainder_by(REAL a, REAL b, int steps)
{
    REAL y = WIDE ? (REAL)fmod(a, b) : (REAL)to_nearest(a, b, steps), other = y + b;
    REAL of_negative = b > 0 ? other : y, of_positive = b < 0 ? other : y;
    REAL raised = y < 0 ? of_negative : y;
    return y > 0 ? of_positive : raised;
}

FUNCTION REAL remainder_(REAL a, REAL b)
{
    return remainder_by(a, b, 10);
}

FUNCTION REAL remainder_near_(REAL a, REAL b)
{
    return remainder_by(a, b, 1);
}

#endif
