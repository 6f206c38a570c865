"""Triton as generated modules see it: the language, whether kernels are interpreted, and what stands in its place where
Triton is not installed.
"""

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as missing:
    if missing.name != "triton":
        raise

    class _Absent:
        """Lets a module with kernels be imported; only a launch needs what is not there."""

        constexpr = object

        def jit(self, function=None, **options):
            return self if function else self.jit

        def __getitem__(self, grid):
            raise RuntimeError("The package 'triton' is not installed, so no kernel can run: pip install triton")

    triton = tl = _Absent()
    installed = False
else:
    installed = True

# Triton settles how a kernel runs when the kernel is decorated, which is while a generated module is imported. What is
# set later changes nothing, so it is read once.
_INTERPRETED = installed and triton.knobs.runtime.interpret
if _INTERPRETED:
    from rnngen.runtime.interpreter import mend

    mend()


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 was set before the import."""
    return _INTERPRETED
