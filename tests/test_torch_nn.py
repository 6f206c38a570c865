"""The cells that torch.nn has too, against it, on the CPU path; and cells of others against other people's code."""

import cells
import pytest
import torch
from torch import nn

import rnngen.runtime.language

I, H, T, B = 5, 7, 6, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}
PAIRS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}

every_pair = pytest.mark.parametrize("name", PAIRS)


def setup_module():
    assert not rnngen.runtime.language.interpreting()


@pytest.fixture
def pair(name, layer_of):
    """Ours and torch's with the same weights, in float64."""

    def make(**options):
        torch.manual_seed(0)
        theirs = PAIRS[name](I, H, dtype=torch.float64, **options)
        ours = layer_of(name)(I, H, dtype=torch.float64, **options)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        return ours, theirs

    return make


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def state_like(name: str, *shape: int):
    return (random(*shape), random(*shape)) if name == "lstm" else random(*shape)


def flat(state) -> tuple[torch.Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_same(ours, theirs, x, state, their_state=None) -> None:
    """Outputs, states and every gradient."""
    their_state = state if their_state is None else their_state
    got_y, got_state = ours(x, state)
    want_y, want_state = theirs(x, their_state)
    torch.testing.assert_close(got_y, want_y, **EXACT)
    for got, want in zip(flat(got_state), flat(want_state), strict=True):
        torch.testing.assert_close(got, want, **EXACT)
    weights = [torch.randn_like(result) for result in (want_y, *flat(want_state))]
    inputs = [x, *(flat(state) if state is not None else ())]

    def gradients(layer, y, last):
        total = sum((result * weight).sum() for result, weight in zip((y, *flat(last)), weights, strict=True))
        return torch.autograd.grad(total, [*inputs, *layer.parameters()])

    names = ["x", *("state" for _ in inputs[1:]), *dict(theirs.named_parameters())]
    pairs = zip(names, gradients(ours, got_y, got_state), gradients(theirs, want_y, want_state), strict=True)
    for what, got, want in pairs:
        torch.testing.assert_close(got, want, **EXACT, msg=f"gradient of {what}: {{}}".format)


@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@every_pair
def test_batched(name, pair, given):
    assert_same(*pair(), random(T, B, I), state_like(name, 1, B, H) if given else None)


@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@every_pair
def test_batch_first(name, pair, given):
    assert_same(*pair(batch_first=True), random(B, T, I), state_like(name, 1, B, H) if given else None)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@every_pair
def test_unbatched(name, pair, given, batch_first):
    assert_same(*pair(batch_first=batch_first), random(T, I), state_like(name, 1, H) if given else None)


@pytest.mark.parametrize("shape", [(1, B, I), (T, 1, I), (1, 1, I)])
@every_pair
def test_sizes_of_one(name, pair, shape):
    assert_same(*pair(), random(*shape), state_like(name, 1, shape[1], H))


@every_pair
def test_one_state_for_the_whole_batch(name, pair):
    """A state of one dimension, which torch.nn has not, is that row for everyone."""
    ours, theirs = pair()
    state = state_like(name, H)
    wide = tuple(row.expand(1, B, H) for row in flat(state))
    assert_same(ours, theirs, random(T, B, I), state, wide if name == "lstm" else wide[0])
    narrow = tuple(row.expand(1, H) for row in flat(state))
    assert_same(ours, theirs, random(T, I), state, narrow if name == "lstm" else narrow[0])


@every_pair
def test_reverse(name, pair, layer_of):
    ours, theirs = pair()
    backwards = layer_of(name)(I, H, dtype=torch.float64, reverse=True)
    backwards.load_state_dict(ours.state_dict())

    class Flipped(nn.Module):
        inner = theirs

        def forward(self, x, state):
            y, last = theirs(x.flip(0), state)
            return y.flip(0), last

    flipped = Flipped()
    flipped.add_module("layer", theirs)
    assert_same(backwards, flipped, random(T, B, I), state_like(name, 1, B, H))


@every_pair
def test_steps_are_the_cell(name, pair):
    ours, theirs = pair()
    cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}.get(name)
    cell = cell(I, H) if cell else nn.RNNCell(I, H, nonlinearity="relu" if name == "rnn_relu" else "tanh")
    cell = cell.double()
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in theirs.state_dict().items()})
    x, state = random(B, I), state_like(name, 1, B, H)
    y, last = ours.step(x, state)
    want = flat(cell(x, tuple(s[0] for s in state) if name == "lstm" else state[0]))
    torch.testing.assert_close(y, want[0], **EXACT)
    for got, wanted in zip(flat(last), want, strict=True):
        torch.testing.assert_close(got, wanted[None], **EXACT)


@every_pair
def test_state_dict_goes_both_ways(name, pair):
    ours, theirs = pair()
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in theirs.state_dict().items()
    ]
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same(ours, theirs, random(T, B, I), None)


@every_pair
def test_weights_are_drawn_alike(name, layer_of):
    torch.manual_seed(3)
    theirs = PAIRS[name](I, H)
    torch.manual_seed(3)
    ours = layer_of(name)(I, H)
    for (key, got), want in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        bound = 1 / H**0.5
        assert got.abs().max() <= bound and want.abs().max() <= bound, key
        assert got.abs().max() > 0.5 * bound, key


@every_pair
def test_the_reference_too(name, pair):
    """What everything else is judged by."""
    ours, theirs = pair()

    class Reference(nn.Module):
        def forward(self, x, state):
            return ours.reference(x, state)

    reference = Reference()
    reference.add_module("layer", ours)
    assert_same(reference, theirs, random(T, B, I), state_like(name, 1, B, H))


@every_pair
def test_float32(name, layer_of):
    torch.manual_seed(0)
    theirs, ours = PAIRS[name](I, H), layer_of(name)(I, H)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-6)


# Other people's code, installed with the extra "test".


@pytest.mark.parametrize("name", ["gru", "gru_v3", "peephole_lstm"])
def test_onnxruntime(name, layer_of, tmp_path):
    """ONNX has both conventions of the GRU, and peepholes; its runtime is in float32 and forwards only."""
    reason = "onnx and onnxruntime, of the extra test, are not installed"
    onnx = pytest.importorskip("onnx", reason=reason)
    runtime = pytest.importorskip("onnxruntime", reason=reason)
    torch.manual_seed(0)
    ours = layer_of(cells.ALL[name])(I, H)
    weights = {key.removesuffix("_l0"): value.detach() for key, value in ours.state_dict().items()}

    def ordered(key: str, order: str, gates: str) -> torch.Tensor:
        blocks = dict(zip(gates, weights[key].chunk(len(gates)), strict=True))
        return torch.cat([blocks[gate] for gate in order])[None]

    zeros = torch.zeros_like
    if name == "peephole_lstm":  # theirs are in the order i o f c, and their peepholes i o f
        arguments = [ordered("weight_ih", "iofg", "ifgo"), ordered("weight_hh", "iofg", "ifgo")]
        bias = ordered("bias", "iofg", "ifgo")
        extra = {"P": ordered("weight_ph", "iof", "ifo")}
        arguments.append(torch.cat((bias, zeros(bias)), -1))
        op, attributes = "LSTM", {}
    else:
        arguments = [ordered("weight_ih", "zrn", "rzn"), ordered("weight_hh", "zrn", "rzn")]
        if name == "gru":
            biases = [ordered(key, "zrn", "rzn") for key in ("bias_ih", "bias_hh")]
            arguments.append(torch.cat(biases, -1))
        else:
            bias = ordered("bias", "zrn", "rzn")
            arguments.append(torch.cat((bias, zeros(bias)), -1))
        extra, op, attributes = {}, "GRU", {"linear_before_reset": int(name == "gru")}
    x = torch.randn(T, B, I)
    feeds = dict(zip("XWRB", (x, *arguments), strict=True)) | extra
    inputs = ["X", "W", "R", "B", "", "", "", "P"] if extra else ["X", "W", "R", "B"]
    node = onnx.helper.make_node(op, inputs, ["Y"], hidden_size=H, **attributes)
    kind = onnx.TensorProto.FLOAT
    describe = onnx.helper.make_tensor_value_info
    described = [describe(key, kind, list(value.shape)) for key, value in feeds.items()]
    result = describe("Y", kind, [T, 1, B, H])
    graph = onnx.helper.make_graph([node], "cell", described, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {key: value.numpy() for key, value in feeds.items()})
    torch.testing.assert_close(ours(x)[0], torch.from_numpy(want)[:, 0], rtol=1e-5, atol=1e-6)
