"""What a machine can hold, and which schedule of a scan suits it.

This is arithmetic on a few numbers, without torch: a generated module asks here when it is called, and the compiler
asks the same functions when it explains a model.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU as far as the choice depends on it. shared_bytes: what one program may use of on-chip memory."""

    name: str
    backend: str
    shared_bytes: int
    processors: int


MACHINES = {
    "sm_80": Machine("sm_80", "cuda", 163 * 1024, 108),
    "sm_90": Machine("sm_90", "cuda", 227 * 1024, 132),
    "sm_100": Machine("sm_100", "cuda", 227 * 1024, 148),
    "gfx942": Machine("gfx942", "hip", 64 * 1024, 304),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choice needs to know of one direction of a cell.

    adjoint: whether this is the adjoint. matrices: square blocks of weights that the scan applies. stages: dependent
    products in a row. legal: for each schedule that the cell could use "", for each other the reason why not.
    """

    adjoint: bool
    matrices: int
    stages: int
    legal: dict[str, str] = field(default_factory=dict)
