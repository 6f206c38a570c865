"""Vectors of units of one element of the batch: how the elementwise schedule and the stages of the stepwise one read
and write their tensors.

A row of a tensor is `total` blocks of `width` units each, side by side; `row` is time * B + batch, or batch alone.
A number is a vector of one unit.
"""

from rnngen.runtime.language import tl, triton
from rnngen.runtime.steps import step_at


@triton.jit
def units_of(program, H: tl.constexpr, BLOCK: tl.constexpr, BOTH: tl.constexpr):
    """The units of a program. With both directions none has units of two; H stands where it lacks one."""
    HALF: tl.constexpr = H // 2
    unit = tl.arange(0, BLOCK)
    if BOTH and HALF % BLOCK != 0:
        blocks = tl.cdiv(HALF, BLOCK)
        own = program % blocks * BLOCK + unit
        units = tl.where(own < HALF, program // blocks * HALF + own, H)
    else:
        units = program * BLOCK + unit
    return units


@triton.jit
def load_units(pointer, row, unit, block: tl.constexpr, COUNT: tl.constexpr, total: tl.constexpr, width: tl.constexpr,
               ACC: tl.constexpr):  # fmt: skip
    """`COUNT` neighbouring blocks of a row, each as a vector."""
    at = pointer + row * (total * width) + block * width + unit
    vector = (tl.load(at, mask=unit < width, other=0.0).to(ACC),)
    if COUNT == 1:
        return vector
    else:
        return vector + load_units(pointer, row, unit, block + 1, COUNT - 1, total, width, ACC)


@triton.jit
def store_units(pointer, vectors, row, unit, block: tl.constexpr, total: tl.constexpr, width: tl.constexpr):
    """Vectors as neighbouring blocks of a row."""
    for n in tl.static_range(len(vectors)):
        at = pointer + row * (total * width) + (block + n) * width + unit
        tl.store(at, vectors[n], mask=unit < width)


@triton.jit
def first_units(pointer, state_ptr, begin, T, B, batch, unit, second, width: tl.constexpr, BACKWARDS: tl.constexpr,
                BOTH: tl.constexpr):  # fmt: skip
    """A state's first value at the steps before `begin`, which are not run."""
    state = load_units(state_ptr, batch, unit, 0, 1, 1, width, pointer.dtype.element_ty)
    for count in tl.range(0, begin, num_stages=1):
        row = step_at(count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + batch
        store_units(pointer, state, row, unit, 0, 1, width)


@triton.jit
def fill_units(pointer, vector, total: tl.constexpr, begin, end, T, B, batch, unit, second, width: tl.constexpr,
               BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A state's last value at the steps from `end` on; where it is None zeros, and before `begin` too."""
    if vector is None:
        zeros = tl.zeros_like(unit).to(pointer.dtype.element_ty)
        for count in tl.range(0, begin + T - end, num_stages=1):
            time = step_at(tl.where(count < begin, count, count - begin + end), T, second, BACKWARDS, BOTH)
            for block in tl.static_range(total):
                store_units(pointer, (zeros,), time * tl.cast(B, tl.int64) + batch, unit, block, total, width)
    else:
        for count in tl.range(end, T, num_stages=1):
            row = step_at(count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + batch
            store_units(pointer, (vector,), row, unit, 0, total, width)


@triton.jit
def load_scalars(pointer, block: tl.constexpr, COUNT: tl.constexpr, ACC: tl.constexpr):
    """Neighbouring numbers of a parameter."""
    number = (tl.load(pointer + block).to(ACC),)
    if COUNT == 1:
        return number
    else:
        return number + load_scalars(pointer, block + 1, COUNT - 1, ACC)


# Of a program that has all units of an element of the batch.


@triton.jit
def sum_units(vectors, unit, H: tl.constexpr, MEAN: tl.constexpr):
    """The sum of each vector, or its mean, as one of one unit."""
    total = tl.sum(tl.where(unit < H, vectors[0], 0.0), axis=0, keep_dims=True)
    found = (total * (1 / H) if MEAN else total,)
    if len(vectors) == 1:
        return found
    else:
        return found + sum_units(vectors[1:], unit, H, MEAN)


@triton.jit
def largest_units(vectors, unit, H: tl.constexpr):
    """The largest unit of each vector, as one of one unit."""
    found = (tl.max(tl.where(unit < H, vectors[0], float("-inf")), axis=0, keep_dims=True),)
    if len(vectors) == 1:
        return found
    else:
        return found + largest_units(vectors[1:], unit, H)
