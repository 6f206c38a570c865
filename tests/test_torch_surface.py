"""What code written for torch.nn's recurrent layers reads of them and does with them, beside calling them."""

import copy
import re
import warnings
from contextlib import nullcontext

import pytest
import torch
from test_runtime import assert_equal, flat, gradients, new_layer, random
from test_torch_nn import PAIRS
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from rnngen.runtime import Stack

I, H, T, B = 3, 4, 5, 2
SOME = ("lstm", "gru", "mclstm")

every_pair = pytest.mark.parametrize("name", PAIRS)
some_cells = pytest.mark.parametrize("name", SOME)


class Model(nn.Module):
    """A recurrent layer and a dense one."""

    def __init__(self, rnn: nn.Module):
        super().__init__()
        self.rnn, self.out = rnn, nn.Linear(H, 2, dtype=torch.float64)

    def forward(self, x):
        y, state = self.rnn(x)
        return self.out(y), state


def model(name: str, layer_of) -> Model:
    return Model(new_layer(name, layer_of))


# Attributes.


@every_pair
def test_mode(name, layer_of):
    assert layer_of(name)(I, H).mode == PAIRS[name](I, H).mode


def test_mode_of_other_cells(layer_of):
    assert layer_of("gru_v3")(I, H).mode == "GRU_V3"


@every_pair
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}], ids=str)
def test_flat_weights(name, layer_of, options):
    ours, theirs = layer_of(name)(I, H, **options), PAIRS[name](I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert all(one is other for one, other in zip(ours._flat_weights, ours.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(ours._flat_weights, theirs._flat_weights, strict=True))
    with pytest.raises(AttributeError):
        ours._flat_weights = []


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("proj_size", [0, 2])
def test_expected_hidden_size(layer_of, options, proj_size):
    options |= {"proj_size": proj_size}
    ours, theirs = layer_of("lstm")(I, H, **options), nn.LSTM(I, H, **options)
    sizes = pack_padded_sequence(torch.zeros(T, B, I), torch.tensor([T, 2])).batch_sizes
    for given in ((torch.zeros(T, B, I), None), (torch.zeros(T + 2, I), sizes)):
        assert ours.get_expected_hidden_size(*given) == theirs.get_expected_hidden_size(*given)
    assert ours.get_expected_hidden_size(torch.zeros(T, B, I)) == theirs.get_expected_hidden_size(
        torch.zeros(T, B, I), None
    )


# Tools of torch.


@some_cells
def test_a_layer_is_a_leaf_of_fx(name, layer_of):
    whole = model(name, layer_of)
    graph = torch.fx.symbolic_trace(whole)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["rnn", "out"]
    x = random(T, B, I)
    assert_equal(graph(x), whole(x))
    assert_equal(copy.deepcopy(graph)(random(7, 1, I)), whole(random(7, 1, I)))
    with_state = torch.fx.symbolic_trace(Functional(whole.rnn))
    assert_equal(with_state(x, whole.rnn.initial_state(B)), whole.rnn(x)[0])


class Functional(nn.Module):
    """A layer that gets its state too, by name."""

    def __init__(self, rnn: nn.Module):
        super().__init__()
        self.rnn = rnn

    def forward(self, x, state):
        return self.rnn(x, hx=state)[0]


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_stack_is_a_leaf_of_fx(layer_of, batch_first):
    stack = Stack([new_layer("lstm", layer_of), new_layer("lstm", layer_of, inputs=H)], batch_first=batch_first)
    whole = Model(stack)
    x = random(T, B, I)
    graph = torch.fx.symbolic_trace(whole)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["rnn", "out"]
    assert_equal(graph(x), whole(x))


class Streaming(nn.Module):
    """A layer with an input of its own and a state from outside."""

    def __init__(self, rnn: nn.Module, x):
        super().__init__()
        self.rnn, self.x = rnn, x

    def forward(self, h, c):
        return self.rnn(self.x, (h, c))[0]


@pytest.mark.parametrize("kind", ["torch.nn", "layer", "stack"])
def test_hooks_run_once_in_a_traced_model(kind, layer_of):
    """And the node knows its place, as that of torch.nn's layer does."""
    rnn = {"torch.nn": lambda: nn.LSTM(I, H), "layer": lambda: new_layer("lstm", layer_of)}
    rnn["stack"] = lambda: Stack([new_layer("lstm", layer_of)])
    whole = Model(rnn[kind]().double())
    whole.rnn.register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))
    whole.rnn.register_forward_hook(lambda module, args, result: (result[0] * 2, result[1]))
    graph = torch.fx.symbolic_trace(whole)
    (node,) = (node for node in graph.graph.nodes if node.target == "rnn")
    assert node.meta["nn_module_stack"] == {"rnn": ("rnn", type(whole.rnn))}
    x = random(T, B, I)
    assert_equal(graph(x), whole(x))


def test_a_layer_is_a_leaf_of_fx_whose_state_alone_is_traced(layer_of):
    x = random(T, B, I)
    for given in (x, pack_padded_sequence(x, torch.tensor([T, 3, 2, 1][:B]), enforce_sorted=False)):
        whole = Streaming(new_layer("lstm", layer_of), given)
        graph = torch.fx.symbolic_trace(whole)
        state = whole.rnn.initial_state(B)
        assert_equal(flat(graph(*state)), flat(whole(*state)))


def test_fx_does_not_look_into_a_layer(layer_of):
    for module in (layer_of("lstm")(I, H), Stack([layer_of("lstm")(I, H)])):
        with pytest.raises(TypeError, match=rf"{type(module).__name__}: torch\.fx .* trace a module that has it"):
            torch.fx.symbolic_trace(module)


@some_cells
def test_script_says_what_to_do(name, layer_of):
    for module in (new_layer(name, layer_of), model(name, layer_of), Stack([new_layer(name, layer_of)])):
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.script cannot read .*; use torch\.export\.export"):
            torch.jit.script(module)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["lstm", "mingru"])
def test_trace(name, layer_of, training):
    """With its own check, which runs without gradients what was traced with them."""
    whole = model(name, layer_of).train(training)
    traced = torch.jit.trace(whole, (random(T, B, I),))
    x = random(T + 2, B, I, seed=4).requires_grad_()
    leaves = [x, *whole.parameters()]
    got, want = traced(x), whole(x)
    assert_equal(got, want)
    assert_equal(gradients(flat(got), leaves), gradients(flat(want), leaves))
    with torch.no_grad():
        assert_equal(traced(x), want)


class Lengths(nn.Module):
    """A layer that is called with what is packed here."""

    def __init__(self, rnn: nn.Module):
        super().__init__()
        self.rnn = rnn

    def forward(self, x, lengths, *state):
        y, state = self.rnn(pack_padded_sequence(x, lengths, enforce_sorted=False), state or None)
        return (y.data if isinstance(y, PackedSequence) else y), state


LENGTHS = ([4, 4], [4, 2], [1, 3], [1, 1], [6, 2, 3], [2])  # the first ones equal, the others in any order


def check_trace(module: nn.Module, made_with: tuple, calls: list[tuple]) -> None:
    """Traced once, it is what the module is: results and gradients."""
    traced = torch.jit.trace(module, made_with)
    for args in calls:
        leaves = [args[0].requires_grad_(), *module.parameters()]
        got, want = traced(*args), module(*args)
        assert_equal(got, want)
        assert_equal(gradients(flat(got), leaves), gradients(flat(want), leaves))


ignore_of_trace = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:dropout")
TRACED = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "reverse": {"reverse": True},
    "last": {"last_only": True},
    "projected": {"proj_size": 2},
    "projected, deep": {"proj_size": 2, "num_layers": 2, "bidirectional": True, "last_only": True},
    "learned": {"initial_state": "learned", "proj_size": 2},
}


def states(layer, batch: int) -> tuple:
    return tuple(random(*state.shape, seed=n) for n, state in enumerate(layer.initial_state(batch), 5))


@ignore_of_trace
@pytest.mark.parametrize("made_with", LENGTHS[:2], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["", "given"])
@pytest.mark.parametrize("options", TRACED.values(), ids=TRACED)
def test_trace_of_other_lengths(layer_of, options, given, made_with):
    layer = new_layer("lstm", layer_of, **options)

    def call(lengths):
        state = states(layer, len(lengths)) if given else ()
        return random(max(lengths), len(lengths), I), torch.tensor(lengths), *state

    check_trace(Lengths(layer), call(made_with), [call(lengths) for lengths in LENGTHS])


@ignore_of_trace
@pytest.mark.parametrize("time", [1, 2, 4])
@pytest.mark.parametrize("options", TRACED.values(), ids=TRACED)
def test_trace_with_states(layer_of, options, time):
    layer = new_layer("lstm", layer_of, **options)
    calls = [(random(steps, batch, I), states(layer, batch)) for steps in (1, 2, 5) for batch in (1, B)]
    check_trace(layer, (random(time, B, I), states(layer, B)), calls)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@some_cells
def test_quantization_says_what_to_do(name, layer_of):
    whole = model(name, layer_of)
    title = type(whole.rnn).__name__
    with pytest.warns(UserWarning, match=rf"{title} stays in floating point .*; .*bfloat16"):
        found = torch.ao.quantization.quantize_dynamic(whole.float())
    x = random(T, B, I).float()
    assert type(found.rnn) is type(whole.rnn) and not isinstance(found.out, nn.Linear)
    torch.testing.assert_close(found.rnn(x), whole.rnn(x))
    with pytest.raises(NotImplementedError, match=rf"{title} cannot be quantized.*; .*bfloat16"):
        torch.ao.quantization.quantize_dynamic(whole, {type(whole.rnn)})
    assert not hasattr(whole.rnn, "qconfig")


class Quantizable(Model):
    """With what static quantization needs around it."""

    def __init__(self, rnn: nn.Module):
        super().__init__(rnn)
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()

    def forward(self, x):
        y, state = self.rnn(x)
        return self.dequant(self.out(self.quant(y))), state


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*(reduce_range|quantize_per_tensor):UserWarning")
@pytest.mark.filterwarnings("ignore:must run observer before calling calculate_qparams:UserWarning")
@pytest.mark.parametrize("prepare", [torch.ao.quantization.prepare, torch.ao.quantization.prepare_qat])
@every_pair
def test_a_layer_is_kept_out_of_quantization(name, layer_of, prepare):
    """By torch's own way, and with torch's own layer beside it."""
    x = random(T, B, I).float()
    ours = new_layer(name, layer_of, torch.float32)
    for rnn in (ours, PAIRS[name](I, H)):
        whole = Quantizable(rnn).float().train(prepare is torch.ao.quantization.prepare_qat)
        whole.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
        assert not hasattr(rnn, "qconfig")
        with pytest.warns(UserWarning, match="stays in floating point") if rnn is ours else nullcontext():
            rnn.qconfig = None
        assert rnn.qconfig is None and copy.deepcopy(rnn).qconfig is None
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*stays in floating point")  # said once
            prepared = prepare(whole)
        prepared(x)
        assert prepared.rnn.qconfig is None and prepared.out.qconfig is not None
        converted = torch.ao.quantization.convert(prepared)
        assert type(converted.rnn) is type(rnn) and not isinstance(converted.out, nn.Linear)
        assert not hasattr(converted.rnn, "qconfig")
        torch.testing.assert_close(converted.rnn(x), rnn(x))
        del rnn.qconfig
        assert not hasattr(rnn, "qconfig")
        with pytest.raises(AttributeError, match="qconfig"):
            del rnn.qconfig


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*reduce_range:UserWarning")
def test_static_quantization_says_what_to_do(layer_of):
    whole = Quantizable(new_layer("lstm", layer_of))
    whole.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
    with pytest.raises(NotImplementedError, match=r"LSTM cannot be quantized.*set its qconfig to None"):
        torch.ao.quantization.prepare(whole)


@some_cells
def test_per_sample_gradients_say_what_to_do(name, layer_of):
    layer = new_layer(name, layer_of)
    parameters = {key: value.detach() for key, value in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x[:, None],))[0].sum()

    with pytest.raises(NotImplementedError, match=r"no derivative by torch\.func.*`reference`.*per-sample.*vmap"):
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, random(T, B, I))


def test_a_replica_of_data_parallel(layer_of):
    """Its weights are attributes and no parameters."""
    layer = new_layer("lstm", layer_of, bias=False)
    replica = layer._replicate_for_data_parallel()
    for key, weight in layer.named_parameters():
        setattr(replica, key, weight.clone())
    assert not list(replica.parameters())
    x = random(T, B, I)
    assert_equal(replica(x), layer(x))


def test_a_layer_is_none_of_torch(layer_of):
    assert not isinstance(layer_of("lstm")(I, H), nn.RNNBase)


# The nonlinearity of nn.RNN.

OF_ONE = """
name   = "leaky"
states = ["h"]
activations = { squash = "sigmoid" }
step   = "h' = 0.5 * h + squash(W @ x + U @ h)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""


PAIR_OF = {"tanh": "rnn", "relu": "rnn_relu"}


@pytest.mark.parametrize(("cell", "own", "other"), [("rnn", "tanh", "relu"), ("rnn_relu", "relu", "tanh")])
def test_nonlinearity(layer_of, cell, own, other):
    made = layer_of(cell)
    ours, theirs = made(I, H, 2, nonlinearity=own, bias=False), nn.RNN(I, H, 2, nonlinearity=own, bias=False)
    assert ours.nonlinearity == made(I, H).nonlinearity == theirs.nonlinearity
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I)
    torch.testing.assert_close(ours(x), theirs(x))
    compiled = rf"Unknown nonlinearity '{{}}'\. {made.__name__} was compiled with '{own}'"
    with pytest.raises(ValueError, match=compiled.format(other) + f".*`rnngen compile {PAIR_OF[other]}`"):
        made(I, H, nonlinearity=other)
    with pytest.raises(ValueError, match=compiled.format("gelu") + ".*the key activations of a layer"):
        made(I, H, nonlinearity="gelu")


def test_nonlinearity_in_the_place_of_torch(layer_of):
    """Which is where every other layer has its bias."""
    for name, word in (("rnn", "tanh"), ("rnn_relu", "tanh"), ("indrnn", "relu")):
        words = f"bias should be of type bool, got: str; a nonlinearity is given by name: nonlinearity='{word}'"
        with pytest.raises(TypeError, match=re.escape(words)):
            layer_of(name)(I, H, 1, word)
    with pytest.raises(TypeError, match=r"bias should be of type bool, got: str$"):
        layer_of("lstm")(I, H, 1, "tanh")


def test_nonlinearity_of_other_cells(layer_of):
    layer = layer_of(OF_ONE)(I, H, nonlinearity="sigmoid")
    assert layer.nonlinearity == "sigmoid"
    lstm = layer_of("lstm")
    assert not hasattr(lstm(I, H), "nonlinearity")
    with pytest.raises(TypeError, match="LSTM has no nonlinearity to choose"):
        lstm(I, H, nonlinearity="tanh")
