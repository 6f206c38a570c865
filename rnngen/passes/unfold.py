"""unfold: norms and the like are written out, as sums over units and pointwise work.

y = rms_norm(h)      →      y = h * (1 / sqrt(mean(h * h) + eps))

Only where the kernels are: before the loop and after it torch has them as they are, and computes their sums in full
precision whatever the type is.
"""

from dataclasses import replace

from rnngen.across import ACROSS
from rnngen.ir import Split
from rnngen.passes.lower import written_out


def unfold(program: Split) -> Split:
    """The program with a scan whose operations across units are primitives; the same object if they were."""
    scan = written_out(program.scan, ACROSS)
    return program if scan is program.scan else replace(program, scan=scan)
