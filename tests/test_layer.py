"""What a layer has beyond torch.nn, and what torch.nn has for three cells, for every cell."""

import copy
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import cells
import pytest
import torch
from test_runtime import assert_equal, flat, gradients, new_layer, random, state_for
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.func import functional_call
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnngen.runtime import Stack, detach
from rnngen.runtime.direction import Direction

I, H, T, B = 3, 4, 5, 4
LENGTHS = torch.tensor([3, T, 1, 4])
ROOT = Path(__file__).parents[1]

every_cell = pytest.mark.parametrize("name", cells.ALL)


def one_of(layer, index: int, direction: int, layer_of, name):
    """A layer that is one layer and one direction of another, with its weights."""
    alone = new_layer(name, layer_of, inputs=width_of(layer, index), reverse=direction == 1)
    suffix = f"_l{index}{'_reverse' if direction else ''}"
    own = {k.removesuffix(suffix) + "_l0": v for k, v in layer.state_dict().items() if k.endswith(suffix)}
    alone.load_state_dict(own)
    return alone


def width_of(layer, index: int) -> int:
    """The features that come in to one of the layers, where each has two directions."""
    if index == 0:
        return layer.input_size
    sizes = {"hidden": H, "inputs": width_of(layer, index - 1), **layer.sizes}
    return 2 * sum(sizes[dimension] for dimension in layer.cell.features)


@every_cell
def test_layers_and_directions_are_single_ones(name, layer_of):
    layer = new_layer(name, layer_of, num_layers=2, bidirectional=True)
    x, state = random(T, B, layer.input_size).requires_grad_(), state_for(layer, 4, B)
    got = layer(x, state)
    y, last = x, []
    for index in range(2):
        outputs = []
        for direction in range(2):
            alone = one_of(layer, index, direction, layer_of, name)
            row = tuple(s[2 * index + direction : 2 * index + direction + 1] for s in flat(state))
            out, after = alone(y, row if len(row) > 1 else row[0])
            outputs.append(out)
            last.append(flat(after))
        y = torch.cat(outputs, -1)
    want = (y, tuple(torch.cat(parts) for parts in zip(*last, strict=True)))
    assert_equal(got, want)
    assert_equal(gradients(got[:1], [x]), gradients(want[:1], [x]))
    assert_equal(layer.reference(x, state), want)


@pytest.mark.parametrize("packed", [False, True], ids=["one length", "many lengths"])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"bidirectional": True, "num_layers": 2}], ids=str)
@every_cell
def test_the_last_step_alone(name, layer_of, options, packed):
    whole = new_layer(name, layer_of, **options)
    last = new_layer(name, layer_of, last_only=True, **options)
    last.load_state_dict(whole.state_dict())
    x = random(T, B, whole.input_size).requires_grad_()
    ends = LENGTHS - 1 if packed else torch.full((B,), T - 1)

    def given():
        return pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x

    rows, state = whole(given())
    rows = pad_packed_sequence(rows)[0] if packed else rows
    directions = rows.unflatten(-1, (2, -1)).unbind(-2) if "bidirectional" in options else [rows]
    parts = []
    for number, direction in enumerate(directions):
        backwards = number == 1 or "reverse" in options
        parts.append(direction[0] if backwards else direction[ends, torch.arange(B)])
    want = (torch.cat(parts, -1), state)
    want_gradients = gradients(want[:1], [x])
    for path in (last, last.reference):
        assert_equal(path(given()), want)
    assert_equal(gradients(last(given())[:1], [x]), want_gradients)
    with torch.no_grad():
        y, state = last(given())
        assert_equal((y, state), want)
        y.zero_()
        assert_equal(state, want[1])  # the state has memory of its own
    if not packed:
        alone, _ = last(x[:, 0])
        assert_equal(alone, want[0][0])
        first = new_layer(name, layer_of, last_only=True, batch_first=True, **options)
        first.load_state_dict(whole.state_dict())
        assert_equal(first(x.transpose(0, 1)), want)


@every_cell
def test_without_bias_they_are_zero(name, layer_of):
    layer = new_layer(name, layer_of, num_layers=2, bias=False)
    full = new_layer(name, layer_of, num_layers=2)
    biases = {f"{weight.name}_l{n}" for weight in layer.cell.weights if weight.bias for n in range(2)}
    assert full.state_dict().keys() - layer.state_dict().keys() == biases
    zeros = {key: torch.zeros_like(value) for key, value in full.state_dict().items() if key in biases}
    full.load_state_dict(layer.state_dict() | zeros)
    x = random(T, B, layer.input_size)
    got, want = layer(x), full(x)
    assert_equal(got, want)
    named = [dict(layer.named_parameters()), {k: v for k, v in full.named_parameters() if k not in biases}]
    assert_equal(gradients(got, named[0].values()), gradients(want, named[1].values()))


@every_cell
def test_dropout_is_between_layers(name, layer_of):
    layer = new_layer(name, layer_of, num_layers=2, dropout=1.0)
    x = random(T, B, layer.input_size)
    upper = copy.deepcopy(layer.eval())
    below, _ = layer(x)
    assert_equal(upper(x)[0], below, 0, 0)  # no dropout while it is judged
    nothing, _ = layer.train()(x)
    other, _ = layer(random(T, B, layer.input_size, seed=7))
    assert_equal(nothing, other, 0, 0)  # everything that the lower layer gives is dropped


@every_cell
def test_a_row_is_a_state_for_all(name, layer_of):
    layer = new_layer(name, layer_of, num_layers=2, bidirectional=True)
    widths = [rows.shape[-1] for rows in flat(layer.initial_state())]
    rows = tuple(random(width, seed=n).requires_grad_() for n, width in enumerate(widths))
    wide = tuple(row.expand(4, B, -1) for row in rows)
    x = random(T, B, layer.input_size)
    got = layer(x, rows if len(rows) > 1 else rows[0])
    want = layer(x, wide if len(wide) > 1 else wide[0])
    assert_equal(got, want)
    assert_equal(gradients(got, rows), gradients(want, rows))


@pytest.mark.parametrize("initial", ["learned", "buffer"])
def test_an_initial_state_for_each_layer_and_direction(layer_of, initial):
    layer = layer_of("lstm")(I, H, 2, bidirectional=True, proj_size=2, initial_state=initial, dtype=torch.float64)
    assert layer.initial_h.shape == (4, 2) and layer.initial_c.shape == (4, H)
    with torch.no_grad():
        layer.initial_h.copy_(random(4, 2))
        layer.initial_c.copy_(random(4, H))
    theirs = nn.LSTM(I, H, 2, bidirectional=True, proj_size=2, dtype=torch.float64)
    theirs.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("initial")})
    x = random(T, B, I)
    state = tuple(
        row.detach().unsqueeze(1).expand(-1, B, -1).contiguous() for row in (layer.initial_h, layer.initial_c)
    )
    assert_equal(layer(x), theirs(x, state))
    assert_equal(layer.initial_state(B), state)


@pytest.mark.parametrize("initial", ["zeros", "learned", "buffer"])
def test_a_batch_of_states_is_as_large_as_torch_allows(layer_of, initial):
    layer = layer_of("lstm")(I, H, initial_state=initial)
    assert [part.shape for part in layer.initial_state(0)] == [(1, 0, H)] * 2
    assert layer.initial_state(2)[0].is_contiguous()
    with pytest.raises(RuntimeError, match="negative dimension -1"):
        layer.initial_state(-1)


# Steps.


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"proj_size": 2}, {"batch_first": True}], ids=str)
@every_cell
def test_steps_make_the_whole(name, layer_of, options):
    layer = new_layer(name, layer_of, **options)
    x, state, rows = random(T, B, layer.input_size), None, []
    y, last = layer(x.transpose(0, 1) if "batch_first" in options else x)
    for row in x:
        one, state = layer.step(row, state)
        rows.append(one)
    assert_equal((torch.stack(rows, 1 if "batch_first" in options else 0), state), (y, last))


def test_a_step_takes_the_state_of_a_cell(layer_of):
    layer, theirs = layer_of("lstm")(I, H, dtype=torch.float64), nn.LSTMCell(I, H, dtype=torch.float64)
    theirs.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    x, h, c = random(B, I), random(B, H), random(B, H, seed=2)
    y, state = layer.step(x, (h, c))
    want = theirs(x, (h, c))
    assert_equal((y, state), (want[0], tuple(part[None] for part in want)))


def test_a_bidirectional_layer_has_no_step(layer_of):
    with pytest.raises(ValueError, match=r"GRU\.step: a bidirectional layer needs the whole sequence"):
        layer_of("gru")(I, H, bidirectional=True).step(torch.randn(B, I))


# Weights.


def test_blocks_have_the_names_of_the_equations(layer_of):
    layer = layer_of("lstm")(I, H, 2, bidirectional=True)
    for number, name in enumerate(("U_i", "U_f", "U_g", "U_o")):
        block = layer.block(name, layer=1, reverse=True)
        assert torch.equal(block, layer.weight_hh_l1_reverse[number * H : (number + 1) * H])
    with torch.no_grad():
        layer.block("b_if").fill_(1)
    assert (layer.bias_ih_l0[H : 2 * H] == 1).all() and (layer.bias_ih_l0[:H] != 1).any()
    with pytest.raises(KeyError, match="LSTM has no block 'W'; there are W_i, W_f"):
        layer.block("W")


def test_how_weights_begin(layer_of):
    filled = []
    init = {"weight_ih": "xavier_uniform", "U_f": "orthogonal", "bias_hh": 0.0, "b_hf": 2, "b_ii": filled.append}
    torch.manual_seed(0)
    layer = layer_of("lstm")(100, 300, init=init)
    bound = (6 / (4 * 300 + 100)) ** 0.5  # of the stacked matrix, not of a gate
    assert 0.99 * bound < layer.weight_ih_l0.abs().max() <= bound
    u = layer.block("U_f")
    torch.testing.assert_close(u @ u.T, torch.eye(300), rtol=0, atol=1e-5)
    assert layer.block("U_i").abs().max() <= 300**-0.5
    assert (layer.bias_hh_l0.chunk(4)[1] == 2).all() and layer.bias_hh_l0.count_nonzero() == 300
    assert [tensor.shape for tensor in filled] == [(300,)]
    before = layer.weight_ih_l0.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight_ih_l0, before) and layer.weight_ih_l0.abs().max() <= bound


def test_how_block_diagonal_weights_begin(layer_of):
    layer = layer_of(cells.ALL["block_lstm"])(I, 8, heads=2, init={"weight_hh": "orthogonal"})
    for matrix in layer.weight_hh_l0:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_orthogonal_in_half_precision(layer_of, dtype):
    """torch factorises no matrix in these types."""
    drawn = []
    for kind in (dtype, torch.float32):
        torch.manual_seed(0)
        drawn.append(layer_of("rnn")(I, 8, init={"weight_hh": "orthogonal"}, dtype=kind).weight_hh_l0)
    assert torch.equal(drawn[0], drawn[1].to(dtype))


@pytest.mark.parametrize(
    ("init", "error", "words"),
    [
        ({"weight": 1.0}, ValueError, "there is no parameter or block 'weight'; there are weight_ih, W_r"),
        ({"weight_ih": "glorot"}, ValueError, "there is no initialiser 'glorot' in torch.nn.init"),
        (
            {"weight_ih": "constant"},
            ValueError,
            "there is no initialiser 'constant' in torch.nn.init that needs a tensor",
        ),
        ({"weight_ih": float("nan")}, ValueError, "'weight_ih' should have a finite number, got nan"),
        ({"weight_ih": torch.ones_like}, ValueError, "a function must fill the tensor that it is given"),
        ({"weight_ih": None}, TypeError, "'weight_ih' should have a name, a number or a function, got: NoneType"),
        ("orthogonal", TypeError, "init should be a dict from names to initialisers, got: str"),
    ],
)
def test_mistakes_in_init(layer_of, init, error, words):
    with pytest.raises(error, match=words):
        layer_of("gru")(I, H, init=init)


def test_a_layer_among_others(layer_of):
    """nn.Sequential passes one tensor on."""
    lstm = layer_of("lstm")
    model = nn.Sequential(
        lstm(I, H, return_state=False), nn.Dropout(0.5), lstm(H, H, return_state=False, last_only=True), nn.Linear(H, 2)
    )
    assert model(torch.randn(T, B, I)).shape == (B, 2)
    assert model(torch.randn(T, I)).shape == (2,)
    assert model[0].reference(torch.randn(T, I)).shape == (T, H)
    assert repr(model[2]) == f"LSTM({H}, {H}, last_only=True, return_state=False, parameters={4 * (2 * H * H + 2 * H)})"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("proj_size", 2),
        ("num_layers", 2),
        ("bias", False),
        ("batch_first", True),
        ("bidirectional", True),
        ("reverse", True),
        ("last_only", True),
        ("return_state", False),
        ("schedule", "stepwise"),
        ("initial_state", "learned"),
        ("initial_state", "buffer"),
    ],
)
def test_a_layer_shows_what_is_not_usual(layer_of, option, value):
    assert repr(layer_of("lstm")(I, H)) == f"LSTM({I}, {H}, parameters={4 * H * (I + H + 2)})"
    shown = repr(layer_of("lstm")(I, H, **{option: value}))
    assert shown.startswith(f"LSTM({I}, {H}, {option}={value!r}, parameters=")


def test_reverse_and_bidirectional_exclude_each_other(layer_of):
    with pytest.raises(ValueError, match="reverse must be False"):
        layer_of("lstm")(I, H, bidirectional=True, reverse=True)


# Stacks.

NET = """
name   = "net"
inputs = 3
[[layers]]
cell = "lstm"
hidden = 5
num_layers = 2
bidirectional = true
proj_size = 2
dropout = 0.25
initial_state = "learned"
init = { weight_ih = "xavier_uniform", b_if = 1.0 }
[[layers]]
dropout = 0.5
[[layers]]
cell = "rnn"
hidden = 6
bias = false
reverse = true
activations = { act = "relu" }
[[layers]]
cell = "gru"
hidden = 4
last_only = true
[[layers]]
dense = 2
"""


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        options = {"dtype": torch.float64}
        lstm = nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, dropout=0.25, **options)
        rnn = nn.RNN(4, 6, bias=False, nonlinearity="relu", **options)
        gru, dense = nn.GRU(6, 4, **options), nn.Linear(4, 2, **options)
        self.layers = nn.ModuleList([lstm, nn.Dropout(0.5), rnn, gru, dense])

    def forward(self, x):
        lstm, _, rnn, gru, dense = self.layers
        y, first = lstm(x)
        y, second = rnn(y.flip(0))
        y, third = gru(y.flip(0))
        return dense(y[-1]), (first, second, third)


def test_a_model_of_every_key(module_of):
    torch.manual_seed(0)
    net, twin = module_of(NET).Net(dtype=torch.float64).eval(), Twin().eval()
    assert (net.layers[0].block("b_if", 1, True) == 1).all()
    twin.load_state_dict({k: v for k, v in net.state_dict().items() if "initial" not in k})
    x = random(T, B, 3)
    assert_equal(net(x), twin(x))
    y, states = net(x, [net.layers[0].initial_state(B), None, None])
    assert_equal((y, states), twin(x))
    first = module_of(NET).Net(batch_first=True, return_state=False, dtype=torch.float64).eval()
    first.load_state_dict(net.state_dict())
    assert_equal(first(x.transpose(0, 1)), twin(x)[0])
    assert_equal(net(x[:, 0])[0], twin(x)[0][0])


def test_a_model_takes_sequences_of_different_lengths(module_of):
    torch.manual_seed(0)
    net = module_of(NET).Net(dtype=torch.float64).eval()
    x = random(T, B, 3)
    y, _ = net(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    for number, length in enumerate(LENGTHS):
        assert_equal(y[number], net(x[:length, number])[0])
    rows, _ = module_of(NET.replace("last_only = true\n", "")).Net(dtype=torch.float64)(
        pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    )
    assert rows.data.shape == (LENGTHS.sum(), 2)


# Pieces, and what docs/layers.md says of them.

PAGE = (Path(__file__).parent.parent / "docs" / "layers.md").read_text(encoding="utf-8")
PROGRAMS = [code for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "import" in code]


def test_the_programs_of_the_page_run(layer_of):
    assert len(PROGRAMS) == 2
    layer = layer_of("lstm")(3, 2)
    names = {"torch": torch, "layer": layer, "loss": nn.functional.mse_loss}
    names |= {"x": torch.randn(120, 4, 3), "target": torch.randn(120, 4, 2)}
    names["optimizer"] = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight_hh_l0.detach().clone()
    exec(PROGRAMS[0], names)
    assert not any(state.requires_grad for state in names["hx"])
    assert not torch.equal(layer.weight_hh_l0, before)
    exec(PROGRAMS[1], names)
    assert names["h"].shape == (4, 16)


def test_detach():
    h, c = random(1, B, H).requires_grad_(), random(1, B, H).requires_grad_()
    state = detach([h, (2 * h, c)])
    assert isinstance(state, tuple) and isinstance(state[1], tuple)
    assert_equal(state, (h, (2 * h, c)), 0, 0)
    assert not any(part.requires_grad for part in flat(state))


def test_mistakes_of_a_stack(module_of):
    net = module_of(NET).Net(dtype=torch.float64)
    with pytest.raises(TypeError, match="Net: Expected a list or tuple with the state of each recurrent layer, got Te"):
        net(random(T, B, 3), random(1, B, 5))
    with pytest.raises(RuntimeError, match="Net: Expected the states of 3 recurrent layers, got 1"):
        net(random(T, B, 3), [None])


def test_mistakes_of_states_and_blocks(layer_of):
    layer = layer_of("lstm")(I, H)
    with pytest.raises(TypeError, match="LSTM: Expected c to be a Tensor, got NoneType"):
        layer(torch.randn(T, B, I), (torch.randn(1, B, H), None))
    with pytest.raises(IndexError, match="LSTM has no weights for layer=1, reverse=False: num_layers is 1 and bidi"):
        layer.block("U_f", layer=1)
    with pytest.raises(IndexError, match="layer=0, reverse=True"):
        layer.block("U_f", reverse=True)


# A layer within a stack is a module like any other.


def test_hooks_of_layers_in_a_stack_run(module_of):
    net = module_of(NET).Net(dtype=torch.float64)
    called = []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, given, result: called.append(type(module).__name__))
    net(random(T, B, 3))
    assert called == ["LSTM", "Dropout", "RNNRelu", "GRU", "Linear"]


def test_layers_of_a_stack_can_be_pruned_and_wrapped(module_of):
    net = module_of(NET).Net(dtype=torch.float64).eval()
    x = random(T, B, 3)
    want = net(x)
    net.layers[0] = checkpoint_wrapper(net.layers[0])
    assert_equal(net(x), want)
    prune.l1_unstructured(net.layers[3], "weight_hh_l0", 0.5)
    for _ in range(2):
        net(x)[0].sum().backward()
    assert (net.layers[3].weight_hh_l0 == 0).sum() == net.layers[3].weight_hh_l0.numel() // 2


def test_a_stack_needs_the_states_of_its_layers(layer_of):
    with pytest.raises(ValueError, match="Stack: the layers of a stack must have return_state=True"):
        Stack([layer_of("lstm")(I, H, return_state=False)])


def test_parametrized_weights(layer_of):
    layer = layer_of("lstm")(I, H, dtype=torch.float64)
    weight_norm(layer, "weight_hh_l0")
    before = layer.weight_hh_l0.detach().clone()
    layer.reset_parameters()
    assert not torch.allclose(layer.weight_hh_l0, before) and layer.weight_hh_l0.abs().max() <= H**-0.5 + 1e-9
    theirs = nn.LSTM(I, H, dtype=torch.float64)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(theirs, name).copy_(getattr(layer, name))
    x = random(T, B, I)
    assert_equal(layer(x), theirs(x))


# States that are written into, and of other types.


@pytest.mark.parametrize("initial", ["zeros", "learned", "buffer"])
def test_an_initial_state_has_memory_of_its_own(layer_of, initial):
    layer = layer_of("gru")(I, H, initial_state=initial)
    for state in (layer.initial_state(3), layer.initial_state()):
        with torch.no_grad():
            state[0, ..., 1] = 1
            state.view(-1, H)[0] = 2
        assert state.count_nonzero() <= 2 * H + 2
    assert not layer.initial_state(3).any()


@pytest.mark.parametrize("proj_size", [0, 2])
def test_the_last_output_has_memory_of_its_own(layer_of, proj_size):
    layer = layer_of("lstm")(I, H, last_only=True, proj_size=proj_size)
    for hx in (None, layer.initial_state(B)):
        with torch.no_grad():
            y, (h, _) = layer(torch.randn(T, B, I), hx)
            assert torch.equal(y, h[0])
            y.add_(100)
            assert not torch.equal(y, h[0])


@pytest.mark.parametrize("wrong", [torch.int32, torch.int64, torch.bool, torch.float64], ids=str)
@pytest.mark.parametrize("cast", [False, True], ids=["plain", "autocast"])
def test_states_of_another_type(layer_of, wrong, cast):
    layer, h = layer_of("lstm")(I, H), torch.zeros(1, B, H)
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=cast),
        pytest.raises(
            RuntimeError, match=r"LSTM: Input and hidden tensors are not the same dtype, .* with torch\.\w+ \(c\)"
        ),
    ):
        layer(torch.randn(T, B, I), (h, h.to(wrong)))


every_path = pytest.mark.parametrize("path", ["forward", "reference", "step", "packed", "no batch"])


@pytest.mark.parametrize("path", ["forward", "reference", "step"])
def test_one_weight_of_another_type(layer_of, path):
    layer = layer_of("lstm")(I, H, proj_size=2)
    for number, (key, weight) in enumerate(list(layer.named_parameters())):
        setattr(layer, key, nn.Parameter(weight.double()))
        words = "found input tensor with torch.float32 and parameter tensor with torch.float64"
        words = f"LSTM: Input and parameter tensors are not the same dtype, {words} ({key})"
        # torch's class compares the first weight with the input, and has other words for it.
        error, words = (RuntimeError, words) if number else (ValueError, "LSTM: RNN input dtype (torch.float32) does")
        with pytest.raises(error, match=re.escape(words)):
            call(layer, path)
        setattr(layer, key, weight)


@pytest.mark.parametrize("wrong", [torch.complex64, torch.complex128, torch.int64, torch.bool], ids=str)
def test_weights_are_real_numbers(layer_of, wrong):
    """The adjoint of complex numbers would be another one."""
    words = rf"LSTM: dtype should be float16, bfloat16, float32 or float64, got {wrong}"
    with pytest.raises(TypeError, match=words):
        layer_of("lstm")(I, H, dtype=wrong)


@every_path
@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
@pytest.mark.usefixtures("nothing_runs")
def test_what_became_complex_is_not_run(layer_of, path):
    layer = layer_of("lstm")(I, H)
    words = r"LSTM: dtype should be float16, bfloat16, float32 or float64, got torch\.complex64"
    with pytest.raises(TypeError, match=words):
        call(copy.deepcopy(layer).to(torch.complex64), path)
    with pytest.raises(TypeError, match=words):
        call(layer.to(torch.complex64), path, dtype=torch.complex64)


@every_path
@pytest.mark.parametrize("wrong", [torch.complex64, torch.int64, torch.bool], ids=str)
@pytest.mark.usefixtures("nothing_runs")
def test_inputs_are_real_numbers(layer_of, path, wrong):
    """No message tells to convert the layer to what it cannot be."""
    with pytest.raises(ValueError, match=rf"RNN input dtype \({wrong}\) .* input\.to\(torch\.float32\)$"):
        call(layer_of("lstm")(I, H), path, dtype=wrong)


def test_a_scan_of_two_types(layer_of):
    layer = layer_of("lstm")(I, H)
    weights = [weight.double() if weight is layer.weight_hh_l0 else weight for weight in layer.parameters()]
    with pytest.raises(RuntimeError, match=r"must have one dtype, found torch\.float32 and torch\.float64"):
        layer.cell.run(torch.randn(T, B, I), (torch.zeros(B, H), torch.zeros(B, H)), weights)


@every_path
@pytest.mark.parametrize("name", ["lstm", "indrnn", "gru_v3"])
@pytest.mark.usefixtures("nothing_runs")
def test_one_weight_of_another_shape(layer_of, name, path):
    """Kernels would read past the end of it, and torch's operations stretch a weight of one element."""
    layer = layer_of(name)(I, H, num_layers=2, proj_size=2, initial_state="learned")
    for key, weight in layer.named_parameters():
        shape = tuple(weight.shape)
        for wrong in (
            (1, *shape[1:]),
            (2 * shape[0], *shape[1:]),
            (*shape[:-1], shape[-1] + 1),
            (1, *shape),
            shape[1:],
        ):
            words = rf"{type(layer).__name__}: Expected {key} size {shape}, got {wrong}"
            with pytest.raises(RuntimeError, match=re.escape(words)):
                functional_call(Called(layer, path), {f"layer.{key}": torch.randn(wrong)}, ())


class Called(nn.Module):
    """A layer that is called in one of the ways."""

    def __init__(self, layer, path: str):
        super().__init__()
        self.layer, self.path = layer, path

    def forward(self):
        return call(self.layer, self.path)


def test_a_weight_of_another_shape_in_vmap(layer_of):
    layer, x = layer_of("lstm")(I, H), torch.randn(T, B, I)
    members = {key: torch.stack([weight, weight]) for key, weight in layer.named_parameters()}
    torch.func.vmap(lambda weights: functional_call(layer, weights, (x,)))(members)
    members["weight_hh_l0"] = members["weight_hh_l0"][:, :H]
    words = re.escape(f"LSTM: Expected weight_hh_l0 size {(4 * H, H)}, got {(H, H)}")
    with pytest.raises(RuntimeError, match=words):
        torch.func.vmap(lambda weights: functional_call(layer, weights, (x,)))(members)


def test_sizes_can_be_changed_with_the_weights(layer_of):
    """As of the layers of torch.nn, to put in another number of inputs."""
    layer, other = layer_of("lstm")(I, H), layer_of("lstm")(I + 2, H)
    layer.input_size, layer.weight_ih_l0 = I + 2, nn.Parameter(torch.zeros(4 * H, I + 2))
    layer.load_state_dict(other.state_dict())
    assert_equal(layer(torch.ones(T, B, I + 2)), other(torch.ones(T, B, I + 2)))


# Devices: "meta" stands for another one. It has no memory, so that nothing that was launched there can be right.


def not_at(kind: str, device: str, other: str, name: str) -> str:
    words = f"Input and {kind} tensors are not at the same device, found input tensor at {device} and {kind} tensor at "
    return re.escape(f"LSTM: {words}{other} ({name})")


def call(layer, path: str, hx=None, dtype: torch.dtype = torch.float32):
    """By one of the ways to call a layer."""
    x = torch.randn(T, B, I).to(dtype)
    given = {"packed": pack_padded_sequence(x, LENGTHS, enforce_sorted=False), "step": x[0], "no batch": x[:, 0]}
    method = getattr(layer, path if path in ("step", "reference") else "forward")
    return method(given.get(path, x), hx)


@pytest.fixture
def nothing_runs(monkeypatch):
    """A scan that begins is a failure of the test."""

    def fail(*args, **options):
        raise AssertionError("a scan was run")

    monkeypatch.setattr(Direction, "__call__", fail)


@every_path
@pytest.mark.usefixtures("nothing_runs")
def test_one_weight_on_another_device(layer_of, path):
    layer = layer_of("lstm")(I, H, num_layers=2, proj_size=2)
    for key, weight in list(layer.named_parameters()):
        setattr(layer, key, nn.Parameter(weight.to("meta")))
        with pytest.raises(RuntimeError, match=not_at("parameter", "cpu", "meta", key)):
            call(layer, path)
        setattr(layer, key, weight)


@every_path
@pytest.mark.parametrize("name", ["h", "c"])
@pytest.mark.usefixtures("nothing_runs")
def test_one_state_on_another_device(layer_of, path, name):
    layer = layer_of("lstm")(I, H, num_layers=2)
    shape = (2, H) if path == "no batch" else (2, B, H)
    state = {key: torch.zeros(shape, device="meta" if key == name else "cpu") for key in ("h", "c")}
    with pytest.raises(RuntimeError, match=not_at("hidden", "cpu", "meta", name)):
        call(layer, path, tuple(state.values()))
    row = {key: torch.zeros(H, device="meta" if key == name else "cpu") for key in ("h", "c")}
    with pytest.raises(RuntimeError, match=not_at("hidden", "cpu", "meta", name)):
        call(layer, path, tuple(row.values()))


@every_path
@pytest.mark.parametrize("initial", ["learned", "buffer"])
@pytest.mark.usefixtures("nothing_runs")
def test_an_initial_state_on_another_device(layer_of, path, initial):
    layer = layer_of("lstm")(I, H, initial_state=initial)
    moved = layer.initial_c.detach().to("meta")
    layer.initial_c = nn.Parameter(moved) if initial == "learned" else moved
    with pytest.raises(RuntimeError, match=not_at("hidden", "cpu", "meta", "initial_c")):
        call(layer, path)


@every_path
@pytest.mark.usefixtures("nothing_runs")
def test_an_input_on_another_device(layer_of, path):
    for layer in (layer_of("lstm")(I, H, device="meta"), layer_of("lstm")(I, H, bias=False, device="meta")):
        with pytest.raises(RuntimeError, match=not_at("parameter", "cpu", "meta", "weight_ih_l0")):
            call(layer, path)
    if path != "packed":  # torch cannot pad what has no memory
        with (
            torch.device("meta"),
            pytest.raises(RuntimeError, match=not_at("parameter", "meta", "cpu", "weight_ih_l0")),
        ):
            call(layer_of("lstm")(I, H, device="cpu"), path)


def test_an_initial_state_of_another_type(layer_of):
    layer = layer_of("lstm")(I, H, initial_state="buffer")
    layer.initial_c = layer.initial_c.double()
    words = r"LSTM: Input and hidden tensors are not the same dtype, .* with torch\.float64 \(initial_c\)"
    with pytest.raises(RuntimeError, match=words):
        layer(torch.randn(T, B, I))


WAYS = {
    "compiled": lambda layer, *args: torch.compile(layer, backend="eager", fullgraph=True)(*args),
    "exported": lambda layer, *args: torch.export.export(layer, args),
    "in vmap": lambda layer, x, hx: torch.func.vmap(lambda x: layer(x, hx))(x[None]),
    "fake": lambda layer, *args: layer(*args),
}


@pytest.mark.parametrize("way", WAYS)
def test_devices_are_compared_whatever_runs_the_layer(layer_of, way):
    torch._dynamo.reset()
    with FakeTensorMode() if way == "fake" else nullcontext():
        layer, x, hx = layer_of("lstm")(I, H), torch.ones(T, B, I), (torch.zeros(H), torch.zeros(H, device="meta"))
        with pytest.raises(Exception, match=not_at("hidden", "cpu", "meta", "c")):
            WAYS[way](layer, x, hx)


def test_a_stack_on_two_devices(module_of):
    net = module_of(NET).Net()
    net.layers[2].weight_hh_l0 = nn.Parameter(net.layers[2].weight_hh_l0.to("meta"))
    words = "RNNRelu: Input and parameter tensors are not at the same device, found input tensor at cpu and parameter "
    with pytest.raises(RuntimeError, match=re.escape(f"{words}tensor at meta (weight_hh_l0)")):
        net(torch.randn(T, B, I))


def test_no_weights_at_all(layer_of):
    text = """
name   = "bare"
states = ["h"]
step   = "h' = tanh(W @ x + h)"
[parameters]
drive = { shape = ["hidden", "inputs"], blocks = ["W"], bias = true }
"""
    with pytest.raises(ValueError, match="without bias Bare has no weights at all"):
        layer_of(text)(I, H, bias=False)


SHARED = """
name   = "shared"
states = {states}
output = "h'"
step   = '''
n  = tanh(W @ x + U @ h + b) * sigmoid(g)
h' = n
g' = n
'''
[parameters]
weight_ih = {{ shape = ["hidden", "inputs"], blocks = ["W"] }}
weight_hh = {{ shape = ["hidden", "hidden"], blocks = ["U"] }}
bias      = {{ shape = ["hidden"], blocks = ["b"] }}
"""


def test_the_order_of_states_says_nothing_of_the_output(layer_of):
    for states in (["h", "g"], ["g", "h"]):
        cell = layer_of(SHARED.format(states=states)).cell
        assert (cell.output, cell.narrow) == ("h", True)


def test_export_of_a_projection_with_states(layer_of):
    layer = layer_of("lstm")(I, H, proj_size=2, initial_state="learned", dtype=torch.float64)
    time = torch.export.Dim("time", min=3)
    program = torch.export.export(layer, (random(T, B, I),), dynamic_shapes=({0: time, 1: None},))
    assert_equal(program.module()(random(2 * T, B, I)), layer(random(2 * T, B, I)))


def test_a_layer_is_compiled_that_has_never_run():
    """In a process of its own: what is found at the first call, and kept, would be at hand."""
    script = """
import torch
from generated.lstm import LSTM

x = torch.randn(3, 2, 4)
torch.compile(LSTM(4, 8), backend="aot_eager", fullgraph=True)(x)
torch.export.export(LSTM(4, 8), (x,), strict=True)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert run.returncode == 0, run.stderr
