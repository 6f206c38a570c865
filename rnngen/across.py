"""The operations that look across units, one row each: products with a matrix, and their adjoints.

Between two of them a step has only pointwise work, so here a scan's step is cut into stages. Each is linear in its last
operand, and a row is the whole operation: what it gives, and how it is differentiated.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rnngen.ir import Shape, block_shape


class ShapeConflict(Exception):
    """Operands do not fit; the arguments are a sentence and, perhaps, a hint."""


@dataclass(frozen=True, slots=True)
class Across:
    """One operation.

    back: what makes of the adjoint of its result that of its last operand; each is the other's. matrix: whether its
    first operand is a matrix, or a stack of them, whose gradient is `outer` of that adjoint and that operand.
    shape: what it gives, by the shapes of its operands; raises ShapeConflict.
    sign: how the equation language writes it, by its name if it is a function; "" if it does not.
    """

    name: str
    operands: str
    back: str
    shape: Callable[..., Shape]
    matrix: bool = False
    sign: str = ""

    @property
    def arity(self) -> int:
        return len(self.operands.split())


def _applied(matrix: Shape, vector: Shape) -> Shape:
    if len(block_shape(matrix)) != 2 or len(vector) != 1:
        hint = "* and @ bind equally strongly; write r * (U @ h)" if len(matrix) < 2 else ""
        raise ShapeConflict(f"'@' takes a matrix and a vector, not {shown(matrix, vector)}.", hint)
    *rows, columns = matrix
    if columns != vector[0]:
        raise ShapeConflict(f"A matrix {shown(matrix)} cannot be applied to a vector {shown(vector)}.")
    return tuple(rows)


def _applied_transposed(matrix: Shape, vector: Shape) -> Shape:
    if matrix[:-1] != vector:
        raise ShapeConflict(f"A transposed {shown(matrix)} cannot be applied to {shown(vector)}.")
    return (matrix[-1],)


def shown(*shapes: Shape) -> str:
    """Shapes as an error message writes them."""
    return " and ".join(f"({', '.join(map(str, shape))})" if shape else "a scalar" for shape in shapes)


_ROWS = (
    # M @ v for each matrix M of a stack; a pack if it is one.
    Across("matmul", "a b", "matmul_t", _applied, matrix=True, sign="@"),
    # The sum of M.T @ v over a stack and the blocks of a pack.
    Across("matmul_t", "a b", "matmul", _applied_transposed, matrix=True),
)

ACROSS: dict[str, Across] = {op.name: op for op in _ROWS}
