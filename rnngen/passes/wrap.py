"""wrap: the wrappers that a cell is compiled with, each around all before it.

h' = tanh(w + U @ h)      →      h' = tanh(w + U @ h), h'.halved = 0.5 * h'
"""

from rnngen.ir import Program
from rnngen.wrappers import WRAPPERS


def wrap(program: Program) -> Program:
    """The step with its wrappers around it; the same object if it has none."""
    for name in program.wrappers:
        program = WRAPPERS[name](program)
    return program
