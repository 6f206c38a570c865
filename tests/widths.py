"""A scan whose states are not all as wide as the layer, in every path that has no matrix in the loop.

The language has no such state yet; what lies below it reads the width of each value from its shape.
"""

from dataclasses import replace
from functools import cache

import torch
from conftest import imported

from rnngen import reference
from rnngen.audit import audit
from rnngen.chain import Chained
from rnngen.compile import PASSES, programs_of
from rnngen.description import describe
from rnngen.emit.module import cell_view
from rnngen.emit.render import render
from rnngen.ir import Split, reaching
from rnngen.passes.differentiate import differentiate
from rnngen.runtime import PUBLISHED
from rnngen.runtime.plan import is_saved
from rnngen.source import Source

HIDDEN, INPUTS, TIME, BATCH = 7, 70, 5, 3
CELL = """
name   = "widths"
states = ["h", "m"]
step   = '''
h' = tanh(W @ x + u * h)
m' = k * m + (1 - sigmoid(v)) * sin(V @ x + m * v)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_im = { shape = ["hidden", "inputs"], blocks = ["V"] }
weight_hh = { shape = ["hidden"], blocks = ["u"] }
weight_mm = { shape = ["hidden"], blocks = ["v"] }
scale     = { shape = [], blocks = ["k"], init = 0.7 }
"""
WIDTHS = {"hidden": HIDDEN, "inputs": INPUTS}


@cache
def program() -> Chained:
    """The cell, with m and all that it is made of as wide as the input."""
    (cell,) = describe(Source("widths.toml", CELL)).cells
    (found,) = programs_of([cell], "hoist")
    assert isinstance(found, Split)
    leaves = {leaf.name for op in ("input", "state", "parameter") for leaf in found.scan.leaves(op)}
    wide = reaching(found.scan, leaves - {"h", "weight_ih_x", "weight_hh", "scale"})
    scan = replace(
        found.scan,
        values=tuple(replace(v, shape=("inputs",)) if v.name in wide else v for v in found.scan.values),
    )
    found = replace(found, scan=scan)
    for step in PASSES.steps[PASSES.steps.index(differentiate) :]:
        found = step(found)
    return found


def module(folder):
    """The module of the cell. Its scan is what is meant; a layer would ask for states of one width."""
    (cell,) = describe(Source("widths.toml", CELL)).cells
    body = render("module", "body.py.jinja", prefaces=(), cells=(cell_view(program(), cell),), model=None)
    names = sorted(PUBLISHED.keys() - {"check_module"})
    text = f'"""Widths."""\n\nimport torch\n\nfrom rnngen.runtime import (\n    {", ".join(names)},\n)\n\n\n{body}'
    audit(text.encode())
    path = folder / "widths.py"
    path.write_text(text)
    return imported(path, f"widths_{folder.name}")


def operands(dtype=torch.float64) -> tuple[dict, dict, dict]:
    """Streams, states and parameters of the scan, by name, each of its own width."""
    generator = torch.Generator().manual_seed(5)
    scan = program().scan

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    streams = {leaf.name: drawn(TIME, BATCH, WIDTHS[leaf.shape[0]]) for leaf in scan.leaves("input")}
    states = {leaf.name: drawn(BATCH, WIDTHS[leaf.shape[0]]) for leaf in scan.leaves("state")}
    parameters = {leaf.name: drawn(WIDTHS[leaf.shape[0]] if leaf.shape else 1) for leaf in scan.leaves("parameter")}
    return streams, states, parameters


def answers(outputs, last, leaves, valid) -> list[torch.Tensor]:
    """What came out, and the gradient of a sum with a weight of its own for each element that counts."""
    results = [*(output if valid is None else output * valid for output in outputs), *last]
    total = sum((r * torch.linspace(-1, 2, r.numel(), dtype=r.dtype).view_as(r)).sum() for r in results)
    return [*results, *torch.autograd.grad(total, leaves)]


def check(scan, lengths=None, reverse=False, schedule="auto") -> None:
    """Raises AssertionError unless the scan gives what the graph does, by the reference and torch's autograd."""
    streams, states, parameters = operands()
    leaves = [*streams.values(), *states.values(), *parameters.values()]
    valid = None
    given = dict(streams)
    if lengths:
        valid = (torch.arange(TIME)[:, None] < torch.tensor(lengths)).int()[:, :, None]
        given |= {program().forward.mask: valid}
    groups = [list(group.values()) for group in (streams, states, parameters)]
    outputs, last = scan(*groups, valid, reverse=reverse, schedule=schedule)
    got = answers(outputs, last, leaves, valid)
    graph = replace(program().scan, outputs=tuple(o for o in program().scan.outputs if not is_saved(o[0])))
    outputs, last = reference.scan(graph, given, states, parameters, reverse)
    want = answers(outputs.values(), last.values(), leaves, valid)
    assert {tuple(t.shape) for t in want} >= {(BATCH, HIDDEN), (BATCH, INPUTS)}
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
