"""Products with stacks of matrices, dense or block-diagonal over heads.

A dense stack of k matrices (rows, columns) is one tensor (k * rows, columns). A block-diagonal one, with n square
blocks to a matrix, is (k * n, width, width). Vectors have any leading dimensions; a pack of k vectors has them side by
side in its last dimension.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rnngen.runtime import native


def product(stack: Tensor, vector: Tensor, added: Tensor | None = None) -> Tensor:
    """M @ v for each matrix M of the stack: (..., columns) to (..., k * rows), plus what is added to it.

    That is a bias (k * rows,), or a tensor of the shape of the result. What is of a wider type than the stack, by
    numbers that it was made with, is rounded to that type.
    """
    vector, added = vector.to(stack.dtype), None if added is None else added.to(stack.dtype)
    if (added is None or added.dim() in (1, 3)) and native.multiplies(stack, vector, added):
        if not _recorded(stack, vector, *([] if added is None else [added])):
            return native.product(stack, vector, added)
        return _Product.apply(stack, vector, added)  # type: ignore[no-any-return, no-untyped-call]
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


def product_transposed(stack: Tensor, pack: Tensor, count: int, added: Tensor | None = None) -> Tensor:
    """The sum of M.T @ v over the `count` matrices of the stack: (..., count * rows) to (..., columns), plus what is
    added to it, of the shape of the result. Of the same operations as `outer`.
    """
    if added is None and not _recorded(stack, pack) and native.multiplies(stack, pack):
        columns = stack.shape[1] if stack.dim() == 2 else pack.shape[-1] // count
        return native.product_transposed(stack, pack, pack.new_empty(*pack.shape[:-1], columns))
    if stack.dim() == 2:
        result = pack @ stack
    else:
        width = stack.shape[-1]
        heads = stack.shape[0] // count
        rows = pack.reshape(-1, count, heads, width).permute(2, 0, 1, 3).reshape(heads, -1, count * width)
        by_head = torch.bmm(rows, stack.reshape(count, heads, width, width).transpose(0, 1).reshape(heads, -1, width))
        result = by_head.transpose(0, 1).reshape(*pack.shape[:-1], heads * width)
    return result if added is None else result + added


def outer(pack: Tensor, vector: Tensor, like: Tensor) -> Tensor:
    """The sum of d v.T over all rows, in the layout of the stack `like`: what a product passes back to its matrices. As
    in `product`, what is of a wider type is rounded.

    Of operations that torch's older vmap knows too, by which it takes batches of gradients: no flatten, no einsum.
    """
    if _outer_is_native(pack, vector, like):
        return native.outer(pack, vector, like)
    rows, columns = (tensor.reshape(-1, tensor.shape[-1]).to(like.dtype) for tensor in (pack, vector))
    if like.dim() == 2:
        return rows.T @ columns
    steps, width = columns.shape[0], like.shape[-1]
    heads, count = columns.shape[-1] // width, rows.shape[-1] // columns.shape[-1]
    rows = rows.reshape(steps, count, heads, width).permute(2, 1, 3, 0).reshape(heads, count * width, steps)
    by_head = torch.bmm(rows, columns.reshape(steps, heads, width).transpose(0, 1))
    return by_head.reshape(heads, count, width, width).transpose(0, 1).reshape(count * heads, width, width)


def _outer_is_native(pack: Tensor, vector: Tensor, like: Tensor) -> bool:
    return pack.dtype == vector.dtype and not _recorded(pack, vector) and native.multiplies(like, vector, pack)


def _outer_and_total(pack: Tensor, vector: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """`outer`, and the sum of the pack over time, which native code has by the way."""
    if not _outer_is_native(pack, vector, like):
        return outer(pack, vector, like), pack.sum((0, 1))
    total = pack.new_empty(pack.shape[-1])
    return native.outer(pack, vector, like, total=total), total


class Projection(NamedTuple):
    """A product over time that only a scan asks for, which may compute it some steps at a time."""

    stack: Tensor
    rows: Tensor
    bias: Tensor | None

    @property
    def width(self) -> int:
        """Of its rows."""
        return native.outputs_of(self.stack)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product."""
        return (*self.rows.shape[:-1], self.width)

    @property
    def tensor(self) -> Tensor:
        """The product."""
        return product(*self)


def product_for_scan(stack: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor | Projection:
    """`product` for a scan alone, which decides how it is computed."""
    if rows.dim() != 3 or rows.dtype != stack.dtype or torch.compiler.is_compiling():
        return product(stack, rows, bias)
    return Projection(stack, rows, bias)


class _Product(torch.autograd.Function):
    """A product over time by native code, and what is added to it: a bias, or as much as there is of the product."""

    @staticmethod
    def forward(ctx: Any, stack: Tensor, rows: Tensor, added: Tensor | None) -> Tensor:
        ctx.save_for_backward(stack, rows)
        ctx.count = 1 if stack.dim() == 2 else stack.shape[0] * stack.shape[-1] // rows.shape[-1]
        ctx.is_bias = added is None or added.dim() == 1
        return native.product(stack, rows, added)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        stack, rows = ctx.saved_tensors
        of_stack, of_rows, of_added = ctx.needs_input_grad
        d_rows = product_transposed(stack, d, ctx.count) if of_rows else None
        if of_stack and of_added and ctx.is_bias:
            d_stack, d_bias = _outer_and_total(d, rows, stack)
            return d_stack, d_rows, d_bias
        d_added = (d.sum((0, 1)) if ctx.is_bias else d) if of_added else None
        return outer(d, rows, stack) if of_stack else None, d_rows, d_added


def _recorded(*tensors: Tensor) -> bool:
    """Whether torch is to differentiate what is made of them."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def blocks(stack: Tensor, count: int, start: int, stop: int, dim: int = 0) -> Tensor:
    """Blocks `start` up to `stop` of a parameter that stacks `count` of them, or of a pack if `dim` is -1; a view."""
    rows = stack.shape[dim] // count
    return stack.narrow(dim, start * rows, (stop - start) * rows)


Bound = Callable[[Tensor], object]


def product_into(out: Tensor, stack: Tensor, count: int) -> Bound:
    """A function that writes M @ v for each of the `count` matrices of the stack: of (batch, columns) to out,
    (batch, count * rows). It makes no tensor that takes memory.
    """
    if stack.dim() == 2:
        return partial(torch.mm, mat2=stack.T, out=out)
    heads, width = stack.shape[0] // count, stack.shape[1]
    by_head = stack.view(count, heads, width, width).permute(1, 3, 0, 2).reshape(heads, width, count * width)
    found = out.new_empty(heads, out.shape[0], count * width)
    into, parts = out.view(-1, count, heads, width), found.view(heads, -1, count, width).permute(1, 2, 0, 3)

    def run(vector: Tensor) -> None:
        torch.bmm(vector.view(-1, heads, width).transpose(0, 1), by_head, out=found)
        into.copy_(parts)

    return run


def product_transposed_into(out: Tensor, stack: Tensor, count: int) -> Bound:
    """A function that writes the sum of M.T @ v over the `count` matrices of the stack: of (batch, count * rows) to
    out, (batch, columns). It makes no tensor that takes memory.
    """
    if stack.dim() == 2:
        return partial(torch.mm, mat2=stack, out=out)
    heads, width = stack.shape[0] // count, stack.shape[1]
    by_head = stack.view(count, heads, width, width).transpose(0, 1).reshape(heads, count * width, width)
    given, found = out.new_empty(heads, out.shape[0], count * width), out.new_empty(heads, out.shape[0], width)
    into, parts = out.view(-1, heads, width), given.view(heads, -1, count, width).permute(1, 2, 0, 3)

    def run(pack: Tensor) -> None:
        parts.copy_(pack.view(-1, count, heads, width))
        torch.bmm(given, by_head, out=found)
        into.copy_(found.transpose(0, 1))

    return run
