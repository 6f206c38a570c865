"""The operations that make matrices, one row each.

A matrix is a parameter, or made of parameters alone: once a call, outside the loop and by torch, which differentiates
it as well. So a row has no derivative, and of the targets torch alone spells it. Pointwise operations, rows of `ops`,
take matrices too.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rnngen.across import ACROSS, Across, ShapeConflict, shown
from rnngen.ir import Shape, block_shape, is_matrix
from rnngen.ops import FUNCTIONS, Op


@dataclass(frozen=True, slots=True)
class Making:
    """One operation.

    shape: what it gives, by the shapes of its operands; raises ShapeConflict. sign: how the equation language writes
    it, by its name if it is a function. like: whether its operand gives it a shape alone, and no numbers.
    """

    name: str
    operands: str
    shape: Callable[..., Shape]
    sign: str
    like: bool = False

    @property
    def arity(self) -> int:
        return len(self.operands.split())


def _matrix(name: str, shape: Shape) -> Shape:
    if not is_matrix(shape):
        raise ShapeConflict(f"'{name}' takes a matrix, not {shown(shape)}.")
    return shape


def _composed(left: Shape, right: Shape) -> Shape:
    if left[1] != right[0]:
        raise ShapeConflict(f"A matrix {shown(left)} cannot be multiplied by a matrix {shown(right)}.")
    return (left[0], right[1])


def _transposed(matrix: Shape) -> Shape:
    rows, columns = _matrix(TRANSPOSED, matrix)
    return (columns, rows)


def _identity(matrix: Shape) -> Shape:
    rows, columns = _matrix("eye", matrix)
    if rows != columns:
        raise ShapeConflict(f"An identity matrix is square, and {shown(matrix)} is not.")
    return matrix


def _diagonal(vector: Shape) -> Shape:
    if len(vector) != 1 or vector != block_shape(vector):
        raise ShapeConflict(f"'diag' takes the vector on the diagonal, not {shown(vector)}.")
    return vector * 2


TRANSPOSED = ".T"
_ROWS = (
    Making("transpose", "a", _transposed, TRANSPOSED),
    # P @ Q, the matrix that applies Q and then P; the language writes `@` for it as for `matmul`.
    Making("compose", "a b", _composed, "@"),
    Making("tril", "a", lambda matrix: _matrix("tril", matrix), "tril"),
    Making("triu", "a", lambda matrix: _matrix("triu", matrix), "triu"),
    Making("diag", "a", _diagonal, "diag"),
    Making("eye", "a", _identity, "eye", like=True),
)

MATRICES: dict[str, Making] = {op.name: op for op in _ROWS}
# Every function of the language by its name.
CALLS: dict[str, Op | Across | Making] = {
    **FUNCTIONS,
    **{name: op for name, op in ACROSS.items() if op.sign == name},
    **{name: op for name, op in MATRICES.items() if op.sign == name},
}
