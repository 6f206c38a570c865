"""unfold: norms and the like are written out, as sums over units and pointwise work.

y = rms_norm(h)      →      y = h * (1 / sqrt(mean(h * h) + eps))

A reduction of what the input alone makes leaves the loop, and its pointwise neighbours move as others do. So this comes
before a step is split, and the described step keeps the operations as they were written.
"""

from dataclasses import replace

from rnngen.across import ACROSS
from rnngen.ir import Packed
from rnngen.passes.lower import written_out


def unfold(program: Packed) -> Packed:
    """The program with a cell whose operations across units are primitives; the same object if they were."""
    cell = written_out(program.cell, ACROSS)
    return program if cell is program.cell else replace(program, cell=cell)
