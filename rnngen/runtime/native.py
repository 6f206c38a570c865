"""Native code on a CPU: the functions of a module's C, and products over all rows, compiled when they are first called.

It is for plain tensors, whose memory is at hand. What torch sees under a compiler, a trace or a transform is none, and
goes by torch's own operations, as it does where there is no compiler of C.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from struct import Struct
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from rnngen.runtime.compiler import library

REALS: Mapping[torch.dtype, str] = {torch.float32: "float", torch.float64: "double"}


class Native(Protocol):
    """A function of C: it takes a row of 64 bits for each number and pointer, and gives 0, or 1 without memory."""

    argtypes: list[Any]

    def __call__(self, row: bytes, /) -> int:
        """Runs it."""


MOST_ROOM = 2**21  # elements of room that is kept
_TYPES = frozenset({Tensor, nn.Parameter})
# Private, and asked because nothing public says it; a torch without them is one where something is always active.
_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes_active: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_has_storage: Callable[[Tensor], bool] = getattr(torch._C, "_has_storage", lambda tensor: False)  # not in an older vmap


def _is_forward_mode() -> bool:
    return getattr(forward_ad, "_current_level", 0) >= 0


def is_transformed() -> bool:
    """Whether torch differentiates in forward mode, or a transform of torch.func watches."""
    return _is_forward_mode() or bool(_transforms_active())


def plain(tensors: Sequence[Tensor | None], dtype: torch.dtype | None = None) -> bool:
    """Whether these are tensors on the CPU as torch makes them, and nothing watches what is done with them; of one type
    if it is given.
    """
    if is_watched():
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _TYPES or not tensor.is_cpu or not _has_storage(tensor) or tensor.is_neg():
            return False
        if dtype is not None and tensor.dtype != dtype:
            return False
    return True


def is_watched() -> bool:
    """Whether somebody records or changes what operations do, so that what a tensor holds must not decide on them."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_forward_mode():
        return True
    return bool(_transforms_active() or _modes_active())


def compiled(text: bytes, name: str, dtype: torch.dtype, module: str) -> Native | None:
    """A function of a C text for tensors of a type; None where there is none, or nothing compiles it. module: what the
    user is told is being compiled.
    """
    found = library(text, REALS[dtype], module) if dtype in REALS else None
    if found is None:
        return None
    native: Native = getattr(found, name)
    native.argtypes = [ctypes.c_char_p]
    return native


def call(
    native: Native,
    time: int,
    batch: int,
    sizes: Sequence[int],
    heads: int,
    backwards: bool,
    tensors: Sequence[Tensor | None],
) -> None:
    """Run a sweep. tensors: contiguous, in the order of `launch.Arguments.tensors`, None for what is not there.

    By as many threads as torch has; bits do not depend on their number. Raises MemoryError.
    """
    numbers = (time, batch, heads, backwards, torch.get_num_threads(), *sizes)
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    if native(_row(len(numbers), len(pointers)).pack(*numbers, *pointers)):
        raise MemoryError(f"There is no memory for a scan over a batch of {batch}.")


@cache
def _row(numbers: int, pointers: int) -> Struct:
    """How a call is written: a row of 64 bits for each. To pass them one by one takes ctypes three times as long."""
    return Struct(f"{numbers}q{pointers}Q")


# Products over all rows.


_known: dict[torch.dtype, Mapping[str, Native]] = {}


def _products(dtype: torch.dtype) -> Mapping[str, Native] | None:
    """The functions of products.c, None where nothing compiles them; the next call asks again."""
    if dtype not in _known and dtype in REALS:
        names = ("product", "product_transposed", "outer")
        found = {name: compiled(_text(), name, dtype, "products") for name in names}
        functions = {name: function for name, function in found.items() if function is not None}
        if len(functions) == len(names):
            _known[dtype] = functions
    return _known.get(dtype)


@cache
def _text() -> bytes:
    return (Path(__file__).parent / "c" / "products.c").read_bytes()


def has_products(dtype: torch.dtype) -> bool:
    """Whether there is native code for products of tensors of a type."""
    return _products(dtype) is not None


def multiplies(stack: Tensor, rows: Tensor, *others: Tensor | None) -> bool:
    """Whether native code multiplies rows over time, (time, batch, width), with a stack. Not under autocast."""
    dtype = stack.dtype
    if rows.dim() != 3 or rows.dtype != dtype or not plain((stack, rows, *others)):
        return False
    if stack.dim() == 3 and stack.shape[1] != stack.shape[2]:  # of two directions at once
        return False
    return not torch.is_autocast_enabled("cpu") and has_products(dtype)


def _numbers(stack: Tensor, inputs: int, outputs: int) -> tuple[int, int, int, int]:
    """How many matrices a stack has, the rows and columns of each, and their heads; 0 of a dense one."""
    if stack.dim() == 2:
        return 1, outputs, inputs, 0
    return outputs // inputs, inputs, inputs, inputs // stack.shape[-1]


def product(stack: Tensor, rows: Tensor, added: Tensor | None, out: Tensor | None = None) -> Tensor:
    """See `linear.product`. out: where it goes, (time, batch, k * rows)."""
    if out is None:
        out = rows.new_empty(*rows.shape[:-1], outputs_of(stack))
    whole = added is not None and added.dim() == 3
    _run("product", out, rows, stack, added, _numbers(stack, rows.shape[-1], out.shape[-1]), whole)
    return out


def product_transposed(stack: Tensor, rows: Tensor, out: Tensor) -> Tensor:
    """See `linear.product_transposed`. out: where it goes, (time, batch, columns)."""
    _run("product_transposed", out, rows, stack, None, _numbers(stack, out.shape[-1], rows.shape[-1]))
    return out


def outer(pack: Tensor, rows: Tensor, like: Tensor, more: Tensor | None = None, total: Tensor | None = None) -> Tensor:
    """See `linear.outer`. more: what it is added to, in place. total: where the sum of the pack over all rows goes, or
    with `more` what it is added to: (k * rows,). Of a pack of 1024 rows, 256 wide, that takes 5 us more, and torch 15.
    """
    out = more
    if out is None and like.dim() == 2:
        out = pack.new_empty(pack.shape[-1], rows.shape[-1])
    elif out is None:
        out = pack.new_empty(pack.shape[-1] // like.shape[-1], *like.shape[1:])
    rows, pack = _in_rows(rows), _in_rows(pack)
    _run("outer", out, rows, pack, None, _numbers(like, rows.shape[-1], pack.shape[-1]), more is not None, total)
    return out


def _in_rows(rows: Tensor) -> Tensor:
    """Rows over time, (time, batch, width), as evenly apart as they may be in memory: blocks of a pack are no copy."""
    time, batch, width = rows.stride()
    return rows if width == 1 and time == rows.shape[1] * batch else rows.contiguous()


def outputs_of(stack: Tensor) -> int:
    """The width of what a stack gives."""
    return stack.shape[0] if stack.dim() == 2 else stack.shape[0] * stack.shape[1]


_NUMBERS = Struct("4Q7qQ2q")


def _run(
    name: str,
    out: Tensor,
    rows: Tensor,
    matrices: Tensor,
    bias: Tensor | None,
    numbers: tuple[int, int, int, int],
    more: bool = False,
    total: Tensor | None = None,
) -> None:
    """A function of products.c, which says what these are."""
    functions = _products(rows.dtype)
    assert functions is not None
    if name != "outer":
        rows, matrices = rows.contiguous(), matrices.contiguous()
    bias = None if bias is None else bias.contiguous()
    pointers = out.data_ptr(), rows.data_ptr(), matrices.data_ptr(), 0 if bias is None else bias.data_ptr()
    count = rows.shape[0] * rows.shape[1]
    other = 0 if total is None else total.data_ptr()
    apart = rows.stride(1), matrices.stride(1)
    if functions[name](_NUMBERS.pack(*pointers, count, *numbers, torch.get_num_threads(), more, other, *apart)):
        raise MemoryError(f"There is no memory for a product of {count} rows.")


@cache
def keep_what_is_freed() -> None:
    """Let the C library keep what one call frees for the next one, up to 32 MB.

    glibc gives memory back to the system beyond twice the largest block that was ever freed, so one of 16 MB is, which
    nothing was written to. Fresh pages take longer than what is computed: 128 steps of dreamer_gru with 64 units and 16
    sequences took 7.2 ms, 1500 pages each time, and take 4.2.
    """
    torch.empty(2**24, dtype=torch.uint8, device="cpu")


class _Room(threading.local):
    """Memory of a thread that calls use again: fresh pages of the system take longer than what is written to them."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}  # and the last view of it


_room = _Room()


def room(of: object, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for what is needed until the next call asks for the same. of: what it is for."""
    key = of, dtype
    memory, view = _room.tensors.get(key, (None, None))
    if memory is not None and view is not None and view.shape == shape:
        return view
    size = prod(shape)
    if memory is None or memory.numel() < size:
        with torch.inference_mode(False):  # where no later call could write into it
            memory = torch.empty(size, dtype=dtype, device="cpu")
    view = memory[:size].view(shape)
    if size <= MOST_ROOM:
        _room.tensors[key] = memory, view
    return view
