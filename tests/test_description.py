"""What a model file says beside its mistakes: the keys of a layer, biases, activations and sizes."""

import pytest
import torch
from torch import nn

from rnngen.compile import compile_model
from rnngen.description import CellLayer, Description, describe
from rnngen.description.size import parameter_count
from rnngen.errors import ModelError
from rnngen.source import Source

# A cell of two activations, whose class is named after it.
GATED = """
[cells.gated]
states = ["h"]
activations = { act = "tanh", gate = "sigmoid" }
step   = '''
z  = gate(W_z @ x + U @ h)
h' = z * h + act(W_n @ x)
'''
[cells.gated.parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_z", "W_n"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""


def model(*layers: str, cells: str = "", name: str = "model") -> Description:
    """A model of layers that are eight units wide."""
    tables = [f"[[layers]]\nhidden = 8\n{layer}\n" for layer in layers]
    return describe(Source("model.toml", f'name = "{name}"\ninputs = 3\n{"".join(tables)}{cells}'))


def test_the_keys_of_a_layer():
    first, second = model(
        'cell = "lstm"\nnum_layers = 3\ndropout = 0.5\nbidirectional = true\nproj_size = 5',
        'cell = "gru"\nbias = false\nlast_only = true\ninit = { weight_hh = "orthogonal", W_n = 0.5 }',
    ).layers
    assert (first.num_layers, first.dropout, first.bidirectional, first.proj_size) == (3, 0.5, True, 5)
    assert (first.bias, first.last_only, first.init) == (True, False, {})
    assert (second.bias, second.last_only, second.init) == (False, True, {"weight_hh": "orthogonal", "W_n": 0.5})


@pytest.mark.parametrize(
    ("keys", "width"), [("", 8), ("bidirectional = true", 16), ("proj_size = 5\nbidirectional = true", 10)]
)
def test_the_next_layer_has_the_width_of_the_one_before(keys, width):
    first, second = model(f'cell = "lstm"\n{keys}', 'cell = "gru"').layers
    assert first.outputs == second.inputs == width


def test_the_initialiser_of_a_projection_needs_one():
    (layer,) = model('cell = "lstm"\nproj_size = 4\ninit = { weight_hr = "orthogonal" }').layers
    assert layer.init == {"weight_hr": "orthogonal"}
    with pytest.raises(ModelError, match="weight_hr"):
        model('cell = "lstm"\ninit = { weight_hr = "orthogonal" }')


TORCH = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
ARGUMENTS = [
    {},
    {"num_layers": 3},
    {"bidirectional": True, "num_layers": 2},
    {"bias": False, "num_layers": 2},
    {"bias": False, "bidirectional": True},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("cell", TORCH)
def test_parameters_are_counted_as_in_torch(cell, arguments):
    lines = [f"{key} = {str(value).lower()}" for key, value in arguments.items()]
    (layer,) = model("\n".join([f'cell = "{cell}"', *lines])).layers
    assert parameter_count(layer) == sum(p.numel() for p in TORCH[cell](3, 8, **arguments).parameters())


def test_with_a_projection_the_count_is_an_upper_bound():
    (layer,) = model('cell = "lstm"\nnum_layers = 2\nproj_size = 7').layers
    real = sum(p.numel() for p in nn.LSTM(3, 8, 2, proj_size=7).parameters())
    assert real <= parameter_count(layer) <= 1.2 * real


def test_a_projection_is_counted_as_wide_as_what_it_projects():
    (one,) = model('cell = "rotation_mingru"').layers
    (projected,) = model('cell = "rotation_mingru"\nproj_size = 7').layers
    assert parameter_count(projected) - parameter_count(one) == 7 * 2 * 8


def test_a_bias_is_told_by_its_name_or_by_its_key():
    text = """
name   = "cell1"
states = ["h"]
step   = "h' = tanh(W @ x + u * h + a + b + c + d)"
[parameters]
weight_ih   = { shape = ["hidden", "inputs"], blocks = ["W"] }
recurrent   = { shape = ["hidden"], blocks = ["u"] }
bias        = { shape = ["hidden"], blocks = ["a"] }
bias_second = { shape = ["hidden"], blocks = ["b"], bias = false }
biased      = { shape = ["hidden"], blocks = ["c"] }
shift       = { shape = ["hidden"], blocks = ["d"], bias = true }
"""
    (cell,) = describe(Source("cell.toml", text)).cells
    assert {p.name for p in cell.parameters if p.bias} == {"bias", "shift"}
    (cell,) = describe(
        Source("cell.toml", text.replace("bias  ", "b     ").replace('"b"', '"e"').replace(" b ", " e "))
    ).cells
    assert {p.name for p in cell.parameters if p.bias} == {"b", "shift"}


# Activations.


def cells_of(*layers: str, **options: str) -> list[tuple[str, str]]:
    """The name and the class of the cell of each layer."""
    found = [layer.cell for layer in model(*layers, **options).layers if isinstance(layer, CellLayer)]
    return [(cell.name, cell.class_name) for cell in found]


def test_a_choice_of_activations_is_a_cell():
    found = model(*[f'cell = "rnn"\nactivations = {{ act = "{act}" }}' for act in ("relu", "sin", "relu", "tanh")])
    assert [layer.cell.name for layer in found.layers] == ["rnn_relu", "rnn_sin", "rnn_relu", "rnn"]
    assert [cell.class_name for cell in found.cells] == ["RNNRelu", "RNNSin", "RNN"]
    assert found.layers[0].cell is found.layers[2].cell
    assert [cell.equations[0].expression.op for cell in found.cells] == ["relu", "sin", "tanh"]
    assert found.cells[0].equations[0].text == "h' = relu(W @ x + U @ h + b_i + b_h)"


def test_the_name_of_every_function_tells_choices_apart():
    layers = [f'cell = "gated"\nactivations = {{ {name} = "relu" }}' for name in ("act", "gate")]
    assert cells_of(*layers, cells=GATED) == [
        ("gated_relu_sigmoid", "GatedReluSigmoid"),
        ("gated_tanh_relu", "GatedTanhRelu"),
    ]


def test_a_choice_gets_out_of_the_way_of_other_cells_and_classes():
    chosen = 'cell = "rnn"\nactivations = { act = "relu" }'
    assert cells_of(chosen, 'cell = "rnn_relu"') == [("rnn_relu_2", "RNNRelu2"), ("rnn_relu", "RNNReLU")]
    assert cells_of(chosen, name="RNNRelu") == [("rnn_relu_2", "RNNRelu2")]
    own = GATED.replace("gated", "rnn_relu")
    assert cells_of(chosen, 'cell = "rnn_relu"', cells=own)[0] == ("rnn_relu_2", "RNNRelu2")


def test_a_mistake_in_a_cell_is_told_once_however_many_choices_there_are():
    layers = [f'cell = "gated"\nactivations = {{ act = "{act}" }}' for act in ("relu", "sin")]
    tables = "".join(f"[[layers]]\nhidden = 8\n{layer}\n" for layer in layers)
    text = f'name = "model"\ninputs = 3\n{tables}{GATED.replace("act(W_n @ x)", "act(W_n @ h)")}'
    with pytest.raises(ModelError) as caught:
        compile_model(Source("model.toml", text))
    assert [mistake.code for mistake in caught.value.mistakes] == ["shape"]


def test_choices_count_as_work():
    sum_of_calls = " + ".join(["act(W_n @ x)"] * 32)
    cells = GATED.replace("act(W_n @ x)", sum_of_calls)
    layers = [f'cell = "gated"\nactivations = {{ act = "{act}" }}' for act in ("tanh", "relu", "sin", "cos")]
    model(*layers[:2], cells=cells)
    with pytest.raises(ModelError, match="384 operations"):
        model(*layers, cells=cells)


@pytest.mark.parametrize("act", ["tanh", "relu", "elu", "gelu", "identity"])
def test_a_chosen_function_is_what_runs(act, module_of):
    text = f'name = "model"\ninputs = 3\n[[layers]]\ncell = "rnn"\nhidden = 4\nactivations = {{ act = "{act}" }}\n'
    module = module_of(text)
    layer = next(value for name, value in vars(module).items() if name.lower() in ("rnn", f"rnn{act}"))
    layer = layer(3, 4, dtype=torch.float64)
    function = {"identity": nn.Identity()}.get(act) or getattr(torch, act, None) or getattr(nn.functional, act)
    x, h = torch.randn(5, 2, 3, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    y, _ = layer(x)
    for x_t, y_t in zip(x, y, strict=True):
        h = function(
            nn.functional.linear(x_t, layer.weight_ih_l0, layer.bias_ih_l0)
            + nn.functional.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)
        )
        torch.testing.assert_close(y_t, h)


def test_gru_flux_is_gru_with_one_bias(layer_of):
    one, two = (layer_of(name)(3, 4, dtype=torch.float64) for name in ("gru_flux", "gru"))
    weights = one.state_dict()
    two.load_state_dict(
        {
            "weight_ih_l0": weights["weight_ih_l0"],
            "weight_hh_l0": weights["weight_hh_l0"],
            "bias_ih_l0": weights["bias_l0"],
            "bias_hh_l0": torch.zeros(12, dtype=torch.float64),
        }
    )
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(one(x)[0], two(x)[0])


def test_a_number_beyond_float32_is_compiled():
    text = """
name   = "clipped"
states = ["h"]
step   = "h' = max(min(W @ x + U @ h, 3e38 * 1e30), -3e38 * 1e30)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""
    assert "3e+68" in compile_model(Source("cell.toml", text)).text


def test_an_initialiser_of_many_digits_can_be_made(layer_of):
    text = """
name   = "unit"
states = ["h"]
step   = "h' = tanh(W @ x + U @ h + b)"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"], init = 3.4028234e38 }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"], init = { U = -9999999999999999999 } }
bias      = { shape = ["hidden"], blocks = ["b"], init = 9999999999999999999 }
"""
    layer = layer_of(text)(3, 4)
    assert layer.weight_ih_l0.isfinite().all()
    assert layer.weight_hh_l0.eq(-1e19).all()
    assert layer.bias_l0.eq(1e19).all()
