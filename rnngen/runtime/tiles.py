"""Several tiles as the rows of one, so that the gates of a cell are one product and one access to memory.

A stack of P tiles (BD units, BB batch) is one matrix of P * BD rows. Row r belongs to a part p and a unit d:

    bits of r, from low to high:    d0 d1 d2 | p0 | d3 d4 ... | p1            (with P = 2 there is only p0)

Eight neighbouring rows are neighbouring units, so an access has 16 bytes a thread in half precision. The bits of p are
those two that the accumulator of a matrix instruction keeps within one thread, so that taking the stack apart and
putting it together moves no data: an LSTM's forward step of 64 units has 4 barriers on sm_90,
where FlashRNN's kernel, with a product for each gate, has 20.
"""

from rnngen.runtime.language import tl, triton


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


# Streams are (time, batch, total * H). `row` is time * B + the first batch element of the tile, in int64; the offsets
# within a tile fit 32 bits. A single block is loaded as three dimensions: of a two-dimensional tile that a matrix
# instruction's layout consumes Triton 3.9 makes no asynchronous copies.


@triton.jit
def load1(pointer, row, head, left, block: tl.constexpr, total: tl.constexpr,
          H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """One block of a stream as a tile [BD, BB]."""
    unit = tl.arange(0, BD // 8)[:, None, None] * 8 + tl.arange(0, 8)[None, :, None]
    batch = tl.arange(0, BB)[None, None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + block * H + unit)
    return tl.load(at, mask=(unit < D) & (batch < left), other=0.0).reshape(BD, BB).to(ACC)


@triton.jit
def store1(pointer, tile, row, head, left, block: tl.constexpr, total: tl.constexpr,
           H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    unit = tl.arange(0, BD // 8)[:, None, None] * 8 + tl.arange(0, 8)[None, :, None]
    batch = tl.arange(0, BB)[None, None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + block * H + unit)
    tile = tile.to(pointer.dtype.element_ty).reshape(BD // 8, 8, BB)
    tl.store(at, tile, mask=(unit < D) & (batch < left))


@triton.jit
def load_stack(pointer, row, head, left, block: tl.constexpr, count: tl.constexpr, total: tl.constexpr,
               P: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr,
               ACC: tl.constexpr):  # fmt: skip
    """`count` neighbouring blocks of a stream as a stack of P tiles; the parts beyond `count` are 0."""
    part, unit = row_part(P, BD)[:, None], row_unit(P, BD)[:, None]
    batch = tl.arange(0, BB)[None, :]
    at = pointer + row * (total * H) + head * D + (batch * (total * H) + (block + part) * H + unit)
    return tl.load(at, mask=(part < count) & (unit < D) & (batch < left), other=0.0).to(ACC)


@triton.jit
def store_stack(pointer, stack, row, head, left, block: tl.constexpr, count: tl.constexpr, total: tl.constexpr,
                P: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr):  # fmt: skip
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


@triton.jit
def load2(pointer, row, head, left, block: tl.constexpr, total: tl.constexpr,
          H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    return unpack2(load_stack(pointer, row, head, left, block, 2, total, 2, H, D, BD, BB, ACC), BD, BB)


@triton.jit
def load3(pointer, row, head, left, block: tl.constexpr, total: tl.constexpr,
          H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    a, b, c, _ = unpack4(load_stack(pointer, row, head, left, block, 3, total, 4, H, D, BD, BB, ACC), BD, BB)
    return a, b, c


@triton.jit
def load4(pointer, row, head, left, block: tl.constexpr, total: tl.constexpr,
          H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    return unpack4(load_stack(pointer, row, head, left, block, 4, total, 4, H, D, BD, BB, ACC), BD, BB)


@triton.jit
def load_matrices(pointer, head, block: tl.constexpr, count: tl.constexpr, P: tl.constexpr,
                  HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """`count` neighbouring matrices of a parameter (blocks, heads, D, D) as a stack of P: [P * BD, BD]."""
    part, unit = row_part(P, BD)[:, None], row_unit(P, BD)[:, None]
    column = tl.arange(0, BD)[None, :]
    at = pointer + head * (D * D) + ((block + part) * (HEADS * D * D) + unit * D + column)
    return tl.load(at, mask=(part < count) & (unit < D) & (column < D), other=0.0)


@triton.jit
def load_transposed(pointer, head, block: tl.constexpr, count: tl.constexpr, P: tl.constexpr, MP: tl.constexpr,
                    HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """The same matrices transposed, [MP * BD, P * BD], so that a product with a stack sums over its parts.

    The rows of all parts but the first are 0: padding to the 64 rows of a warpgroup's matrix instruction, which makes
    the adjoint of an LSTM of 32 units 2.2 times faster by the estimate for sm_90.
    """
    part, unit = row_part(P, BD)[None, :], row_unit(P, BD)[None, :]
    padding, row = row_part(MP, BD)[:, None], row_unit(MP, BD)[:, None]
    at = pointer + head * (D * D) + ((block + part) * (HEADS * D * D) + unit * D + row)
    return tl.load(at, mask=(part < count) & (padding == 0) & (unit < D) & (row < D), other=0.0)
