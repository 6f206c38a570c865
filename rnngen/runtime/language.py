"""Triton as generated modules see it: the language, whether kernels are interpreted, and what stands in its place where
Triton is not installed.
"""

from importlib import import_module

__all__ = ["MISSING", "OutOfResources", "interpreting", "tl", "triton"]

OLDEST = (3, 6)  # its language has no less than the kernels use


class _Absent:
    """Lets a module with kernels be imported; only a launch needs what is not there."""

    constexpr = object

    def jit(self, function=None, **options):
        return self if function else self.jit

    def __getitem__(self, grid):
        raise RuntimeError(MISSING)


def _missing() -> str:
    """Why no kernel can run, "" if one can."""
    needed = "Triton {}.{} or newer".format(*OLDEST)
    try:
        triton = import_module("triton")
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        return f"the package 'triton' is not installed, and kernels need {needed}"
    number = triton.__version__
    if tuple(int(part) for part in number.split(".")[:2]) < OLDEST:
        return f"Triton {number} is installed, and kernels need {needed}"
    return ""


MISSING = _missing()
if MISSING:
    triton = tl = _Absent()
    OutOfResources: tuple | type = ()  # which no exception is
else:
    import triton
    import triton.language as tl
    from triton.runtime import OutOfResources

# Triton settles how a kernel runs when the kernel is decorated, which is while a generated module is imported. What is
# set later changes nothing, so it is read once.
_INTERPRETED = not MISSING and triton.knobs.runtime.interpret
if _INTERPRETED:
    from rnngen.runtime.interpreter import mend

    mend()


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 was set before the import."""
    return _INTERPRETED
