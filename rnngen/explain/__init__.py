"""Which schedule runs a cell, what it takes, and what would change that; each of these files imports only from those
above it:

    work      operations and bytes of a step, and the least time for them
    kept      bytes that a scan keeps for its backward pass
    scans     the scans of a model, with their sizes
    changes   what would change the choice
    report    all that there is to say, as values
    text      for a terminal
    record    as JSON
    picture   time a step against the hidden units
"""

from rnngen.explain.report import CPU, Explained, explain_model
from rnngen.explain.scans import ITEM_SIZES, NothingToDo

__all__ = ["CPU", "ITEM_SIZES", "Explained", "NothingToDo", "explain_model"]
