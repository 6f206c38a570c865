"""ONNX's own recurrent operators, run by onnxruntime: someone else's equations and someone else's code.

They know sequences of different lengths, both directions and initial states, and both conventions of the GRU. They run
forwards only, in float32.
"""

from dataclasses import dataclass, field

import cells
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

reason = "onnx and onnxruntime, of the extra test, are not installed"
onnx = pytest.importorskip("onnx", reason=reason)
runtime = pytest.importorskip("onnxruntime", reason=reason)

I, H, T, B = 3, 5, 6, 4
LENGTHS = [4, 6, 1, 3]
# Sums are ordered differently, and onnxruntime has its own sigmoid and tanh.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@dataclass(frozen=True)
class Operator:
    """How a cell is said in ONNX: which operator, and its gates in our order and in that of ONNX.

    A cell of one bias has it as the bias of the input.
    """

    op: str
    ours: str
    theirs: str
    attributes: dict = field(default_factory=dict)
    peepholes: str = ""


OPERATORS = {
    "lstm": Operator("LSTM", "ifgo", "iofg"),
    "peephole_lstm": Operator("LSTM", "ifgo", "iofg", peepholes="iof"),
    "gru": Operator("GRU", "rzn", "zrn", {"linear_before_reset": 1}),
    "gru_v3": Operator("GRU", "rzn", "zrn", {"linear_before_reset": 0}),
    "rnn": Operator("RNN", "h", "h", {"activations": "Tanh"}),
    "rnn_relu": Operator("RNN", "h", "h", {"activations": "Relu"}),
}
every_operator = pytest.mark.parametrize("name", OPERATORS)
DIRECTIONS = {"forward": {}, "reverse": {"reverse": True}, "bidirectional": {"bidirectional": True}}
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def weights_of(name: str, layer: nn.Module, number: int) -> dict[str, Tensor]:
    """The weights of one layer by their names in ONNX, a row for each direction."""
    operator = OPERATORS[name]
    found: dict[str, list[Tensor]] = {}
    for suffix in ("", "_reverse")[: 2 if layer.bidirectional else 1]:
        known = {
            key.removesuffix(f"_l{number}{suffix}"): value.detach()
            for key, value in layer.named_parameters()
            if key.endswith(f"_l{number}{suffix}")
        }

        def ordered(key: str, ours: str, theirs: str, known=known) -> Tensor:
            blocks = dict(zip(ours, known[key].chunk(len(ours)), strict=True))
            return torch.cat([blocks[gate] for gate in theirs])

        rows = {key: ordered(key, operator.ours, operator.theirs) for key in known if key != "weight_ph"}
        first = rows.get("bias_ih", rows.get("bias", torch.zeros(rows["weight_hh"].shape[0])))
        row = {"W": rows["weight_ih"], "R": rows["weight_hh"]}
        row["B"] = torch.cat((first, rows.get("bias_hh", torch.zeros_like(first))))
        if operator.peepholes:
            row["P"] = ordered("weight_ph", "ifo", operator.peepholes)
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return {key: torch.stack(values) for key, values in found.items()}


def run_operator(
    name: str, feeds: dict[str, Tensor], direction: str, lengths: list[int] | None, states: tuple[Tensor, ...]
) -> list[Tensor]:
    """One node by onnxruntime: Y (time, directions, batch, hidden), and the last states (directions, batch, hidden)."""
    operator = OPERATORS[name]
    feeds = dict(feeds)
    if lengths is not None:
        feeds["sequence_lens"] = torch.tensor(lengths, dtype=torch.int32)
    feeds |= dict(zip(("initial_h", "initial_c"), states, strict=False))
    slots = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    inputs = [slot if slot in feeds else "" for slot in slots]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["Y", "Y_h", "Y_c"] if operator.op == "LSTM" else ["Y", "Y_h"]
    count = 2 if direction == "bidirectional" else 1
    attributes = {key: [value] * count if key == "activations" else value for key, value in operator.attributes.items()}
    node = onnx.helper.make_node(operator.op, inputs, outputs, hidden_size=H, direction=direction, **attributes)
    kinds = {torch.float32: onnx.TensorProto.FLOAT, torch.int32: onnx.TensorProto.INT32}
    describe = onnx.helper.make_tensor_value_info
    described = [describe(key, kinds[value.dtype], list(value.shape)) for key, value in feeds.items()]
    batch = feeds["X"].shape[1]
    shapes = {"Y": [*feeds["X"].shape[:1], count, batch, H], "Y_h": [count, batch, H], "Y_c": [count, batch, H]}
    results = [describe(key, onnx.TensorProto.FLOAT, shapes[key]) for key in outputs]
    graph = onnx.helper.make_graph([node], "cell", described, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {key: v.numpy() for key, v in feeds.items()})]


def by_onnxruntime(
    name: str, layer: nn.Module, direction: str, x: Tensor, lengths: list[int] | None, states: tuple[Tensor, ...] = ()
) -> list[Tensor]:
    """The output and the last states of all layers, in the shapes of torch.nn; an operator has only one layer."""
    directions = 2 if direction == "bidirectional" else 1
    last = []
    for number in range(layer.num_layers):
        feeds = {"X": x} | weights_of(name, layer, number)
        first = tuple(state[number * directions : (number + 1) * directions].contiguous() for state in states)
        y, *after = run_operator(name, feeds, direction, lengths, first)
        x = y.transpose(1, 2).reshape(*y.shape[:1], y.shape[2], -1).contiguous()
        last.append(after)
    return [x, *(torch.cat(parts) for parts in zip(*last, strict=True))]


def new_layer(name: str, layer_of, **options) -> nn.Module:
    torch.manual_seed(0)
    return layer_of(cells.ALL[name])(I, H, **options)


def states_for(layer: nn.Module, batch: int, directions: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(layer.num_layers * directions, batch, H) for _ in layer.cell.states)


def flat(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def one_or_all(states: tuple[Tensor, ...]):
    return states if len(states) > 1 else states[0]


def assert_close(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@every_direction
@every_operator
def test_sequences_of_different_lengths(name, layer_of, direction, given):
    """What a packed sequence gives us is the input and its lengths to ONNX; beyond its length both have zeros."""
    layer = new_layer(name, layer_of, **DIRECTIONS[direction])
    x = torch.randn(T, B, I)
    states = states_for(layer, B, 2 if direction == "bidirectional" else 1) if given else ()
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    y, last = layer(packed, *([one_or_all(states)] if given else []))
    padded, lengths = pad_packed_sequence(y, total_length=T)
    assert lengths.tolist() == LENGTHS
    want = by_onnxruntime(name, layer, direction, x, LENGTHS, states)
    assert not want[0][1:, 2].any()  # the sequence of length 1
    assert_close([padded, *flat(last)], want)


@every_direction
@every_operator
def test_sequences_of_one_length(name, layer_of, direction):
    layer = new_layer(name, layer_of, **DIRECTIONS[direction])
    x = torch.randn(T, B, I)
    states = states_for(layer, B, 2 if direction == "bidirectional" else 1)
    y, last = layer(x, one_or_all(states))
    assert_close([y, *flat(last)], by_onnxruntime(name, layer, direction, x, None, states))


@every_operator
def test_two_layers(name, layer_of):
    layer = new_layer(name, layer_of, bidirectional=True, num_layers=2)
    x = torch.randn(T, B, I)
    states = states_for(layer, B, 2)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    y, last = layer(packed, one_or_all(states))
    want = by_onnxruntime(name, layer, "bidirectional", x, LENGTHS, states)
    assert_close([pad_packed_sequence(y, total_length=T)[0], *flat(last)], want)


@every_operator
def test_no_bias(name, layer_of):
    """A parameter that is not there counts as zero."""
    layer = new_layer(name, layer_of, bias=False)
    assert not any("bias" in key for key, _ in layer.named_parameters())
    x = torch.randn(T, B, I)
    y, last = layer(x)
    assert_close([y, *flat(last)], by_onnxruntime(name, layer, "forward", x, None))


@pytest.mark.parametrize("reverse", [False, True])
@every_operator
def test_last_step_alone(name, layer_of, reverse):
    """For ONNX too the last step of a sequence is the one at its own length, or with reverse the first."""
    layer = new_layer(name, layer_of, reverse=reverse, last_only=True)
    x = torch.randn(T, B, I)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    y, last = layer(packed)
    want = by_onnxruntime(name, layer, "reverse" if reverse else "forward", x, LENGTHS)
    torch.testing.assert_close(y, want[1][0], **CLOSE)
    assert_close(flat(last), want[1:])
