"""Accesses of interpreted kernels, checked one by one: each has to lie in the tensor whose pointer it was made from.
And what offsets are made of: no sum, difference or product of integers may be beyond its type.

A kernel gets every tensor's address with a number in its highest byte, which pointer arithmetic leaves alone; where
the interpreter loads and stores, the byte says which tensor was meant, and is taken off. A band around each tensor
would miss what lands beyond it, or in a lane that nothing is made of.
"""

from dataclasses import dataclass

import numpy as np
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

_SHIFT = np.uint64(56)  # addresses of a process have fewer bits, on x86-64 and on ARM
_EXACT = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


class OutOfBounds(AssertionError):
    """A kernel has read or written what is none of the tensor's elements."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies. what: its type and shape, for a message."""

    start: int
    stop: int
    what: str


def watch() -> None:
    """Check all accesses from now on. A second call changes nothing."""
    if not isinstance(interpreter._interpreter, _Watched):
        watched = _Watched(interpreter._interpreter)
        interpreter._interpreter = watched
        interpreter._implicit_cvt = watched.numbering(interpreter._implicit_cvt)
        interpreter.GridExecutor.__call__ = watched.forgetting(interpreter.GridExecutor.__call__)
        TritonSemantic.binary_op_sanitize_overflow_impl = _must_fit


def _must_fit(semantic, left, right, operation):
    """In place of Triton's own check, which is slow and made for a debugger. Raises OverflowError."""
    kind = left.type.scalar
    if kind.int_bitwidth < 64:
        exact = _EXACT[operation.__name__](*(operand.handle.data.astype(np.int64) for operand in (left, right)))
        if exact.min() < kind.get_int_min_value() or exact.max() > kind.get_int_max_value():
            raise OverflowError(f"{operation.__name__} goes beyond {kind}")


class _Watched:
    """The interpreter's memory. places: of the tensors of the kernel that runs."""

    def __init__(self, memory):
        self.memory = memory
        self.places: list[_Place] = []

    def __getattr__(self, name):
        return getattr(self.memory, name)

    def load(self, pointers, mask, other, dtype):
        return self.memory.load(self._checked("read", pointers, mask, np.dtype(dtype).itemsize), mask, other, dtype)

    def store(self, pointers, value, mask):
        return self.memory.store(self._checked("written", pointers, mask, value.dtype.itemsize), value, mask)

    def atomic_rmw(self, operation, pointers, value, mask, order):
        checked = self._checked("counted at", pointers, mask, value.dtype.itemsize)
        return self.memory.atomic_rmw(operation, checked, value, mask, order)

    def _checked(self, done, pointers, mask, size):
        """The addresses without their numbers. Raises OutOfBounds unless those that the mask lets through fit."""
        numbers = pointers >> _SHIFT
        addresses = pointers & ((np.uint64(1) << _SHIFT) - np.uint64(1))
        for number in np.unique(numbers[mask]):
            place = self.places[int(number) - 1] if 0 < number <= len(self.places) else _Place(0, 0, "nothing")
            own = addresses[mask & (numbers == number)]
            if own.min() < place.start or own.max() + np.uint64(size) > place.stop:
                first, last = int(own.min()) - place.start, int(own.max()) + size - place.start
                length = place.stop - place.start
                raise OutOfBounds(f"out of bounds: {done} bytes {first} to {last} of {length}, of {place.what}")
        return addresses

    def numbering(self, convert):
        """The interpreter's conversion of arguments, with numbers in the pointers that it makes."""

        def converted(argument):
            result = convert(argument)
            if hasattr(argument, "data_ptr"):
                last = sum((size - 1) * stride for size, stride in zip(argument.shape, argument.stride(), strict=True))
                length = (last + 1) * argument.element_size() if argument.numel() else 0
                start = argument.data_ptr()
                what = f"a tensor {tuple(argument.shape)} of {argument.dtype}"
                self.places.append(_Place(start, start + length, what))
                result.handle.data = result.handle.data | np.uint64(len(self.places) << int(_SHIFT))
            return result

        return converted

    def forgetting(self, launch):
        """A launch that begins with the tensors of no other."""

        def launched(*arguments, **options):
            self.places.clear()
            return launch(*arguments, **options)

        return launched
