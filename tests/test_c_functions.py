"""The functions that C steps call, compiled for several machines, over the whole range of their argument: judged by
numpy in longer numbers, in units in the last place.
"""

import ctypes
import math
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import rnngen.runtime

HEADERS = Path(rnngen.runtime.__file__).parent / "c"
COMPILER = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine: none of cc, gcc and clang")

OF_ONE = "sigmoid tanh exp log log1p log1p_exp_minus_abs sqrt sin cos erf floor abs".split()
OF_TWO = "max min remainder remainder_near far".split()
BY_THE_LIBRARY = {"float": (), "double": ("sin", "cos", "erf", "remainder", "remainder_near")}
# What activations are made of: where one function decides about another, a compiler may see branches.
COMPOSED = {
    "softplus": "max_(a[j], 0) + log1p_(exp_(-abs_(a[j])))",
    "kink": "max_(a[j], 0) > 0 ? tanh_(a[j]) : 0",
    "beside_0": "log_(abs_(a[j]) + 1) > 1 ? log_(a[j]) : log1p_(a[j])",
    "phase": "remainder_(a[j], 3) < 1 ? remainder_(a[j], 3) : floor_(a[j])",
}
LIMIT = {"sqrt": 0.5, "floor": 0, "abs": 0}  # in units in the last place; of the others
OTHERS = 2.5

X86 = ("x86_64", "AMD64")
TYPES = {"float": np.float32, "double": np.float64}
REALS = [
    "float",
    pytest.param(
        "double",
        marks=pytest.mark.skipif(
            np.finfo(np.longdouble).eps > 1e-18, reason="numpy has no number here that is longer than a double"
        ),
    ),
]


def machines():
    """Flags for this machine, and for lesser ones whose code it runs."""
    yield "native", ["-march=native"]
    if platform.machine() in X86:
        yield "sse2", ["-march=x86-64"]
        cpu = Path("/proc/cpuinfo")
        if cpu.exists() and "avx2" in cpu.read_text(encoding="utf-8").split():
            yield "avx2", ["-march=x86-64", "-mavx2", "-mfma"]


MACHINES = dict(machines())


def loops(real):
    """A loop around each function."""
    yield '#include "functions.h"'
    for name, composed in COMPOSED.items() if real == "float" else ():
        yield f"void {name}_of(int64_t n, const REAL *restrict a, REAL *restrict y) {{"
        yield "#pragma omp simd"
        yield f"for (int64_t j = 0; j < n; j++) y[j] = {composed}; }}"
    for name in [*OF_ONE, *OF_TWO]:
        b, second = (", const REAL *restrict b", ", b[j]") if name in OF_TWO else ("", "")
        yield f"void {name}_of(int64_t n, const REAL *restrict a{b}, REAL *restrict y) {{"
        yield "#pragma omp simd" if name not in BY_THE_LIBRARY[real] else ""
        yield f"for (int64_t j = 0; j < n; j++) y[j] = {name}_(a[j]{second}); }}"


def compiled(into, real, machine, text, *more, headers=HEADERS):
    """The file made of a text in C."""
    source = into.with_suffix(".c")
    source.write_text(text)
    command = [COMPILER, *"-std=gnu11 -O3 -Wall -Wextra -Werror -fopenmp-simd".split(), *MACHINES[machine]]
    command += [*"-fno-math-errno -fno-trapping-math -ffp-contract=fast".split(), f"-DREAL={real}", f"-I{headers}"]
    done = subprocess.run([*command, source, "-o", into, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return into


class Functions:
    """Those of a compiled library, on arrays."""

    def __init__(self, real, path):
        self.real, self.library = real, ctypes.CDLL(str(path))

    def __call__(self, name, *arguments):
        result = np.empty_like(arguments[0])
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arguments, result)]
        self.library[f"{name}_of"](ctypes.c_int64(len(result)), *pointers)
        return result


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    @cache
    def functions(real, machine):
        folder = tmp_path_factory.mktemp(f"{real}-{machine}")
        return Functions(
            real, compiled(folder / "loops.so", real, machine, "\n".join(loops(real)), "-shared", "-fPIC", "-lm")
        )

    return functions


each_machine = pytest.mark.parametrize("machine", MACHINES)
each_real = pytest.mark.parametrize("real", REALS)


def of_bits(bits, real):
    """Numbers of these bits."""
    return bits.astype(f"u{np.dtype(TYPES[real]).itemsize}").view(TYPES[real])


@cache
def points(real):
    """Every exponent and both signs, denser where a form changes, denormal numbers, and the ends."""
    finite, random = np.finfo(TYPES[real]), np.random.default_rng(0)
    found = [of_bits(random.integers(0, 2 ** (finite.bits - 1), 100_000), real)]
    found += [random.uniform(0, reach, 50_000) for reach in (1.1, 20, 110, 760)]
    turns = [0, 2**-25, 0.5, math.log(2) / 2, 0.5**0.5, 1, 2**0.5, 4, 10, 20, 2.0**finite.nmant, 2.0**64, finite.max]
    turns += [2.0**51, 2.0**77, 2.0**103, math.pi / 4, math.pi / 2, math.pi]
    turns += [abs(math.log(end)) for end in (finite.max, finite.smallest_normal, finite.smallest_subnormal)]
    for turn in [*turns, finite.smallest_normal]:
        bits = np.array(turn, TYPES[real]).view(f"i{finite.bits // 8}").astype(np.int64)
        found.append(of_bits(np.maximum(bits + np.arange(-200, 200), 0), real))
    found.append([math.inf, math.nan])
    x = np.concatenate([np.asarray(part, TYPES[real]) for part in found])
    return np.concatenate([x, -x])


@cache
def exact(name, real):
    """What the function is at each point, in longer numbers; erf in a double's."""
    with np.errstate(all="ignore"):
        x = points(real).astype({"float": np.float64, "double": np.longdouble}[real])
        if name == "sigmoid":
            return 1 / (1 + np.exp(-x))
        if name == "log1p_exp_minus_abs":
            return np.log1p(np.exp(-np.abs(x)))
        if name == "erf":
            return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)
        return getattr(np, name)(x)


def errors(real, got, exact):
    """In units in the last place of the exact result; infinite where NaN, an infinity or a zero's sign is wrong."""
    finite = np.finfo(TYPES[real])
    with np.errstate(all="ignore"):
        nearest = exact.astype(TYPES[real])
        _, exponent = np.frexp(exact)
        error = np.abs(got - exact) / np.ldexp(
            np.ones_like(exact), np.maximum(exponent - 1, finite.minexp) - finite.nmant
        )
    ends = ~(np.isfinite(nearest) & np.isfinite(got))
    alike = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    error = np.where(ends, np.where(alike, 0, np.inf), error)
    return np.where((got == 0) & (np.signbit(got) != np.signbit(nearest)), np.inf, error)


def worst(functions, name):
    """The largest error, and where it is."""
    x = points(functions.real)
    error = errors(functions.real, functions(name, x), exact(name, functions.real))
    return error.max(), x[error.argmax()]


@each_machine
@each_real
@pytest.mark.parametrize("name", OF_ONE)
def test_over_the_whole_range(name, real, machine, built):
    error, at = worst(built(real, machine), name)
    assert error <= LIMIT.get(name, OTHERS), f"{name}({at!r}) is off by {error:.2f} ulp"


@each_machine
@each_real
def test_the_bits_are_the_same_wherever_a_number_stands(real, machine, built):
    """In a vector, and in what is left at the end of a loop."""
    functions = built(real, machine)
    x = np.random.default_rng(2).uniform(-6, 6, 67).astype(TYPES[real])
    for name in OF_ONE:
        alone = np.concatenate([functions(name, number) for number in x[:, None]])
        np.testing.assert_array_equal(functions(name, x), alone, err_msg=name)


@each_machine
@each_real
def test_the_larger_and_the_smaller(real, machine, built):
    ends = np.array([0, 1, -1, 2.5, -2.5, math.inf, -math.inf, math.nan, -math.nan], TYPES[real])
    a, b = (side.ravel() for side in np.meshgrid(ends, ends))
    functions = built(real, machine)
    np.testing.assert_array_equal(functions("max", a, b), np.maximum(a, b))
    np.testing.assert_array_equal(functions("min", a, b), np.minimum(a, b))


@each_machine
@each_real
def test_the_remainder(real, machine, built):
    """Exactly, whatever the quotient: what fmod leaves is exact, and b is added where its sign is not b's."""
    x, random = points(real), np.random.default_rng(1)
    a, b = random.choice(x, 200_000), random.choice(x, 200_000)
    with np.errstate(all="ignore"):  # half of them of like size
        b[:100_000] = a[:100_000] * np.exp(random.uniform(-25, 25, 100_000)) * random.choice([-1, 1], 100_000)
    whole = np.arange(-500, 500, dtype=b.dtype)
    a, b = np.concatenate([a, whole * b.dtype.type(0.1), whole]), np.concatenate([b, np.full(2000, 0.1, b.dtype)])
    with np.errstate(all="ignore"):
        left = np.fmod(a, b)
        expected = np.where((left != 0) & (np.signbit(left) != np.signbit(b)), left + b, left)
    np.testing.assert_array_equal(built(real, machine)("remainder", a, b), expected)


@each_machine
@each_real
def test_one_step_is_enough_for_a_remainder_that_is_not_far(real, machine, built):
    """Bit for bit, up to where quotients are far; NaN, an infinite number and one over zero are."""
    x, random = points(real), np.random.default_rng(3)
    a, b = random.choice(x, 200_000), random.choice(x, 200_000)
    with np.errstate(all="ignore"):
        b[:150_000] = a[:150_000] * np.exp2(-random.uniform(-5, 29, 150_000)) * random.choice([-1, 1], 150_000)
    functions = built(real, machine)
    far = functions("far", a, b) != 0
    with np.errstate(all="ignore"):
        quotient = np.abs(a.astype(np.longdouble) / b)
    assert 10_000 < np.count_nonzero(far) < 190_000
    assert far[~(quotient < 2**28)].all()
    assert not far[(quotient < 2**26) & np.isfinite(a)].any()
    near = functions("remainder_near", a, b)
    np.testing.assert_array_equal(
        near[~far].view(f"u{b.itemsize}"), functions("remainder", a, b)[~far].view(f"u{b.itemsize}")
    )


@each_machine
@each_real
def test_loops_become_vectors_without_calls(real, machine, tmp_path):
    """In the assembly there is no call, and on x86 a whole vector is stored."""
    # Of far_ loops make no number of the kind that is stored here, but a count.
    names = [name for name in (*OF_ONE, *OF_TWO) if name not in (*BY_THE_LIBRARY[real], "far")]
    names += COMPOSED if real == "float" else ()
    text = compiled(tmp_path / "loops.s", real, machine, "\n".join(loops(real)), "-S").read_text(encoding="utf-8")
    bodies = {name: re.search(rf"^{name}_of:(.*?)^\s*\.size\s+{name}_of", text, re.S | re.M)[1] for name in names}
    assert [name for name in names if re.search(r"^\s*(call|bl|blr|jal)\b", bodies[name], re.M)] == []
    if platform.machine() in X86:
        stored = re.compile(r"^\s*v?mov([ua]p[sd]|dq[ua]\d*)\s+%[xyz]mm\d+, [^%\n]*\((?!%rsp)", re.M)
        assert [name for name in names if not stored.search(bodies[name])] == []


@pytest.mark.parametrize(
    ("name", "last", "power"),
    [
        ("exp", "number_of((parts.power - half) << DIGITS)", f"parts.power < {2 * 127} - 126 + 0x4b400000u"),
        ("sigmoid", "(REAL)0x1p-64", f"parts.power < {127 + 64} - 126 + 0x4b400000u"),
    ],
)
def test_what_loses_the_smallest_numbers_is_seen(name, last, power, tmp_path):
    text = (HEADERS / "functions.h").read_text(encoding="utf-8")
    assert text.count(last) == 1
    (tmp_path / "functions.h").write_text(text.replace(last, f"({power} ? 0 : {last})"))
    path = compiled(
        tmp_path / "loops.so", "float", "native", "\n".join(loops("float")), "-shared", "-fPIC", "-lm", headers=tmp_path
    )
    error, _ = worst(Functions("float", path), name)
    assert error > 1000


@each_real
def test_nothing_is_left_undefined(real, tmp_path):
    """Run with the compiler's own checks, which end the process where an integer or a shift is out of range."""
    calls = [f"y += {name}_(x);" for name in OF_ONE] + [f"y += {name}_(x, z);" for name in OF_TWO]
    text = f"""
#include "functions.h"
#include <stdio.h>
int main(void)
{{
    REAL x, z = 1, y = 0;
    while (fread(&x, sizeof x, 1, stdin) == 1) {{ {" ".join(calls)} z = x; }}
    return y == 0;
}}"""
    checks = ["-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error"]
    path = compiled(tmp_path / "checked", real, "native", text, *checks, "-lm")
    assert subprocess.run([path], input=points(real).tobytes()).returncode == 0
