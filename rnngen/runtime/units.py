"""Vectors of units of one element of the batch: how the elementwise schedule and the stages of the stepwise one read
and write their tensors.

A row of a tensor is `total` blocks of `width` units each, side by side; `row` is time * B + batch, or batch alone.
"""

from rnngen.runtime.language import tl, triton


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
def load_scalars(pointer, block: tl.constexpr, COUNT: tl.constexpr, ACC: tl.constexpr):
    """Neighbouring numbers of a parameter."""
    number = (tl.load(pointer + block).to(ACC),)
    if COUNT == 1:
        return number
    else:
        return number + load_scalars(pointer, block + 1, COUNT - 1, ACC)
