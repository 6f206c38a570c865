"""How C writes the operations, and the names that a function of it has for its own."""

import re

from rnngen.emit.statements import Spelling

_CALLS = {
    "sigmoid": "sigmoid_({0})",
    "tanh": "tanh_({0})",
    "exp": "exp_({0})",
    "log": "log_({0})",
    "log1p": "log1p_({0})",
    "sqrt": "sqrt_({0})",
    "sin": "sin_({0})",
    "cos": "cos_({0})",
    "erf": "erf_({0})",
    "floor": "floor_({0})",
    "mod": "remainder_({0}, {1})",
    "abs": "abs_({0})",
    "max": "max_({0}, {1})",
    "min": "min_({0}, {1})",
    "where": "chosen({0}, {1}, {2})",
    "kept": "chosen({0}, {1}, {2})",
    "or_zero": "chosen({0}, {1}, R(0))",
    "expand": "R({0})",
    # Statements: products are for all rows of a thread, sums for a few.
    "matmul": "multiply({target}, {given}, {operand}, {width}, rows, {product});",
    "matmul_t": "multiply({target}, {given}, {operand}, {width}, rows, {product});",
    "sum": "sum_({target}, {operand}, {width}, end - few, {units});",
    "mean": "mean_({target}, {operand}, {width}, end - few, {units});",
    "largest": "largest_({target}, {operand}, {width}, end - few, {units});",
}
_LOG1P_EXP_MINUS_ABS = "log1p_exp_minus_abs_({0})"
# The remainder; one that takes less time, where no quotient is large; and whether one is.
REMAINDER, REMAINDER_NEAR, FAR = "remainder_", "remainder_near_", "far_"
_TEXTS = (*_CALLS.values(), _LOG1P_EXP_MINUS_ABS)
# What rnngen.h has for them.
FUNCTIONS = frozenset(name for text in _TEXTS for name in re.findall(r"[A-Za-z]\w*(?=\()", text))
FUNCTIONS |= {REMAINDER_NEAR, FAR}

KEYWORDS = frozenset(
    """
    alignas alignof asm auto bool break case char const constexpr continue default do double else enum extern false
    float for goto if inline int long nullptr register restrict return short signed sizeof static static_assert struct
    switch thread_local true typedef typeof typeof_unqual union unsigned void volatile while
    """.split()
)
# What stands for something else wherever it stands, in libraries of C and compilers.
_MACROS = """
    NULL NAN INFINITY HUGE_VAL HUGE_VALF HUGE_VALL M_E M_LOG2E M_LOG10E M_LN2 M_LN10 M_PI M_PI_2 M_PI_4 M_1_PI M_2_PI
    M_2_SQRTPI M_SQRT2 M_SQRT1_2 M_TWOPI M_3PI_4 M_SQRTPI M_LN2LO M_LN2HI M_SQRT3 M_IVLN10 M_LOG2_E M_INVLN2 MAXFLOAT
    FP_NAN FP_INFINITE FP_ZERO FP_SUBNORMAL FP_NORMAL FP_FAST_FMA FP_FAST_FMAF FP_FAST_FMAL FP_ILOGB0 FP_ILOGBNAN
    MATH_ERRNO MATH_ERREXCEPT math_errhandling DOMAIN SING OVERFLOW UNDERFLOW TLOSS PLOSS HUGE X_TLOSS
    EXIT_SUCCESS EXIT_FAILURE RAND_MAX MB_CUR_MAX MB_LEN_MAX errno environ stdin stdout stderr
    INT8_MIN INT16_MIN INT32_MIN INT64_MIN INT8_MAX INT16_MAX INT32_MAX INT64_MAX
    UINT8_MAX UINT16_MAX UINT32_MAX UINT64_MAX INT_LEAST8_MIN INT_LEAST16_MIN INT_LEAST32_MIN INT_LEAST64_MIN
    INT_LEAST8_MAX INT_LEAST16_MAX INT_LEAST32_MAX INT_LEAST64_MAX UINT_LEAST8_MAX UINT_LEAST16_MAX UINT_LEAST32_MAX
    UINT_LEAST64_MAX INT_FAST8_MIN INT_FAST16_MIN INT_FAST32_MIN INT_FAST64_MIN INT_FAST8_MAX INT_FAST16_MAX
    INT_FAST32_MAX INT_FAST64_MAX UINT_FAST8_MAX UINT_FAST16_MAX UINT_FAST32_MAX UINT_FAST64_MAX
    INTPTR_MIN INTPTR_MAX UINTPTR_MAX INTMAX_MIN INTMAX_MAX UINTMAX_MAX PTRDIFF_MIN PTRDIFF_MAX SIG_ATOMIC_MIN
    SIG_ATOMIC_MAX SIZE_MAX RSIZE_MAX WCHAR_MIN WCHAR_MAX WINT_MIN WINT_MAX
    BIG_ENDIAN LITTLE_ENDIAN PDP_ENDIAN BYTE_ORDER FD_SETSIZE NFDBITS NBBY WNOHANG WUNTRACED WSTOPPED WEXITED
    WCONTINUED WNOWAIT linux unix i386 mips sparc sun vax arm ppc PPC
"""
_OF_HEADER = """
    REAL R EACH EACH_OF EVERY FEW THREAD UNITS LANES PANEL ABREAST REGISTERS VECTOR_BYTES KERNEL TILES HALVES
    FOLDED FUNCTION BY_WIDTH JOINED OF_16 RNNGEN_FUNCTIONS_H
    int32_t int64_t at begin begun boundary counts cut cut_units dense dense_transposed headed headed_transposed
    multiply put put_units run taken tensors_of
"""
_OF_TEMPLATES = "T B H I heads tensors products scan call first rows row few end r n t j room resets given from to"

SPELLING = Spelling(
    target="c",
    calls=_CALLS,
    with_number={},
    with_fraction={},
    filled="R({1})",
    fraction="R({0})",
    log1p_exp_minus_abs=_LOG1P_EXP_MINUS_ABS,
    alone=frozenset({"mod"}),
    reserved=KEYWORDS | FUNCTIONS.union((_MACROS + _OF_HEADER + _OF_TEMPLATES).split()),
)
