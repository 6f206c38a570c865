"""wrap: the wrappers that a cell is compiled with, each around all before it.

h' = tanh(w + U @ h)      →      h' = tanh(w + U @ h), h'.halved = 0.5 * h'
"""

from rnngen.cell import Cell
from rnngen.errors import Mistakes
from rnngen.ir import Program
from rnngen.wrappers import WRAPPERS
from rnngen.wrappers.refusal import NoEffect


def wrap(program: Program, cell: Cell) -> Program:
    """The step with its wrappers around it; the same object if it has none.

    Raises ModelError for a wrapper that would leave it as it is.
    """
    mistakes = Mistakes(cell.places.document.source)
    for number, name in enumerate(program.wrappers):
        try:
            program = WRAPPERS[name](program)
        except NoEffect as reason:
            message = f"The wrapper '{name}' would do nothing to this cell: {reason}."
            span = cell.named_at[number] if cell.named_at else None
            hint = "leave the wrapper out." if span else f"leave out --with {name}."
            mistakes.add("no-effect", message, span, hints=(hint,))
    mistakes.check()
    return program
