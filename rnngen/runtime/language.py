"""Triton as generated modules see it: the language, whether kernels are interpreted, and what stands in its place where
there is none that works.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

__all__ = ["MISSING", "WANTED", "OutOfResources", "again_launched", "interpreting", "tl", "triton"]

OLDEST = (3, 6)  # its language has no less than the kernels use


class _Absent:
    """Lets a module with kernels be imported; only a launch needs what is not there."""

    constexpr = object

    def jit(self, function: Callable[..., object] | None = None, **options: object) -> object:
        return self if function else self.jit

    def constexpr_function(self, function: Callable[..., object]) -> object:
        return function

    def __getitem__(self, grid: object) -> NoReturn:
        raise RuntimeError(MISSING)


def _missing() -> str:
    """Why no kernel can run, "" if one can."""
    needed = "kernels need Triton {}.{} or newer".format(*OLDEST)
    try:
        number = import_module("triton").__version__
        if tuple(int(part) for part in number.split(".")[:2]) < OLDEST:
            return f"Triton {number} is installed, and {needed}"
        for part in ("triton.language", "triton.runtime"):
            import_module(part)
    except Exception as error:  # one that is broken, or for another machine, raises whatever it likes
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return f"the package 'triton' is not installed, and {needed}"
        return f"importing 'triton' fails ({type(error).__name__}: {error}), and {needed}"
    return ""


def _wanted() -> bool:
    """Whether TRITON_INTERPRET asks for the interpreter, as Triton reads it; it may not be there to be asked."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


WANTED = _wanted()
MISSING = _missing()
triton: Any  # which has no types of its own
tl: Any
OutOfResources: Any
if MISSING:
    triton = tl = _Absent()
    OutOfResources = ()  # which no exception is
else:
    triton, tl = import_module("triton"), import_module("triton.language")
    OutOfResources = import_module("triton.runtime").OutOfResources

# Triton settles how a kernel runs when the kernel is decorated, which is while a generated module is imported. What is
# set later changes nothing, so it is read once.
_INTERPRETED = not MISSING and bool(triton.knobs.runtime.interpret)
if _INTERPRETED:
    from rnngen.runtime.interpreter import mend

    mend()


def again_launched(
    compiled: Callable[..., object], before: Sequence[object], after: Sequence[object]
) -> Callable[[int], object]:
    """A function of the argument between others that launches a compiled kernel, on the stream that is current now."""
    driver = triton.runtime.driver.active
    stream = driver.get_current_stream(driver.get_current_device())
    return lambda argument: compiled(*before, argument, *after, stream=stream)


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 was set before the import."""
    return _INTERPRETED
