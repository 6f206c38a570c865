"""Chunks of time: how the linear schedule reads, scans and writes tiles of CHUNK steps by BLOCK units of one element of
the batch. Rows of a tile are steps in the order of the scan; a row of a tensor is as for vectors (see `units`).
"""

from rnngen.runtime.language import tl, triton
from rnngen.runtime.steps import step_at
from rnngen.runtime.units import load_units, store_units


@triton.jit
def chunks_of(begin, end, CHUNK: tl.constexpr):
    """How many chunks hold the steps from `begin` up to `end`."""
    return tl.cdiv(end - begin, CHUNK)


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
def first_chunks(pointer, state, start, begin, T, B, batch, unit, second, width: tl.constexpr, CHUNK: tl.constexpr,
                 BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A state's first value at the steps from `start` up to `begin`, which are not run."""
    _store_steps(pointer, state, 1, start, begin, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)


@triton.jit
def fill_chunks(pointer, state, total: tl.constexpr, start, begin, end, stop, T, B, batch, unit, second,
                width: tl.constexpr, CHUNK: tl.constexpr, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A state's last value at the steps from `end` up to `stop`; where it is None zeros, and before `begin` too."""
    if state is None:
        zeros = tl.zeros_like(unit).to(pointer.dtype.element_ty)
        _store_steps(pointer, zeros, total, start, begin, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)
        _store_steps(pointer, zeros, total, end, stop, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)
    else:
        _store_steps(pointer, state, total, end, stop, T, B, batch, unit, second, width, CHUNK, BACKWARDS, BOTH)


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
    begun, a, b = scanned(a, b, reset, first, CHUNK, BLOCK)
    if reset is None:
        new = a * h + b
    else:
        new = tl.where(begun > 0, b, a * h + b)
    old = tl.where(step == 0, h, tl.gather(new, tl.maximum(step - 1, 0), 0))
    return old if reset is None or first is None else tl.where(reset > 0, first, old)


@triton.jit
def scanned(a, b, reset, first, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Of each step of a chunk all steps up to it as one: whether any began anew, a and b. Without resets the first is
    nothing to read.
    """
    a, b = tl.broadcast_to(a, [CHUNK, BLOCK]), tl.broadcast_to(b, [CHUNK, BLOCK])
    if reset is None:
        a, b = tl.associative_scan((a, b), 0, composed)
        return a, a, b
    else:
        b = tl.where(reset > 0, 0.0 if first is None else a * first + b, b)
        return tl.associative_scan((tl.broadcast_to(reset, [CHUNK, BLOCK]), a, b), 0, composed_anew)


@triton.jit
def summed(reset, tile):
    """The sum of the steps that a reset is at, as a row."""
    return tl.sum(tl.where(reset > 0, tile, 0.0), 0)[None, :]


@triton.jit
def row_at(tile, step, which):
    """The row of one step."""
    return tl.sum(tl.where(step == which, tile, 0.0), 0)[None, :]


# Stretches of time: programs of the third dimension of a grid have some chunks each. What a stretch makes of a state is
# a step as well, whether it began anew, a and b: a map. The maps of all stretches lie in memory as (stretch, 3, batch,
# width), in the type of the accumulators.


@triton.jit
def stretch_of(maps_ptr, T, CHUNK: tl.constexpr):
    """The first step, in the order of the scan, of a program's stretch, and the one behind it; all without maps."""
    if maps_ptr is None:
        return 0, T
    else:
        most = tl.cdiv(tl.cdiv(T, CHUNK), tl.num_programs(2)) * CHUNK
        start = tl.minimum(tl.program_id(2) * most, T)
        steps = tl.minimum(T - start, most)
        tl.assume(steps <= T)  # for who reads what was compiled, as in `counted_of`
        return start, start + steps


@triton.jit
def no_step(shape: tl.constexpr, ACC: tl.constexpr):
    """Maps of no step at all."""
    return tl.zeros(shape, ACC), tl.full(shape, 1, ACC), tl.zeros(shape, ACC)


@triton.jit
def with_step(anew, a, b, a_step, b_step, reset, first, inside):
    """Maps with one step more behind each, of which there may be none. For what these are see `old_values`.

    Where nothing but maps is asked for, rows of a tile are not steps one behind another: each has a part of the stretch
    to itself, and what its steps make is known without a scan. A step of a minGRU takes 9 cycles on sm_90 then, by the
    estimate, and 22 by scans of chunks; with a mask or resets 9 - 10, and 35 - 55.
    """
    if reset is not None:
        b_step = tl.where(reset > 0, 0.0 if first is None else a_step * first + b_step, b_step)
    a_step, b_step = tl.where(inside, a_step, 1.0), tl.where(inside, b_step, 0.0)
    if reset is None:
        a, b = composed(a, b, a_step, b_step)
        return anew, a, b
    else:
        return composed_anew(anew, a, b, reset.to(a.dtype), a_step, b_step)


@triton.jit
def applied(a, b, h):
    """a * h + b, where a may have overflowed over many steps: what is zero before them is b behind them."""
    return tl.where(h == 0, b, a * h + b)


@triton.jit
def joined(anew1, a1, b1, anew2, a2, b2):
    """Two maps of many steps as one."""
    a, b = tl.where(anew2 > 0, a2, applied(a2, 0.0, a1)), tl.where(anew2 > 0, b2, applied(a2, b2, b1))
    return tl.maximum(anew1, anew2), a, b


@triton.jit
def of_rows(anew, a, b, CHUNK: tl.constexpr):
    """The map of all rows of a tile, in their order."""
    step = tl.arange(0, CHUNK)[:, None]
    anew, a, b = tl.associative_scan((anew, a, b), 0, joined)
    return row_at(anew, step, CHUNK - 1), row_at(a, step, CHUNK - 1), row_at(b, step, CHUNK - 1)


@triton.jit
def with_chunk(anew, a, b, a_chunk, b_chunk, reset, first, step, last, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """A map with the steps of a chunk behind it, up to the step `last`. For what these are see `old_values`."""
    begun, a_chunk, b_chunk = scanned(a_chunk, b_chunk, reset, first, CHUNK, BLOCK)
    a_chunk, b_chunk = row_at(a_chunk, step, last), row_at(b_chunk, step, last)
    if reset is None:
        a, b = composed(a, b, a_chunk, b_chunk)
        return anew, a, b
    else:
        return composed_anew(anew, a, b, row_at(begun.to(a.dtype), step, last), a_chunk, b_chunk)


@triton.jit
def store_map(pointer, anew, a, b, B, batch, unit, width: tl.constexpr):
    """The map of a program's stretch."""
    rows = tl.cast(B, tl.int64)
    row = tl.program_id(2) * 3 * rows + batch
    store_units(pointer, (anew,), row, unit, 0, 1, width)
    store_units(pointer, (a,), row + rows, unit, 0, 1, width)
    store_units(pointer, (b,), row + 2 * rows, unit, 0, 1, width)


@triton.jit
def before_stretch(h, pointer, resets_ptr, B, batch, unit, width: tl.constexpr):
    """A state before a program's stretch, of what it is before the first one: the stretches in between in their order.

    Their maps are loaded some at a time, so that memory is not waited for at each.
    """
    rows = tl.cast(B, tl.int64)
    for stretch in tl.range(0, tl.program_id(2), num_stages=1, loop_unroll_factor=8):
        row = stretch * 3 * rows + batch
        (a,) = load_units(pointer, row + rows, unit, 0, 1, 1, width, h.dtype)
        (b,) = load_units(pointer, row + 2 * rows, unit, 0, 1, 1, width, h.dtype)
        if resets_ptr is None:
            h = applied(a, b, h)
        else:
            (anew,) = load_units(pointer, row, unit, 0, 1, 1, width, h.dtype)
            h = tl.where(anew > 0, b, applied(a, b, h))
    return h


@triton.jit
def of_stretch(total):
    """What a sum over time begins with in a program's stretch: in the first with what is there, in others with zero."""
    return tl.where(tl.program_id(2) > 0, 0.0, total)
