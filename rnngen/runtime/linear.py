"""Products with stacks of matrices, dense or block-diagonal over heads.

A dense stack of k matrices (rows, columns) is one tensor (k * rows, columns). A block-diagonal one, with n square
blocks to a matrix, is (k * n, width, width). Vectors have any leading dimensions; a pack of k vectors has them side by
side in its last dimension.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def product(stack: Tensor, vector: Tensor, added: Tensor | None = None) -> Tensor:
    """M @ v for each matrix M of the stack: (..., columns) to (..., k * rows), plus what is added to it.

    That is a bias (k * rows,), or a tensor of the shape of the result. What is of a wider type than the stack, by
    numbers that it was made with, is rounded to that type.
    """
    vector, added = vector.to(stack.dtype), None if added is None else added.to(stack.dtype)
    if stack.dim() == 2:
        if added is None or added.dim() == 1:
            return F.linear(vector, stack, added)
        if vector.dim() != added.dim():
            return F.linear(vector, stack) + added
        if vector.dim() == 2:
            return torch.addmm(added, vector, stack.T)
        return torch.addmm(added.flatten(0, -2), vector.flatten(0, -2), stack.T).view_as(added)
    heads = vector.shape[-1] // stack.shape[-1]
    by_head = vector.unflatten(-1, (heads, -1))
    result = torch.einsum("knij,...nj->...kni", stack.unflatten(0, (-1, heads)), by_head).flatten(-3)
    return result if added is None else result + added


def product_transposed(stack: Tensor, pack: Tensor, count: int) -> Tensor:
    """The sum of M.T @ v over the `count` matrices of the stack: (..., count * rows) to (..., columns)."""
    if stack.dim() == 2:
        return pack @ stack
    by_head = pack.unflatten(-1, (count, -1, stack.shape[-1]))
    return torch.einsum("knij,...kni->...nj", stack.unflatten(0, (count, -1)), by_head).flatten(-2)


def outer(pack: Tensor, vector: Tensor, like: Tensor) -> Tensor:
    """The sum of d v.T over all rows, in the layout of the stack `like`: what a product passes back to its matrices. As
    in `product`, what is of a wider type is rounded.

    Of operations that torch's older vmap knows too, by which it takes batches of gradients: no flatten, no einsum.
    """
    rows, columns = (tensor.reshape(-1, tensor.shape[-1]).to(like.dtype) for tensor in (pack, vector))
    if like.dim() == 2:
        return rows.T @ columns
    steps, width = columns.shape[0], like.shape[-1]
    heads, count = columns.shape[-1] // width, rows.shape[-1] // columns.shape[-1]
    rows = rows.reshape(steps, count, heads, width).permute(2, 1, 3, 0).reshape(heads, count * width, steps)
    by_head = torch.bmm(rows, columns.reshape(steps, heads, width).transpose(0, 1))
    return by_head.reshape(heads, count, width, width).transpose(0, 1).reshape(count * heads, width, width)


def blocks(stack: Tensor, count: int, start: int, stop: int) -> Tensor:
    """Blocks `start` up to `stop` of a parameter that stacks `count` of them; a view."""
    rows = stack.shape[0] // count
    return stack[start * rows : stop * rows]


def product_into(out: Tensor, stack: Tensor, vector: Tensor) -> None:
    """M @ v for each matrix of the stack, (batch, columns) to (batch, k * rows)."""
    if stack.dim() == 2:
        torch.mm(vector, stack.T, out=out)
    else:
        out.copy_(product(stack, vector))


def product_transposed_into(out: Tensor, stack: Tensor, pack: Tensor, count: int) -> None:
    """The sum of M.T @ v over the `count` matrices of the stack, (batch, count * rows) to (batch, columns)."""
    if stack.dim() == 2:
        torch.mm(pack, stack, out=out)
    else:
        out.copy_(product_transposed(stack, pack, count))
