"""What every schedule says of one time step: which one it is, and whether it counts."""

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
def step_before(count, T, B, row_0, left, second, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):
    """The row of the last of `count` steps and how many of the batch it has: 0 if there is no such step."""
    row = step_at(count - 1, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0
    return row, tl.where(count > 0, left, 0)


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
