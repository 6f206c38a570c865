"""Compile a Triton kernel ahead of time for a named GPU, on a machine that need not have one.

Needs Triton 3.6 or later. Triton is imported inside the functions that compile: whether its own library is
built for the interpreter is settled by TRITON_INTERPRET at that import, and `compiler_processes` has to clear
it before.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from rnngen.runtime.machine import MACHINES, Machine


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU to compile for.

    backend, arch, warp_size: the arguments of Triton's GPUTarget; a warp's size is in threads.
    shared_limit_bytes: the most shared memory (LDS on AMD) one block can have there.
    """

    name: str
    backend: Literal["cuda", "hip"]
    arch: int | str
    warp_size: int
    shared_limit_bytes: int


def _target(machine: Machine) -> Target:
    if machine.backend == "hip":
        return Target(machine.name, "hip", machine.name, 64, machine.shared_bytes)
    return Target(machine.name, "cuda", int(machine.name.removeprefix("sm_")), 32, machine.shared_bytes)


TARGETS: Mapping[str, Target] = MappingProxyType({name: _target(machine) for name, machine in MACHINES.items()})


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel compiled for one target; plain values only, so that it can travel between processes.

    shared_bytes: the shared memory a block asks for at launch.
    binary: what the driver loads, a cubin or an hsaco file.
    assembly: the text that was assembled into `binary`, PTX or amdgcn.
    llvm_ir: what LLVM turned into `assembly`, after its own passes.
    arguments: the names of those that a launch gives, in order.
    """

    name: str
    target: Target
    num_warps: int
    shared_bytes: int
    binary: bytes = field(repr=False)
    assembly: str = field(repr=False)
    llvm_ir: str = field(repr=False)
    arguments: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether a block's shared memory is within the target's limit; Triton compiles it either way."""
        return self.shared_bytes <= self.target.shared_limit_bytes


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    target: Target | str,
    *,
    aligned: Collection[str] = (),
    num_warps: int,
    num_stages: int,
    **options: Any,
) -> Compiled:
    """Compile `kernel`, a function under `@triton.jit`, for `target`, a Target or a name in TARGETS.

    `signature` gives the type of every argument that is known only at launch ("*fp32", "i32", ...) and
    `constants` the value of every other one. Pointers are taken to be multiples of 16 bytes, as PyTorch
    allocates them, and the integers named in `aligned` multiples of 16: without that Triton neither widens
    nor pipelines loads. `options` are further launch options, such as `enable_fp_fusion` or
    `launch_cooperative_grid`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.interpreter import InterpretedFunction

    if isinstance(target, str):
        target = TARGETS[target]
    # Triton decorates its own library at import too, so either one being interpreted is fatal.
    if isinstance(kernel, InterpretedFunction) or isinstance(triton.language.zeros, InterpretedFunction):
        raise TypeError(
            f"Kernel '{kernel.__name__}' cannot be compiled: TRITON_INTERPRET was set when it or Triton was "
            "imported. Unset it before the first import, or compile in one of `compiler_processes`."
        )
    _check_arguments(kernel, signature, constants, aligned)

    divisible = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature={name: signature.get(name, "constexpr") for name in kernel.arg_names},
        constexprs=dict(constants),
        attrs={
            (position,): divisible
            for position, name in enumerate(kernel.arg_names)
            if name in aligned or signature.get(name, "").startswith("*")
        },
    )
    built = triton.compile(
        source,
        target=GPUTarget(target.backend, target.arch, target.warp_size),
        options={"num_warps": num_warps, "num_stages": num_stages, **options},
    )
    binary, assembly = ("cubin", "ptx") if target.backend == "cuda" else ("hsaco", "amdgcn")
    return Compiled(
        name=built.metadata.name,
        target=target,
        num_warps=built.metadata.num_warps,
        shared_bytes=built.metadata.shared,
        binary=built.asm[binary],
        assembly=built.asm[assembly],
        llvm_ir=built.asm["llir"],
        arguments=tuple(name for name in kernel.arg_names if name in signature),
    )


def compiler_processes(workers: int) -> ProcessPoolExecutor:
    """A pool of `workers` fresh processes in which TRITON_INTERPRET is not set, for a caller in which it is.

    What is submitted must import the kernel's module there, not here.
    """
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interpreter)


def _leave_interpreter() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


def _check_arguments(
    kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], aligned: Collection[str]
) -> None:
    """Every argument of the kernel has a type or a value, not both, and no other name appears."""
    names = set(kernel.arg_names)
    faults = {
        "have neither a type nor a value": names - signature.keys() - constants.keys(),
        "have both a type and a value": signature.keys() & constants.keys(),
        "are not arguments of it": (signature.keys() | constants.keys() | set(aligned)) - names,
        "are aligned but have no type": set(aligned) & names - signature.keys(),
    }
    for fault, wrong in faults.items():
        if wrong:
            raise ValueError(f"Kernel '{kernel.__name__}': {', '.join(sorted(wrong))} {fault}.")
