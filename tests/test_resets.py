"""Sequences one behind another in one call: what a layer, a stack and a Python cell make of `resets`."""

import pytest
import torch
from cells import SAMPLE
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnngen.runtime import Recurrence

T, B, I, H = 7, 4, 3, 5
# TorchRL's own case (pytorch/rl#3738): at different steps, twice, and never. Beside it every step, and the first alone.
PLACES = {
    "torchrl": [(3, 0), (2, 1), (5, 1), (1, 2)],
    "every step": [(t, b) for t in range(T) for b in range(B)],
    "the first step": [(0, b) for b in range(B)],
    "the last step": [(T - 1, 1)],
    "none": [],
}
every_place = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)


def flags_at(places) -> torch.Tensor:
    flags = torch.zeros(T, B, dtype=torch.bool)
    for place in places:
        flags[place] = True
    return flags


def random(*shape) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def flat(state) -> tuple[torch.Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def states_of(layer, batch=B):
    made = tuple(random(*state.shape) for state in flat(layer.initial_state(batch)))
    return made if len(made) > 1 else made[0]


def assert_equal(got, want, leaves):
    """Outputs, and every gradient of their weighted sum: in float64, whose sums may come in another order."""
    answers = []
    for y, state in (got, want):
        outputs = [y, *flat(state)]
        loss = sum((one * torch.linspace(-1, 2, one.numel(), dtype=one.dtype).view(one.shape)).sum() for one in outputs)
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        answers.append([*outputs, *found])
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def by_sequences(module, x, state, places, begin):
    """Every sequence by itself: an element of the batch is cut where another sequence begins. One layer, forwards."""
    rows, last = [], []
    for element in range(x.shape[1]):
        own = tuple(part[:, element : element + 1] for part in flat(state))
        cuts = sorted(t for t, b in places if b == element)
        starts = sorted({0, *cuts})
        pieces = []
        for start, stop in zip(starts, [*starts[1:], len(x)], strict=True):
            own = tuple(part[:, element : element + 1] for part in flat(begin)) if start in cuts else own
            y, own = module(x[start:stop, element : element + 1], own if len(own) > 1 else own[0])
            own = flat(own)
            pieces.append(y)
        rows.append(torch.cat(pieces))
        last.append(own)
    joined = tuple(torch.cat(parts, 1) for parts in zip(*last, strict=True))
    return torch.cat(rows, 1), joined if len(joined) > 1 else joined[0]


@every_place
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU], ids=["lstm", "gru"])
def test_like_torch_on_every_sequence_by_itself(kind, places, layer_of):
    torch.manual_seed(0)
    theirs = kind(I, H, dtype=torch.float64)
    ours = layer_of(kind.__name__.lower())(I, H, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, state, begin = random(T, B, I), states_of(ours), states_of(ours)
    got = ours(x, state, resets=flags_at(places), reset_to=begin)
    want = by_sequences(theirs, x, state, places, begin)
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert name in dict(theirs.named_parameters())
        answers = []
        for answer, weight in ((got, own), (want, other)):
            loss = sum(one.square().sum() for one in (answer[0], *flat(answer[1])))
            answers.append(torch.autograd.grad(loss, weight, retain_graph=True)[0])
        torch.testing.assert_close(*answers, rtol=1e-10, atol=1e-12)
    assert_equal(got, want, [x, *flat(state), *flat(begin)])


@every_place
@pytest.mark.parametrize("name", SAMPLE)
def test_every_cell_on_every_sequence_by_itself(name, places, layer_of):
    torch.manual_seed(0)
    layer = layer_of(name)(I, H, dtype=torch.float64)
    x, state = random(T, B, I), states_of(layer)
    zeros = layer.initial_state(B)
    for path in (layer, layer.reference):
        got = path(x, state, resets=flags_at(places))
        want = by_sequences(layer.reference, x, state, places, zeros)
        assert_equal(got, want, [x, *flat(state), *layer.parameters()])


@pytest.mark.parametrize("given", [False, True], ids=["from the initial state", "from a state"])
@pytest.mark.parametrize("initial", ["zeros", "learned", "buffer"])
def test_a_reset_returns_to_the_initial_state_of_the_layer(initial, given, layer_of):
    """Whatever the call began with: a long sequence can be cut into calls, and each goes on where the last ended."""
    torch.manual_seed(0)
    layer = layer_of("lstm")(I, H, initial_state=initial, dtype=torch.float64)
    for state in ("h", "c"):
        if initial != "zeros":
            nn.init.normal_(getattr(layer, f"initial_{state}"))
    places = PLACES["torchrl"]
    x, state = random(T, B, I), states_of(layer) if given else None
    begin = layer.initial_state(B)
    got = layer(x, state, resets=flags_at(places))
    want = by_sequences(layer.reference, x, state if given else begin, places, begin)
    leaves = [x, *layer.parameters(), *(state if given else ())]
    assert_equal(got, want, leaves)
    first, between = layer(x[:3], state, resets=flags_at(places)[:3])
    second, last = layer(x[3:], between, resets=flags_at(places)[3:])
    assert_equal((torch.cat((first, second)), last), want, leaves)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batched", [True, False], ids=["a batch", "no batch"])
def test_step_by_step(batched, layers, layer_of):
    torch.manual_seed(0)
    layer = layer_of("lstm")(I, H, layers, initial_state="learned", dtype=torch.float64)
    nn.init.normal_(layer.initial_h)
    x, flags = random(T, B, I), flags_at(PLACES["torchrl"])
    state = states_of(layer)
    if not batched:
        x, flags, state = x[:, 1], flags[:, 1], tuple(part[:, 1] for part in state)
    want = layer(x, state, resets=flags)
    rows, now = [], state
    for x_t, flags_t in zip(x, flags, strict=True):
        y, now = layer.step(x_t, now, resets=flags_t)
        rows.append(y)
    assert_equal((torch.stack(rows), now), want, [x, *state, *layer.parameters()])
    if batched:
        y, last = layer.step(x[0], state, resets=flags[2], reset_to=now)
        assert_equal((y[None], last), layer(x[:1], state, resets=flags[2:3], reset_to=now), [x, *state])


@pytest.mark.parametrize(
    "options",
    [
        {"reverse": True},
        {"bidirectional": True},
        {"num_layers": 2, "bidirectional": True},
        {"proj_size": 2},
        {"proj_size": 2, "reverse": True},
        {"proj_size": 2, "bidirectional": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("padded", [False, True], ids=["plain", "packed"])
def test_directions_and_projections(options, padded, layer_of):
    """Against a call for each element of the batch that has no resets: the sequences turned into a batch."""
    torch.manual_seed(0)
    layer = layer_of("lstm")(I, H, dtype=torch.float64, **options)
    flags = flags_at([(3, 0), (2, 1), (4, 1), (1, 2)])
    lengths = torch.tensor([5, 7, 6, 2]) if padded else torch.full((B,), T)
    x = random(T, B, I)
    if padded:
        packed = (pack_padded_sequence(rows, lengths, enforce_sorted=False) for rows in (x, flags))
        y, _ = layer(next(packed), resets=next(packed))
        y, _ = pad_packed_sequence(y)
    else:
        y, _ = layer(x, resets=flags)
    for element in range(B):
        length = int(lengths[element])
        starts = [0, *(t for t in range(1, length) if flags[t, element])]
        pieces = list(zip(starts, [*starts[1:], length], strict=True))
        want = torch.cat([layer.reference(x[a:b, element])[0] for a, b in pieces])
        assert_equal((y[:length, element], ()), (want, ()), [x, *layer.parameters()])


def test_a_packed_call_keeps_the_order_of_its_batch(layer_of):
    torch.manual_seed(0)
    layer = layer_of("gru")(I, H, dtype=torch.float64)
    x, flags, begin = random(T, B, I), flags_at(PLACES["torchrl"]), states_of(layer)
    lengths = torch.tensor([3, 7, 5, 6])
    packed = [pack_padded_sequence(rows, lengths, enforce_sorted=False) for rows in (x, flags)]
    y, last = layer(packed[0], resets=packed[1], reset_to=begin)
    y, _ = pad_packed_sequence(y)
    for element, length in enumerate(lengths):
        own = (x[:length, element], None)
        want, end = layer(*own, resets=flags[:length, element], reset_to=begin[:, element])
        torch.testing.assert_close(y[:length, element], want)
        torch.testing.assert_close(last[:, element], end)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_flags_of_any_whole_type_with_the_batch_first(dtype, layer_of):
    torch.manual_seed(0)
    layer = layer_of("gru")(I, H, batch_first=True, dtype=torch.float64)
    turned = layer_of("gru")(I, H, dtype=torch.float64)
    turned.load_state_dict(layer.state_dict())
    x, flags = random(T, B, I), flags_at(PLACES["torchrl"])
    y, last = layer(x.transpose(0, 1), resets=3 * flags.T.to(dtype))
    assert_equal((y.transpose(0, 1), last), turned(x, resets=flags), [x])


def test_flags_of_a_packed_call_are_as_wide_as_they_come(layer_of):
    layer = layer_of("gru")(I, H)
    x, flags = torch.randn(T, B, I), flags_at(PLACES["torchrl"])
    packed = pack_padded_sequence(x, torch.tensor([7, 3, 5, 6]), enforce_sorted=False)
    answers = [
        layer(packed, resets=pack_padded_sequence(own, torch.tensor([7, 3, 5, 6]), enforce_sorted=False))[0].data
        for own in (flags, flags * 2**32)
    ]
    torch.testing.assert_close(*answers)


def test_the_last_step_alone(layer_of):
    torch.manual_seed(0)
    layer, whole = (layer_of("gru")(I, H, last_only=last, dtype=torch.float64) for last in (True, False))
    whole.load_state_dict(layer.state_dict())
    x, flags = random(T, B, I), flags_at(PLACES["torchrl"])
    y, last = whole(x, resets=flags)
    assert_equal(layer(x, resets=flags), (y[-1], last), [x])


def test_no_gradient_passes_a_reset(layer_of):
    layer = layer_of("lstm")(I, H, dtype=torch.float64)
    x, state = random(T, B, I), states_of(layer)
    y, last = layer(x, state, resets=flags_at([(3, 0)]))
    through_y, *through_state = torch.autograd.grad(y[3:].sum() + sum(s.sum() for s in last), [x, *state])
    assert (through_y[:3, 0] == 0).all() and (through_y[3:, 0] != 0).any()
    assert all((s[:, 0] == 0).all() and (s[:, 1:] != 0).all() for s in through_state)


def test_second_derivatives(layer_of):
    layer = layer_of("gru")(2, 2, dtype=torch.float64)
    x, state, begin = random(3, 2, 2), random(1, 2, 2), random(1, 2, 2)
    flags = torch.tensor([[False, True], [True, False], [False, False]])
    assert torch.autograd.gradgradcheck(lambda *t: layer(t[0], t[1], resets=flags, reset_to=t[2]), (x, state, begin))


@pytest.mark.parametrize("name", ["lstm", "indrnn"])
def test_a_compiled_graph(name, layer_of):
    torch.manual_seed(0)
    layer = layer_of(name)(I, H)
    x, flags = torch.randn(T, B, I), flags_at(PLACES["torchrl"])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for path in (compiled, layer):
        layer.zero_grad()
        y, last = path(x, resets=flags)
        (y.sum() + sum(s.sum() for s in flat(last))).backward()
        found = [y, *flat(last), *(p.grad.clone() for p in layer.parameters())]
        if path is compiled:
            first = found
    for one, other in zip(first, found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_reference_under_torch_func(layer_of):
    layer = layer_of("gru")(I, H, dtype=torch.float64)
    xs = torch.randn(2, T, B, I, dtype=torch.float64)
    flags = torch.stack([flags_at(PLACES["torchrl"]), flags_at(PLACES["the last step"])])
    found = torch.func.vmap(torch.func.grad(lambda x, f: layer.reference(x, resets=f)[0].sum()))(xs, flags)
    for n in range(2):
        x = xs[n].clone().requires_grad_()
        (want,) = torch.autograd.grad(layer.reference(x, resets=flags[n])[0].sum(), x)
        torch.testing.assert_close(found[n], want)


def test_a_batch_of_calls(layer_of):
    """By torch.func.vmap, over inputs and flags."""
    layer = layer_of("gru")(I, H, dtype=torch.float64)
    xs, begins = torch.randn(2, T, B, I, dtype=torch.float64), torch.randn(2, 1, B, H, dtype=torch.float64)
    flags = torch.stack([flags_at(PLACES["torchrl"]), flags_at(PLACES["the last step"])])
    y, last = torch.func.vmap(lambda x, f, b: layer(x, resets=f, reset_to=b))(xs, flags, begins)
    for n in range(2):
        want = layer(xs[n], resets=flags[n], reset_to=begins[n])
        torch.testing.assert_close((y[n], last[n]), want)


# Stacks, and cells in Python.


def stack_of(module_of):
    text = """
name = "agent"
inputs = 3
[[layers]]
cell = "lstm"
hidden = 5
initial_state = "learned"
[[layers]]
dense = 4
[[layers]]
cell = "gru"
hidden = 4
"""
    return module_of(text)


def test_a_stack(module_of):
    torch.manual_seed(0)
    model = stack_of(module_of).Agent(dtype=torch.float64)
    x, flags = random(T, B, I), flags_at(PLACES["torchrl"])
    leaves = [x, *model.parameters()]
    y, states = model(x, resets=flags)
    lstm, dense, gru = model.layers
    one, first = lstm(x, resets=flags)
    two, second = gru(dense(one), resets=flags)
    assert_equal((y, (*states[0], states[1])), (two, (*first, second)), leaves)
    y_reference, other = model.reference(x, resets=flags)
    assert_equal((y, (*states[0], states[1])), (y_reference, (*other[0], other[1])), leaves)
    rows, now = [], None
    for x_t, flags_t in zip(x, flags, strict=True):
        y_t, now = model.step(x_t, now, resets=flags_t)
        rows.append(y_t)
    assert_equal((torch.stack(rows), (*now[0], now[1])), (y, (*states[0], states[1])), leaves)
    begin = [None, random(1, B, 4)]
    y, states = model(x, resets=flags, reset_to=begin)
    two, second = gru(dense(lstm(x, resets=flags)[0]), resets=flags, reset_to=begin[1])
    assert_equal((y, states[1]), (two, second), [*leaves, begin[1]])


def test_a_stack_with_the_batch_first(module_of):
    torch.manual_seed(0)
    module = stack_of(module_of)
    model, turned = (module.Agent(batch_first=first, dtype=torch.float64) for first in (False, True))
    turned.load_state_dict(model.state_dict())
    x, flags = random(T, B, I), flags_at(PLACES["torchrl"])
    y, _ = turned(x.transpose(0, 1), resets=flags.T)
    torch.testing.assert_close(y.transpose(0, 1), model(x, resets=flags)[0])


class Learned(nn.Module):
    """A cell that says what it begins with."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(I, H, dtype=torch.float64)
        self.first = nn.Parameter(torch.randn(2, H, dtype=torch.float64))

    def forward(self, x, state):
        h, c = self.cell(x, state)
        return h, (h, c)

    def initial_state(self, batch):
        return tuple(row.expand(batch, -1) for row in self.first)


@every_place
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_cell_in_python(packed, places):
    torch.manual_seed(0)
    cell = Learned()
    module = Recurrence(cell)
    x, flags = random(T, B, I), flags_at(places)
    lengths = torch.tensor([7, 4, 6, 7]) if packed else torch.full((B,), T)
    if packed:
        both = [pack_padded_sequence(rows, lengths, enforce_sorted=False) for rows in (x, flags)]
        y, last = module(both[0], resets=both[1])
        y, _ = pad_packed_sequence(y)
    else:
        y, last = module(x, resets=flags)
    for element, length in enumerate(lengths):
        state = cell.initial_state(1)
        for t in range(int(length)):
            state = cell.initial_state(1) if flags[t, element] else state
            want, state = cell(x[t, element : element + 1], state)
            torch.testing.assert_close(y[t, element : element + 1], want)
        for one, other in zip(last, state, strict=True):
            torch.testing.assert_close(one[element : element + 1], other)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_of_torch_returns_to_zeros(kind):
    torch.manual_seed(0)
    module = Recurrence(kind(I, H, dtype=torch.float64))
    x, places = random(T, B, I), PLACES["torchrl"]
    y, _ = module(x, resets=flags_at(places))
    for element in range(B):
        starts = sorted({0, *(t for t, b in places if b == element)})
        pieces = zip(starts, [*starts[1:], T], strict=True)
        want = torch.cat([module(x[a:b, element : element + 1])[0] for a, b in pieces])
        torch.testing.assert_close(y[:, element : element + 1], want)


@pytest.mark.parametrize("kind", ["layer", "stack"])
def test_a_layer_or_a_stack_as_the_cell(kind, layer_of, module_of):
    """Its `step` knows what to return to, also where it is given as a list."""
    torch.manual_seed(0)
    module = layer_of("lstm")(I, H) if kind == "layer" else stack_of(module_of).Agent()
    x, flags = torch.randn(T, B, I), flags_at(PLACES["torchrl"])
    given = list(module.initial_state(B)) if kind == "layer" else [None, torch.ones(1, B, 4)]
    for options in ({}, {"reset_to": given}):
        y, _ = Recurrence(module)(x, given, resets=flags, **options)
        torch.testing.assert_close(y, module(x, given, resets=flags, **options)[0])


def test_a_compiled_cell_in_python():
    torch.manual_seed(0)
    module, x, flags = Recurrence(Learned()), random(T, B, I), flags_at(PLACES["torchrl"])
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, resets=flags)[0], module(x, resets=flags)[0])


def test_a_cell_that_does_not_say_what_it_begins_with():
    module = Recurrence(lambda x, state: (x, x if state is None else state + x))
    x = random(T, B, I)
    with pytest.raises(ValueError, match="initial_state"):
        module(x, resets=flags_at(PLACES["torchrl"]))
    _, last = module(x, x[0], resets=flags_at(PLACES["torchrl"]), reset_to=torch.zeros_like(x[0]))
    torch.testing.assert_close(last[0], x[3:, 0].sum(0))


# Mistakes.


@pytest.mark.parametrize(
    ("resets", "error", "match"),
    [
        (torch.zeros(T, B), TypeError, "bool or integers, got torch.float32; give resets != 0"),
        (torch.zeros(B, T, dtype=torch.bool), RuntimeError, r"Expected resets size \(7, 4\), got \(4, 7\)"),
        (torch.zeros(T, B, 1, dtype=torch.bool), RuntimeError, r"Expected resets size \(7, 4\), got \(7, 4, 1\)"),
        (torch.zeros(T, B, dtype=torch.bool, device="meta"), RuntimeError, "not at the same device"),
        ([[False] * B] * T, TypeError, "Expected resets to be a Tensor, as the input is, got list"),
        (True, TypeError, "Expected resets to be a Tensor, as the input is, got bool"),
    ],
    ids=["floats", "turned", "a feature", "elsewhere", "a list", "a bool"],
)
@pytest.mark.parametrize("kind", ["layer", "reference", "stack", "cell"])
def test_flags_that_are_none(kind, resets, error, match, layer_of, module_of):
    layer = layer_of("lstm")(I, H)
    call = {
        "layer": layer,
        "reference": layer.reference,
        "stack": stack_of(module_of).Agent(),
        "cell": Recurrence(layer),
    }
    with pytest.raises(error, match=match):
        call[kind](torch.zeros(T, B, I), resets=resets)


def test_flags_of_another_packing(layer_of):
    layer = layer_of("gru")(I, H)
    x, flags = torch.zeros(T, B, I), flags_at([])
    packed = pack_padded_sequence(x, torch.tensor([7, 3, 5, 6]), enforce_sorted=False)
    with pytest.raises(TypeError, match="Expected resets to be a PackedSequence, as the input is, got Tensor"):
        layer(packed, resets=flags)
    for lengths in ([7, 4, 4, 6], [3, 7, 5, 6], [7, 3, 5, 5]):  # others, the same in another order, fewer in all
        other = pack_padded_sequence(flags, torch.tensor(lengths), enforce_sorted=False)
        with pytest.raises(RuntimeError, match="of the same lengths and order as the packed input"):
            layer(packed, resets=other)


def test_a_step_says_which_flags_it_wants(layer_of):
    layer = layer_of("gru")(I, H)
    with pytest.raises(RuntimeError, match=r"GRU.step: Expected resets size \(4,\), got \(3,\)"):
        layer.step(torch.zeros(B, I), resets=torch.zeros(3, dtype=torch.bool))


def test_something_to_return_to_without_a_reset(layer_of, module_of):
    layer = layer_of("gru")(I, H)
    x = torch.zeros(T, B, I)
    for call in (layer, layer.reference, Recurrence(layer)):
        with pytest.raises(ValueError, match="there are no resets; give resets, or hx"):
            call(x, reset_to=torch.zeros(1, B, H))
    for module in (layer, Recurrence(layer)):
        with pytest.raises(ValueError, match="there are no resets; give resets, or hx"):
            module.step(x[0], reset_to=torch.zeros(1, B, H))
    with pytest.raises(ValueError, match="Agent: reset_to is what resets return to"):
        stack_of(module_of).Agent()(x, reset_to=[None, None])
    with pytest.raises(RuntimeError, match=r"reset_to tensor with torch\.float64"):
        layer(x, resets=flags_at([]), reset_to=torch.zeros(1, B, H, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"GRU, reset_to: Expected h size \(1, 4, 5\), got \(1, 4, 6\)"):
        layer(x, resets=flags_at([]), reset_to=torch.zeros(1, B, 6))
    with pytest.raises(TypeError, match="Expected reset_to to be a Tensor or a tuple of them, got str"):
        layer(x, resets=flags_at([]), reset_to="zeros")


@pytest.mark.parametrize("how", ["learned", "given"])
def test_a_projection_returns_to_zeros_alone(how, layer_of):
    layer = layer_of("lstm")(I, H, proj_size=2, initial_state="learned" if how == "learned" else "zeros")
    options = {} if how == "learned" else {"reset_to": layer.initial_state(B)}
    with pytest.raises(ValueError, match="with proj_size=2 resets return to zeros"):
        layer(torch.zeros(T, B, I), resets=flags_at([]), **options)
