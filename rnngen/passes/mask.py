"""mask: a scan that stands still where it is told to, for sequences of different lengths in one batch.

A function from a scan to a scan. It adds an input, one number for each step and element of the batch: where that is
not positive, every state keeps its value, and so does an output that is a state's new value.

    h' = tanh(w + U @ h)      →      h' = where(valid > 0, tanh(w + U @ h), h)

The adjoint of such a step passes the states' gradients on as they are and gives none to the inputs, so derivation
needs to know nothing of masks. Padding may stand at either end: a scan from the last step to the first keeps the
initial state until a sequence begins.
"""

from dataclasses import replace

from rnngen.build import Builder
from rnngen.ir import Program, State, Value


def mask(program: Program) -> Program:
    """The program with a masked scan. The mask is its last input, of the shape of a scalar: (time, batch, 1)."""
    to = Builder(program.scan.values)
    valid = to.keep(Value(to.fresh("valid"), "input"))
    condition = to.make(f"{valid}.1", "gt", valid, to.constant(0.0))
    states, kept = [], {}
    for state in program.scan.states:
        update = to.make(f"{state.update}.kept", "where", condition, state.update, state.name)
        states.append(State(state.name, update))
        kept.setdefault(state.update, update)
    # A step that does not count has no gradient, so that what is kept can be read in place of what was computed.
    outputs = tuple((label, kept.get(value, value)) for label, value in program.scan.outputs)
    values = tuple(to.values.values())
    scan = replace(program.scan, values=values, states=tuple(states), outputs=outputs)
    return replace(program, scan=scan, stand_ins=kept)
