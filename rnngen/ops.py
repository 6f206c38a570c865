"""The operations of the equation language, one row each.

A row is the whole operation: its partial derivatives, and its definition where it has one, are written in the same
language the user writes. In them `a b c` are the operands and `y` is the result. An operation with a definition is
derived: it is expanded before any target sees it, so a target spells only the primitives.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    partials: the derivative of the result by each operand, "" where there is none (a condition), "0" where it is zero
    everywhere.
    definition: the operation in terms of others; "" for a primitive.
    number: a primitive on numbers, by which constants are folded; None for a choice, which is by its condition alone.
    sign: how the equation language writes it when it is not a call.
    """

    name: str
    operands: str
    partials: tuple[str, ...] = ()
    number: Callable[..., float] | None = None
    definition: str = ""
    sign: str = ""

    @property
    def arity(self) -> int:
        return len(self.operands.split())


def _sigmoid(a: float) -> float:
    return (1 if a >= 0 else math.exp(a)) / (1 + math.exp(-abs(a)))


# At a kink the derivative is torch's: relu'(0) = 0, abs'(0) = 0, and max and min share a tie between both operands.
_ROWS = (
    Op("add", "a b", ("1", "1"), operator.add, sign="+"),
    Op("sub", "a b", ("1", "-1"), operator.sub, sign="-"),
    Op("mul", "a b", ("b", "a"), operator.mul, sign="*"),
    Op("div", "a b", ("1 / b", "-y / b"), operator.truediv, sign="/"),
    # By b the derivative is the whole number of times that b was taken away, with its sign.
    Op("mod", "a b", ("1", "(y - a) / b"), operator.mod, sign="%"),
    Op("neg", "a", ("-1",), operator.neg, sign="-"),
    Op("sigmoid", "a", ("y * (1 - y)",), _sigmoid),
    Op("tanh", "a", ("1 - y * y",), math.tanh),
    Op("exp", "a", ("y",), math.exp),
    Op("log", "a", ("1 / a",), math.log),
    Op("log1p", "a", ("1 / (1 + a)",), math.log1p),
    Op("sqrt", "a", ("0.5 / y",), math.sqrt),
    Op("sin", "a", ("cos(a)",), math.sin),
    Op("cos", "a", ("-sin(a)",), math.cos),
    Op("erf", "a", ("1.1283791670955126 * exp(-a * a)",), math.erf),
    Op("floor", "a", ("0",), math.floor),
    Op("abs", "a", ("where(a > 0, 1, where(a < 0, -1, 0))",), abs),
    Op("max", "a b", ("where(a > b, 1, where(a == b, 0.5, 0))", "where(b > a, 1, where(a == b, 0.5, 0))"), max),
    Op("min", "a b", ("where(a < b, 1, where(a == b, 0.5, 0))", "where(b < a, 1, where(a == b, 0.5, 0))"), min),
    Op("where", "a b c", ("", "where(a, 1, 0)", "where(a, 0, 1)")),
    Op("lt", "a b", ("", ""), operator.lt, sign="<"),
    Op("le", "a b", ("", ""), operator.le, sign="<="),
    Op("gt", "a b", ("", ""), operator.gt, sign=">"),
    Op("ge", "a b", ("", ""), operator.ge, sign=">="),
    Op("eq", "a b", ("", ""), operator.eq, sign="=="),
    Op("ne", "a b", ("", ""), operator.ne, sign="!="),
    Op("relu", "a", ("where(y > 0, 1, 0)",), definition="max(a, 0)"),
    Op("softplus", "a", ("sigmoid(a)",), definition="max(a, 0) + log1p(exp(-abs(a)))"),
    Op("silu", "a", ("sigmoid(a) * (1 + a * (1 - sigmoid(a)))",), definition="a * sigmoid(a)"),
    Op("hardsigmoid", "a", ("where(abs(a) < 3, 1 / 6, 0)",), definition="min(max(a / 6 + 0.5, 0), 1)"),
    Op("identity", "a", ("1",), definition="a"),
    Op("leaky_relu", "a", ("where(y > 0, 1, 0.01)",), definition="max(a, 0.01 * a)"),
    Op("relu6", "a", ("where(y > 0, where(y < 6, 1, 0), 0)",), definition="min(max(a, 0), 6)"),
    Op("hardtanh", "a", ("where(abs(y) < 1, 1, 0)",), definition="min(max(a, -1), 1)"),
    # exp(a) - 1 loses all digits near 0; this is the same.
    Op(
        "elu",
        "a",
        ("where(y > 0, 1, y + 1)",),
        definition="max(a, 0) + 2 * tanh(min(a, 0) / 2) / (1 - tanh(min(a, 0) / 2))",
    ),
    Op(
        "selu",
        "a",
        ("where(y > 0, 1.0507009873554805, y + 1.7580993408473766)",),
        definition="1.0507009873554805 * max(a, 0)"
        " + 3.5161986816947532 * tanh(min(a, 0) / 2) / (1 - tanh(min(a, 0) / 2))",
    ),
    Op(
        "gelu",
        "a",
        ("0.5 * (1 + erf(0.7071067811865476 * a)) + 0.3989422804014327 * a * exp(-0.5 * a * a)",),
        definition="0.5 * a * (1 + erf(0.7071067811865476 * a))",
    ),
    Op("softsign", "a", ("1 / ((1 + abs(a)) * (1 + abs(a)))",), definition="a / (1 + abs(a))"),
    Op("tanhshrink", "a", ("tanh(a) * tanh(a)",), definition="a - tanh(a)"),
    Op(
        "hardswish",
        "a",
        ("where(a > -3, where(a < 3, a / 3 + 0.5, 1), 0)",),
        definition="a * (min(max(a + 3, 0), 6) / 6)",
    ),
    Op(
        "mish",
        "a",
        ("tanh(softplus(a)) + a * sigmoid(a) * (1 - tanh(softplus(a)) * tanh(softplus(a)))",),
        definition="a * tanh(max(a, 0) + log1p(exp(-abs(a))))",
    ),
    Op("logsigmoid", "a", ("sigmoid(-a)",), definition="min(a, 0) - log1p(exp(-abs(a)))"),
)

OPS: dict[str, Op] = {op.name: op for op in _ROWS}
COMPARISONS = frozenset(op.name for op in _ROWS if op.partials and not any(op.partials))
FUNCTIONS: dict[str, Op] = {op.name: op for op in _ROWS if not op.sign}
