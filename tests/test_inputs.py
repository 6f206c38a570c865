"""What a step takes in beside x: declared in a cell, given to a layer by name, judged by equations written out."""

import re

import pytest
import torch
from cells import LIBRARY
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnngen.runtime import Recurrence

GATED = """
name   = "gated"
states = ["h"]
inputs = { gate = { shape = ["hidden"] }, u = { shape = ["inputs"] } }
step   = '''
n  = tanh(W @ x + V @ u + U @ h + b)
h' = gate * n + (1 - gate) * h
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W"] }
V = { shape = ["hidden", "inputs"], blocks = ["V"] }
U = { shape = ["hidden", "hidden"], blocks = ["U"] }
b = { shape = ["hidden"], blocks = ["b"] }
"""
CFC = LIBRARY["cfc"]
T, B, I, H = 6, 3, 4, 5


def gated(layer, suffix: str, x: Tensor, h: Tensor, gate: Tensor, u: Tensor) -> Tensor:
    W, V, U, b = (getattr(layer, f"{name}{suffix}") for name in "WVUb")
    return gate * torch.tanh(x @ W.T + u @ V.T + h @ U.T + b) + (1 - gate) * h


def cfc(layer, suffix: str, x: Tensor, h: Tensor, tau: Tensor) -> Tensor:
    W, U = (getattr(layer, f"{name}{suffix}") for name in ("weight_ih", "weight_hh"))
    P, Q, A, C = getattr(layer, f"weight_kh{suffix}").chunk(4)
    b, p, q, a, c = getattr(layer, f"bias{suffix}").chunk(5)
    k = 1.7159 * torch.tanh(0.666 * (x @ W.T + h @ U.T + b))
    g = torch.sigmoid((k @ A.T + a) * tau[..., None] + k @ C.T + c)
    return torch.tanh(k @ P.T + p) * (1 - g) + torch.tanh(k @ Q.T + q) * g


STEPS = {GATED: gated, CFC: cfc}
CELLS = pytest.mark.parametrize("cell", [pytest.param(GATED, id="gated"), pytest.param(CFC, id="cfc")])


def given(cell: str, hidden: int = H, inputs: int = I) -> dict[str, Tensor]:
    """What comes in at each step, by name."""
    torch.manual_seed(2)
    shapes = {"x": (inputs,)} | ({"tau": ()} if cell == CFC else {"gate": (hidden,), "u": (inputs,)})
    return {name: torch.rand(T, B, *shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def written_out(layer, step, xs: dict[str, Tensor], first: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """All layers and directions by loops over the steps of each sequence; the padding of the output is zero."""
    x, *others = xs.values()
    last = []
    for number in range(layer.num_layers):
        outputs = []
        for backwards in (False, True) if layer.bidirectional else (layer.reverse,):
            suffix = f"_l{number}{'_reverse' if layer.bidirectional and backwards else ''}"
            place = len(last)
            rows, ends = [], []
            for n, length in enumerate(lengths):
                h, found = first[place, n], {}
                for t in reversed(range(length)) if backwards else range(length):
                    h = found[t] = step(layer, suffix, x[t, n], h, *(other[t, n] for other in others))
                rows.append(torch.stack([found.get(t, torch.zeros_like(h)) for t in range(len(x))]))
                ends.append(h)
            outputs.append(torch.stack(rows, 1))
            last.append(torch.stack(ends))
        x = torch.cat(outputs, -1)
    return x, torch.stack(last)


def alike(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], leaves: list[Tensor]) -> None:
    """Outputs, last states and all gradients."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(y.sin().sum() + h.cos().sum(), leaves) for y, h in (ours, theirs))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@CELLS
@pytest.mark.parametrize(
    "options",
    [{}, {"reverse": True}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}],
    ids=str,
)
@pytest.mark.parametrize("method", ["forward", "reference"])
def test_layers(layer_of, cell, options, method):
    inputs = H * (1 + options.get("bidirectional", False)) if "num_layers" in options else I
    layer = layer_of(cell)(inputs, H, dtype=torch.float64, **options)
    xs, first = given(cell, inputs=inputs), torch.randn(layer._runs, B, H, dtype=torch.float64, requires_grad=True)
    x, *others = xs.values()
    named = dict(zip(list(xs)[1:], others, strict=True))
    ours = getattr(layer, method)(x, first, **named)
    alike(ours, written_out(layer, STEPS[cell], xs, first, [T] * B), [*xs.values(), first, *layer.parameters()])


TIMED = """
name   = "timed"
states = ["h"]
inputs = { tau = { shape = [] }, u = { shape = ["inputs"] } }
output = "y"
step   = '''
s  = sin(tau)
z  = W_z @ (cos(tau) * x)
n  = layer_norm(W_n @ x) * sin(tau)
h' = 0.5 * h + s + tanh(U_h @ h + b * sin(tau) + z + n + W_u @ u)
y  = cos(tau) * (U_y @ h')
'''
[parameters]
W = { shape = ["hidden", "inputs"], blocks = ["W_z", "W_n", "W_u"] }
U = { shape = ["hidden", "hidden"], blocks = ["U_h", "U_y"] }
b = { shape = ["hidden"], blocks = ["b"] }
"""


# A product within the step of what a number was applied to, which the gradients make anew.
PROJECTED = """
name   = "projected"
states = { r = { shape = ["proj"] }, c = { shape = ["hidden"] } }
sizes  = { proj = 3 }
inputs = { tau = { shape = [] } }
step   = '''
c' = 0.5 * c * cos(tau) + tanh(W @ x + U @ r)
r' = V @ tanh(c')
'''
[parameters]
W = { shape = ["hidden", "inputs"] }
U = { shape = ["hidden", "proj"] }
V = { shape = ["proj", "hidden"] }
"""


def late() -> Tensor:
    """Times of day in seconds: next to one another in float32, and the same in half precision."""
    return 1000 + torch.linspace(0, 1, T * B).view(T, B)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", [TIMED, PROJECTED, LIBRARY["phased_lstm"]], ids=["timed", "projected", "phased"])
@pytest.mark.parametrize("method", ["forward", "reference"])
def test_numbers_are_not_rounded_to_half_precision(layer_of, cell, method, dtype):
    torch.manual_seed(0)
    layer = layer_of(cell)(I, H, dtype=dtype, num_layers=1 if cell == TIMED else 2)
    exact = layer_of(cell)(I, H, dtype=torch.float64, num_layers=layer.num_layers)
    exact.load_state_dict(layer.state_dict())
    x, tau = torch.randn(T, B, I, dtype=dtype, requires_grad=True), late().requires_grad_()
    beside = {name: x.detach() for name in layer.cell.inputs if name == "u"}
    time = next(name for name in layer.cell.inputs if not layer.cell.inputs[name])
    y, state = getattr(layer, method)(x, **beside, **{time: tau})
    assert {part.dtype for part in (y, *(state if isinstance(state, tuple) else (state,)))} == {dtype}
    doubled = {name: rows.double() for name, rows in beside.items()}
    theirs, _ = exact.reference(x.double(), **doubled, **{time: tau.double()})
    assert (y.double() - theirs).norm() < 0.03 * theirs.norm()
    ours, want = (torch.autograd.grad(out.double().sum(), (x, tau)) for out in (y, theirs))
    assert [one.dtype for one in ours] == [dtype, torch.float32]
    for one, other in zip(ours, want, strict=True):
        assert (one.double() - other.double()).norm() < 0.06 * other.double().norm()
    rounded, _ = layer(x, **beside, **{time: tau.to(dtype)})  # may be given, and is what it then is
    assert rounded.dtype == dtype


def test_numbers_under_autocast_are_not_rounded(layer_of):
    torch.manual_seed(0)
    layer = layer_of(LIBRARY["phased_lstm"])(I, H)
    x, t = torch.randn(T, B, I), late()
    y, _ = layer(x, t=t)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = layer(x, t=t)
    assert cast.dtype == torch.bfloat16
    assert (cast.float() - y).norm() < 0.03 * y.norm()


def test_whole_numbers_are_converted_by_who_gives_them(layer_of):
    layer = layer_of(CFC)(I, H, dtype=torch.bfloat16)
    with pytest.raises(
        RuntimeError, match=r"tau tensor with torch.int64 \(tau\); convert it: tau\.to\(torch\.float32\)"
    ):
        layer(torch.zeros(T, B, I, dtype=torch.bfloat16), tau=torch.zeros(T, B, dtype=torch.int64))


@CELLS
def test_sequences_of_different_lengths(layer_of, cell):
    layer, lengths = layer_of(cell)(I, H, bidirectional=True, dtype=torch.float64), [3, T, 1]
    xs, first = given(cell), torch.randn(2, B, H, dtype=torch.float64, requires_grad=True)

    def packed(rows: Tensor) -> PackedSequence:
        return pack_padded_sequence(rows, torch.tensor(lengths), enforce_sorted=False)

    x, *others = map(packed, xs.values())
    y, last = layer(x, first, **dict(zip(list(xs)[1:], others, strict=True)))
    theirs = written_out(layer, STEPS[cell], xs, first, lengths)
    alike((pad_packed_sequence(y)[0], last), theirs, [*xs.values(), first, *layer.parameters()])


@CELLS
def test_every_form_of_a_call_is_the_same(layer_of, cell):
    layer = layer_of(cell)(I, H, dtype=torch.float64)
    xs = {name: rows.detach() for name, rows in given(cell).items()}
    x, named = xs["x"], {name: rows for name, rows in xs.items() if name != "x"}
    y, last = layer(x, **named)

    one, end = layer(x[:, 0], **{name: rows[:, 0] for name, rows in named.items()})  # without a batch
    torch.testing.assert_close((one, end), (y[:, 0], last[:, 0]))
    turned = layer_of(cell)(I, H, batch_first=True, dtype=torch.float64)
    turned.load_state_dict(layer.state_dict())
    first, _ = turned(x.transpose(0, 1), **{name: rows.transpose(0, 1) for name, rows in named.items()})
    torch.testing.assert_close(first.transpose(0, 1), y)
    state = None
    for t in range(T):
        y_t, state = layer.step(x[t], state, **{name: rows[t] for name, rows in named.items()})
        torch.testing.assert_close(y_t, y[t])
    torch.testing.assert_close(state, last)
    begin, middle = layer(x[:2], **{name: rows[:2] for name, rows in named.items()})
    rest, end = layer(x[2:], middle, **{name: rows[2:] for name, rows in named.items()})
    torch.testing.assert_close((torch.cat((begin, rest)), end), (y, last))


@CELLS
def test_resets_beside_other_inputs(layer_of, cell):
    layer = layer_of(cell)(I, H, dtype=torch.float64)
    xs = {name: rows.detach() for name, rows in given(cell).items()}
    flags = torch.zeros(T, B, dtype=torch.bool)
    flags[3] = True
    x, named = xs["x"], {name: rows for name, rows in xs.items() if name != "x"}
    y, last = layer(x, **named, resets=flags)
    first, _ = layer(x[:3], **{name: rows[:3] for name, rows in named.items()})
    second, end = layer(x[3:], **{name: rows[3:] for name, rows in named.items()})
    torch.testing.assert_close((y, last), (torch.cat((first, second)), end))


STACK = f"""
name   = "model"
inputs = {I}
[[layers]]
cell   = "lstm"
hidden = {I}
[[layers]]
cell   = "cfc"
hidden = {H}
"""


def test_a_stack_gives_each_layer_its_own(module_of):
    model = module_of(STACK).Model(batch_first=True, dtype=torch.float64)
    xs = {name: rows.detach().transpose(0, 1) for name, rows in given(CFC).items()}
    y, states = model(xs["x"], tau=xs["tau"])
    lstm, cfc = model.layers
    inner, _ = lstm(xs["x"].transpose(0, 1))
    outer, last = cfc(inner, tau=xs["tau"].T)
    torch.testing.assert_close((y.transpose(0, 1), states[1]), (outer, last))
    torch.testing.assert_close(model.reference(xs["x"], tau=xs["tau"])[0], y)
    state = None
    for t in range(T):
        y_t, state = model.step(xs["x"][:, t], state, tau=xs["tau"][:, t])
        torch.testing.assert_close(y_t, y[:, t])
    with pytest.raises(TypeError, match="Model: got an unexpected input 'dt'; its layers take tau"):
        model(xs["x"], dt=xs["tau"])
    with pytest.raises(TypeError, match="CfC: missing 'tau': what each step is given beside x, by name"):
        model(xs["x"])


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_recurrence_gives_its_cell_what_a_step_is_given(layer_of, batch_first):
    layer = layer_of(CFC)(I, H, dtype=torch.float64)
    xs = {name: rows.detach() for name, rows in given(CFC).items()}
    want, last = layer(xs["x"], tau=xs["tau"])
    for cell in (layer, lambda x, h, tau: (new := cfc(layer, "_l0", x, h, tau), new)):
        wrapped, hx = Recurrence(cell, batch_first), torch.zeros(1, B, H) if cell is layer else torch.zeros(B, H)
        rows = {name: value.transpose(0, 1) if batch_first else value for name, value in xs.items()}
        y, state = wrapped(rows["x"], hx.double(), tau=rows["tau"])
        torch.testing.assert_close(y.transpose(0, 1) if batch_first else y, want)
        torch.testing.assert_close(state.view(1, B, H), last)

    def packed(value: Tensor) -> PackedSequence:
        return pack_padded_sequence(value, torch.tensor([2, T, 4]), enforce_sorted=False)

    y, state = Recurrence(layer)(packed(xs["x"]), tau=packed(xs["tau"]))
    want, last = layer(packed(xs["x"]), tau=packed(xs["tau"]))
    torch.testing.assert_close((y.data, state), (want.data, last))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_layer(layer_of, backend):
    layer = layer_of(GATED)(I, H, dtype=torch.float64)
    xs = given(GATED)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    named = {"gate": xs["gate"], "u": xs["u"]}
    alike(compiled(xs["x"], **named), layer(xs["x"], **named), [*xs.values(), *layer.parameters()])


def test_what_does_not_fit_is_refused(layer_of):
    cell = layer_of(GATED)
    layer = cell(I, H)
    x, gate = torch.zeros(T, B, I), torch.zeros(T, B, H)
    good = {"gate": gate, "u": x}
    packed = pack_padded_sequence(x, torch.tensor([T, 2, 1]))
    other = pack_padded_sequence(x, torch.tensor([T, 3, 1]))
    same = pack_padded_sequence(gate, torch.tensor([T, 2, 1]))
    for error, message, call in (
        (TypeError, "missing 'gate', 'u'", lambda: layer(x)),
        (TypeError, "missing 'u'", lambda: layer.step(x[0], gate=gate[0])),
        (
            RuntimeError,
            r"step: Expected u size \(3, 4\), got \(4,\)",
            lambda: layer.step(x[0], gate=gate[0], u=x[0, 0]),
        ),
        (TypeError, "an unexpected input 'h0'; it takes gate, u", lambda: layer(x, h0=gate)),
        (TypeError, "an unexpected input 'h0'; the cell has none but x", lambda: layer_of("rnn")(I, H)(x, h0=gate)),
        (
            TypeError,
            "Expected gate to be a Tensor, as the input is, got float",
            lambda: layer(x, **good | {"gate": 0.5}),
        ),
        (TypeError, "Expected gate to be a PackedSequence", lambda: layer(packed, gate=gate, u=packed)),
        (RuntimeError, "Expected u of the same lengths and order", lambda: layer(packed, gate=same, u=other)),
        (RuntimeError, r"Expected gate size \(6, 3, 5\), got \(6, 3, 4\)", lambda: layer(x, gate=x, u=x)),
        (RuntimeError, r"not the same dtype, .* \(u\)", lambda: layer(x, **good | {"u": x.double()})),
        (ValueError, "the x of the second layer has 5 features, that of the first 4", lambda: cell(I, H, num_layers=2)),
    ):
        with pytest.raises(error, match=message):
            call()
    numbers = layer_of(CFC)(I, H)
    with pytest.raises(RuntimeError, match=r"Expected tau size \(6, 3\), got \(6, 3, 1\)"):
        numbers(x, tau=x[..., :1])


@pytest.mark.parametrize("name", ["inputs_apart", "states", "weights", "streams", "rows", "options"])
def test_any_name_can_be_that_of_an_input(layer_of, name):
    text = re.sub(r"\bgate\b", name, GATED).replace('"gated"', f'"gated_by_{name}"')
    layer = layer_of(text)(I, H, dtype=torch.float64)
    xs = {name if key == "gate" else key: rows.detach() for key, rows in given(GATED).items()}
    x, named = xs["x"], {key: rows for key, rows in xs.items() if key != "x"}
    torch.testing.assert_close(layer(x, **named), layer.reference(x, **named))


def test_a_recurrence_refuses_what_has_other_steps():
    cell = Recurrence(lambda x, h, dt: (x, h))
    with pytest.raises(RuntimeError, match=r"Recurrence: Expected dt size \(6, 3, ...\), got \(9, 3\)"):
        cell(torch.zeros(T, B, I), dt=torch.zeros(9, B))
