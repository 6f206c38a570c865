"""Equations over all blocks of a parameter at once: that they are what they would be block by block."""

import re

import cells
import pytest

from rnngen.compile import compile_model
from rnngen.ir import blocks_of
from rnngen.ops import OPS
from rnngen.source import Source

PARAMETERS = """
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_i", "W_f"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_i", "U_f"] }
bias      = { shape = ["hidden"], blocks = ["b_i", "b_f"] }
scale     = { shape = [], blocks = ["k_i", "k_f"] }
"""


def text_of(step: str) -> str:
    """The text of a cell of one state, h."""
    return f'name = "unit"\nstates = ["h"]\nstep = """\n{step}\n"""{PARAMETERS}'


def module(step: str) -> str:
    """The module of a cell, without what says where an equation stands, and without digests."""
    text = compile_model(Source("unit.toml", text_of(step))).text
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return re.sub('unit_[0-9a-f]{12}|c="[0-9a-f]{64}"', "digest", "\n".join(lines))


@pytest.mark.parametrize(
    "together, apart",
    [
        (
            "i, f = sigmoid(weight_ih @ x + weight_hh @ h + scale * bias)",
            "i = sigmoid(W_i @ x + U_i @ h + k_i * b_i)\nf = sigmoid(W_f @ x + U_f @ h + k_f * b_f)",
        ),
        (
            "i, f = where(weight_ih @ x > 0.1, weight_ih @ x - max(2 * bias, 0.5), weight_hh @ h) * scale",
            "i = where(W_i @ x > 0.1, W_i @ x - max(2 * b_i, 0.5), U_i @ h) * k_i\n"
            "f = where(W_f @ x > 0.1, W_f @ x - max(2 * b_f, 0.5), U_f @ h) * k_f",
        ),
        (
            "p = (scale * weight_hh) @ h\ni, f = tanh(p + bias - weight_ih @ x)",
            "p_0 = (k_i * U_i) @ h\np_1 = (k_f * U_f) @ h\n"
            "i = tanh(p_0 + b_i - W_i @ x)\nf = tanh(p_1 + b_f - W_f @ x)",
        ),
    ],
)
def test_the_module_is_that_of_the_equations_block_by_block(together, apart):
    rest = "\nh' = f * h + (1 - f) * i"
    assert module(together + rest) == module(apart + rest)


def test_a_norm_of_several_blocks_takes_one_sum_over_units():
    step = "i, f = layer_norm(weight_hh @ h) + layer_norm(weight_ih @ x) * bias * scale\nh' = f * i"
    found = cells.forms(text_of(step))["unfold"]
    assert [value.op for value in found.scan.values if value.op == "mean"] == ["mean"] * 2  # and one of squares
    (norm,) = (value for value in found.before.values if value.op == "layer_norm")
    assert norm.shape == (2, "hidden")
    assert all(blocks_of(value.shape) == 1 for value in found.scan.values if value.op in OPS)


def test_a_parameter_without_blocks_is_one_of_its_own_name():
    step = "h' = tanh(W @ x + U @ h + b)"
    short = 'W = { shape = ["hidden", "inputs"] }\nU = { shape = ["hidden", "hidden"] }\nb = { shape = ["hidden"] }'
    long = re.sub(r"^(\w) = (.*) }$", r'\1 = \2, blocks = ["\1"] }', short, flags=re.MULTILINE)
    whole = f'name = "unit"\nstates = ["h"]\nstep = "{step}"\n[parameters]\n'
    one, other = (compile_model(Source("unit.toml", whole + form)).text.split("\n")[5:] for form in (short, long))
    assert "blocks" in long and one == other


def test_a_parameter_of_one_block_has_two_names():
    parameters = PARAMETERS.replace(', "W_f"]', "]").replace(', "U_f"]', "]").replace(', "b_f"]', "]")
    texts = [
        text_of(step).replace(PARAMETERS, parameters.replace('scale     = { shape = [], blocks = ["k_i", "k_f"] }', ""))
        for step in ("h' = tanh(W_i @ x + U_i @ h + b_i)", "h' = tanh(weight_ih @ x + weight_hh @ h + bias)")
    ]
    one, other = (cells.forms(text)["simplify"].cell for text in texts)
    assert one == other
