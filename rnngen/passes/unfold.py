"""unfold: norms and the like are written out, as sums over units and pointwise work.

y = rms_norm(h)      →      y = h * (1 / sqrt(mean(h * h) + eps))

Those of several blocks as of one vector: mean(stack(a, b)) is mean((a + b) / 2), one sum over units.

Only where the kernels are: before the loop and after it torch has them as they are, and computes their sums in full
precision whatever the type is.
"""

from dataclasses import replace
from functools import reduce

from rnngen.across import ACROSS, REDUCTIONS
from rnngen.build import Builder, renamed
from rnngen.ir import CellGraph, Split, Value, blocks_of, prune
from rnngen.ops import OPS
from rnngen.passes.lower import written_out
from rnngen.passes.unpack import blockwise


def unfold(program: Split) -> Split:
    """The program with a scan whose operations across units are primitives, and reductions those of one block; the same
    object if they were.
    """
    scan = _folded(prune(blockwise(written_out(program.scan, ACROSS), OPS.keys())))
    return program if scan is program.scan else replace(program, scan=scan)


def _folded(graph: CellGraph) -> CellGraph:
    """Reductions of packs as those of one block, into which the others are folded."""
    values = graph.by_name()

    def is_of_a_pack(value: Value) -> bool:
        return value.op in REDUCTIONS and blocks_of(values[value.operands[0]].shape) > 1

    if not any(map(is_of_a_pack, graph.values)):
        return graph
    to = Builder(reserved=values)
    names: dict[str, str] = {}
    for value in graph.values:
        if not is_of_a_pack(value):
            names[value.name] = to.copy(value, names)
            continue
        (pack,) = value.operands
        row, count, part = ACROSS[value.op], blocks_of(values[pack].shape), f"{value.name}.1"
        blocks = [to.make(f"{pack}.{n}", "pick", names[pack], attribute=n) for n in range(count)]
        if row.fold:
            blocks = [reduce(lambda one, other: to.make(part, row.fold, one, other), blocks)]
        numbers = [to.make(part, row.name, block) for block in blocks]
        total = reduce(lambda one, other: to.make(part, "add", one, other), numbers)
        names[value.name] = to.make(value.name, "div", total, to.constant(count)) if row.averages else total
    return renamed(graph, to, names)
