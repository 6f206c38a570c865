"""Repairs of Triton's interpreter, so that a kernel computes on a CPU what it computes when compiled.

The interpreter keeps a bfloat16 block as the uint16 array of its bits. It calculates with those bits, even in
`tl.dot`, and truncates where hardware rounds: wrong numbers, and no exception. `mend` repairs that and the
other differences it lists, from Triton 3.6 on. Compiled kernels are not affected.
"""

import functools
from dataclasses import replace

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, ReduceOps, ScanOps, TensorHandle

from rnngen.runtime.lockstep import running, together


def mend() -> None:
    """Make Triton's interpreter right. A second call changes nothing.

    * Casts to bfloat16 round once, to nearest even.
    * Arithmetic, comparisons, reductions, constants and `tl.dot` of bfloat16 are those of the values, each
      result rounded. `tl.sum`, `tl.cumsum` and `tl.cumprod` are rounded at their end only, as in torch.
    * `tl.fma` of bfloat16 and of float32 rounds once.
    * A comparison has type int1, so `block_mask & (scalar > 0)` is a mask (Triton 3.9 rejects it).
    * A float argument of a kernel is a float32 scalar, and a bool an int1, as in the signature of a compiled
      kernel.
    * `range(n)` takes a scalar that is not a constant (Triton 3.6 fails with numpy 2.4).
    * A scan by a function of one's own asks it of the whole block at once, as often as its length can be halved, and
      not of each element.
    * A function that a kernel calls finds `tl` as the launch prepared it: preparing it again for each call took
      a third of the time.
    * Sums and products of integers are not computed again in 64 bits, for a check that does nothing by itself:
      it took a fifth.
    * Programs of a cooperative grid run in lock-step: see `lockstep`. One after the other they would wait forever.
    * Overflow and division by zero are silent, as on a GPU; numpy warns of them.
    """
    builder = interpreter.interpreter_builder
    if isinstance(builder, _MendedBuilder):
        return
    # Kernels that were rewritten before hold on to this very object, so it changes class and is not replaced.
    builder.__class__ = _MendedBuilder
    ReduceOps.sum = _in_float32(ReduceOps.sum)
    ReduceOps.min_max = _in_float32(ReduceOps.min_max)
    ScanOps.cumsum = _in_float32(ScanOps.cumsum)
    ScanOps.cumprod = _in_float32(ScanOps.cumprod)
    ScanOps.generic_scan = _scan_by_doubling
    GridExecutor.__call__ = np.errstate(all="ignore")(together(GridExecutor.__call__))
    interpreter._implicit_cvt = _with_typed_scalars(interpreter._implicit_cvt)
    interpreter._patch_lang_tensor = _with_index(interpreter._patch_lang_tensor)
    interpreter._patch_lang = _unless_patched(interpreter._patch_lang)
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)


class _MendedBuilder(InterpreterBuilder):
    """The interpreter's operations, with bfloat16 operands taken by value and not by their bits."""

    def get_bf16(self, value):
        return self.cast_impl(self.get_fp32(value), tl.bfloat16)

    def cast_impl(self, src, dst_type):
        if _is_bfloat16(src):
            src = TensorHandle(_values(src.data), tl.float32)
        if dst_type.scalar == tl.bfloat16:
            return TensorHandle(_nearest_bits(src.data), tl.bfloat16)
        return super().cast_impl(src, dst_type)

    def unary_op(self, arg, op):
        result = super().unary_op(self._widened(arg), op)
        return self.cast_impl(result, arg.dtype) if _is_bfloat16(arg) else result

    def binary_op(self, lhs, rhs, op):
        result = super().binary_op(self._widened(lhs), self._widened(rhs), op)
        if result.data.dtype == np.bool_:
            # The base class says that a comparison has the type of its operands.
            return TensorHandle(result.data, tl.int1)
        return self.cast_impl(result, lhs.dtype) if _is_bfloat16(lhs) else result

    def create_fma(self, x, y, z):
        if z.dtype.scalar == tl.float32:  # whose product is exact in float64
            wide = super().create_fma(*(self.cast_impl(operand, tl.float64) for operand in (x, y, z)))
            return self.cast_impl(wide, tl.float32)
        if not _is_bfloat16(z):
            return super().create_fma(x, y, z)
        # The product of two bfloat16 is exact in float64, so that only the last cast rounds.
        result = super().create_fma(*(self.cast_impl(operand, tl.float64) for operand in (x, y, z)))
        return self.cast_impl(result, tl.bfloat16)

    def create_dot(self, a, b, d, *precision):
        return super().create_dot(self._widened(a), self._widened(b), d, *precision)

    def create_atomic_rmw(self, op, pointer, value, mask, *order):
        found = super().create_atomic_rmw(op, pointer, value, mask, *order)
        if launch := running():
            launch.changed(bool(np.any(value.data)))
        return found

    def _widened(self, operand):
        """The operand in float32 if it is bfloat16, or as it is."""
        return self.cast_impl(operand, tl.float32) if _is_bfloat16(operand) else operand


def _is_bfloat16(handle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _values(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits. A bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _nearest_bits(values: np.ndarray) -> np.ndarray:
    """The bits of the bfloat16 nearest to each number, ties to even."""
    exact = values.astype(np.float64)
    single = exact.astype(np.float32)
    bits = single.view(np.uint32)
    # Rounding to float32 and then again could move a number onto a tie. So where float32 is not exact, take
    # the odd one of its two neighbours: never a tie, and on the same side of every tie as the number itself.
    bits = np.where(single != exact, (bits - (np.abs(single) > np.abs(exact))) | 1, bits)
    # Just under half a unit carries into the upper half from above a tie; on a tie the last bit kept decides.
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(exact), 0x7FC0, nearest).astype(np.uint16)


def _in_float32(reduction):
    """Give the interpreter's numpy reductions, which know no bfloat16, its values in float32."""

    @functools.wraps(reduction)
    def reduced(self, operand, *args, **kwargs):
        if operand.dtype != tl.bfloat16:
            return reduction(self, operand, *args, **kwargs)
        result = reduction(self, operand.to(tl.float32), *args, **kwargs)
        if isinstance(result, tl.tensor):
            return _narrowed(result)
        return type(result)(_narrowed(part) for part in result)

    return reduced


def _scan_by_doubling(self, operands):
    """`ScanOps.generic_scan` with a call of the function for each doubling of the distance between what it combines.

    The function is asked of whole blocks, as they are all that it may see: what it says of the first elements, and of
    the last ones before them, is not looked at.
    """
    found = [operand.handle.data.copy() for operand in operands]
    rows = [np.moveaxis(data, self.axis, 0) for data in found]  # views
    distance = 1
    while distance < len(rows[0]):
        before = [self.to_tensor(np.roll(row, distance, 0), o.dtype) for row, o in zip(rows, operands, strict=True)]
        after = [self.to_tensor(row.copy(), o.dtype) for row, o in zip(rows, operands, strict=True)]
        combined = self.combine_fn.fn(*before, *after)
        for row, part in zip(rows, combined if isinstance(combined, tuple) else (combined,), strict=True):
            row[distance:] = part.handle.data[distance:] if isinstance(part, tl.tensor) else part
        distance *= 2
    return [self.to_tensor(data, operand.dtype) for data, operand in zip(found, operands, strict=True)]


def _narrowed(result):
    """A reduced value in bfloat16. Where a maximum was found is an integer, and stays one."""
    return result.to(tl.bfloat16) if result.dtype == tl.float32 else result


def _with_typed_scalars(convert):
    """Give floats and bools among the arguments of a kernel the types of a compiled kernel's signature."""

    @functools.wraps(convert)
    def converted(argument):
        builder = interpreter.interpreter_builder
        if isinstance(argument, bool):
            return tl.tensor(builder.get_int1(argument), tl.int1)
        if isinstance(argument, float):
            return tl.tensor(builder.get_fp32(argument), tl.float32)
        return convert(argument)

    return converted


def _unless_patched(patch):
    """Leave the language alone that has the interpreter's operations already, in every module that a function sees.

    A launch ends with the tensor's own methods, so the next one begins with a language that has to be prepared.
    """
    modules = {}  # by function: looking for them among its globals takes as long as a small kernel

    @functools.wraps(patch)
    def patched(fn):
        if fn not in modules:
            modules[fn] = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        if tl.core.is_builtin(tl.tensor.__add__) or any(tl.core.is_builtin(module.load) for module in modules[fn]):
            return patch(fn)
        return interpreter._LangPatchScope()

    return patched


def _with_index(patch):
    """Let a scalar of the interpreter, which is an array of one element, be an index: the n of `range(n)`."""

    @functools.wraps(patch)
    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: scalar.handle.data.item())

    return patched
