"""Chunks of time: how the linear schedule reads, scans and writes tiles of CHUNK steps by BLOCK units of one element of
the batch. Rows of a tile are steps in the order of the scan; a row of a tensor is as for vectors (see `units`).
"""

from rnngen.runtime.language import tl, triton
from rnngen.runtime.steps import step_at


@triton.jit
def load_chunk(pointer, row, inside, unit, block: tl.constexpr, COUNT: tl.constexpr, total: tl.constexpr,
               width: tl.constexpr):  # fmt: skip
    """`COUNT` neighbouring blocks of some rows, each as a tile in the tensor's own type; zero where not `inside`."""
    at = pointer + row * (total * width) + (block * width + unit)
    tile = (tl.load(at, mask=inside & (unit < width), other=0.0),)
    if COUNT == 1:
        return tile
    else:
        return tile + load_chunk(pointer, row, inside, unit, block + 1, COUNT - 1, total, width)


@triton.jit
def load_flags(pointer, row, inside):
    """A mask, or resets. A loop cannot carry None, so where there are none it is something that nothing reads."""
    if pointer is None:
        return inside
    else:
        return tl.load(pointer + row, mask=inside, other=0)


@triton.jit
def store_chunk(pointer, tiles, row, inside, unit, block: tl.constexpr, total: tl.constexpr, width: tl.constexpr):
    """Tiles as neighbouring blocks of the rows that are `inside`."""
    for n in tl.static_range(len(tiles)):
        at = pointer + row * (total * width) + ((block + n) * width + unit)
        tl.store(at, tiles[n], mask=inside & (unit < width))


@triton.jit
def first_chunks(pointer, state_ptr, begin, T, B, batch, unit, second, width: tl.constexpr, CHUNK: tl.constexpr,
                 BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A state's first value at the steps before `begin`, which are not run."""
    state = tl.load(state_ptr + batch * width + unit, mask=unit < width, other=0.0)
    _store_steps(pointer, state, 1, 0, begin, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)


@triton.jit
def fill_chunks(pointer, state, total: tl.constexpr, begin, end, T, B, batch, unit, second, width: tl.constexpr,
                CHUNK: tl.constexpr, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A state's last value at the steps from `end` on; where it is None zeros, and before `begin` too."""
    if state is None:
        zeros = tl.zeros_like(unit).to(pointer.dtype.element_ty)
        _store_steps(pointer, zeros, total, 0, begin, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)
        _store_steps(pointer, zeros, total, end, T, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)
    else:
        _store_steps(pointer, state, total, end, T, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)


@triton.jit
def _store_steps(pointer, row_of_units, total: tl.constexpr, first, last, T, B, batch, unit, second,
                 width: tl.constexpr, CHUNK: tl.constexpr, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A row of units as every block of the steps from `first` up to `last`."""
    step = tl.arange(0, CHUNK)[:, None]
    tile = tl.broadcast_to(row_of_units, [CHUNK, unit.shape[1]])
    for start in tl.range(0, last - first, CHUNK, num_stages=1):
        count = first + start + step
        row = step_at(count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + batch
        for block in tl.static_range(total):
            store_chunk(pointer, (tile,), row, count < last, unit, block, total, width)


@triton.jit
def widened(tiles, ACC: tl.constexpr):
    """Tiles in the type of states and sums."""
    tile = (tiles[0].to(ACC),)
    if len(tiles) == 1:
        return tile
    else:
        return tile + widened(tiles[1:], ACC)


@triton.jit
def composed(a1, b1, a2, b2):
    """Two steps h -> a * h + b as one."""
    return a1 * a2, a2 * b1 + b2


@triton.jit
def composed_anew(reset1, a1, b1, reset2, a2, b2):
    """The same, where a step with a reset is b whatever comes before it: zero times what is no number would be none."""
    a, b = tl.where(reset2 > 0, a2, a1 * a2), tl.where(reset2 > 0, b2, a2 * b1 + b2)
    return tl.maximum(reset1, reset2), a, b


@triton.jit
def old_values(h, a, b, reset, first, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Of a state that is h before the chunk, and a * old + b behind each step, the old value at each step.

    Where reset, the old value is `first`; where that is None, as in an adjoint, the new value is zero.

    What follows should read nothing of the scan but this. Then the gather finds its operand in one warp, and everything
    in the loop has the layout of that: a step of a minGRU takes 5.1 instructions on sm_90, and 9 without.
    """
    step = tl.broadcast_to(tl.arange(0, CHUNK)[:, None], [CHUNK, BLOCK])
    a, b = tl.broadcast_to(a, [CHUNK, BLOCK]), tl.broadcast_to(b, [CHUNK, BLOCK])
    if reset is None:
        a, b = tl.associative_scan((a, b), 0, composed)
        new = a * h + b
    else:
        b = tl.where(reset > 0, 0.0 if first is None else a * first + b, b)
        begun = tl.broadcast_to(reset, [CHUNK, BLOCK])
        begun, a, b = tl.associative_scan((begun, a, b), 0, composed_anew)
        new = tl.where(begun > 0, b, a * h + b)
    old = tl.where(step == 0, h, tl.gather(new, tl.maximum(step - 1, 0), 0))
    return old if reset is None or first is None else tl.where(reset > 0, first, old)


@triton.jit
def summed(reset, tile):
    """The sum of the steps that a reset is at, as a row."""
    return tl.sum(tl.where(reset > 0, tile, 0.0), 0)[None, :]


@triton.jit
def row_at(tile, step, which):
    """The row of one step."""
    return tl.sum(tl.where(step == which, tile, 0.0), 0)[None, :]
