"""drop_connect: entries of the recurrent matrices are zero, the same ones for a whole call; Wan et al. 2013, and for
recurrent networks Merity et al. 2018.

h' = tanh(w + U @ h)      →      h' = tanh(w + (M * U) @ h)

M is drawn for each call, for each trained parameter that has such a matrix, or one that such a matrix is made of: 0
with the probability `drop_connect`, and else 1 / (1 - drop_connect). In evaluation, and of other blocks, it is 1.
The step stays as it is: a layer gives its scan other matrices.
"""

from dataclasses import replace

from rnngen.ir import Program, carried, needed, reaching
from rnngen.runtime.drawn import Drawn
from rnngen.wrappers.refusal import NoEffect


def drop_connect(program: Program) -> Program:
    """The program with a mask for each parameter of recurrent matrices. Raises NoEffect if there is none."""
    graph = program.cell
    varying = reaching(graph, {state.name for state in carried(graph)})
    recurrent = needed(graph, {state.update for state in carried(graph)})
    matrices = {
        value.operands[0]
        for value in graph.values
        if value.op == "matmul" and value.name in recurrent and value.operands[1] in varying
    }
    parts = needed(graph, matrices)
    found = [p for p in program.parameters if len(p.shape) == 2 and p.trained and p.name in parts]
    if not found:
        raise NoEffect("no matrix of it is applied to what a state is part of")
    drawn = [
        Drawn(p.name, "drop_connect", "parameter", scaled=True, blocks=tuple(block in parts for block in p.blocks))
        if len(p.blocks) > 1 and not parts.issuperset(p.blocks)
        else Drawn(p.name, "drop_connect", "parameter", scaled=True)
        for p in found
    ]
    return replace(program, drawn=(*program.drawn, *drawn))
