"""What every schedule says of time steps: which one it is, whether it counts, and which of them a program runs."""

from rnngen.runtime.language import tl, triton


@triton.jit
def step_at(count, T, second, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):
    """The time step that comes after `count` others. second: whether a program is of the second half, which runs the
    other way where a scan has both directions.
    """
    if BOTH:
        time = tl.where(second != BACKWARDS, T - 1 - count, count)
    elif BACKWARDS:
        time = T - 1 - count
    else:
        time = count
    return time


@triton.jit
def step_before(count, begin, T, B, row_0, left, second, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):
    """The row of the step before `count` and how many of the batch it has: 0 if the first step is `count`, or later."""
    row = step_at(count - 1, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0
    return row, tl.where(count > begin, left, 0)


@triton.jit
def counted(pointer, resets_ptr, T, B, row_0, left, second, BB: tl.constexpr, CHUNK: tl.constexpr,
            BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """The first step, in the order of the scan, at which any of a program's BB elements of the batch counts, and the
    one behind the last such step; whole chunks of CHUNK steps. Twice the same if none counts.

    A program runs these steps and no others: up to its own longest sequence, not to that of the batch. With resets it
    runs all, since a state may begin anew at any.
    """
    return counted_of(pointer, resets_ptr, 0, T, T, B, row_0, left, second, BB, CHUNK, BACKWARDS, BOTH)


@triton.jit
def counted_of(pointer, resets_ptr, start, stop, T, B, row_0, left, second, BB: tl.constexpr, CHUNK: tl.constexpr,
               BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """The same of the steps from `start` up to `stop`: chunks begin at `start`, and twice that if none counts."""
    if pointer is None or resets_ptr is not None:
        return start, stop
    else:
        # Steps that are read at once: so many that memory is seldom waited for, by one warp as by several.
        SPAN: tl.constexpr = 512 // BB if CHUNK == 1 else 8 * CHUNK
        steps = stop - start
        step, batch = tl.arange(0, SPAN)[:, None], tl.arange(0, BB)[None, :]
        ahead, passed = tl.zeros([SPAN, BB], tl.int32), tl.zeros([SPAN, BB], tl.int32)
        for first in tl.range(0, steps, SPAN, num_stages=1):
            count = first + step
            row = step_at(start + count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0
            valid = tl.load(pointer + row + batch, mask=(count < steps) & (batch < left), other=0)
            ahead = tl.where(valid > 0, tl.maximum(ahead, steps - count), ahead)
            passed = tl.where(valid > 0, count + 1, passed)
        most, end = tl.max(ahead), tl.max(passed)
        # All that is known of them before a kernel runs: who reads what was compiled finds the longest loop by it.
        tl.assume(most <= T)
        tl.assume(end <= T)
        begin = tl.minimum(steps - most, end)
        if CHUNK > 1:
            begin = begin // CHUNK * CHUNK
            end = tl.minimum(begin + tl.cdiv(end - begin, CHUNK) * CHUNK, steps)
        return start + begin, start + end


@triton.jit
def boundary(count, T, B, row_0, second, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):
    """The row of the boundary between `count` steps and those that come after them, of the T + 1 that there are."""
    return step_at(count, T + 1, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0


# A mask is 0 where a step does not count. Where none is given it is None, and the compiler drops the choice.


@triton.jit
def kept(valid, new, old):
    """What a step makes new, or the old value where the step does not count."""
    if valid is None:
        return new
    else:
        return tl.where(valid > 0, new, old)


@triton.jit
def or_zero(valid, value):
    """A value, or zero where the step does not count."""
    if valid is None:
        return value
    else:
        return tl.where(valid > 0, value, 0.0)


# A reset is 1 at a boundary where one sequence ends and another begins.


@triton.jit
def begun(reset, first, state):
    """A state before a step, or what it begins with where the step is the first of a sequence."""
    return tl.where(reset > 0, first, state)


@triton.jit
def cut(reset, state):
    """The state of an adjoint behind a step, or zero where the step was the first of a sequence."""
    if reset is None:
        return state
    else:
        return tl.where(reset > 0, 0.0, state)


@triton.jit
def expand(value, like):
    """A number or a parameter with the axes of `like`."""
    return tl.zeros_like(like) + value
