"""Triton as a generated module sees it: the language, whether kernels are interpreted, and what stands in its place
where Triton is not installed.
"""

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as missing:
    if missing.name != "triton":
        raise
    triton = tl = None

if triton and triton.knobs.runtime.interpret:
    from rnngen.runtime.interpreter import mend

    mend()


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 was set before the import."""
    return triton is not None and triton.knobs.runtime.interpret
