"""Several tiles as the rows of one, so that the gates of a cell are one product and one access to memory.

A stack of P tiles (BD units, BB batch) is one matrix of P * BD rows. Row r belongs to a part p and a unit d:

    bits of r, from low to high:    d0 d1 d2 | p0 | d3 d4 ... | p1            (with P = 2 there is only p0)

Eight neighbouring rows are neighbouring units, so an access has 16 bytes a thread in half precision. The bits of p are
those two that the accumulator of a matrix instruction keeps within one thread, so that taking the stack apart and
putting it together moves no data: an LSTM's forward step of 64 units has 4 barriers on sm_90,
where FlashRNN's kernel, with a product for each gate, has 20.
"""

from rnngen.runtime.language import tl, triton
from rnngen.runtime.steps import step_at


@triton.jit
def row_part(P: tl.constexpr, BD: tl.constexpr):
    row = tl.arange(0, P * BD)
    if P == 1:
        part = row * 0
    elif P == 2:
        part = (row // 8) % 2
    else:
        part = (row // 8) % 2 + 2 * (row // (2 * BD))
    return part


@triton.jit
def row_unit(P: tl.constexpr, BD: tl.constexpr):
    row = tl.arange(0, P * BD)
    if P == 1:
        unit = row
    else:
        unit = row % 8 + ((row // 16) % (BD // 8)) * 8
    return unit


@triton.jit
def unpack2(stack, BD: tl.constexpr, BB: tl.constexpr):
    a, b = stack.reshape(BD // 8, 2, 8, BB).permute(0, 2, 3, 1).reshape(BD, BB, 2).split()
    return a, b


@triton.jit
def unpack4(stack, BD: tl.constexpr, BB: tl.constexpr):
    parts = stack.reshape(2, BD // 8, 2, 8, BB).permute(1, 3, 4, 2, 0).reshape(BD, BB, 2, 2)
    low, high = parts.split()
    a, b = low.split()
    c, d = high.split()
    return a, b, c, d


@triton.jit
def pack2(a, b, BD: tl.constexpr, BB: tl.constexpr):
    return tl.join(a, b).reshape(BD // 8, 8, BB, 2).permute(0, 3, 1, 2).reshape(2 * BD, BB)


@triton.jit
def pack4(a, b, c, d, BD: tl.constexpr, BB: tl.constexpr):
    parts = tl.join(tl.join(a, b), tl.join(c, d))
    return parts.reshape(BD // 8, 8, BB, 2, 2).permute(4, 0, 3, 1, 2).reshape(4 * BD, BB)


@triton.jit
def bounded(stack, P: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """A stack that is zero beyond its D units, as the operand of a product has to be.

    The matrix is zero there, but what a cell computes of units that do not exist may be no number, as 0 / 0.
    """
    if D == BD:
        operand = stack
    else:
        operand = tl.where(row_unit(P, BD)[:, None] < D, stack, 0.0)
    return operand


@triton.jit
def first(stack, P: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr):
    """Part 0 of a stack whose other parts are padding."""
    if P == 1:
        a = stack
    elif P == 2:
        a, _ = unpack2(stack, BD, BB)
    else:
        a, _, _, _ = unpack4(stack, BD, BB)
    return a


@triton.jit
def unpack(stack, COUNT: tl.constexpr, P: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr):
    """The first COUNT parts of a stack. P: how many it has where one is wanted, otherwise as few as hold them."""
    if COUNT == 1:
        return (first(stack, P, BD, BB),)
    elif COUNT == 2:
        return unpack2(stack, BD, BB)
    else:
        a, b, c, d = unpack4(stack, BD, BB)
        if COUNT == 3:
            return a, b, c
        else:
            return a, b, c, d


@triton.jit
def pack(tiles, BD: tl.constexpr, BB: tl.constexpr):
    """One to four tiles as a stack; of three the fourth part is 0."""
    if len(tiles) == 1:
        return tiles[0]
    elif len(tiles) == 2:
        return pack2(tiles[0], tiles[1], BD, BB)
    elif len(tiles) == 3:
        return pack4(tiles[0], tiles[1], tiles[2], tl.zeros_like(tiles[0]), BD, BB)
    else:
        return pack4(tiles[0], tiles[1], tiles[2], tiles[3], BD, BB)


# Streams are (time, batch, total * H). `row` is time * B + the first batch element of the tile, in int64; the offsets
# within a tile fit 32 bits. A single block is loaded as three dimensions, the units innermost as in memory: of any
# other tile that a matrix instruction's layout consumes Triton makes no asynchronous copy, or not everywhere.


@triton.jit
def load1(pointer, row, head, left, block: tl.constexpr, total: tl.constexpr,
          H: tl.constexpr, D, BD: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """One block of a stream as a tile [BD, BB]."""
    batch = tl.arange(0, BB)[:, None, None]
    unit = tl.arange(0, BD // 8)[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + block * H + unit)
    tile = tl.load(at, mask=(unit < D) & (batch < left), other=0.0)
    return tile.permute(1, 2, 0).reshape(BD, BB).to(ACC)


@triton.jit
def store1(pointer, tile, row, head, left, block: tl.constexpr, total: tl.constexpr,
           H: tl.constexpr, D, BD: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    unit = tl.arange(0, BD // 8)[:, None, None] * 8 + tl.arange(0, 8)[None, :, None]
    batch = tl.arange(0, BB)[None, None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + block * H + unit)
    tile = tile.to(pointer.dtype.element_ty).reshape(BD // 8, 8, BB)
    tl.store(at, tile, mask=(unit < D) & (batch < left))


@triton.jit
def load_stack(pointer, row, head, left, block: tl.constexpr, count: tl.constexpr, total: tl.constexpr,
               P: tl.constexpr, H: tl.constexpr, D, BD: tl.constexpr, BB: tl.constexpr,
               ACC: tl.constexpr):  # fmt: skip
    """`count` neighbouring blocks of a stream as a stack of P tiles; the parts beyond `count` are 0."""
    part, unit = row_part(P, BD)[:, None], row_unit(P, BD)[:, None]
    batch = tl.arange(0, BB)[None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + (block + part) * H + unit)
    return tl.load(at, mask=(part < count) & (unit < D) & (batch < left), other=0.0).to(ACC)


@triton.jit
def store_stack(pointer, stack, row, head, left, block: tl.constexpr, count: tl.constexpr, total: tl.constexpr,
                P: tl.constexpr, H: tl.constexpr, D, BD: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    part, unit = row_part(P, BD)[:, None], row_unit(P, BD)[:, None]
    batch = tl.arange(0, BB)[None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + (block + part) * H + unit)
    tl.store(at, stack.to(pointer.dtype.element_ty), mask=(part < count) & (unit < D) & (batch < left))


@triton.jit
def load_row(pointer, row, left, BB: tl.constexpr):
    """A stream with one integer for each element of the batch, as a row [1, BB].

    It has 32 bits: of two bytes a thread Triton 3.9 makes no asynchronous copy, and the adjoint of a masked LSTM of 64
    units would take half as long again by the estimate for sm_90.
    """
    batch = tl.arange(0, BB)[None, :]
    return tl.load(pointer + row + batch, mask=batch < left, other=0)


# A number for each element of the batch is a row [1, BB].


@triton.jit
def load_numbers(pointer, row, left, block: tl.constexpr, COUNT: tl.constexpr, total: tl.constexpr, BB: tl.constexpr,
                 ACC: tl.constexpr):  # fmt: skip
    """COUNT neighbouring numbers of a stream."""
    batch = tl.arange(0, BB)[None, :]
    number = (tl.load(pointer + row * total + (batch * total + block), mask=batch < left, other=0.0).to(ACC),)
    if COUNT == 1:
        return number
    else:
        return number + load_numbers(pointer, row, left, block + 1, COUNT - 1, total, BB, ACC)


@triton.jit
def store_numbers(pointer, numbers, row, left, block: tl.constexpr, total: tl.constexpr, BB: tl.constexpr):
    """Numbers as neighbouring ones of a stream."""
    batch = tl.arange(0, BB)[None, :]
    for n in tl.static_range(len(numbers)):
        at = pointer + row * total + (batch * total + block + n)
        tl.store(at, numbers[n].to(pointer.dtype.element_ty), mask=batch < left)


@triton.jit
def fill_numbers(pointer, total: tl.constexpr, begin, end, T, B, row_0, left, second, BB: tl.constexpr,
                 BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """Zeros at the steps before `begin` and from `end` on, which are not run."""
    zeros = tl.zeros([1, BB], tl.float32)
    for count in tl.range(0, begin + T - end, num_stages=1):
        time = step_at(tl.where(count < begin, count, count - begin + end), T, second, BACKWARDS, BOTH)
        for block in tl.static_range(total):
            store_numbers(pointer, (zeros,), time * tl.cast(B, tl.int64) + row_0, left, block, total, BB)


@triton.jit
def row_of(numbers, D: tl.constexpr, MEAN: tl.constexpr):
    row = numbers[None, :]
    return row * (1 / D) if MEAN else row


@triton.jit
def sum_tiles(tiles, D: tl.constexpr, BD: tl.constexpr, MEAN: tl.constexpr):
    """The sum over the units of each tile, or the mean, as a row. Four at a time, which wait for one another once."""
    COUNT: tl.constexpr = len(tiles)
    if COUNT == 1:
        return (row_of(tl.sum(bounded(tiles[0], 1, D, BD), axis=0), D, MEAN),)
    elif COUNT == 2:
        both = tl.join(bounded(tiles[0], 1, D, BD), bounded(tiles[1], 1, D, BD))
        a, b = tl.sum(both, axis=0).split()
        return row_of(a, D, MEAN), row_of(b, D, MEAN)
    elif COUNT <= 4:
        last = tiles[COUNT - 1]
        low = tl.join(bounded(tiles[0], 1, D, BD), bounded(tiles[1], 1, D, BD))
        high = tl.join(bounded(tiles[2], 1, D, BD), bounded(last, 1, D, BD))
        low, high = tl.sum(tl.join(low, high), axis=0).split()
        a, b = low.split()
        c, d = high.split()
        if COUNT == 3:
            return row_of(a, D, MEAN), row_of(b, D, MEAN), row_of(c, D, MEAN)
        else:
            return row_of(a, D, MEAN), row_of(b, D, MEAN), row_of(c, D, MEAN), row_of(d, D, MEAN)
    else:
        return sum_tiles(tiles[:4], D, BD, MEAN) + sum_tiles(tiles[4:], D, BD, MEAN)


@triton.jit
def largest_tiles(tiles, D: tl.constexpr, BD: tl.constexpr):
    """The largest unit of each tile, as a row."""
    inside = row_unit(1, BD)[:, None] < D
    row = (tl.max(tl.where(inside, tiles[0], float("-inf")), axis=0, keep_dims=True),)
    if len(tiles) == 1:
        return row
    else:
        return row + largest_tiles(tiles[1:], D, BD)


@triton.jit
def stack_of_matrices(pointer, head, block: tl.constexpr, count: tl.constexpr, P: tl.constexpr, HEADS: tl.constexpr,
                      ROWS: tl.constexpr, COLUMNS: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """`count` neighbouring matrices of a parameter (blocks, heads, ROWS, COLUMNS) as a stack of P: [P * BD, BD]."""
    part, unit = row_part(P, BD)[:, None], row_unit(P, BD)[:, None]
    column = tl.arange(0, BD)[None, :]
    SIZE: tl.constexpr = ROWS * COLUMNS
    at = pointer + head * SIZE + ((block + part) * (HEADS * SIZE) + unit * COLUMNS + column)
    return tl.load(at, mask=(part < count) & (unit < ROWS) & (column < COLUMNS), other=0.0)


@triton.jit
def stack_of_transposed(pointer, head, block: tl.constexpr, count: tl.constexpr, P: tl.constexpr, MP: tl.constexpr,
                        HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """The same matrices transposed, [MP * BD, P * BD], so that a product with a stack sums over its parts.

    The rows of all parts but the first are 0: padding to the 64 rows of a warpgroup's matrix instruction, which makes
    the adjoint of an LSTM of 32 units 2.2 times faster by the estimate for sm_90.
    """
    part, unit = row_part(P, BD)[None, :], row_unit(P, BD)[None, :]
    padding, row = row_part(MP, BD)[:, None], row_unit(MP, BD)[:, None]
    SIZE: tl.constexpr = ROWS * COLUMNS
    at = pointer + head * SIZE + ((block + part) * (HEADS * SIZE) + unit * COLUMNS + row)
    return tl.load(at, mask=(part < count) & (padding == 0) & (unit < ROWS) & (row < COLUMNS), other=0.0)


@triton.jit
def in_registers(stack):
    """The same matrices in the layout of a product's sums: Triton takes an operand in that from the registers.

    The sums are those of zeros, so they are 0 whatever a weight is. Triton does not know that: a choice by them gets
    their layout, and the weights with it. Nothing is computed with a weight: one that is infinite stays by itself.
    """
    columns: tl.constexpr = stack.shape[1]
    zero = tl.dot(
        tl.zeros((stack.shape[0], 16), stack.dtype), tl.zeros((16, columns), stack.dtype), out_dtype=tl.float32
    )
    return tl.where(zero == 0, stack, 0.0)


# Steps that are not run. An output that is a state's new value has the state there, any other one zeros.


@triton.jit
def first_tiles(pointer, state_ptr, begin, T, B, row_0, head, left, second, H: tl.constexpr, D,
                BD: tl.constexpr, BB: tl.constexpr, BACKWARDS: tl.constexpr, BOTH: tl.constexpr):  # fmt: skip
    """A state's first value at the steps before `begin`.

    From memory to memory, before anything else is loaded: with a tile from the loop's registers ptxas stores late in
    the loop, and a masked LSTM of 64 units takes twice as long by the estimate for sm_80.
    """
    unit, batch = tl.arange(0, BD)[None, :], tl.arange(0, BB)[:, None]
    inside, place = (unit < D) & (batch < left), head * D + (batch * H + unit)
    state = tl.load(state_ptr + row_0 * H + place, mask=inside)
    for count in tl.range(0, begin, num_stages=1):
        row = step_at(count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0
        tl.store(pointer + row * H + place, state, mask=inside)


@triton.jit
def fill_tiles(pointer, tile, total: tl.constexpr, begin, end, T, B, row_0, head, left, second, H: tl.constexpr,
               D, BD: tl.constexpr, BB: tl.constexpr, BACKWARDS: tl.constexpr,
               BOTH: tl.constexpr):  # fmt: skip
    """A state's last value at the steps from `end` on; where it is None zeros, and before `begin` too."""
    if tile is None:
        zeros = tl.zeros([BD, BB], tl.float32)
        for count in tl.range(0, begin + T - end, num_stages=1):
            time = step_at(tl.where(count < begin, count, count - begin + end), T, second, BACKWARDS, BOTH)
            for block in tl.static_range(total):
                row = time * tl.cast(B, tl.int64) + row_0
                store1(pointer, zeros, row, head, left, block, total, H, D, BD, BB)
    else:
        for count in tl.range(end, T, num_stages=1):
            row = step_at(count, T, second, BACKWARDS, BOTH) * tl.cast(B, tl.int64) + row_0
            store1(pointer, tile, row, head, left, 0, total, H, D, BD, BB)


# What is written for any number of blocks takes them four at a time: one stack is one access, or one product.


@triton.jit
def load_tiles(pointer, row, head, left, block: tl.constexpr, COUNT: tl.constexpr, total: tl.constexpr,
               H: tl.constexpr, D, BD: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """COUNT neighbouring blocks of a stream, each as a tile."""
    if COUNT == 1:
        return (load1(pointer, row, head, left, block, total, H, D, BD, BB, ACC),)
    elif COUNT <= 4:
        P: tl.constexpr = COUNT if COUNT == 2 else 4
        stack = load_stack(pointer, row, head, left, block, COUNT, total, P, H, D, BD, BB, ACC)
        return unpack(stack, COUNT, P, BD, BB)
    else:
        tiles = load_tiles(pointer, row, head, left, block, 4, total, H, D, BD, BB, ACC)
        return tiles + load_tiles(pointer, row, head, left, block + 4, COUNT - 4, total, H, D, BD, BB, ACC)


@triton.jit
def store_tiles(pointer, tiles, row, head, left, block: tl.constexpr, total: tl.constexpr,
                H: tl.constexpr, D, BD: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """Tiles as neighbouring blocks of a stream."""
    COUNT: tl.constexpr = len(tiles)
    if COUNT == 1:
        store1(pointer, tiles[0], row, head, left, block, total, H, D, BD, BB)
    elif COUNT <= 4:
        P: tl.constexpr = COUNT if COUNT == 2 else 4
        store_stack(pointer, pack(tiles, BD, BB), row, head, left, block, COUNT, total, P, H, D, BD, BB)
    else:
        store_tiles(pointer, tiles[:4], row, head, left, block, total, H, D, BD, BB)
        store_tiles(pointer, tiles[4:], row, head, left, block + 4, total, H, D, BD, BB)


@triton.jit
def load_vectors(pointer, head, block: tl.constexpr, COUNT: tl.constexpr, H: tl.constexpr, D,
                 BD: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Neighbouring blocks of a parameter of vectors, each as a column."""
    unit = tl.arange(0, BD)
    at = pointer + block * H + head * D + unit
    column = (tl.load(at, mask=unit < D, other=0.0).to(ACC)[:, None],)
    if COUNT == 1:
        return column
    else:
        return column + load_vectors(pointer, head, block + 1, COUNT - 1, H, D, BD, ACC)


@triton.jit
def load_matrices(pointer, head, block: tl.constexpr, COUNT: tl.constexpr, MP: tl.constexpr, WIDE: tl.constexpr,
                  HELD: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                  BD: tl.constexpr):  # fmt: skip
    """COUNT neighbouring matrices of a parameter: in stacks, or one by one where a stack does not fit the registers."""
    MOST: tl.constexpr = 4 if WIDE else 1
    RUN: tl.constexpr = COUNT if COUNT < MOST else MOST
    P: tl.constexpr = (MP if RUN == 1 else 2 if RUN == 2 else 4) if WIDE else 1
    stack = stack_of_matrices(pointer, head, block, RUN, P, HEADS, ROWS, COLUMNS, BD)
    if HELD:
        stack = in_registers(stack)
    if COUNT <= MOST:
        return (stack,)
    else:
        left: tl.constexpr = COUNT - MOST
        stacks = (stack,)
        return stacks + load_matrices(pointer, head, block + MOST, left, MP, WIDE, HELD, HEADS, ROWS, COLUMNS, BD)


@triton.jit
def load_transposed(pointer, head, block: tl.constexpr, COUNT: tl.constexpr, MP: tl.constexpr, WIDE: tl.constexpr,
                    HELD: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                    BD: tl.constexpr):  # fmt: skip
    """The same, transposed."""
    MOST: tl.constexpr = 4 if WIDE else 1
    RUN: tl.constexpr = COUNT if COUNT < MOST else MOST
    P: tl.constexpr = RUN if RUN <= 2 else 4
    PADDED: tl.constexpr = MP if WIDE else 1
    stack = stack_of_transposed(pointer, head, block, RUN, P, PADDED, HEADS, ROWS, COLUMNS, BD)
    if HELD:
        stack = in_registers(stack)
    if COUNT <= MOST:
        return (stack,)
    else:
        left: tl.constexpr = COUNT - MOST
        stacks = (stack,)
        return stacks + load_transposed(pointer, head, block + MOST, left, MP, WIDE, HELD, HEADS, ROWS, COLUMNS, BD)


@triton.jit
def multiply(matrices, tile, COUNT: tl.constexpr, MP: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr,
             BD: tl.constexpr, BB: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """M @ v for each of COUNT matrices of D columns."""
    operand = bounded(tile, 1, D, BD).to(matrices[0].dtype)
    product = tl.dot(matrices[0], operand, input_precision=PRECISION, out_dtype=ACC)
    if WIDE:
        if COUNT <= 4:
            return unpack(product, COUNT, MP, BD, BB)
        else:
            tiles = unpack(product, 4, MP, BD, BB)
            return tiles + multiply(matrices[1:], tile, COUNT - 4, MP, WIDE, D, BD, BB, PRECISION, ACC)
    else:
        if COUNT == 1:
            return (product,)
        else:
            tiles = (product,)
            return tiles + multiply(matrices[1:], tile, COUNT - 1, MP, WIDE, D, BD, BB, PRECISION, ACC)


@triton.jit
def operands(tiles, dtype: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr):
    """Tiles as what stacks of transposed matrices are applied to."""
    COUNT: tl.constexpr = len(tiles)
    if COUNT <= 4:
        P: tl.constexpr = COUNT if COUNT <= 2 else 4
        return (bounded(pack(tiles, BD, BB), P, D, BD).to(dtype),)
    else:
        return operands(tiles[:4], dtype, D, BD, BB) + operands(tiles[4:], dtype, D, BD, BB)


@triton.jit
def multiply_transposed(matrices, tiles, MP: tl.constexpr, WIDE: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
                        BB: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """The sum of M.T @ v over as many matrices of D rows and tiles."""
    if WIDE:  # all operands before the first product: else a step of the NAS cell takes 2131 cycles instead of 1968
        packed = operands(tiles, matrices[0].dtype, D, BD, BB)
        product = first(tl.dot(matrices[0], packed[0], input_precision=PRECISION, out_dtype=ACC), MP, BD, BB)
        for n in tl.static_range(1, len(packed)):
            more = tl.dot(matrices[n], packed[n], input_precision=PRECISION, out_dtype=ACC)
            product = product + first(more, MP, BD, BB)
    else:
        operand = bounded(tiles[0], 1, D, BD).to(matrices[0].dtype)
        product = tl.dot(matrices[0], operand, input_precision=PRECISION, out_dtype=ACC)
        for n in tl.static_range(1, len(tiles)):
            operand = bounded(tiles[n], 1, D, BD).to(matrices[n].dtype)
            product = tl.dot(matrices[n], operand, product, input_precision=PRECISION, out_dtype=ACC)
    return product
