"""The operations that look across units, one row each: products with a matrix, their adjoints, and reductions.

Between two of them a step has only pointwise work, so here a scan's step is cut into stages. A row is the whole
operation: what it gives, and how it is differentiated. Reductions give a number for each element of the batch, and
norms are written out in terms of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rnngen.ir import Shape, block_shape, blocks_of
from rnngen.ops import COMPARISONS, OPS


class ShapeConflict(Exception):
    """Operands do not fit; the arguments are a sentence and, perhaps, a hint."""


@dataclass(frozen=True, slots=True)
class Across:
    """One operation.

    shape: what it gives, by the shapes of its operands; raises ShapeConflict.
    back: of one that is linear in its last operand, what makes of the adjoint of its result that of this operand; each
    is the other's. matrix: whether its first operand is a matrix, or a stack of them, whose gradient is `outer` of that
    adjoint and that operand.
    partials: of a reduction, the derivative of the result by each unit of its operand, as in a row of `ops`; `share` is
    1 by the number of units. () for none.
    fold: of a reduction, the operation of `ops` by which several blocks become one of the same result; "" where there
    is none, and their results are added. averages: whether the result is then divided by the number of blocks.
    definition: the operation in terms of others, as in a row of `ops`; "" for a primitive.
    sign: how the equation language writes it, by its name if it is a function; "" if it does not.
    """

    name: str
    operands: str
    shape: Callable[..., Shape]
    back: str = ""
    matrix: bool = False
    partials: tuple[str, ...] = ()
    fold: str = ""
    averages: bool = False
    definition: str = ""
    sign: str = ""

    @property
    def arity(self) -> int:
        return len(self.operands.split())


def _applied(matrix: Shape, vector: Shape) -> Shape:
    if len(block_shape(matrix)) != 2 or len(block_shape(vector)) != 1 or vector != block_shape(vector):
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


def _vector(name: str, vector: Shape) -> Shape:
    if len(block_shape(vector)) != 1:
        raise ShapeConflict(f"'{name}' takes a vector, not {shown(vector)}.")
    return vector


def _number(name: str, *vectors: Shape) -> Shape:
    for vector in vectors:
        _vector(name, vector)
    if len(set(vectors)) > 1:
        raise ShapeConflict(f"'{name}' takes vectors of one shape, not {shown(*vectors)}.")
    return ()


def shown(*shapes: Shape) -> str:
    """Shapes as an error message writes them: (4 hidden, inputs) for a pack of four matrices."""
    return " and ".join(_written(shape) if shape else "a scalar" for shape in shapes)


def _written(shape: Shape) -> str:
    first, *rest = map(str, block_shape(shape) or ("scalars",))
    return f"({', '.join([f'{blocks_of(shape)} {first}' if blocks_of(shape) > 1 else first, *rest])})"


def _reduction(name: str, operands: str, **row: Any) -> Across:
    """One that gives a number."""
    return Across(name, operands, partial(_number, name), **row)


def _norm(name: str, definition: str) -> Across:
    """One that gives a vector like its operand."""
    return Across(name, "a", partial(_vector, name), definition=definition, sign=name)


_ROWS = (
    # M @ v for each matrix M of a stack; a pack if it is one.
    Across("matmul", "a b", _applied, "matmul_t", matrix=True, sign="@"),
    # The sum of M.T @ v over a stack and the blocks of a pack.
    Across("matmul_t", "a b", _applied_transposed, "matmul", matrix=True),
    _reduction("sum", "a", partials=("1",), fold="add", sign="sum"),
    _reduction("mean", "a", partials=("share",), fold="add", averages=True, sign="mean"),
    # The largest unit, for what does not depend on it: it has no derivative.
    _reduction("largest", "a", fold="max"),
    _reduction("dot", "a b", definition="sum(a * b)", sign="dot"),
    # eps is that of torch.nn.LayerNorm; Ba et al. 2016.
    _norm("layer_norm", "(a - mean(a)) * (1 / sqrt(mean((a - mean(a)) * (a - mean(a))) + 1e-05))"),
    # eps is that of torch.nn.RMSNorm in float32, whatever the type is; Zhang and Sennrich 2019.
    _norm("rms_norm", "a * (1 / sqrt(mean(a * a) + 1.1920928955078125e-07))"),
    _norm("softmax", "exp(a - largest(a)) * (1 / sum(exp(a - largest(a))))"),
)

ACROSS: dict[str, Across] = {op.name: op for op in _ROWS}
REDUCTIONS = frozenset(op.name for op in _ROWS if not (op.matrix or op.back or op.definition))


def is_flat(op: str) -> bool:
    """Whether an operation, by name, has no derivative, or one that is zero everywhere, as its row says."""
    if op in ACROSS:
        return not (ACROSS[op].back or ACROSS[op].partials or ACROSS[op].definition)
    return op in COMPARISONS or (op in OPS and set(OPS[op].partials) == {"0"})
