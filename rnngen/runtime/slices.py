"""Slices of units: how the programs of a group, each with KU units of one head and the same BB elements of the batch,
look across all units of it through memory.

    send_tile, send_sums, send_numbers; arrive; await_others; receive_tiles, receive_sums;
    other work; multiply_rows, add_sums, receive_numbers

That is a turn. What is stored for the caller is stored while what was received comes from the L2 cache. Who is at a
turn has seen all others arrive at the one before, and they have read by then what was sent at the one before that: so
there are two halves of each buffer, for even turns and for odd ones. The counter of a group only grows, from 0 when the
kernel is launched.

A buffer that is read after `await_others` is read past the cache of the multiprocessor (".cg"), and always in the same
order: sums do not depend on who came first.
"""

from rnngen.runtime.language import tl, triton
from rnngen.runtime.steps import step_at
from rnngen.runtime.tiles import load_stack, pack, row_part, row_unit, store_stack, unpack


@triton.jit
def member(SLICES: tl.constexpr, PARTS: tl.constexpr):
    """Of this program its head, its slice of the units of it, and its part of what the group sums up."""
    number = tl.program_id(1)
    return number // (SLICES * PARTS), number % SLICES, number // SLICES % PARTS


@triton.jit
def arrive(counter):
    """Say that all which a program has sent is there. Its threads first wait for one another: one speaks for all."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def await_others(counter, target):
    """Wait until `target` programs have arrived, each as often as it did. The difference counts, so that the counter
    may pass the largest integer; and every look acquires: Triton 3.6 drops one behind the loop.
    """
    seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    while seen - target < 0:
        seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def step_after(count, end, T, B, row_0, left, second, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):
    """The row of the step `count` and how many of the batch it has: 0 if it is not run."""
    row = step_at(count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0
    return row, tl.where(count < end, left, 0)


@triton.jit
def load_ahead(pointer, row, left, block: tl.constexpr, COUNT: tl.constexpr, total: tl.constexpr, H: tl.constexpr,
               inside, KU: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """COUNT neighbouring blocks of a stream, of the `inside` units of a slice, for a step to come: stacks of four as
    they lie in memory. Taken apart at once they would be waited for.
    """
    RUN: tl.constexpr = COUNT if COUNT < 4 else 4
    P: tl.constexpr = RUN if RUN <= 2 else 4
    dtype: tl.constexpr = pointer.dtype.element_ty
    stack = (load_stack(pointer, row, 0, left, block, RUN, total, P, H, inside, KU, BB, dtype),)
    if COUNT <= 4:
        return stack
    else:
        return stack + load_ahead(pointer, row, left, block + 4, COUNT - 4, total, H, inside, KU, BB)


@triton.jit
def tiles_of(stacked, COUNT: tl.constexpr, KU: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):
    """What `load_ahead` has loaded, block by block."""
    RUN: tl.constexpr = COUNT if COUNT < 4 else 4
    P: tl.constexpr = RUN if RUN <= 2 else 4
    tiles = unpack(stacked[0].to(ACC), RUN, P, KU, BB)
    if COUNT <= 4:
        return tiles
    else:
        return tiles + tiles_of(stacked[1:], COUNT - 4, KU, BB, ACC)


@triton.jit
def store_slice(pointer, tiles, row, left, block: tl.constexpr, total: tl.constexpr, H: tl.constexpr, inside,
                KU: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """Tiles as neighbouring blocks of a stream, of the `inside` units of a slice. A single one is stored as `send_tile`
    does it: in any other layout Triton computes some of a step twice, 122 cycles of an LSTM of 512 units.
    """
    COUNT: tl.constexpr = len(tiles)
    if COUNT == 1:
        unit, batch = tl.arange(0, KU)[:, None], tl.arange(0, BB)[None, :]
        at = pointer + row * (total * H) + (batch * (total * H) + block * H + unit)
        tl.store(at, tiles[0].to(pointer.dtype.element_ty), mask=(unit < inside) & (batch < left))
    elif COUNT <= 4:
        P: tl.constexpr = COUNT if COUNT == 2 else 4
        store_stack(pointer, pack(tiles, KU, BB), row, 0, left, block, COUNT, total, P, H, inside, KU, BB)
    else:
        store_slice(pointer, tiles[:4], row, left, block, total, H, inside, KU, BB)
        store_slice(pointer, tiles[4:], row, left, block + 4, total, H, inside, KU, BB)


# Vectors that matrices are applied to: (turn, slot, batch, all units). Every program has rows of the matrices, for its
# own units.


@triton.jit
def send_tile(pointer, tile, turn, slot: tl.constexpr, SLOTS: tl.constexpr, place, part, inside, SLICES: tl.constexpr,
              KU: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """What has `inside` units in this slice, for all others."""
    UNITS: tl.constexpr = SLICES * KU
    unit, batch = tl.arange(0, KU)[:, None], tl.arange(0, BB)[None, :]
    at = pointer + (turn % 2 * SLOTS + slot) * (BB * UNITS) + place * KU + (batch * UNITS + unit)
    tl.store(at, tile.to(pointer.dtype.element_ty), mask=(unit < inside) & (part == 0), cache_modifier=".cg")


@triton.jit
def received(pointer, first: tl.constexpr, WIDTH: tl.constexpr, UNITS: tl.constexpr, KT: tl.constexpr,
             BB: tl.constexpr):  # fmt: skip
    """KT units of a vector from `first` on, and zeros behind the last; their bits, as integers. What is to be done
    while they come is done then: a load of what is multiplied Triton waits for at once, to put it into on-chip
    memory. An LSTM of 512 units takes 2916 cycles a step by the estimate for sm_90, and 3025 with the load as it is.
    """
    BITS: tl.constexpr = pointer.dtype.element_ty.primitive_bitwidth
    bits: tl.constexpr = tl.int16 if BITS == 16 else tl.int32 if BITS == 32 else tl.int64
    unit, batch = first + tl.arange(0, KT)[:, None], tl.arange(0, BB)[None, :]
    at = (pointer + (batch * UNITS + unit)).to(tl.pointer_type(bits), bitcast=True)
    if first + KT <= WIDTH:
        tile = tl.load(at, cache_modifier=".cg")
    else:
        tile = tl.load(at, mask=unit < WIDTH, other=0, cache_modifier=".cg")
    return tile


@triton.jit
def row_tile(at, inside, first: tl.constexpr, COLUMNS: tl.constexpr, KT: tl.constexpr):
    column = first + tl.arange(0, KT)[None, :]
    return tl.load(at + column, mask=inside & (column < COLUMNS), other=0.0)


@triton.jit
def load_rows(pointer, head, place, block: tl.constexpr, COUNT: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr,
              COLUMNS: tl.constexpr, KU: tl.constexpr, KT: tl.constexpr):  # fmt: skip
    """The rows of a slice in COUNT neighbouring matrices: stacks of four, each in tiles of KT columns."""
    RUN: tl.constexpr = COUNT if COUNT < 4 else 4
    P: tl.constexpr = RUN if RUN <= 2 else 4
    SIZE: tl.constexpr = ROWS * COLUMNS
    part, unit = row_part(P, KU)[:, None], place * KU + row_unit(P, KU)[:, None]
    at = pointer + head * SIZE + ((block + part) * (HEADS * SIZE) + unit * COLUMNS)
    inside = (part < RUN) & (unit < ROWS)
    tiles = (row_tile(at, inside, 0, COLUMNS, KT),)
    for first in tl.static_range(KT, COLUMNS, KT):
        tiles += (row_tile(at, inside, first, COLUMNS, KT),)
    if COUNT <= 4:
        return tiles
    else:
        return tiles + load_rows(pointer, head, place, block + 4, COUNT - 4, HEADS, ROWS, COLUMNS, KU, KT)


@triton.jit
def received_tiles(pointer, first: tl.constexpr, MOST: tl.constexpr, WIDTH: tl.constexpr, UNITS: tl.constexpr,
                   KT: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """MOST units from `first` on, or as many as there are, in tiles."""
    END: tl.constexpr = first + MOST if first + MOST < WIDTH else WIDTH
    tiles = (received(pointer, first, WIDTH, UNITS, KT, BB),)
    for unit in tl.static_range(first + KT, END, KT):
        tiles += (received(pointer, unit, WIDTH, UNITS, KT, BB),)
    return tiles


@triton.constexpr_function  # what a function under jit returns is no constant in Triton 3.6
def most_units(bits, tiles, KT, BB):
    """How many units of a vector are in registers at once: as many tiles as 32 registers of 128 threads hold."""
    return min(tiles, max(131072 // bits // (KT * BB), 1)) * KT


@triton.jit
def receive_tiles(pointer, turn, slot: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr, SLICES: tl.constexpr,
                  KU: tl.constexpr, KT: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """The first tiles of a vector, as many as fit the registers."""
    UNITS: tl.constexpr = SLICES * KU
    MOST: tl.constexpr = most_units(pointer.dtype.element_ty.primitive_bitwidth, (WIDTH + KT - 1) // KT, KT, BB)
    vector = pointer + (turn % 2 * SLOTS + slot) * (BB * UNITS)
    return received_tiles(vector, 0, MOST, WIDTH, UNITS, KT, BB)


@triton.jit
def multiply_rows(matrices, loaded, pointer, turn, slot: tl.constexpr, SLOTS: tl.constexpr, COUNT: tl.constexpr,
                  WIDTH: tl.constexpr, SLICES: tl.constexpr, KU: tl.constexpr, KT: tl.constexpr, BB: tl.constexpr,
                  FEW: tl.constexpr, APART: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """M @ v for each of COUNT matrices, of the units of this slice. loaded: what `receive_tiles` has loaded of v. Rows
    of which there are less than FEW are multiplied by a tile in APART products, each of a part of it, since all warps
    would repeat one: a GRU v3 of 256 units takes 5296 cycles a step and not 5676 by the estimate for sm_90. Without
    matrix instructions a thread has more of each, and reads less: an LSTM of 512 units in float32 7836 and not 15285.
    """
    TILES: tl.constexpr = (WIDTH + KT - 1) // KT
    MOST: tl.constexpr = most_units(pointer.dtype.element_ty.primitive_bitwidth, TILES, KT, BB)
    UNITS: tl.constexpr = SLICES * KU
    P: tl.constexpr = COUNT if COUNT <= 2 else 4
    vector = pointer + (turn % 2 * SLOTS + slot) * (BB * UNITS)
    ROWS: tl.constexpr = P * KU
    HALF: tl.constexpr = matrices[0].dtype.primitive_bitwidth == 16
    WHOLE: tl.constexpr = ROWS >= FEW or KT < 16 * APART or not (HALF or PRECISION == "ieee")  # a product has 16
    if WHOLE:
        sums = tl.zeros([ROWS, BB], ACC)
    else:
        sums = tl.zeros([APART, ROWS, BB], ACC)
    for first in tl.static_range(0, WIDTH, MOST):
        operands = loaded if first == 0 else received_tiles(vector, first, MOST, WIDTH, UNITS, KT, BB)
        for k in tl.static_range(len(operands)):
            matrix, operand = matrices[first // KT + k], operands[k].to(pointer.dtype.element_ty, bitcast=True)
            if not WHOLE:
                matrix = matrix.reshape(ROWS, APART, KT // APART).permute(1, 0, 2)
                operand = operand.reshape(APART, KT // APART, BB)
            sums = tl.dot(matrix, operand, sums, input_precision=PRECISION, out_dtype=ACC)
    product = sums if WHOLE else tl.sum(sums, axis=0)
    if COUNT <= 4:
        return unpack(product, COUNT, P, KU, BB)
    else:
        tiles = unpack(product, 4, 4, KU, BB)
        return tiles + multiply_rows(
            matrices[TILES:], loaded, pointer, turn, slot, SLOTS, COUNT - 4, WIDTH, SLICES, KU, KT, BB, FEW, APART,
            PRECISION, ACC
        )  # fmt: skip


# Sums of transposed products: (turn, slot, slice that reads, slice that wrote, batch, unit). Every program has the
# columns of the transposed matrices for its own units, and multiplies what it has: of the units that come out it knows
# what its own contribute. PARTS programs have the same units, and a part of the units that come out each.


@triton.jit
def load_columns(pointer, head, place, part, block: tl.constexpr, COUNT: tl.constexpr, HEADS: tl.constexpr,
                 ROWS: tl.constexpr, COLUMNS: tl.constexpr, KU: tl.constexpr, MT: tl.constexpr,
                 PARTS: tl.constexpr):  # fmt: skip
    """Of COUNT neighbouring matrices, transposed, the columns of a slice: stacks of four, in tiles of MT rows."""
    RUN: tl.constexpr = COUNT if COUNT < 4 else 4
    P: tl.constexpr = RUN if RUN <= 2 else 4
    SIZE: tl.constexpr = ROWS * COLUMNS
    TILES: tl.constexpr = (COLUMNS + MT * PARTS - 1) // (MT * PARTS)
    stacked, unit = row_part(P, KU)[None, :], place * KU + row_unit(P, KU)[None, :]
    row = part * (TILES * MT) + tl.arange(0, MT)[:, None]
    at = pointer + head * SIZE + ((block + stacked) * (HEADS * SIZE) + unit * COLUMNS + row)
    inside = (stacked < RUN) & (unit < ROWS)
    tiles = (tl.load(at, mask=inside & (row < COLUMNS), other=0.0),)
    for m in tl.static_range(1, TILES):
        tiles += (tl.load(at + m * MT, mask=inside & (row + m * MT < COLUMNS), other=0.0),)
    if COUNT <= 4:
        return tiles
    else:
        return tiles + load_columns(
            pointer, head, place, part, block + 4, COUNT - 4, HEADS, ROWS, COLUMNS, KU, MT, PARTS
        )


@triton.jit
def stacks(tiles, dtype: tl.constexpr, inside, WHOLE: tl.constexpr, KU: tl.constexpr, BB: tl.constexpr):
    """Tiles as what transposed matrices are applied to, zero beyond the units that are there."""
    COUNT: tl.constexpr = len(tiles)
    if COUNT <= 4:
        P: tl.constexpr = COUNT if COUNT <= 2 else 4
        stack = pack(tiles, KU, BB)
        if not WHOLE:
            stack = tl.where(row_unit(P, KU)[:, None] < inside, stack, 0.0)
        return (stack.to(dtype),)
    else:
        return stacks(tiles[:4], dtype, inside, WHOLE, KU, BB) + stacks(tiles[4:], dtype, inside, WHOLE, KU, BB)


@triton.jit
def send_sums(pointer, matrices, tiles, turn, slot: tl.constexpr, SLOTS: tl.constexpr, place, part, WIDTH: tl.constexpr,
              SLICES: tl.constexpr, KU: tl.constexpr, MT: tl.constexpr, BB: tl.constexpr, PRECISION: tl.constexpr,
              ACC: tl.constexpr):  # fmt: skip
    """What this slice adds to the sum of M.T @ v over matrices of WIDTH rows and tiles, for those whose units it is."""
    UNITS: tl.constexpr = SLICES * KU
    packed = stacks(tiles, matrices[0].dtype, WIDTH - place * KU, WIDTH == UNITS, KU, BB)
    TILES: tl.constexpr = len(matrices) // len(packed)
    half = pointer + (turn % 2 * SLOTS + slot) * (UNITS * SLICES * BB) + place * (KU * BB)
    batch = tl.arange(0, BB)[None, :]
    for m in tl.static_range(TILES):
        product = tl.dot(matrices[m], packed[0], input_precision=PRECISION, out_dtype=ACC)
        for n in tl.static_range(1, len(packed)):
            product = tl.dot(matrices[n * TILES + m], packed[n], product, input_precision=PRECISION, out_dtype=ACC)
        unit = (part * TILES + m) * MT + tl.arange(0, MT)[:, None]
        at = half + ((unit // KU) * (SLICES * KU * BB) + batch * KU + unit % KU)
        tl.store(at, product.to(pointer.dtype.element_ty), mask=unit < UNITS, cache_modifier=".cg")


@triton.jit
def receive_sums(pointer, turn, slot: tl.constexpr, SLOTS: tl.constexpr, place, SLICES: tl.constexpr, KU: tl.constexpr,
                 BB: tl.constexpr, OWN: tl.constexpr):  # fmt: skip
    """What all slices have sent to this one. A thread has OWN units of all of them, so that threads need not wait for
    one another to add them up.
    """
    ROUND: tl.constexpr = triton.next_power_of_2(SLICES)
    start = pointer + (turn % 2 * SLOTS + slot) * (SLICES * KU * SLICES * BB) + place * (SLICES * KU * BB)
    slice = tl.arange(0, ROUND)[:, None, None]
    batch, unit = tl.arange(0, BB)[None, :, None], tl.arange(0, KU)[None, None, :]
    at = tl.max_contiguous(slice * (KU * BB) + (batch * KU + unit), [1, 1, OWN])
    if ROUND == SLICES:
        parts = tl.load(start + at, cache_modifier=".cg")
    else:
        parts = tl.load(start + at, mask=slice < SLICES, other=0.0, cache_modifier=".cg")
    return parts


@triton.jit
def add_sums(parts, ACC: tl.constexpr):
    """The sum of what all slices have sent, in their order."""
    return tl.trans(tl.sum(parts.to(ACC), axis=0))


# Numbers: (turn, slot, slice that wrote, batch).


@triton.jit
def send_numbers(pointer, tiles, turn, slot: tl.constexpr, SLOTS: tl.constexpr, place, part, inside,
                 LARGEST: tl.constexpr, SLICES: tl.constexpr, KU: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """The sum over the units of this slice of each tile, or the largest of them."""
    there = tl.arange(0, KU)[:, None] < inside
    batch = tl.arange(0, BB)
    for n in tl.static_range(len(tiles)):
        if LARGEST:
            number = tl.max(tl.where(there, tiles[n], float("-inf")), axis=0)
        else:
            number = tl.sum(tl.where(there, tiles[n], 0.0), axis=0)
        at = pointer + ((turn % 2 * SLOTS + slot + n) * SLICES + place) * BB + batch
        tl.store(at, number, mask=(batch < BB) & (part == 0), cache_modifier=".cg")


@triton.jit
def receive_numbers(pointer, turn, slot: tl.constexpr, SLOTS: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr,
                    KIND: tl.constexpr, SLICES: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """The numbers of all slices as one, each a row [1, BB]. KIND: "sum", "mean" of WIDTH units, or "largest"."""
    ROUND: tl.constexpr = triton.next_power_of_2(SLICES)
    slice, batch = tl.arange(0, ROUND)[:, None], tl.arange(0, BB)[None, :]
    at = pointer + (turn % 2 * SLOTS + slot) * (SLICES * BB) + (slice * BB + batch)
    if KIND == "largest":
        row = tl.max(tl.load(at, mask=slice < SLICES, other=float("-inf"), cache_modifier=".cg"), axis=0)[None, :]
    else:
        row = tl.sum(tl.load(at, mask=slice < SLICES, other=0.0, cache_modifier=".cg"), axis=0)[None, :]
        if KIND == "mean":
            row = row * (1 / WIDTH)
    found = (row,)
    if COUNT == 1:
        return found
    else:
        return found + receive_numbers(pointer, turn, slot + 1, SLOTS, COUNT - 1, WIDTH, KIND, SLICES, BB)
