"""A GPU that is not there: everything that happens on one up to the launch of a kernel, and no launch.

    with pretended(CARDS["H100"]) as gpu:
        layer = LSTM(8, 64, device="cuda", dtype=torch.bfloat16)
        y, _ = layer(torch.randn(20, 3, 8, device="cuda", dtype=torch.bfloat16))
    gpu.launches, gpu.variants, gpu.faults

Real are torch's dispatcher and autograd, the operators, the choice of a schedule, every allocation and grid, and
Triton's binder, its cache and, on demand, its compiler and its check of shared memory. Not real is the launch: what a
kernel would have written is whatever was in memory. Other operations of torch compute, on the CPU, so that a device
without kernels gives right numbers.

A tensor of torch's cannot be on a device that torch was not built for. These are on "meta" for C++, with the dispatch
keys of the device that they pretend to be on, and Python is told another device. So nothing needs a C compiler, and
what only C++ asks of a device (streams, `Tensor.cuda`) cannot be tried here.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class Card:
    """What torch and Triton can be asked of a device.

    shared: bytes of on-chip memory that one program may have. hip: the architecture, for ROCm. kind: torch's type of
    device.
    """

    name: str
    capability: tuple[int, int] = (0, 0)
    processors: int = 0
    shared: int = 0
    hip: str = ""
    kind: str = "cuda"


# Compute capabilities and shared memory from the CUDA C++ programming guide, MI300X from AMD's data sheet.
CARDS = {
    "T4": Card("Tesla T4", (7, 5), 40, 64 * 1024),
    "A10": Card("NVIDIA A10", (8, 6), 72, 99 * 1024),
    "A100": Card("NVIDIA A100-SXM4-40GB", (8, 0), 108, 163 * 1024),
    "H100": Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 227 * 1024),
    "RTX4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 128, 99 * 1024),
    "RTX5090": Card("NVIDIA GeForce RTX 5090", (12, 0), 170, 99 * 1024),
    "B200": Card("NVIDIA B200", (10, 0), 148, 227 * 1024),
    "MI300X": Card("AMD Instinct MI300X", (9, 4), 304, 64 * 1024, hip="gfx942"),
}
# Devices of torch's for which there are no kernels.
OTHERS = {"mps": Card("Apple M3", kind="mps"), "xpu": Card("Intel Arc B580", kind="xpu")}

GRID = (2**31 - 1, 65535, 65535)  # programs in each dimension that CUDA and ROCm launch


@dataclass(frozen=True)
class Launch:
    """One launch as the driver would have got it. shared: bytes, None where nothing was compiled."""

    kernel: str
    grid: tuple[int, int, int]
    device: int
    arguments: dict[str, object]
    constants: dict[str, object]
    num_warps: int
    shared: int | None


@dataclass
class Record:
    """What happened on a card.

    variants: every kernel that was compiled, or would have been, once for each set of constants and types. faults: what
    a driver would refuse, or what would read or write another memory than was meant. waits: the operations that wait
    for the card, or copy between it and the host, which the capture of a graph refuses.
    """

    card: Card
    launches: list[Launch] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)


# Operations whose result the host reads, or whose size depends on values.
WAITING = frozenset(
    f"aten::{name}"
    for name in "_local_scalar_dense equal is_nonzero nonzero masked_select repeat_interleave _unique2 bincount".split()
)


class Pretended(torch.Tensor):
    """A tensor that says it is on a GPU and has its values in `inner`, on the CPU, or on meta to need no memory."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, where: torch.device):
        outside = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, outside, device_for_backend_keys=where)
        made.inner, made.where = inner, where
        return made

    @property
    def device(self) -> torch.device:
        return self.where

    @property
    def is_cuda(self) -> bool:
        return self.where.type == "cuda"

    def data_ptr(self) -> int:
        if self.inner.device.type == "meta":  # an allocator's blocks begin at multiples of 512 bytes
            return 512 * 2**30 + self.inner.storage_offset() * self.inner.element_size()
        return self.inner.data_ptr()

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"Pretended({tuple(self.shape)}, {self.dtype}, {self.where})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _now.operation(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Takes the operations that make a tensor on the card out of none that is there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _now.operation(function, args, kwargs or {})


class _Made(SimpleNamespace):
    """In the place of a kernel that Triton has compiled."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable:
        return lambda *args, stream: self.run(*grid, stream, self.function, self.packed_metadata, *[None] * 3, *args)


_numbers = itertools.count(1)


class _Pretence:
    """The state of one `pretended` block."""

    def __init__(self, card: Card, inner: str, devices: int, compiling: bool):
        self.record = Record(card)
        self.inner, self.devices, self.compiling = inner, devices, compiling
        self.current, self.latest = 0, torch.device(card.kind, 0)
        # Triton keeps what it has compiled by the number of a device: one of its own for every block.
        self.base = 1000 * next(_numbers)
        self.mode = _Factories()

    def operation(self, function, args: tuple, kwargs: dict):
        """One operation of torch, on the tensors inside; those of rnngen see the tensors as they pretend to be."""
        name = function._schema.name
        if name.startswith("rnngen::"):
            from torch._library.custom_ops import OPDEFS

            with self.mode:
                return OPDEFS[name]._init_fn(*args, **kwargs)
        outside: dict[int, Pretended] = {}

        def opened(value):
            if not isinstance(value, Pretended):
                return value
            outside[id(value.inner)] = value
            return value.inner

        plain, named = tree_map(opened, args), tree_map(opened, kwargs)
        places = {tensor.where for tensor in outside.values()}
        if len(places) > 1:
            self.record.faults.append(f"{name}: tensors on {' and '.join(sorted(map(str, places)))}")
        self._check_host_operands(name, args, bool(outside))
        target = next(iter(places), None)
        wanted = kwargs.get("device")
        if wanted is not None:
            wanted = torch.device(wanted)
            if wanted.type == self.record.card.kind:
                target = torch.device(wanted.type, self.current if wanted.index is None else wanted.index)
                named["device"] = self.inner
            elif wanted.type == "meta":  # C++ asked a tensor where it is: this one, or one that it has just seen
                target = target or self.latest
                named["device"] = self.inner
            else:
                target = None
        self.latest = target or self.latest
        if outside and (name in WAITING or self._crosses(name, args, target)):
            self.record.waits.append(name)
        result = function(*plain, **named)

        def closed(value):
            if not isinstance(value, torch.Tensor) or target is None:
                return value
            return outside[id(value)] if id(value) in outside else Pretended(value, target)

        if name in ("aten::_pack_padded_sequence", "aten::_pad_packed_sequence"):  # lengths stay on the CPU
            return closed(result[0]), result[1]
        return tree_map(closed, result)

    def _crosses(self, name: str, args: tuple, target: torch.device | None) -> bool:
        """Whether an operation copies between the card and the host."""
        if name == "aten::copy_":
            return len({isinstance(value, Pretended) for value in args[:2]}) > 1
        return name == "aten::_to_copy" and target is None

    def _check_host_operands(self, name: str, args: Sequence, beside: bool) -> None:
        """CPU tensors may stand beside those of a card in a copy, as a scalar, as an index, and as lengths."""
        if not beside or name in ("aten::copy_", "aten::_pack_padded_sequence", "aten::_pad_packed_sequence"):
            return
        listed = [part for arg in args if isinstance(arg, list | tuple) for part in arg]
        for value in args if name.startswith("aten::index") else (*args, *listed):
            if type(value) is torch.Tensor and value.dim() > 0:
                self.record.faults.append(f"{name}: a CPU tensor {tuple(value.shape)} beside one on the card")

    def compile(self, whole: Callable, kernel, key, signature, device, constants, options, *rest):
        """In the place of JITFunction._do_compile: notes the variant, and compiles it only if that is wanted."""
        self.record.variants.append(f"{kernel.__name__} {signature} {constants} num_warps={options.num_warps}")
        if self.compiling:
            return whole(kernel, key, signature, device, constants, options, *rest)
        metadata = SimpleNamespace(name=kernel.__name__, num_warps=options.num_warps, shared=None)
        made = _Made(
            run=self.launcher(SimpleNamespace(fn=kernel, signature=signature), metadata),
            function=None,
            packed_metadata=None,
            launch_metadata=lambda *_: None,
        )
        kernel.device_caches[device][0][key] = made
        return made

    def launcher(self, source, metadata) -> Callable:
        """What Triton calls to launch a kernel."""

        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *args):
            names = source.fn.arg_names
            kinds = source.signature
            if len(args) != len(names):
                self.record.faults.append(f"{metadata.name}: {len(args)} arguments for {len(names)} parameters")
            given = dict(zip(names, args, strict=False))
            found = Launch(
                metadata.name,
                (x, y, z),
                self.current,
                {name: value for name, value in given.items() if kinds[name] != "constexpr"},
                {name: value for name, value in given.items() if kinds[name] == "constexpr"},
                metadata.num_warps,
                metadata.shared,
            )
            self.record.faults += (f"{metadata.name}: {fault}" for fault in self.refused(found, kinds))
            self.record.launches.append(found)

        return launch

    def refused(self, launch: Launch, kinds: dict[str, str]) -> Iterator[str]:
        """What a driver would not take, or what would touch another memory than was meant."""
        here = torch.device("cuda", self.current)
        for name, value in launch.arguments.items():
            if isinstance(value, torch.Tensor) != kinds[name].startswith("*"):
                yield f"{name} has the type {kinds[name]} and is {value!r}"
            elif isinstance(value, torch.Tensor):
                if not value.inner.is_contiguous():
                    yield f"{name} is not contiguous: {tuple(value.shape)}, {value.stride()}"
                if value.device != here:
                    yield f"{name} is on {value.device}, and the launch on {here}"
            elif kinds[name] == "i32" and not -(2**31) <= value < 2**31:
                yield f"{name} = {value} does not fit 32 bits"
        for count, limit in zip(launch.grid, GRID, strict=True):
            if not 1 <= count <= limit:
                yield f"a grid of {launch.grid}"
        if launch.shared is not None and launch.shared > self.record.card.shared:
            yield f"{launch.shared} bytes of shared memory"


_now: _Pretence | None = None


class _Current:
    """torch.cuda.device, without a device."""

    def __init__(self, device: torch.device | int):
        self.index = device if isinstance(device, int) else torch.device(device).index

    def __enter__(self) -> None:
        self.before, _now.current = _now.current, self.index

    def __exit__(self, *error) -> None:
        _now.current = self.before


def _driver(state: _Pretence):
    """Triton's driver for the card: it loads nothing and launches nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    card = state.record.card
    major, minor = card.capability
    target = GPUTarget("hip", card.hip, 64) if card.hip else GPUTarget("cuda", 10 * major + minor, 32)

    class Driver(DriverBase):
        launcher_cls = staticmethod(state.launcher)
        utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": card.shared},
            load_binary=lambda name, binary, shared, device: (object(), None, 0, 0, 1024),
            unload_module=lambda module: None,
        )

        def __init__(self):
            pass

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, kind: str) -> str:
            return kind

        def get_current_target(self):
            return target

        def get_current_device(self) -> int:
            return state.base + state.current

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", state.current)

        def get_benchmarker(self):
            raise AssertionError("a kernel asks to be timed")

        get_empty_cache_for_benchmark = clear_cache = get_benchmarker

    return Driver()


@contextmanager
def pretended(
    card: Card, *, meta: bool = False, devices: int = 2, compiling: bool = False, driver: bool = True
) -> Iterator[Record]:
    """Within the block there are `devices` cards, and whatever is made with device="cuda" pretends to be on one.

    meta: tensors have no memory, for huge sizes, and no values. compiling: kernels are compiled for the card; without
    it only arguments and grids are seen. driver: whether Triton finds the card, too.
    """
    global _now
    from rnngen.runtime import launch

    state = _Pretence(card, "meta" if meta else "cpu", devices, compiling)
    properties = SimpleNamespace(
        name=card.name,
        major=card.capability[0],
        minor=card.capability[1],
        multi_processor_count=card.processors,
        shared_memory_per_block_optin=card.shared,
        gcnArchName=f"{card.hip}:sramecc+:xnack-",
        total_memory=16 * 2**30,
        uuid="01234567-89ab-cdef-0123-456789abcdef",
    )
    answers = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.xpu._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: card.kind == "cuda",
        "torch.cuda.device_count": lambda: devices,
        "torch.cuda.current_device": lambda: state.current,
        "torch.cuda.get_device_capability": lambda device=None: card.capability,
        "torch.cuda.get_device_name": lambda device=None: card.name,
        "torch.cuda.get_device_properties": lambda device=None: properties,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: card.capability >= (8, 0) or bool(card.hip),
        "torch.cuda.mem_get_info": lambda device=None: (15 * 2**30, 16 * 2**30),
        "torch.cuda.device": _Current,
        "torch.cuda.synchronize": lambda device=None: None,
        "torch.cuda.is_current_stream_capturing": lambda: False,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.version.hip": "6.4" if card.hip else None,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer))
        overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter cannot turn into a Pretended
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwriting)
        launch.machine_of.cache_clear()
        stack.callback(launch.machine_of.cache_clear)
        if driver:
            from triton.runtime.driver import driver as drivers
            from triton.runtime.jit import JITFunction

            whole = JITFunction._do_compile
            stack.enter_context(
                mock.patch.object(JITFunction, "_do_compile", lambda *args: state.compile(whole, *args))
            )
            stack.callback(setattr, drivers, "_active", drivers._active)
            drivers.set_active(_driver(state))
        before, _now = _now, state
        try:
            stack.enter_context(state.mode)
            yield state.record
        finally:
            _now = before
