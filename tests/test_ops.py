"""Each row of `ops` against torch: values in `math`, derivatives by autograd in float64."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnngen import build, reference
from rnngen.across import ACROSS, ShapeConflict
from rnngen.emit.statements import _LEVELS
from rnngen.emit.targets import TARGETS
from rnngen.emit.torch.spelling import SPELLING
from rnngen.equations import Expression, parse_expression
from rnngen.ir import CHOICES, CellGraph, Value
from rnngen.ops import COMPARISONS, FUNCTIONS, OPS, Op

SELU = (1.0507009873554804934193349852946, 1.6732632423543772848170429916717)  # Klambauer et al. 2017
# What a person means by the name, one number at a time.
MEANING: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "sigmoid": lambda a: math.exp(min(a, 0)) / (1 + math.exp(-abs(a))),
    "tanh": math.tanh,
    "exp": math.exp,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "erf": math.erf,
    "floor": math.floor,
    "mod": lambda a, b: a % b,
    "abs": abs,
    "max": max,
    "min": min,
    "where": lambda a, b, c: b if a else c,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "relu": lambda a: max(a, 0),
    "softplus": lambda a: max(a, 0) + math.log1p(math.exp(-abs(a))),
    "silu": lambda a: a * math.exp(min(a, 0)) / (1 + math.exp(-abs(a))),
    "hardsigmoid": lambda a: min(max(a / 6 + 0.5, 0), 1),
    "identity": lambda a: a,
    "leaky_relu": lambda a: a if a > 0 else 0.01 * a,
    "relu6": lambda a: min(max(a, 0), 6),
    "hardtanh": lambda a: min(max(a, -1), 1),
    "elu": lambda a: a if a > 0 else math.expm1(a),
    "selu": lambda a: SELU[0] * (a if a > 0 else SELU[1] * math.expm1(a)),
    "gelu": lambda a: a * (1 + math.erf(a / math.sqrt(2))) / 2,
    "softsign": lambda a: a / (1 + abs(a)),
    "tanhshrink": lambda a: a - math.tanh(a),
    "hardswish": lambda a: a * min(max(a + 3, 0), 6) / 6,
    "mish": lambda a: a * math.tanh(max(a, 0) + math.log1p(math.exp(-abs(a)))),
    "logsigmoid": lambda a: min(a, 0) - math.log1p(math.exp(-abs(a))),
}
EVERYWHERE = (0.0, 1e-30, -1e-30, 1e-9, -1e-9, 0.1, -0.1, 1.0, -1.0, 2.5, -2.5, 3.0, -3.0, 17.0, -17.0)
FAR = (88.0, -88.0, 700.0, -700.0, 1e4, -1e4)  # exp(89) overflows float32, exp(710) float64
POINTS = {
    "exp": EVERYWHERE + FAR[:4],
    "log": (1e-300, 1e-30, 0.1, 1.0, 3.0, 1e4, 1e300),
    "log1p": (-0.999999, -0.1, -1e-30, 0.0, 1e-30, 1e-9, 3.0, 1e300),
    "sqrt": (1e-300, 1e-30, 0.1, 1.0, 3.0, 1e300),
}
# torch's softplus is the identity from 20 on, which is off by exp(-20).
TOLERANCE = {"softplus": 3e-9}

every_row = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
every_derived = pytest.mark.parametrize("op", [op for op in OPS.values() if op.definition], ids=lambda op: op.name)


def points(op: Op) -> list[Tensor]:
    """Operands: every number with every other, so that ties and kinks are among them."""
    numbers = POINTS.get(op.name, EVERYWHERE + FAR)
    rows = list(itertools.product(numbers, repeat=op.arity))
    if op.name in ("div", "mod"):
        rows = [row for row in rows if abs(row[1]) > 1e-20]
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    if op.name == "where":
        columns[0] = columns[0] > 0
    return columns


def evaluated(tree: Expression, names: dict[str, Tensor]) -> Tensor:
    """An expression of the equation language in torch."""
    if tree.op == "name":
        return names[tree.name]
    if tree.op == "number":
        return torch.tensor(tree.number, dtype=torch.float64)
    return torch_function(tree.op)(*(evaluated(operand, names) for operand in tree.operands))


def torch_function(name: str) -> Callable[..., Tensor]:
    """The function of torch with this name, other than the one of the reference where torch has two."""
    if name == "hardsigmoid":  # F.hardsigmoid has 1 / 6 in float32 in its derivative
        return lambda a: F.hardtanh(a / 3) / 2 + 0.5
    if name == "identity":
        return nn.Identity()
    name = {"max": "maximum", "min": "minimum", "div": "true_divide", "mul": "multiply", "mod": "remainder"}.get(
        name, name
    )
    return getattr(torch, name, None) or getattr(F, name)


def check_partials(op: Op) -> None:
    """Raises AssertionError unless each partial is what autograd says."""
    assert len(op.partials) == op.arity
    operands = [p.requires_grad_() if p.is_floating_point() else p for p in points(op)]
    result = torch_function(op.name)(*operands)
    names = dict(zip(op.operands.split(), operands, strict=True)) | {"y": result}
    for operand, partial in zip(operands, op.partials, strict=True):
        if not partial:
            assert not result.requires_grad or not operand.is_floating_point()
            continue
        (want,) = torch.autograd.grad(result.sum(), operand, retain_graph=True)
        got = evaluated(parse_expression(partial), names).expand_as(want)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=TOLERANCE.get(op.name, 1e-14))


def check_definition(op: Op) -> None:
    """Raises AssertionError unless a derived operation means what torch calls by its name."""
    (a,) = points(op)
    got = evaluated(parse_expression(op.definition), {"a": a})
    torch.testing.assert_close(got, torch_function(op.name)(a), rtol=1e-12, atol=TOLERANCE.get(op.name, 1e-14))


@every_row
def test_values(op):
    columns = points(op)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    want = torch.tensor([MEANING[op.name](*row) for row in rows], dtype=torch.float64)
    for function in (torch_function(op.name), reference._FUNCTIONS[op.name]):
        got = function(*columns)
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-12, atol=TOLERANCE.get(op.name, 1e-300))


@every_row
def test_partials(op):
    check_partials(op)


@every_derived
def test_definition(op):
    check_definition(op)


@every_derived
def test_definition_is_of_primitives(op):
    """One round of expansion is enough, since `lower` does one."""

    def ops(tree: Expression) -> set[str]:
        return {tree.op}.union(*map(ops, tree.operands))

    used = ops(parse_expression(op.definition)) - {"name", "number"}
    assert not any(OPS[name].definition for name in used)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_derived
def test_definition_far_out(op, dtype):
    """No overflow on the way to a result that is finite."""
    a = torch.tensor([-3e38, -1e4, -100.0, 100.0, 1e4, 3e38], dtype=dtype)
    tree = parse_expression(op.definition)
    assert evaluated(tree, {"a": a}).isfinite().all()
    assert evaluated(parse_expression(op.partials[0]), {"a": a, "y": torch_function(op.name)(a)}).isfinite().all()


ON_NUMBERS = [op for op in OPS.values() if any(op.partials) and op.name != "where"]


@pytest.mark.parametrize("op", ON_NUMBERS, ids=lambda op: op.name)
def test_folded_constants(op):
    for row in zip(*(c.tolist() for c in points(op)), strict=True):
        folded = build.folded(op.name, list(row))
        if folded is not None:
            assert math.isclose(folded, MEANING[op.name](*row), rel_tol=1e-15, abs_tol=0)


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_folded_comparisons(name):
    for a, b in itertools.product((-1.0, 0.0, 2.0), repeat=2):
        assert OPS[name].number(a, b) == MEANING[name](a, b)


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.name in SPELLING.calls], ids=lambda op: op.name)
def test_spelling_in_torch(op):
    """What the CPU's steps say."""
    columns = points(op)
    names = dict(zip("abc", columns, strict=False))
    forms = [(SPELLING.calls[op.name].format(*"abc"), columns)]
    if op.name in SPELLING.with_number:
        form = SPELLING.with_number[op.name].format("a", "0.25")
        forms.append((form, [columns[0], torch.full_like(columns[0], 0.25)]))
    for text, operands in forms:
        got = eval(text, {"torch": torch, "F": F}, names)  # text of ours
        torch.testing.assert_close(got, torch_function(op.name)(*operands), rtol=1e-15, atol=0)


def test_every_row_is_known_everywhere():
    assert OPS.keys() == MEANING.keys() == reference._FUNCTIONS.keys()
    assert OPS.keys() == COMPARISONS | {name for name, op in OPS.items() if any(op.partials)}
    assert {name for name, op in OPS.items() if not op.sign} == FUNCTIONS.keys()
    assert {"lt", "le", "gt", "ge", "eq", "ne"} == COMPARISONS
    assert {name for name, op in OPS.items() if not (op.number or op.definition)} == {"where"}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_target_spells_every_primitive(target):
    """The signs are the language's own; what the passes make of a step is spelled too."""
    primitives = {name for name, op in OPS.items() if not op.definition} - _LEVELS.keys()
    assert primitives | CHOICES | {"expand"} <= {name for name, text in target.spelling.calls.items() if text}


@pytest.mark.parametrize("op", ACROSS.values(), ids=ACROSS)
def test_a_row_across_units_is_spelled(op):
    """In the steps of torch, in C and, as `stepwise` takes every primitive, in its template."""
    assert not op.sign.isidentifier() or op.sign == op.name, "a function's sign is its name"
    assert op.name in TARGETS["torch"].spelling.calls, "rnngen/emit/torch/spelling.py lacks it"
    assert op.definition or op.name in TARGETS["c"].spelling.calls, "rnngen/emit/c/spelling.py lacks it"
    template = "templates/triton/stepwise.py.jinja"
    spelled = f'"{op.name}": "' in (Path(__file__).parent.parent / template).read_text()
    assert spelled or op.definition, f"{template} lacks it"


@pytest.mark.parametrize("op", [op for op in ACROSS.values() if op.back], ids=lambda op: op.name)
def test_a_row_across_units_has_its_adjoint(op):
    """<op(a), b> is <a, back(b)>."""
    assert op.back in ACROSS, "the row's `back` is the name of no row"
    assert ACROSS[op.back].back == op.name and ACROSS[op.back].matrix == op.matrix
    matrix = (Value("M", "parameter", shape=("hidden", "inputs")),) if op.matrix else ()
    names, width = [leaf.name for leaf in matrix], {"hidden": 4, "inputs": 3}
    drawn = torch.Generator().manual_seed(1)
    numbers = {"M": torch.randn(4, 3, dtype=torch.float64, generator=drawn)}

    def applied(name: str, operand: tuple[str, ...], vector: torch.Tensor) -> tuple[tuple[str, ...], torch.Tensor]:
        shape = ACROSS[name].shape(*(leaf.shape for leaf in matrix), operand)
        result = Value("r", name, (*names, "v"), shape)
        graph = CellGraph("one", (*matrix, Value("v", "input", shape=operand), result), outputs=(("r", "r"),))
        return shape, reference.run(graph, {"v": vector}, {}, {name: numbers[name] for name in names})[0]["r"]

    def random(shape: tuple[str, ...]) -> torch.Tensor:
        return torch.randn(2, width[shape[0]], dtype=torch.float64, generator=drawn)

    operand = ("inputs",)
    try:
        ACROSS[op.name].shape(*(leaf.shape for leaf in matrix), operand)
    except ShapeConflict:
        operand = ("hidden",)  # it is the matrix's rows that it sums over
    a = random(operand)
    shape, there = applied(op.name, operand, a)
    b = random(shape)
    again, back = applied(op.back, shape, b)
    assert again == operand
    torch.testing.assert_close((there * b).sum(), (a * back).sum(), rtol=1e-14, atol=0)


# What torch calls what looks across units, of vectors in its last dimension.
OF_UNITS: dict[str, Callable[..., Tensor]] = {
    "sum": lambda a: torch.sum(a, -1, keepdim=True),
    "mean": lambda a: torch.mean(a, -1, keepdim=True),
    "largest": lambda a: torch.amax(a, -1, keepdim=True),
    "dot": lambda a, b: torch.linalg.vecdot(a, b)[..., None],
    "layer_norm": lambda a: F.layer_norm(a, a.shape[-1:]),
    "rms_norm": lambda a: F.rms_norm(a, a.shape[-1:], eps=torch.finfo(torch.float32).eps),
    "softmax": lambda a: torch.softmax(a, -1),
}


def of_units(tree: Expression, names: dict[str, Tensor]) -> Tensor:
    """An expression that looks across units in torch; what is the largest has no derivative."""
    if tree.op in ("name", "number"):
        return evaluated(tree, names)
    operands = [of_units(operand, names) for operand in tree.operands]
    if tree.op == "largest":
        return OF_UNITS["largest"](operands[0].detach())
    return OF_UNITS.get(tree.op, torch_function(tree.op))(*operands)


@pytest.mark.parametrize("op", [op for op in ACROSS.values() if not op.matrix], ids=lambda op: op.name)
def test_what_looks_across_units_is_torchs(op):
    """Values and derivatives, of several widths and of large numbers."""
    assert {row.name for row in ACROSS.values() if not row.matrix} == OF_UNITS.keys()
    for units, scale in itertools.product((1, 2, 7, 64), (0.001, 1.0, 50.0)):
        drawn = torch.Generator().manual_seed(units)
        names = op.operands.split()
        operands = [
            (3 + scale * torch.randn(5, units, dtype=torch.float64, generator=drawn)).requires_grad_() for _ in names
        ]
        want = OF_UNITS[op.name](*operands)
        values = [Value(name, "input", shape=("hidden",)) for name in names]
        result = Value("r", op.name, tuple(names), op.shape(*(value.shape for value in values)))
        graph = CellGraph("one", (*values, result), outputs=(("r", "r"),))
        judged = reference.run(graph, dict(zip(names, operands, strict=True)), {}, {})[0]["r"]
        torch.testing.assert_close(judged, want, rtol=1e-12, atol=1e-13)
        weights = torch.linspace(-1, 2, want.numel(), dtype=torch.float64).view_as(want)
        gradients = torch.autograd.grad((want * weights).sum(), operands)
        known = dict(zip(names, operands, strict=True))
        if op.definition:
            got = of_units(parse_expression(op.definition), known)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            found = torch.autograd.grad((got * weights).sum(), operands)
        elif op.partials:
            known["share"] = torch.tensor(1 / units, dtype=torch.float64)
            partials = [evaluated(parse_expression(partial), known) for partial in op.partials]
            found = [weights * partial.expand_as(operands[0]) for partial in partials]
        else:
            continue  # it is never differentiated
        for d, gradient in zip(found, gradients, strict=True):
            torch.testing.assert_close(d, gradient, rtol=1e-12, atol=1e-12 * max(1, float(gradient.abs().max())))


def test_the_reference_of_a_module_spells_every_operation():
    """It keeps the derived ones, in torch's own functions."""
    assert (OPS | ACROSS).keys() - _LEVELS.keys() <= TARGETS["torch"].spelling.calls.keys()


@pytest.mark.parametrize("op", [op for op in OPS.values() if any(op.partials)], ids=lambda op: op.name)
def test_a_wrong_partial_is_found(op):
    for number, partial in enumerate(op.partials):
        for wrong in (f"1.0001 * ({partial})", f"({partial}) + 0.001", "0.7")[partial == "0" :]:
            partials = [*op.partials]
            partials[number] = wrong if partial else partial
            if partial:
                with pytest.raises(AssertionError):
                    check_partials(replace(op, partials=tuple(partials)))


@every_derived
def test_a_wrong_definition_is_found(op):
    with pytest.raises(AssertionError):
        check_definition(replace(op, definition=f"1.0001 * ({op.definition})"))


@pytest.mark.parametrize("blocks", [["W"], ["W_a", "W_b"]])
@pytest.mark.parametrize("norm, size", [("layer_norm", 300), ("rms_norm", 1000), ("softmax", 300)])
def test_a_norm_of_large_inputs_holds_in_half_precision(layer_of, norm, size, blocks):
    """Squares of more than 256 are infinite there."""
    parts = "abc"[: len(blocks)]
    text = f"""
    name   = "large_{norm}"
    states = ["h"]
    step   = '''
    {", ".join(parts)} = {norm}(W @ x)
    h' = tanh({" - 0.5 * ".join(parts)} + U @ h)
    '''
    [parameters]
    W = {{ shape = ["hidden", "inputs"], blocks = {blocks} }}
    U = {{ shape = ["hidden", "hidden"] }}
    """
    torch.manual_seed(0)
    layer = layer_of(text)(8, 16).half().float()
    x = (size * torch.randn(6, 3, 8)).half()
    exact, _ = layer(x.float())
    found, _ = layer.half()(x)
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=0.02)
