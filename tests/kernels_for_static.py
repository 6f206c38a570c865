"""Small kernels with known loops, to try the static analysis on. They are compiled, never run.

A real file, because Triton reads a kernel's source. Dimensions: T steps, B rows (batch), H columns (state).
"""

import triton
import triton.language as tl


@triton.jit
def dot_scan(x_ptr, r_ptr, y_ptr, T, B: tl.constexpr, H: tl.constexpr):
    """h = x[t] + h @ r, one [B, H] by [H, H] product a step.  x, y: [T, B, H] fp32, r: [H, H] bf16."""
    rows = tl.arange(0, B)
    columns = tl.arange(0, H)
    tile = rows[:, None] * H + columns[None, :]
    r = tl.load(r_ptr + tl.arange(0, H)[:, None] * H + columns[None, :])
    h = tl.zeros((B, H), dtype=tl.float32)
    for t in tl.range(0, T, num_stages=1):
        x = tl.load(x_ptr + t * B * H + tile)
        h = tl.dot(h.to(tl.bfloat16), r, acc=x, input_precision="ieee", out_dtype=tl.float32)
        tl.store(y_ptr + t * B * H + tile, h)


@triton.jit
def elementwise_scan(x_ptr, y_ptr, stride_t, T, H: tl.constexpr, WORK: tl.constexpr, STAGES: tl.constexpr):
    """h = f(...f(h + x[t])), WORK dependent exponentials a step.  x, y: [T, H] fp32, rows stride_t apart."""
    columns = tl.arange(0, H)
    h = tl.zeros((H,), dtype=tl.float32)
    for t in tl.range(0, T, num_stages=STAGES):
        h = h + tl.load(x_ptr + t * stride_t + columns)
        for _ in tl.static_range(WORK):
            h = tl.exp2(-h)
        tl.store(y_ptr + t * stride_t + columns, h)


@triton.jit
def crowded_scan(x_ptr, y_ptr, T, N: tl.constexpr):
    """N values live through every step, more than one warp has registers for.  x: [T] and y: [N] fp32."""
    columns = tl.arange(0, N)
    h = tl.load(y_ptr + columns)
    for t in tl.range(0, T, num_stages=1):
        h = h * h + tl.load(x_ptr + t)
    tl.store(y_ptr + columns, h)


@triton.jit
def unrolled_scan(x_ptr, y_ptr, T, H: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr):
    """h = 2^-(h + x[t]), a loop that Triton unrolls, with another loop for the steps left over.  x, y: [T, H] fp32."""
    columns = tl.arange(0, H)
    h = tl.zeros((H,), dtype=tl.float32)
    for t in tl.range(0, T, num_stages=STAGES, loop_unroll_factor=UNROLL):
        h = tl.exp2(-(h + tl.load(x_ptr + t * H + columns)))
        tl.store(y_ptr + t * H + columns, h)


@triton.jit
def blocked_scan(x_ptr, y_ptr, T, H: tl.constexpr, BLOCK: tl.constexpr):
    """The same, T a multiple of BLOCK: the steps of a block are written out, and none are left over."""
    columns = tl.arange(0, H)
    h = tl.zeros((H,), dtype=tl.float32)
    for start in tl.range(0, T, BLOCK, num_stages=1):
        for step in tl.static_range(BLOCK):
            h = tl.exp2(-(h + tl.load(x_ptr + (start + step) * H + columns)))
            tl.store(y_ptr + (start + step) * H + columns, h)
