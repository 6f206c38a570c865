"""Kernels of test_interpreter.py. Each one does what its name says, once."""

import triton
import triton.language as tl

from rnngen.runtime.steps import counted

HUGE_STRIDE: tl.constexpr = tl.constexpr(3_000_000_019)  # does not fit in 32 bits


@triton.jit
def copy(x_ptr, y_ptr, N: tl.constexpr):
    """Cast where it stores."""
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.load(x_ptr + n))


@triton.jit
def cast(x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.load(x_ptr + n).to(y_ptr.dtype.element_ty))


@triton.jit
def copy_ragged(x_ptr, length, y_ptr, other: tl.constexpr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.load(x_ptr + n, mask=n < length, other=other))


@triton.jit
def arithmetic(op: tl.constexpr, a_ptr, b_ptr, y_ptr, N: tl.constexpr):
    """The result must have the type of y, so that the store does not cast it."""
    n = tl.arange(0, N)
    a = tl.load(a_ptr + n)
    b = tl.load(b_ptr + n)
    if op == "add":
        y = a + b
    elif op == "sub":
        y = a - b
    elif op == "mul":
        y = a * b
    elif op == "div":
        y = a / b
    elif op == "neg":
        y = -a
    elif op == "abs":
        y = tl.abs(a)
    elif op == "maximum":
        y = tl.maximum(a, b).to(y_ptr.dtype.element_ty)
    elif op == "minimum":
        y = tl.minimum(a, b).to(y_ptr.dtype.element_ty)
    elif op == "fma":
        y = tl.fma(a, b, a)
    elif op == "where":
        y = tl.where(a > b, a, b)
    elif op == "lt":
        y = a < b
    elif op == "eq":
        y = a == b
    elif op == "ge":
        y = a >= b
    else:
        tl.static_assert(False, "no such op")
    tl.static_assert(y.dtype == y_ptr.dtype.element_ty or y.dtype == tl.int1)
    tl.store(y_ptr + n, y)


@triton.jit
def fma(a_ptr, b_ptr, c_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.fma(tl.load(a_ptr + n), tl.load(b_ptr + n), tl.load(c_ptr + n)))


@triton.jit
def literal(op: tl.constexpr, x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    x = tl.load(x_ptr + n)
    if op == "mul":
        y = x * 0.3
    elif op == "rsub":
        y = 0.3 - x
    else:
        y = x / 0.3
    tl.static_assert(y.dtype == y_ptr.dtype.element_ty)
    tl.store(y_ptr + n, y)


@triton.jit
def scaled(x_ptr, scale, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    y = tl.load(x_ptr + n) * scale
    tl.static_assert(y.dtype == y_ptr.dtype.element_ty)
    tl.store(y_ptr + n, y)


@triton.jit
def choose(flag, x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    x = tl.load(x_ptr + n)
    if flag:
        x = -x
    tl.store(y_ptr + n, tl.where(flag, x, x + x))


@triton.jit
def fill(y_ptr, value: tl.constexpr, N: tl.constexpr):
    """Rows of y: zeros, full, zeros_like, and where between the first two."""
    n = tl.arange(0, N)
    zeros = tl.zeros((N,), tl.bfloat16)
    full = tl.full((N,), value, tl.bfloat16)
    tl.store(y_ptr + n, zeros)
    tl.store(y_ptr + N + n, full)
    tl.store(y_ptr + 2 * N + n, tl.zeros_like(full))
    tl.store(y_ptr + 3 * N + n, tl.where(n % 2 == 0, zeros, full))


@triton.jit
def dot(a_ptr, b_ptr, y_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, steps: tl.constexpr):
    """y = a @ b, added up `steps` times."""
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    y = tl.zeros((M, N), y_ptr.dtype.element_ty)
    for _ in tl.static_range(steps):
        y = tl.dot(a, b, y, input_precision="ieee", out_dtype=y_ptr.dtype.element_ty)
    tl.store(y_ptr + m[:, None] * N + n[None, :], y)


@triton.jit
def reduce(op: tl.constexpr, x_ptr, y_ptr, ROWS: tl.constexpr, N: tl.constexpr):
    row = tl.arange(0, ROWS)
    n = tl.arange(0, N)
    x = tl.load(x_ptr + row[:, None] * N + n[None, :])
    if op == "sum":
        y = tl.sum(x, axis=1)
    elif op == "max":
        y = tl.max(x, axis=1)
    elif op == "min":
        y = tl.min(x, axis=1)
    else:
        y = tl.argmax(x, axis=1)
    tl.store(y_ptr + row, y)


@triton.jit
def cumulate(op: tl.constexpr, x_ptr, y_ptr, N: tl.constexpr, reverse: tl.constexpr):
    n = tl.arange(0, N)
    x = tl.load(x_ptr + n)
    if op == "sum":
        y = tl.cumsum(x, axis=0, reverse=reverse)
    else:
        y = tl.cumprod(x, axis=0, reverse=reverse)
    tl.store(y_ptr + n, y)


@triton.jit
def compose(decay_a, input_a, decay_b, input_b):
    """First x -> decay_a x + input_a, then the same with b."""
    return decay_a * decay_b, input_a * decay_b + input_b


@triton.jit
def linear_recurrence(decay_ptr, input_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    _, y = tl.associative_scan((tl.load(decay_ptr + n), tl.load(input_ptr + n)), 0, compose)
    tl.store(y_ptr + n, y)


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def scans_of_a_block(a_ptr, b_ptr, y_ptr, most_ptr, ROWS: tl.constexpr, N: tl.constexpr, axis: tl.constexpr,
                     reverse: tl.constexpr):  # fmt: skip
    at = tl.arange(0, ROWS)[:, None] * N + tl.arange(0, N)[None, :]
    b = tl.load(b_ptr + at)
    _, y = tl.associative_scan((tl.load(a_ptr + at), b), axis, compose, reverse=reverse)
    tl.store(y_ptr + at, y)
    tl.store(most_ptr + at, tl.associative_scan(b, axis, larger, reverse=reverse))


@triton.jit
def strided_offsets(y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, n.to(tl.int64) * HUGE_STRIDE)


@triton.jit
def narrow_offsets(y_ptr, stride, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, n * stride)


@triton.jit
def strided_copy(x_ptr, x_stride, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, tl.load(x_ptr + n.to(tl.int64) * x_stride))


@triton.jit
def running_sum(x_ptr, y_ptr, T, N: tl.constexpr):
    n = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    for t in range(T):
        total += tl.load(x_ptr + t * N + n)
        tl.store(y_ptr + t * N + n, total)


@triton.jit
def running_sum_backward(x_ptr, y_ptr, T, N: tl.constexpr):
    n = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    for t in range(T - 1, -1, -1):
        total += tl.load(x_ptr + t * N + n)
        tl.store(y_ptr + t * N + n, total)


@triton.jit
def running_sum_pipelined(x_ptr, y_ptr, T, N: tl.constexpr):
    n = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    for t in tl.range(0, T, num_stages=2):
        total += tl.load(x_ptr + t * N + n)
        tl.store(y_ptr + t * N + n, total)


@triton.jit
def masked_by_scalar(x_ptr, y_ptr, length, N: tl.constexpr):
    """Program p copies row p, but program 0 stores nothing; what lies past `length` is loaded as -1."""
    p = tl.program_id(0)
    n = tl.arange(0, N)
    x = tl.load(x_ptr + p * N + n, mask=(n < length) & (length > 0), other=-1.0)
    tl.store(y_ptr + p * N + n, x, mask=(n >= 0) & (p > 0))


@triton.jit
def rearranged(x_ptr, joined_ptr, turned_ptr, B: tl.constexpr, H: tl.constexpr):
    """x [B, 4 H], a unit's four gates side by side: gates 3 and 0 to joined [B, 2 H], 1 to turned [H, B]."""
    b = tl.arange(0, B)
    h = tl.arange(0, H)
    columns = tl.arange(0, 4 * H)
    x = tl.load(x_ptr + b[:, None] * 4 * H + columns[None, :])
    even, odd = tl.split(tl.reshape(x, (B, H, 2, 2)))
    gate_0, _ = tl.split(even)
    gate_1, gate_3 = tl.split(odd)
    joined = tl.reshape(tl.join(gate_3, gate_0), (B, 2 * H))
    doubled = tl.arange(0, 2 * H)
    tl.store(joined_ptr + b[:, None] * 2 * H + doubled[None, :], joined)
    tl.store(turned_ptr + h[:, None] * B + b[None, :], tl.permute(gate_1, (1, 0)))


@triton.jit
def logistic(x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, 1 / (1 + tl.exp(-tl.load(x_ptr + n))))


@triton.jit
def lstm(x_ptr, r_ptr, h_ptr, c_ptr, T, B: tl.constexpr, H: tl.constexpr):
    """x [T, 4, B, H], r [4, H, H], h and c [T, B, H], all bfloat16. The gates i, f, g, o stay in float32."""
    b = tl.arange(0, B)
    units = tl.arange(0, H)
    tile = b[:, None] * H + units[None, :]
    square = units[:, None] * H + units[None, :]
    r_i = tl.load(r_ptr + square)
    r_f = tl.load(r_ptr + H * H + square)
    r_g = tl.load(r_ptr + 2 * H * H + square)
    r_o = tl.load(r_ptr + 3 * H * H + square)
    h = tl.zeros((B, H), tl.bfloat16)
    c = tl.zeros((B, H), tl.bfloat16)
    for t in range(T):
        x_t = x_ptr + t * 4 * B * H + tile
        i = tl.sigmoid(tl.load(x_t).to(tl.float32) + tl.dot(h, r_i))
        f = tl.sigmoid(tl.load(x_t + B * H).to(tl.float32) + tl.dot(h, r_f))
        g = 2 * tl.sigmoid(2 * (tl.load(x_t + 2 * B * H).to(tl.float32) + tl.dot(h, r_g))) - 1
        o = tl.sigmoid(tl.load(x_t + 3 * B * H).to(tl.float32) + tl.dot(h, r_o))
        c = (f * c.to(tl.float32) + i * g).to(tl.bfloat16)
        h = (o * (2 * tl.sigmoid(2 * c.to(tl.float32)) - 1)).to(tl.bfloat16)
        tl.store(h_ptr + t * B * H + tile, h)
        tl.store(c_ptr + t * B * H + tile, c)


@triton.jit
def bounds_of_a_tile(
    valid_ptr, y_ptr, T, B, BB: tl.constexpr, CHUNK: tl.constexpr, BACKWARDS: tl.constexpr, BOTH: tl.constexpr
):
    """What `counted` says of each tile of a batch: (2, tiles, 2), the second half of the programs behind the first."""
    row_0, second = tl.cast(tl.program_id(0) * BB, tl.int64), tl.program_id(1) > 0
    begin, end = counted(valid_ptr, None, T, B, row_0, B - row_0, second, BB, CHUNK, BACKWARDS, BOTH)
    at = y_ptr + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(at, begin)
    tl.store(at + 1, end)


@triton.jit
def every_step(pointer, resets_ptr, T, B, row_0, left, second, BB, CHUNK, BACKWARDS, BOTH):
    """In place of `counted`."""
    return 0, T


@triton.jit
def passed_on(counter_ptr, y_ptr, first: tl.constexpr):
    """Each program waits for the one behind it, adds 1 to what that one has stored, and says so."""
    program = tl.program_id(0)
    behind = tl.num_programs(0) - 1 - program
    seen = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
    while seen < behind + first:
        seen = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
    y = tl.load(y_ptr + program + 1)
    tl.store(y_ptr + program, y + 1)
    tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")
