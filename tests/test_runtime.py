"""What torch and its users expect of a module, asked of generated layers on their CPU path."""

import copy
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cells
import pytest
import torch
import torch._dynamo.testing
from conftest import imported
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import rnngen.runtime.language
from rnngen.runtime import Layer
from rnngen.runtime.launch import Arguments
from rnngen.runtime.plan import Choice
from rnngen.runtime.schedules import resident

I, H, T, B = 3, 4, 5, 2

every_library_cell = pytest.mark.parametrize("name", cells.SAMPLE)
every_cell = pytest.mark.parametrize("name", cells.ALL)
# A rounded operand may fall on the other side of a jump, so that the answer has no error to bound.
every_cell_without_jumps = pytest.mark.parametrize("name", [name for name in cells.ALL if name != "conditions"])
some_cells = pytest.mark.parametrize("name", ["lstm", "gru", "parts", "slstm_flashrnn", "decoder"])


def setup_module():
    assert not rnngen.runtime.language.interpreting()


@pytest.fixture
def layer(name, layer_of):
    return new_layer(name, layer_of)


def new_layer(name: str, layer_of, dtype=torch.float64, inputs: int = I, hidden: int = H, **options) -> Layer:
    """A layer of a cell; its input is as wide as that of a second layer where the cell wants that."""
    torch.manual_seed(0)
    made = layer_of(cells.ALL[name])
    if "inputs" in made.cell.widths.values() and options.get("num_layers", 1) > 1:
        inputs = hidden * (2 if options.get("bidirectional") else 1)
    return made(inputs, hidden, heads=cells.heads_of(name), dtype=dtype, **options)


def random(*shape: int, dtype=torch.float64, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def state_for(layer: Layer, *shape: int, dtype=torch.float64):
    """Random states, (rows, batch, width) each."""
    widths = [rows.shape[-1] for rows in flat(layer.initial_state())]
    states = tuple(random(*shape, width, seed=10 + n, dtype=dtype) for n, width in enumerate(widths))
    return states if len(states) > 1 else states[0]


def flat(results) -> list[torch.Tensor]:
    """The tensors of nested tuples."""
    return [results] if isinstance(results, torch.Tensor) else [t for part in results for t in flat(part)]


def total(results) -> torch.Tensor:
    """A sum in which every element has a weight of its own."""
    return sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in flat(results))


def gradients(results, tensors) -> list[torch.Tensor]:
    return list(torch.autograd.grad(total(results), list(tensors), allow_unused=True, materialize_grads=True))


def assert_equal(got, want, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


# The answer.


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@every_cell
def test_equals_its_reference(name, layer_of, reverse):
    layer = new_layer(name, layer_of, reverse=reverse)
    x, state = random(T, B, I).requires_grad_(), state_for(layer, 1, B)
    leaves = [x, *flat(state), *layer.parameters()]
    for tensor in leaves:
        tensor.requires_grad_()
    got, want = layer(x, state), layer.reference(x, state)
    assert_equal(got, want)
    assert_equal(gradients(got, leaves), gradients(want, leaves))


@every_cell
def test_equals_the_graph_as_it_was_described(name, layer):
    """Both paths of the module against what shares no text with them."""
    values = cells.random_values(name, T, B, I, H)
    layer.load_state_dict({f"{key}_l0": value for key, value in values.weights.items()})
    want, last = cells.whole(name, values)
    states = tuple(state[None] for state in values.states.values())
    trained = [weight for weight in values.weights.values() if weight.requires_grad]
    want_gradients = gradients((want, tuple(last.values())), trained)
    for path in (layer, layer.reference):
        y, after = path(values.x, states)
        assert_equal(y, want)
        assert_equal(after, [state[None] for state in last.values()])
        assert_equal(gradients((y, after), layer.parameters()), want_gradients)


@every_library_cell
def test_derivatives(name, layer):
    x, state = random(3, B, I).requires_grad_(), state_for(layer, 1, B)
    states = [tensor.requires_grad_() for tensor in flat(state)]
    weights = dict(layer.named_parameters())

    def function(x, *rest):
        state, tensors = rest[: len(states)], rest[len(states) :]
        state = state if len(state) > 1 else state[0]
        return tuple(flat(functional_call(layer, dict(zip(weights, tensors, strict=True)), (x, state))))

    inputs = (x, *states, *weights.values())
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@every_cell
def test_each_gradient_has_the_shape_of_its_parameter(name, layer_of, monkeypatch):
    """Torch would sum one that is larger. The cell has a name of its own, and so operators of its own."""
    text = re.sub(r'^(name *= "\w+)"', r'\1_shapes"', cells.ALL[name], count=1, flags=re.MULTILINE)
    layer = layer_of(text)(I, H, heads=cells.heads_of(name), dtype=torch.float64)
    scan = layer.cell.scan
    shapes = []

    def noted(*args):
        found = whole(*args)
        parameters = args[len(scan.gradient_inputs) : -1]
        pairs = [(one, parameter) for one, parameter in zip(found, parameters, strict=True) if one is not None]
        shapes.append([(one.shape, parameter.shape) for one, parameter in pairs])
        return found

    whole = scan.gradients
    monkeypatch.setattr(scan, "gradients", noted)
    y, state = layer(random(T, B, I))
    gradients((y, state), layer.parameters())
    assert len(shapes) == (1 if scan.parameters else 0)
    assert all(one == other for pairs in shapes for one, other in pairs)


@every_cell
def test_pieces_make_the_whole(name, layer):
    x, state = random(T, B, I).requires_grad_(), state_for(layer, 1, B)
    y, last = layer(x, state)
    parts, after = [], state
    for piece in (x[:2], x[2:3], x[3:]):
        part, after = layer(piece, after)
        parts.append(part)
    assert_equal((torch.cat(parts), after), (y, last))
    want = gradients((y, last), [x, *layer.parameters()])
    assert_equal(gradients((torch.cat(parts), after), [x, *layer.parameters()]), want)


@every_cell
def test_steps_make_the_whole(name, layer):
    x, state = random(T, B, I), state_for(layer, 1, B)
    y, last = layer(x, state)
    rows = []
    for row in x:
        one, state = layer.step(row, state)
        rows.append(one)
    assert_equal((torch.stack(rows), state), (y, last))


@every_cell
def test_same_bits_twice(name, layer_of):
    layer = new_layer(name, layer_of, torch.float32)
    x = random(T, B, I, dtype=torch.float32).requires_grad_()
    runs = []
    for _ in range(2):
        results = layer(x)
        runs.append([*flat(results), *gradients(results, [x, *layer.parameters()])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@every_cell
def test_no_gradient_wanted(name, layer):
    """Without one nothing is saved, and the answer is the same."""
    x = random(T, B, I)
    want = layer(x)
    with torch.no_grad():
        got = layer(x)
    assert not any(tensor.requires_grad for tensor in flat(got))
    assert_equal(got, want, 0, 0)
    with torch.inference_mode():
        assert_equal(layer(x), want, 0, 0)


@every_cell
def test_frozen_parameters(name, layer):
    """Only what asks for a gradient gets one."""
    x = random(T, B, I).requires_grad_()
    want = gradients(layer(x), [x])
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    results = layer(x)
    assert_equal(gradients(results, [x]), want)
    total(layer(x)).backward()
    assert all(parameter.grad is None for parameter in layer.parameters())


@every_cell
def test_gradient_of_the_last_state_alone(name, layer):
    """No gradient comes in at the outputs, or none at some of the states."""
    x = random(T, B, I).requires_grad_()
    tensors = [x, *layer.parameters()]
    for pick in (lambda y, last: flat(last), lambda y, last: flat(last)[-1:], lambda y, last: [y]):
        free = name in ("automaton", "one_way", "clockwork")
        if free and not any(result.requires_grad for result in pick(*layer.reference(x))):
            continue  # a state that depends on nothing but a condition: torch has no gradient to compare with
        assert_equal(gradients(pick(*layer(x)), tensors), gradients(pick(*layer.reference(x)), tensors))


@some_cells
def test_a_nan_stays_in_its_row(name, layer):
    x = random(T, 3, I).requires_grad_()
    clean = layer(x)
    clean_gradient = gradients(clean, [x])[0]
    spoilt = x.detach().clone()
    spoilt[2, 1] = torch.nan
    spoilt.requires_grad_()
    results = layer(spoilt)
    others = [0, 2]
    assert_equal(results[0][:, others], clean[0][:, others], 0, 0)
    for got, want in zip(flat(results[1]), flat(clean[1]), strict=True):
        assert_equal(got[:, others], want[:, others], 0, 0)
    weights = torch.linspace(-1, 2, results[0].numel(), dtype=x.dtype).view(results[0].shape)
    (gradient,) = torch.autograd.grad((results[0] * weights).sum(), spoilt)
    (want,) = torch.autograd.grad((layer(x)[0] * weights).sum(), x)
    assert_equal(gradient[:, others], want[:, others], 0, 0)
    assert clean_gradient.isfinite().all()


@some_cells
def test_any_strides(name, layer):
    x = random(B, I, T).permute(2, 0, 1)
    assert not x.is_contiguous()
    assert_equal(layer(x), layer(x.contiguous()))
    wide = random(1, 1, I).expand(T, B, I)
    assert wide.stride()[:2] == (0, 0)
    assert_equal(layer(wide), layer(wide.contiguous()))
    every_other = random(2 * T, B, 2 * I)[::2, :, ::2]
    assert_equal(layer(every_other), layer(every_other.contiguous()))


@some_cells
def test_gradients_of_any_strides(name, layer):
    """A sum's gradient has strides of 0, a permutation's is permuted."""
    x = random(T, B, I).requires_grad_()
    for reduced in (torch.sum, lambda y: y.transpose(0, 2).contiguous().square().sum()):
        got, want = (torch.autograd.grad(reduced(path(x)[0]), x) for path in (layer, layer.reference))
        assert_equal(got, want)


@every_cell
def test_an_empty_batch(name, layer):
    x = random(T, 0, I).requires_grad_()
    y, last = layer(x)
    assert y.shape[:2] == (T, 0)
    begin = flat(layer.initial_state(0))
    assert [state.shape for state in flat(last)] == [state.shape for state in begin]
    for gradient, tensor in zip(gradients((y, last), [x, *layer.parameters()]), [x, *layer.parameters()], strict=True):
        assert gradient.shape == tensor.shape and not gradient.any()


@every_cell
def test_one_unit(name, layer_of):
    """Sizes of 1, where a wrong broadcast would go unnoticed by shape and not by value."""
    if cells.heads_of(name) > 1:
        pytest.skip("one unit cannot have two heads")
    layer = new_layer(name, layer_of, inputs=1, hidden=1)
    x = random(1, 1, 1).requires_grad_()
    got, want = layer(x), layer.reference(x)
    assert_equal(got, want)
    assert_equal(gradients(got, [x, *layer.parameters()]), gradients(want, [x, *layer.parameters()]))


# Sequences of different lengths, against one sequence at a time.

LENGTHS = torch.tensor([3, T, 1, 4])


def one_by_one(path, x, state):
    """The outputs as a padded batch, and the last states."""
    rows, last = [], []
    for number, length in enumerate(LENGTHS):
        first = tuple(tensor[:, number : number + 1].contiguous() for tensor in flat(state))
        y, after = path(x[:length, number : number + 1], first if len(first) > 1 else first[0])
        rows.append(torch.cat([y, y.new_zeros(T - length, *y.shape[1:])]))
        last.append(flat(after))
    return torch.cat(rows, 1), tuple(torch.cat(parts, 1) for parts in zip(*last, strict=True))


def packed(path, x, state):
    y, last = path(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), state)
    assert isinstance(y, PackedSequence)
    return pad_packed_sequence(y)[0], tuple(flat(last))


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@every_cell
def test_packed_sequences(name, layer_of, reverse):
    layer = new_layer(name, layer_of, reverse=reverse)
    x, state = random(T, 4, I), state_for(layer, 1, 4)
    leaves = [x, *flat(state), *layer.parameters()]
    for tensor in leaves:
        tensor.requires_grad_()
    want = one_by_one(layer, x, state)
    want_gradients = gradients(want, leaves)
    for path in (layer, layer.reference):
        got = packed(path, x, state)
        assert_equal(got, want)
        assert_equal(gradients(got, leaves), want_gradients)
    with torch.no_grad():
        assert_equal(packed(layer, x, state), want)


# Steps that cannot be taken at padding: the logarithm of an input, the root of a state that has counted down to its
# end; by themselves, as the operand of a product, and in an output.
STEEP = {
    "input": ("h' = tanh(log(W @ x) + u * h)", "h'"),
    "state": ("n' = n - 1\nh' = tanh(W @ x + u * h) * sqrt(n)", "h'"),
    "input beside a state": ("n' = n - 1\nh' = tanh(sqrt(n * exp(W @ x)) + u * h)", "h'"),
    "operand": ("n' = n - 1\nh' = tanh(W @ x + u * h + U @ (sqrt(n) * h))", "h'"),
    # Of the counter itself the root is 0 at padding, and never no number.
    "operand that is no number": ("n' = n - 1\nh' = tanh(W @ x + u * h + U @ (sqrt(n' + 0.5) * h))", "h'"),
    "output": ("n' = n - 1\nh' = tanh(W @ x + u * h)\nr = sqrt(n) * h'\ny = U @ r", "y"),
    "new value": ("n' = n - 1\nh' = sqrt(n) * tanh(W @ x + u * h)\nk' = tanh(U @ h' + k)", "k'"),
    # What is computed behind the scan divides by what the scan gives, and that is zero at padding.
    "divisor": ("r = 1.5 + sigmoid(U @ h)\nh' = tanh(W @ x + u * r)\ny = (U @ h') / r", "y"),
    # In a second layer, whose padding is what the first one gives there.
    "input of a layer": ("h' = sigmoid(U @ sqrt(W @ x) + u * h)", "h'"),
}


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("steep", STEEP)
def test_padding_has_no_gradient_that_is_no_number(layer_of, steep, reverse):
    check_padding(layer_of, steep, reverse)


def check_padding(layer_of, steep, reverse, schedule="auto"):
    step, output = STEEP[steep]
    states = [name for name in ("h", "n", "k") if f"{name}'" in step]
    text = f'name = \'steep\'\nstates = {states}\noutput = "{output}"\nstep = """\n{step}\n"""\n[parameters]\n'
    text += "weight_ih = { shape = ['hidden', 'inputs'], blocks = ['W'], init = 1.0 }\n"
    text += "weight_hh = { shape = ['hidden'], blocks = ['u'] }\n"
    text += "weight_hg = { shape = ['hidden', 'hidden'], blocks = ['U'] }\n" if "U" in step else ""
    layers = 2 if "layer" in steep else 1
    layer = layer_of(text)(I, H, layers, dtype=torch.float64, reverse=reverse, schedule=schedule)
    x = random(T, 4, I).abs()
    first = {"n": LENGTHS.double()[None, :, None].expand(1, 4, H).clone()}  # a step more would be the root of -1
    state = tuple(first.get(name, torch.zeros(layers, 4, H, dtype=torch.float64)) for name in states)
    leaves = [x, *state, *layer.parameters()]
    for tensor in leaves:
        tensor.requires_grad_()
    state = state if len(state) > 1 else state[0]
    want = one_by_one(layer.reference, x, state)
    want_gradients = gradients(want, leaves)
    assert all(gradient.isfinite().all() for gradient in want_gradients)
    for path in (layer, layer.reference):
        got = packed(path, x, state)
        assert_equal(got, want)
        assert_equal(gradients(got, leaves), want_gradients)


# Projections: torch.nn has them for the LSTM alone.


@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@every_cell
def test_projection(name, layer_of, given):
    """Against a loop in which matrices that are applied to the output's old value are applied to its projection."""
    layer = new_layer(name, layer_of, proj_size=2)
    cell, weight = layer.cell, layer.weight_hr_l0
    if cell.features == ("inputs",):
        assert weight.shape == (2, I)
    shapes = {w.name: tuple(getattr(layer, f"{w.name}_l0").shape) for w in cell.weights}
    narrow = {w.name for w in cell.weights if w.shape[-1:] == ("output",)}
    assert all(shapes[name][-1] == 2 for name in narrow)
    x = random(T, B, I).requires_grad_()
    state = layer.initial_state(B)
    if given:
        state = tuple(random(*s.shape, seed=n).requires_grad_() for n, s in enumerate(flat(state)))
        state = state if len(state) > 1 else state[0]
    leaves = [x, *layer.parameters(), *(flat(state) if given else [])]
    got = layer(x, state) if given else layer(x)
    plain = new_layer(name, layer_of)
    place = cell.states.index(cell.output) if cell.output else -1

    def step(row, states):
        """One step of the plain cell, in which U @ p is U @ (a vector whose projection is p)."""
        tensors = {w.name: getattr(layer, f"{w.name}_l0") for w in cell.weights}
        lifted = list(states)
        for key in narrow:
            if cell.narrow:
                tensors[key] = torch.cat([tensors[key], tensors[key].new_zeros(len(tensors[key]), H - 2)], -1)
            else:
                tensors[key] = tensors[key] @ weight
        if cell.narrow:
            lifted[place] = torch.cat([lifted[place], lifted[place].new_zeros(1, B, H - 2)], -1)
        named = {f"{key}_l0": value for key, value in tensors.items()}
        y, after = functional_call(plain, named, (row[None], tuple(lifted) if len(lifted) > 1 else lifted[0]))
        after = flat(after)
        if cell.narrow:
            after[place] = after[place] @ weight.T
        return y[0] @ weight.T, after

    states, rows = flat(state), []
    for row in x:
        y, states = step(row, states)
        rows.append(y)
    want = (torch.stack(rows), tuple(states))
    assert_equal(got, want)
    assert_equal(gradients(got, leaves), gradients(want, leaves))


# Initial states.


@every_cell
def test_learned_initial_state(name, layer_of):
    layer = new_layer(name, layer_of, initial_state="learned")
    plain = new_layer(name, layer_of)
    with torch.no_grad():
        initial = [getattr(layer, f"initial_{state}") for state in layer.cell.states]
        for number, row in enumerate(initial):
            row.copy_(random(*row.shape, seed=number))
    plain.load_state_dict({key: value for key, value in layer.state_dict().items() if key.endswith("_l0")})
    x = random(T, B, I)
    given = tuple(row.detach()[None].expand(1, B, -1).clone().requires_grad_() for row in initial)
    got, want = layer(x), plain(x, given if len(given) > 1 else given[0])
    assert_equal(got, want)
    for gradient, wanted in zip(gradients(got, initial), gradients(want, given), strict=True):
        assert_equal(gradient, wanted.sum(1))
    assert_equal(layer(x[:, 0]), tuple(_without_batch(part) for part in layer(x[:, :1])))


def _without_batch(part):
    return part.squeeze(1) if isinstance(part, torch.Tensor) else tuple(t.squeeze(1) for t in part)


@some_cells
def test_buffered_initial_state(name, layer_of):
    layer = new_layer(name, layer_of, initial_state="buffer")
    names = [f"initial_{state}" for state in layer.cell.states]
    assert [key for key, _ in layer.named_buffers()] == names
    for key in names:
        getattr(layer, key).fill_(0.5)
    plain = new_layer(name, layer_of)
    state = tuple(torch.full((1, B, H), 0.5, dtype=torch.float64) for _ in names)
    assert_equal(layer(random(T, B, I)), plain(random(T, B, I), state if len(state) > 1 else state[0]))
    assert set(names) <= layer.state_dict().keys()


@some_cells
def test_initial_state_is_what_a_call_begins_with(name, layer):
    assert_equal(layer(random(T, B, I), layer.initial_state(B)), layer(random(T, B, I)))
    assert_equal(layer(random(T, I), layer.initial_state()), layer(random(T, I)))


# Mistakes, and the class of the error: that of torch.nn.


@some_cells
def test_wrong_input(name, layer):
    title = type(layer).__name__
    with pytest.raises(ValueError, match=f"{title}: Expected input to be 2D or 3D, got 4D instead"):
        layer(random(1, T, B, I))
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D, got 1D"):
        layer(random(I))
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 4"):
        layer(random(T, B, I + 1))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        layer(random(0, B, I))
    with pytest.raises(ValueError, match=r"RNN input dtype \(torch.float32\) does not match weight dtype"):
        layer(random(T, B, I).float())
    with pytest.raises(ValueError, match="Expected input to be 1D or 2D, got 3D"):
        layer.step(random(T, B, I))


@some_cells
def test_wrong_state(name, layer):
    states = flat(state_for(layer, 1, B))
    with pytest.raises(RuntimeError, match=f"Expected {len(states)} state tensor"):
        layer(random(T, B, I), (*states, states[0]))
    for number, state in enumerate(layer.cell.states):
        for shape in ((1, B + 1, H), (2, B, H), (B, H), (1, B, H + 1), (H + 1,)):
            wrong = [*states]
            wrong[number] = random(*shape)
            wanted = rf"Expected {state} size \(1, 2, 4\), got"
            if len(shape) != 3:
                wanted = rf"batched 3-D input, {state} should also be 3-D of size \(1, 2, 4\) but got {len(shape)}-D"
            with pytest.raises(RuntimeError, match=wanted):
                layer(random(T, B, I), tuple(wrong))
    wrong = [state.float() for state in states]
    with pytest.raises((RuntimeError, ValueError), match="dtype"):
        layer(random(T, B, I), tuple(wrong))


def test_wrong_sizes(layer_of):
    lstm = layer_of("lstm")
    for sizes, error in (
        ((0, H), ValueError),
        ((I, -1), ValueError),
        ((I, 2.0), TypeError),
        ((True, H), TypeError),
    ):
        with pytest.raises(error):
            lstm(*sizes)
    with pytest.raises(ValueError, match="divisible"):
        layer_of(cells.ALL["block_lstm"])(I, 4, heads=3)
    with pytest.raises(ValueError, match="initial_state"):
        lstm(I, H, initial_state="random")


def test_a_cell_without_heads_has_none(layer_of):
    with pytest.raises(ValueError, match="heads"):
        layer_of("lstm")(I, H, heads=2)


# A module like any other.


@every_cell
def test_copies(name, layer):
    x = random(T, B, I)
    want = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        assert_equal(other(x), want, 0, 0)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}


@every_cell
def test_state_dict_roundtrip(name, layer, layer_of):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = new_layer(name, layer_of)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_equal(other(random(T, B, I)), layer(random(T, B, I)), 0, 0)


@every_cell
def test_meta_device(name, layer, layer_of):
    other = new_layer(name, layer_of, device="meta")
    assert all(parameter.is_meta for parameter in other.parameters())
    y, last = other(torch.empty(T, B, I, device="meta", dtype=torch.float64))
    want_y, want_last = layer(random(T, B, I))
    assert y.is_meta and [t.shape for t in flat((y, last))] == [t.shape for t in flat((want_y, want_last))]
    other = other.to_empty(device="cpu")
    other.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in other.parameters())
    other.load_state_dict(layer.state_dict())
    assert_equal(other(random(T, B, I)), (want_y, want_last), 0, 0)


@every_cell
def test_fake_tensors(name, layer):
    want = layer(random(T, B, I))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weights = {name: mode.from_tensor(tensor) for name, tensor in layer.state_dict(keep_vars=True).items()}
        results = functional_call(layer, weights, mode.from_tensor(random(T, B, I)).requires_grad_())
        total_shape = total(results).shape
    assert total_shape == ()
    for got, real in zip(flat(results), flat(want), strict=True):
        assert (got.shape, got.dtype, got.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_cell_without_jumps
def test_half_types(name, layer_of, dtype):
    """Steps are taken in float32: the result differs by the rounding of what goes in and out."""
    layer = new_layer(name, layer_of, dtype)
    full = new_layer(name, layer_of, torch.float32)
    layer.load_state_dict(full.state_dict())  # not drawn in half precision, where torch 2.11 draws other numbers
    full.load_state_dict(layer.state_dict())
    x = random(T, B, I, dtype=torch.float32).to(dtype)
    got, want = layer(x), full(x.float())
    assert all(tensor.dtype == dtype for tensor in flat(got))
    for one, other in zip(flat(got), flat(want), strict=True):
        assert (one.float() - other).norm() <= 0.03 * other.norm() + 1e-2
    for gradient, parameter in zip(gradients(got, layer.parameters()), layer.parameters(), strict=True):
        assert gradient.dtype == parameter.dtype and gradient.isfinite().all()


# Each step adds less than half a unit in the last place of bfloat16, here and on the way back.
SLOW = """
name   = "slow"
states = ["h"]
step   = "h' = h + 0.002 * sigmoid(W @ x + u * h)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden"], blocks = ["u"], init = 1.0 }
"""
SLOW_WITH_A_PRODUCT = """
name   = "slow_with_a_product"
states = ["h"]
step   = "h' = h + 0.002 * sigmoid(W @ x + U @ h)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"], init = 0.3 }
"""
# What one product is applied to is used again after it, where all that counts is how little it is less than 1.
SLOW_BY_A_CARRIED_VALUE = """
name   = "slow_by_a_carried_value"
states = ["h"]
step   = '''
z  = 1 - 0.002 * sigmoid(W @ x + u * h)
h' = h + 2 * (1 - z) * sigmoid(U @ (z * h))
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"], init = 0.3 }
rate      = { shape = ["hidden"], blocks = ["u"], init = 1.0 }
"""


def check_carried(layer_of, text: str, schedule: str) -> None:
    layer = layer_of(text)(2, 3, schedule=schedule, dtype=torch.bfloat16)
    exact = layer_of(text)(2, 3, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())

    def run(function, dtype):
        h = torch.ones(1, 2, 3, dtype=dtype, requires_grad=True)
        _, last = function(torch.zeros(48, 2, 2, dtype=dtype), h)
        return last.double(), torch.autograd.grad(last.sum(), h)[0].double()

    (last, d_h), (want, want_d_h) = run(layer, torch.bfloat16), run(exact.reference, torch.float64)
    assert want.min() > 1.04 and want_d_h.min() > 1.015
    torch.testing.assert_close(last, want, rtol=2**-8, atol=0)
    torch.testing.assert_close(d_h, want_d_h, rtol=2**-8, atol=0)


@pytest.mark.parametrize("text", [SLOW, SLOW_WITH_A_PRODUCT], ids=["elementwise", "product"])
def test_what_is_carried_from_step_to_step_is_not_rounded_to_bfloat16(layer_of, text):
    check_carried(layer_of, text, "auto")


@every_cell_without_jumps
def test_autocast(name, layer_of):
    layer = new_layer(name, layer_of, torch.float32)
    x = random(T, B, I, dtype=torch.float32).requires_grad_()
    want = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        results = layer(x)
    assert {tensor.dtype for tensor in flat(results[1])} == {torch.bfloat16}
    if cells.program(name).scan.outputs[0][0] == "y":  # beside the scan sums are of the wider type, as torch has them
        assert results[0].dtype == torch.bfloat16
    for one, other in zip(flat(results), flat(want), strict=True):
        assert (one.float() - other).norm() <= 0.05 * other.norm() + 2e-2
    total([tensor.float() for tensor in flat(results)]).backward()
    for tensor in (x, *layer.parameters()):
        if tensor.grad is not None:  # a condition alone may use it
            assert tensor.grad.dtype == torch.float32 and tensor.grad.isfinite().all()


@some_cells
def test_autocast_of_the_reference(name, layer_of):
    """Its types are torch's own; a sequence that one of the two has begun the other goes on with."""
    layer = new_layer(name, layer_of, torch.float32)
    x = random(T, B, I, dtype=torch.float32)
    want = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        for first, second in ((layer, layer.reference), (layer.reference, layer)):
            _, state = first(x[:2])
            _, last = second(x[2:], state)
            for one, other in zip(flat(last), flat(want[1]), strict=True):
                assert one.dtype == torch.bfloat16 or second is not layer
                assert (one.float() - other).norm() <= 0.05 * other.norm() + 2e-2


@some_cells
def test_autocast_takes_half_inputs(name, layer_of):
    layer = new_layer(name, layer_of, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        _, last = layer(random(T, B, I, dtype=torch.float32).bfloat16())
    assert {tensor.dtype for tensor in flat(last)} == {torch.bfloat16}


@every_cell
def test_repr(name, layer):
    assert repr(layer).startswith(f"{type(layer).__name__}(3, 4")


# torch.func.


@every_cell
def test_vmap_over_inputs(name, layer):
    x = random(3, T, B, I)
    want = [layer(one) for one in x]
    got = vmap(layer)(x)
    for number, results in enumerate(want):
        assert_equal([tensor[number] for tensor in flat(got)], flat(results))
    assert_equal(vmap(layer, in_dims=2, out_dims=1)(random(T, B, 3, I))[0][:, 1], layer(random(T, B, 3, I)[:, :, 1])[0])


@some_cells
def test_vmap_over_inputs_of_different_lengths(name, layer):
    """With one mask for all of them, and with one for each."""
    states, weights = flat(state_for(layer, 1, B)), list(layer.parameters())
    states = [state[0] for state in states]
    x = random(3, T, B, I)
    valid = (torch.arange(T)[:, None] < torch.tensor([T] + [2] * (B - 1))).to(torch.int32)[..., None]
    masks = torch.stack([valid, torch.ones_like(valid), valid.flip(1)])

    def run(x, valid):
        return layer.cell.run(x, states, weights, valid)

    for got, those in ((vmap(lambda one: run(one, valid))(x), [valid] * 3), (vmap(run)(x, masks), masks)):
        for number, mask in enumerate(those):
            assert_equal([tensor[number] for tensor in flat(got)], flat(run(x[number], mask)))


@every_cell
def test_vmap_over_states(name, layer):
    begin = flat(layer.initial_state(B))
    states = tuple(random(3, *state.shape, seed=n) for n, state in enumerate(begin))
    x = random(T, B, I)
    got = vmap(lambda *s: layer(x, s if len(s) > 1 else s[0]))(*states)
    for number in range(3):
        one = tuple(state[number] for state in states)
        assert_equal([tensor[number] for tensor in flat(got)], flat(layer(x, one if len(one) > 1 else one[0])))


@every_cell
def test_gradients_through_vmap(name, layer):
    """vmap inside, autograd outside it, which the layer does not see."""
    x = random(3, T, B, I).requires_grad_()
    leaves = [x, *layer.parameters()]
    want = gradients([layer(one)[0] for one in x], leaves)
    got = gradients(list(vmap(layer)(x)[0]), leaves)
    assert_equal(got, want)


@pytest.mark.parametrize("last_only", [False, True], ids=["every step", "last step"])
@some_cells
def test_gradients_through_vmap_of_frozen_weights(name, layer_of, last_only):
    """Of all that the layer sees only the batched input asks for a gradient."""
    layer = new_layer(name, layer_of, last_only=last_only).requires_grad_(False)
    x = random(3, T, B, I).requires_grad_()
    want = gradients([layer(one)[0] for one in x], [x])
    assert_equal(gradients(list(vmap(layer)(x)[0]), [x]), want)


@every_cell
def test_batched_gradients(name, layer):
    """Several gradients of the outputs in one backward pass."""
    x, state = random(T, B, I).requires_grad_(), state_for(layer, 1, B)
    leaves = [x, *layer.parameters(), *(tensor.requires_grad_() for tensor in flat(state))]
    results = [tensor for tensor in flat(layer(x, state)) if tensor.requires_grad]
    seeds = [random(3, *tensor.shape, seed=number) for number, tensor in enumerate(results)]
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    got = torch.autograd.grad(results, leaves, seeds, is_grads_batched=True, **options)
    for number in range(3):
        want = torch.autograd.grad(results, leaves, [seed[number] for seed in seeds], **options)
        assert_equal([gradient[number] for gradient in got], want)


@some_cells
def test_vectorized_jacobians(name, layer):
    x = random(T, B, I)
    functional = torch.autograd.functional
    one_by_one, at_once = (functional.jacobian(lambda x: layer(x)[0], x, vectorize=v) for v in (False, True))
    assert_equal(at_once, one_by_one)
    one_by_one, at_once = (functional.hessian(lambda x: total(layer(x)), x[:2], vectorize=v) for v in (False, True))
    assert_equal(at_once, one_by_one)


@every_cell
def test_vmap_over_weights(name, layer_of):
    members = []
    for seed in range(3):
        member = new_layer(name, layer_of)
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.add_(random(*parameter.shape, seed=seed))
        members.append(member)
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def one(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,))

    x = random(T, B, I)
    got = vmap(one, in_dims=(0, 0, None))(parameters, buffers, x)
    each = vmap(one, in_dims=(0, 0, 0))(parameters, buffers, random(3, T, B, I))
    for number, member in enumerate(members):
        assert_equal([tensor[number] for tensor in flat(got)], flat(member(x)))
        assert_equal([tensor[number] for tensor in flat(each)], flat(member(random(3, T, B, I)[number])))


@some_cells
@pytest.mark.parametrize("size", [0, 2])
def test_vmap_over_nothing(name, layer_of, size):
    """As of torch's own operations: the shapes of a result, and no gradient; two as the comparison."""
    layer = new_layer(name, layer_of)
    weights = {key: value.detach().expand(size, *value.shape) for key, value in layer.named_parameters()}
    weights = {key: value.clone().requires_grad_() for key, value in weights.items()}
    x, one = random(size, T, B, I).requires_grad_(), random(T, B, I)
    ways = {
        "inputs": lambda: vmap(layer)(x),
        "weights": lambda: vmap(lambda w: functional_call(layer, w, (one,)))(weights),
        "both": lambda: vmap(lambda w, x: functional_call(layer, w, (x,)))(weights, x),
    }
    for way, results in ways.items():
        found = flat(results())
        assert [tensor.shape for tensor in found] == [(size, *tensor.shape) for tensor in flat(layer(one))]
        leaves = [*([x] if way != "weights" else []), *(weights.values() if way != "inputs" else layer.parameters())]
        grads = torch.autograd.grad(total(found), leaves, allow_unused=True)
        assert all(g is None or g.shape == leaf.shape for g, leaf in zip(grads, leaves, strict=True))
        assert size or not any(g is not None and g.any() for g in grads)


@some_cells
def test_gradients_for_each_sample(name, layer):
    """Of the reference by vmap of grad; torch has no torch.func.grad of its custom operators, so of the layer by an
    ensemble of equal weights.
    """
    parameters = {key: value.detach() for key, value in layer.named_parameters()}
    x = random(T, B, I)

    class Reference(torch.nn.Module):
        def forward(self, x):
            return layer.reference(x)

    reference = Reference()
    reference.add_module("layer", layer)

    def loss(parameters, x):
        return total(functional_call(reference, parameters, (x[:, None],)))

    by_reference = vmap(torch.func.grad(loss), in_dims=(None, 1))({f"layer.{k}": v for k, v in parameters.items()}, x)
    members = {key: value.expand(B, *value.shape).clone().requires_grad_() for key, value in parameters.items()}
    results = vmap(lambda p, x: total(functional_call(layer, p, (x[:, None],))), in_dims=(0, 1))(members, x)
    results.sum().backward()
    for sample in range(B):
        want = dict(zip(parameters, gradients(layer(x[:, sample : sample + 1]), layer.parameters()), strict=True))
        for key in parameters:
            assert_equal(by_reference[f"layer.{key}"][sample], want[key])
            assert_equal(members[key].grad[sample], want[key])


# torch.library and torch.compile.


class Calls(TorchDispatchMode):
    """Keeps the calls of rnngen's operators, with copies of their arguments."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "rnngen":
            copies = (a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
            self.found.append((function, tuple(copies)))
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the check itself looks
@every_cell
def test_operators(name, layer):
    """torch's own check of both: schema, fake results, autograd registration, dynamic shapes."""
    with Calls() as calls:
        total(layer(random(T, B, I).requires_grad_(), state_for(layer, 1, B))).backward()
    (forward, args), (adjoint, adjoint_args) = calls.found
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(adjoint, adjoint_args, test_utils=checks)
    args = tuple(a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args)
    slow = ["test_aot_dispatch_dynamic"] if name in cells.SAMPLE else []
    torch.library.opcheck(forward, args, test_utils=checks + slow)


def compiled_equals_eager(layer: Layer, backend: str, x: torch.Tensor, state) -> None:
    torch._dynamo.reset()
    fast = torch.compile(layer, fullgraph=True, backend=backend)
    tensors = [x, *flat(state), *layer.parameters()]
    want, got = layer(x, state), fast(x, state)
    assert_equal(got, want)
    assert_equal(gradients(got, tensors), gradients(want, tensors))


@every_library_cell
def test_compile(name, layer):
    x = random(T, B, I).requires_grad_()
    state = state_for(layer, 1, B)
    for tensor in flat(state):
        tensor.requires_grad_()
    compiled_equals_eager(layer, "aot_eager", x, state)


@pytest.mark.parametrize("name", ["decoder", "parts", "slstm_flashrnn", "adjoint_names"])
def test_compile_invented(name, layer):
    x, state = random(T, B, I).requires_grad_(), state_for(layer, 1, B)
    for tensor in flat(state):
        tensor.requires_grad_()
    compiled_equals_eager(layer, "aot_eager", x, state)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch's own, when it imports its compiler
@pytest.mark.parametrize("name", ["gru"])
def test_compile_with_inductor(name, layer):
    x, state = random(T, B, I).requires_grad_(), state_for(layer, 1, B).requires_grad_()
    compiled_equals_eager(layer, "inductor", x, state)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_one_compile_for_every_length_and_batch(name, layer):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    fast = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for time, batch in ((5, 2), (7, 3), (11, 6), (3, 9)):
        x = random(time, batch, I).requires_grad_()
        tensors = [x, *layer.parameters()]
        want, got = layer(x), fast(x)
        assert_equal(got, want)
        assert_equal(gradients(got, tensors), gradients(want, tensors))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["lstm"])
def test_export(name, layer):
    program = torch.export.export(layer, (random(T, B, I),), dynamic_shapes=({0: torch.export.Dim("time"), 1: None},))
    assert_equal(program.module()(random(2 * T, B, I)), layer(random(2 * T, B, I)))


# Modules as files.


def test_imported_twice(module_of):
    first = module_of("lstm")
    path = Path(first.__file__)
    second = imported(path, "another_name_of_it")
    x = random(T, B, I)
    layers = []
    for module in (first, second, first):
        torch.manual_seed(0)
        layers.append(module.LSTM(I, H, dtype=torch.float64))
    want = layers[0](x)
    for layer in layers:
        assert_equal(layer(x), want, 0, 0)
        assert_equal(gradients(layer(x), layer.parameters()), gradients(layers[0](x), layers[0].parameters()))


def test_two_cells_of_one_name(module_of):
    """Two descriptions of one name do not take each other's operators."""
    step = "h' = {0}(W @ x + U @ h)"
    text = (
        'name = "same"\nstates = ["h"]\nstep = "{}"\n[parameters]\n'
        'w = {{ shape = ["hidden", "inputs"], blocks = ["W"] }}\n'
        'u = {{ shape = ["hidden", "hidden"], blocks = ["U"] }}\n'
    )
    one, other = (module_of(text.format(step.format(function))) for function in ("tanh", "sin"))
    layers = []
    for module in (one, other):
        torch.manual_seed(0)
        layers.append(module.Same(I, H, dtype=torch.float64))
    x = random(T, B, I)
    for layer in layers:
        assert_equal(layer(x), layer.reference(x))
    assert not torch.allclose(layers[0](x)[0], layers[1](x)[0])


def test_without_triton(module_of):
    """Where Triton cannot be imported the CPU path works, forwards and backwards."""
    path = Path(module_of("gru").__file__)
    text = (
        "import sys, runpy\n"
        "sys.modules['triton'] = None\n"
        f"module = runpy.run_path({str(path)!r})\n"
        "import torch\n"
        "layer = module['GRU'](3, 4)\n"
        "y, h = layer(torch.randn(5, 2, 3))\n"
        "(y.sum() + h.sum()).backward()\n"
        "print(all(p.grad.isfinite().all() for p in layer.parameters()), tuple(y.shape))\n"
    )
    root = Path(rnngen.__file__).parent.parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "True (5, 2, 4)", done.stderr


# Stacks.

STACK = """
name   = "sunspots"
inputs = 3

[[layers]]
cell   = "lstm"
hidden = 4

[[layers]]
dropout = 0.5

[[layers]]
cell   = "gru"
hidden = 5
reverse = true
initial_state = "learned"

[[layers]]
dense = 2
"""


@pytest.mark.parametrize("batch_first", [False, True])
def test_stack(module_of, batch_first):
    module = module_of(STACK)
    torch.manual_seed(0)
    model = module.Sunspots(batch_first=batch_first, dtype=torch.float64).eval()
    x = random(B, T, I) if batch_first else random(T, B, I)
    x.requires_grad_()
    got, want = model(x), model.reference(x)
    assert got[0].shape == (*x.shape[:2], 2)
    assert_equal(got, want)
    tensors = [x, *model.parameters()]
    assert_equal(gradients(got, tensors), gradients(want, tensors))
    assert_equal(model(x, model.initial_state(B)), want)
    with pytest.raises(RuntimeError, match="states of 2 recurrent layers, got 1"):
        model(x, (None,))


def test_stack_of_steps(module_of):
    torch.manual_seed(0)
    model = module_of(STACK.replace("reverse = true\n", "")).Sunspots(dtype=torch.float64).eval()
    x, state, rows = random(T, B, I), None, []
    want = model(x)
    for row in x:
        y, state = model.step(row, state)
        rows.append(y)
    assert_equal((torch.stack(rows), state), want)
    assert_equal(model(x[:, 0])[0], want[0][:, 0])


SWITCHES = """
name   = "switches"
states = ["h"]
output = "y"
step   = '''
drive = W @ x
h'    = where(drive > h, 1, 0.5)
y     = V @ h' + drive
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_ho = { shape = ["hidden", "hidden"], blocks = ["V"] }
"""


def test_a_scan_without_any_gradient(layer_of):
    """Conditions let nothing through it; what goes around it does, and no gradient is missing."""
    layer = layer_of(SWITCHES)(I, 4, dtype=torch.float64)
    x, state = random(T, B, I).requires_grad_(), random(1, B, 4).requires_grad_()
    tensors = [x, *layer.parameters()]
    got, want = layer(x, state), layer.reference(x, state)
    assert_equal(got, want)
    assert_equal(gradients(got[:1], tensors), gradients(want[:1], tensors))
    (gradient,) = torch.autograd.grad(total(layer(x, state)), state)
    assert not gradient.any()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(layer_of, reentrant):
    layer = layer_of("lstm")(I, 4, dtype=torch.float64)
    x = random(T, B, I).requires_grad_()
    want = gradients(layer(x)[:1], [x, *layer.parameters()])
    y = torch.utils.checkpoint.checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant)
    total([y]).backward()
    assert_equal([x.grad, *(parameter.grad for parameter in layer.parameters())], want)


def test_forward_mode_says_that_it_is_not_there(layer_of):
    layer = layer_of("lstm")(I, 4, dtype=torch.float64)
    x = random(T, B, I)
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative\. Use the layer's `reference`"):
        torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))
    assert torch.func.jvp(lambda x: layer.reference(x)[0], (x,), (torch.ones_like(x),))[1].any()


def test_torch_func_says_that_it_is_not_there(layer_of):
    layer = layer_of("lstm")(I, 4, dtype=torch.float64)
    x = random(T, B, I)
    with pytest.raises(NotImplementedError, match=r"no derivative by torch\.func\. Use the layer's `reference` method"):
        torch.func.grad(lambda x: total(layer(x)))(x)
    assert_equal(
        torch.func.grad(lambda x: total(layer.reference(x)))(x),
        torch.autograd.grad(total(layer(x.requires_grad_())), x),
    )


def test_autocast_leaves_float64_alone(layer_of):
    layer = layer_of("lstm")(I, 4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(random(T, B, I))[0].dtype == torch.float64


@pytest.fixture
def float32_products():
    """torch's switch for them, put back afterwards."""
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    yield switch
    switch.fp32_precision = before


def arguments(state: torch.Tensor) -> Arguments:
    flags = {"backwards": False, "save": True, "keep": True, "heads": 1}
    return Arguments(
        [state[None]], None, None, None, [state], [], [], [], {"hidden": state.shape[-1]}, both=False, **flags
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wanted", ["tf32", "ieee"])
def test_products_are_in_tf32_where_torch_is_told_so_and_nowhere_else(wanted, dtype, float32_products):
    given = {}

    class Kernel:
        def __getitem__(self, grid):
            return lambda *tensors, **constants: given.update(constants)

    float32_products.fp32_precision = wanted
    state = torch.zeros(2, 4, dtype=dtype)
    resident.launch(Kernel(), arguments(state), Choice("resident", {"BB": 16}, {"num_warps": 4}))
    on = wanted == "tf32" and dtype == torch.float32 and torch.version.hip is None
    assert given["PRECISION"] == ("tf32" if on else "ieee")
    assert (given["BB"], given["num_warps"]) == (16, 4)


def test_products_are_not_in_tf32_by_themselves():
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    assert arguments(torch.zeros(2, 4)).precision == "ieee"
