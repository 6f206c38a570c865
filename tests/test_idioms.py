"""The remedies for what people write who come from elsewhere: they are true, and written as every hint is."""

import re

import pytest
import torch

from rnngen import idioms
from rnngen.compile import compile_model
from rnngen.equations import parse_expression, parse_step
from rnngen.errors import ModelError
from rnngen.matrices import CALLS
from rnngen.source import Source

FUNCTION_TABLES = {"RENAMED": idioms.RENAMED, "WRITTEN_OUT": idioms.WRITTEN_OUT, "ABSENT": idioms.ABSENT}
HINTS = {
    **idioms.ABSENT,
    **idioms.ARGUMENTS,
    **idioms.OF_A_MATRIX,
    **idioms.NUMBERS,
    **idioms.IDENTITIES,
    **idioms.SIGNS,
    **idioms.CHARACTERS,
    **idioms.LATEX,
    **idioms.MODEL_KEYS,
    **idioms.CELL_KEYS,
    **idioms.PARAMETER_KEYS,
    **idioms.LAYER_KINDS,
    **idioms.LAYER_KEYS,
}

# What torch has under the name of a function that is written out; b and c are given where it has arguments.
A, B = torch.linspace(-0.9, 2.9, 40, dtype=torch.float64), torch.linspace(0.3, 0.5, 40, dtype=torch.float64)
C, ZERO_TO_ONE = torch.tensor(1.5, dtype=torch.float64), torch.linspace(0.1, 0.9, 40, dtype=torch.float64)
MATRIX = torch.linspace(-1, 1, 1600, dtype=torch.float64).view(40, 40)
F = torch.nn.functional
IN_TORCH = {
    "square": (torch.square, A),
    "reciprocal": (torch.reciprocal, A),
    "rsqrt": (torch.rsqrt, B),
    "expm1": (torch.expm1, A),
    "exp2": (torch.exp2, A),
    "log2": (torch.log2, B),
    "log10": (torch.log10, B),
    "logit": (torch.logit, ZERO_TO_ONE),
    "tan": (torch.tan, A),
    "sinh": (torch.sinh, A),
    "cosh": (torch.cosh, A),
    "asinh": (torch.asinh, A),
    "acosh": (torch.acosh, B + 1),
    "atanh": (torch.atanh, ZERO_TO_ONE),
    "hypot": (torch.hypot, A, B),
    "sign": (torch.sign, A),
    "clamp": (torch.clamp, A, B, C),
    "clip": (torch.clip, A, B, C),
    "logaddexp": (torch.logaddexp, A, B),
    "lerp": (torch.lerp, A, B, C),
    "prelu": (F.prelu, A, torch.tensor([0.2], dtype=torch.float64)),
    "threshold": (lambda a, b, c: F.threshold(a, float(b), float(c)), A, torch.tensor(0.1).double(), C),
    "hardshrink": (F.hardshrink, A),
    "softshrink": (F.softshrink, A),
    "gelu_tanh": (lambda a: F.gelu(a, approximate="tanh"), A),
    "add": (torch.add, A, B),
    "subtract": (torch.subtract, A, B),
    "multiply": (torch.multiply, A, B),
    "true_divide": (torch.true_divide, A, B),
    "negative": (torch.negative, A),
    "remainder": (torch.remainder, 9 * A, B),
    "floor_divide": (torch.floor_divide, 9 * A, B),
    "ceil": (torch.ceil, A),
    "trunc": (torch.trunc, A),
    "frac": (torch.frac, A),
    "fmod": (torch.fmod, 8.9 * A, -B),
    "matmul": (torch.matmul, MATRIX, A),
    "norm": (torch.linalg.norm, A),
    "l1_norm": (lambda a: torch.linalg.norm(a, 1), A),
    "normalize": (lambda a: F.normalize(a, dim=0), A),
    "softmin": (lambda a: F.softmin(a, 0), A),
    "logsumexp": (lambda a: torch.logsumexp(a, 0), A),
    "log_softmax": (lambda a: F.log_softmax(a, 0), A),
    "cosine_similarity": (lambda a, b: F.cosine_similarity(a, b, 0), A, B),
    "mv": (torch.mv, MATRIX, A),
    **{name: (getattr(torch, name), A, B) for name in "gt greater lt less ge greater_equal le less_equal".split()},
    **{name: (getattr(torch, name), A, B) for name in "eq ne not_equal".split()},
}
NAMESPACE = {
    name: getattr(torch, name)
    for name in ("abs", "cos", "exp", "floor", "log", "log1p", "sigmoid", "sin", "sqrt", "tanh")
}
NAMESPACE |= {"max": lambda a, b: torch.maximum(*_both(a, b)), "min": lambda a, b: torch.minimum(*_both(a, b))}
NAMESPACE |= {"where": torch.where, "sum": torch.sum, "mean": torch.mean, "dot": torch.dot}
NAMESPACE["softmax"] = lambda a: torch.softmax(a, 0)


def _both(*numbers) -> list[torch.Tensor]:
    return [torch.as_tensor(number, dtype=torch.float64) for number in numbers]


@pytest.mark.parametrize("name", IN_TORCH)
def test_what_is_written_out_is_what_torch_computes(name):
    function, *arguments = IN_TORCH[name]
    ours = eval(idioms.WRITTEN_OUT[name], NAMESPACE | dict(zip("abc", arguments, strict=False)))
    torch.testing.assert_close(ours, function(*arguments), rtol=1e-12, atol=1e-15, check_dtype=False)


def test_functions_are_in_one_table_and_none_of_ours():
    names = [name for table in FUNCTION_TABLES.values() for name in table]
    assert len(names) == len(set(names))
    assert not set(names) & CALLS.keys()
    assert all(name == name.lower() for name in names)
    assert set(idioms.RENAMED.values()) <= CALLS.keys()


def test_what_is_written_out_can_be_read():
    for written in idioms.WRITTEN_OUT.values():
        assert {name.name for name in parse_expression(written).names()} <= set("abc")


def test_hints_are_written_like_hints():
    for key, hint in HINTS.items():
        assert hint[0] == hint[0].lower(), key
        assert hint.endswith((".", "?")) or ": " in hint, key
        assert hint.isascii(), key


def test_the_characters_are_single_and_not_ascii():
    assert all(len(char) == 1 and not char.isascii() for char in idioms.CHARACTERS)


def _hints(name: str) -> list[str]:
    """What is said of a call of a function."""
    text = f'name = "unit"\nstates = ["h"]\nstep = "h\' = {name}(h)"\n[parameters]\n'
    with pytest.raises(ModelError) as caught:
        compile_model(Source("unit.toml", text))
    (mistake,) = caught.value.mistakes
    assert mistake.code == "unknown-function"
    return list(mistake.hints)


@pytest.mark.parametrize("table", FUNCTION_TABLES)
def test_every_function_is_answered_in_any_case(table):
    for name, remedy in FUNCTION_TABLES[table].items():
        for written in (name, name.upper()):
            (hint,) = _hints(written)
            if table != "WRITTEN_OUT":
                assert remedy in hint
            elif "b" not in {part.name for part in parse_expression(remedy).names()}:
                assert hint == "write " + re.sub(r"\ba\b", "h", remedy) + "."


# What replaces a call or two operands beside one another, by what was written; a context may take it apart.
MEANT = {
    "mul(r, h)": "r * h",
    "torch.sub(1, r)": "1 - r",
    "sub(1, -r)": "1 - -r",
    "square(r)": "r * r",
    "np.expm1(r)": "exp(r) - 1",
    "lerp(h, n, r)": "h + r * (n - h)",
    "neg(r)": "-r",
    "gt(r, h)": "r > h",
    "clip(r, -1, 1)": "min(max(r, -1), 1)",
    "r h": "r * h",
    "2r": "2 * r",
    "r tanh(h)": "r * tanh(h)",
    "2(r + h)": "2 * (r + h)",
}
CONTEXTS = (
    *("{}", "-{}", "{} * n", "n * {}", "{} / n", "n / {}", "U @ {}", "r @ {} + n", "{} + n", "n + {}", "n - {}"),
    *("n - -{}", "{} > n", "n == {}", "tanh({})", "max(n, {})", "tanh(n * {})", "tanh(W @ x + U @ {})", "-({})"),
)


@pytest.mark.parametrize("wrong", MEANT)
@pytest.mark.parametrize("context", CONTEXTS)
def test_what_is_to_be_written_means_the_same_in_every_place(context, wrong):
    mistakes = []
    parse_step(f"y = {context.format(wrong)}", lambda *mistake: mistakes.append(mistake), {})
    ((*_, hint),) = mistakes
    written = hint.removeprefix("write ").removesuffix(".")
    if ", else " in written:
        written = written.rpartition(", else ")[2]
    written = written.replace("(...)", "(r + h)" if wrong.startswith("2") else "(h)")
    assert parse_expression(context.format(written)) == parse_expression(context.format(f"({MEANT[wrong]})")), hint


@pytest.mark.parametrize("number", ["0x" + "f" * 4000, "0b1" + "_0" * 2000, "1" + "_0" * 2000])
def test_a_number_of_many_digits_has_a_hint(number):
    mistakes = []
    parse_step(f"y = {number}", lambda *mistake: mistakes.append(mistake), {})
    ((*_, hint),) = mistakes
    assert hint.startswith("write ")


K = torch.tensor(0.7, dtype=torch.float64)
CHOSEN = {
    "leaky_relu": lambda a: F.leaky_relu(a, 0.7),
    "elu": lambda a: F.elu(a, 0.7),
    "softplus": lambda a: F.softplus(a, 0.7),
    "gelu": lambda a: F.gelu(a, approximate="tanh"),
    "log": lambda a: torch.log(a) / torch.log(K),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_an_argument_of_torch_would_choose_is_what_torch_computes(name):
    written = re.search(r" is ([^;]*)\.$", idioms.ARGUMENTS[name])[1]
    arguments = {"a": B if name == "log" else A, "k": K, "softplus": F.softplus}
    torch.testing.assert_close(
        eval(written, NAMESPACE | arguments), CHOSEN[name](arguments["a"]), rtol=1e-12, atol=1e-15
    )


def test_the_two_hard_sigmoids_are_those_of_torch_and_of_keras():
    ours, keras = re.findall(r"min\(.*?, 1\)", idioms.ABSENT["hard_sigmoid"])
    wide = 3 * A
    torch.testing.assert_close(eval(ours, NAMESPACE | {"a": wide}), F.hardsigmoid(wide))
    assert eval(keras, NAMESPACE | {"a": torch.tensor(-2.5)}) == 0
