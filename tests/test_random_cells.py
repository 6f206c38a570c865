"""Cells that nobody thought of, from text to gradients: a generated module against its reference."""

import re

import torch
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st

from rnngen.compile import stages
from rnngen.description import describe
from rnngen.errors import ModelError
from rnngen.source import Source

STATES = ("h", "c", "m")
SHAPES = {
    "W": '["hidden", "inputs"]',
    "U": '["hidden", "hidden"]',
    "R": '["hidden", "hidden"]',  # block-diagonal
    "u": '["hidden"]',
    "k": "[]",
}
UNARY = ("tanh({})", "sigmoid({})", "sin({})", "cos({})", "softplus({})", "silu({})", "logsigmoid({})", "-{}")
UNARY += ("elu({})", "gelu({})", "hardswish({})", "leaky_relu({})", "mish({})", "softsign({})", "tanhshrink({})")
UNARY += (
    "exp(-softplus({}))",
    "sqrt(1.5 + sin({}))",
    "log(2 + cos({}))",
    "log1p(sigmoid({}))",
    "relu({})",
    "abs({})",
)
BINARY = ("{} + {}", "{} - {}", "{} * {}", "{} / (1.5 + sigmoid({}))", "max({}, {})", "min({}, {})")


@st.composite
def cells(draw) -> str:
    """The text of a file: one to three states, and before their equations up to four others."""
    states = STATES[: draw(st.integers(1, 3))]
    vectors = [*states]
    lines: list[tuple[str, str]] = []
    compared: list[str] = []

    def block(kind: str) -> str:
        return f"{kind}_{draw(st.integers(1, 3))}"

    def leaf() -> str:
        kinds = ("vector", "vector", "product", "input", "u", "k", "number")
        match draw(st.sampled_from(kinds)):
            case "vector":
                return draw(st.sampled_from(vectors))
            case "product":
                return f"({block(draw(st.sampled_from('UUR')))} @ {draw(st.sampled_from(vectors))})"
            case "input":
                return f"({block('W')} @ x)"
            case "number":
                return draw(st.sampled_from(("0.5", "rate", "(-0.25)")))
            case kind:
                return block(kind)

    def expression(depth: int) -> str:
        kind = draw(st.integers(0, 9)) if depth else 0
        if kind < 2:
            return leaf()
        if kind < 5:
            return draw(st.sampled_from(UNARY)).format(
                f"({expression(depth - 1)} + 0.1 * {draw(st.sampled_from(vectors))})"
            )
        if kind < 9:
            form = draw(st.sampled_from(BINARY))
            return f"({form.format(expression(depth - 1), expression(depth - 1))})"
        parts = [expression(depth - 1) for _ in range(4)]
        compared.extend(re.findall(r"\b[WURuk]_\d", "".join(parts[:2])))
        return "where({} < {}, {}, 0.9 * {})".format(*parts)

    for number in range(draw(st.integers(0, 4))):
        name = f"a{number}"
        lines.append((name, f"{expression(3)} + 0.1 * {draw(st.sampled_from(vectors))}"))
        vectors.append(name)
    for state in states:  # bounded, so that a long sequence is no test of overflow
        bound = draw(st.sampled_from(("tanh({})", "0.5 * sin({})", "sigmoid({})", "0.9 * {state} + 0.1 * tanh({})")))
        inner = f"{expression(3)} + 0.5 * {draw(st.sampled_from(vectors))}"
        lines.append((f"{state}'", bound.format(inner, state=state)))
        vectors.append(f"{state}'")
    output = draw(st.sampled_from(["h'", "h'", *(vector for vector in vectors if vector not in states)]))
    if draw(st.booleans()):
        lines.append(("y", f"{expression(2)} + 0.2 * {output}"))
        output = "y"

    # What nothing uses is a mistake, and so is a parameter that is only compared; so they are used here.
    text = "\n".join(right for _, right in lines)
    unused = [name for name in (*states, *vectors) if not re.search(rf"(?<!\w){name}(?![\w'])", text)]
    unused = [name for name in dict.fromkeys(unused) if not name.endswith("'") and name != output]
    unused += [
        name + {"W": " @ x", "U": " @ h", "R": " @ h"}.get(name[0], "") for name in ["W_1", *sorted(set(compared))]
    ]
    lines.append(("extra", " + ".join(["0.1 * h", *(f"0.3 * ({name})" for name in unused)])))
    at = next(n for n, (name, _) in enumerate(lines) if name == f"{states[-1]}'")
    lines[at] = (lines[at][0], f"{lines[at][1]} + 0.1 * sin(extra)")

    step = "\n".join(f"{name} = {right}" for name, right in lines)
    found = [f'name = "random_cell"\nstates = {list(states)}\noutput = "{output}"'.replace("'h'", '"h"')]
    found[0] = found[0].replace("'c'", '"c"').replace("'m'", '"m"')
    found += ["constants = { rate = 0.75 }"] if "rate" in step else []
    found += [f'step = """\n{step}\n"""', "[parameters]"]
    for kind, shape in SHAPES.items():
        blocks = sorted(set(re.findall(rf"\b{kind}_\d", step)))
        together = draw(st.booleans())
        heads = ", heads = true" if kind == "R" else ""
        for number, group in enumerate([blocks] if together and blocks else [[block] for block in blocks]):
            names = ", ".join(f'"{name}"' for name in group)
            found.append(f"stack_{kind}{number} = {{ shape = {shape}, blocks = [{names}]{heads} }}")
    return "\n".join(found) + "\n"


def flat(results) -> list[torch.Tensor]:
    return [results] if isinstance(results, torch.Tensor) else [t for part in results for t in flat(part)]


def check(layer_class: type, *, reverse: bool, schedule: str = "auto", dtype=torch.float64, tolerance=1e-8) -> None:
    """Raises AssertionError unless every output and every gradient is that of the layer's reference in float64."""
    heads = 2 if any(weight.heads for weight in layer_class.cell.weights) else 1
    torch.manual_seed(0)
    layer = layer_class(3, 4, heads=heads, reverse=reverse, schedule=schedule, dtype=dtype)
    exact = layer_class(3, 4, heads=heads, reverse=reverse, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 3, dtype=dtype)
    states = [torch.randn(1, 3, 4, dtype=dtype) for _ in layer.cell.states]
    results = []
    for path, module, kind in ((layer, layer, dtype), (exact.reference, exact, torch.float64)):
        inputs = [tensor.to(kind).requires_grad_() for tensor in (x, *states)]
        given = inputs[1] if len(states) == 1 else tuple(inputs[1:])
        found = dict(zip(("y", *layer.cell.states), flat(path(inputs[0], given)), strict=True))
        loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in found.values())
        names = ("x", *(f"initial {state}" for state in layer.cell.states))
        leaves = dict(module.named_parameters()) | dict(zip(names, inputs, strict=True))
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        found = {name: tensor.detach() for name, tensor in found.items()}
        results.append(found | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)})
    got, want = results
    scale = max(float(tensor.norm()) for name, tensor in want.items() if name.startswith("gradient"))
    for name, tensor in want.items():
        error = float((got[name].double() - tensor).norm())
        least = 1e-6 * scale if name.startswith("gradient") else 1e-6
        assert error <= tolerance * max(float(tensor.norm()), least), f"{name} is off by {error:.1e}"


@given(text=cells(), reverse=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_cells(text, reverse, layer_of):
    note(text)
    try:
        layer_class = layer_of(text)
    except ModelError as error:
        note(str(error))
        reject()
    check(layer_class, reverse=reverse)


def test_most_draws_are_cells():
    """A strategy whose draws were all rejected would test nothing."""
    accepted, rejected = [], []

    @given(text=cells())
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def draw(text):
        try:
            (cell,) = describe(Source("cell.toml", text)).cells
            list(stages(cell))
            accepted.append(text)
        except ModelError as error:
            rejected.append(str(error))

    draw()
    assert len(accepted) >= 2 * len(rejected), rejected[-1]
