"""A guide to recurrent networks in one program: cells, models of cells, whole sequences, stacks.

Run it from the repository's root: python -m examples.guide

It follows the guide "Recurrent Models" of Flux.jl section by section, so that both can be read side by side. There an
array is (features, time, batch); here, as in torch, it is (time, batch, features). The hand-written cell and the model
around it are described in guide.toml; `rnngen compile gru lstm examples/guide.toml -o generated` wrote what
is imported below.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generated.gru import GRU
from generated.guide import Elman, Guide
from generated.lstm import LSTM
from rnngen.runtime import Recurrence


def main() -> None:
    torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
    torch.manual_seed(0)
    recurrent_cells()
    cell_in_a_model()
    whole_sequence()
    wrapped_cell()
    stacked_layers()
    learned_states()


# Recurrent cells


def rnn_cell(x: Tensor, h: Tensor, Wxh: Tensor, Whh: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The cell of guide.toml as one would write it without a compiler: the output, and the new state."""
    h = torch.tanh(Wxh @ x + Whh @ h + b)
    return h, h


def recurrent_cells() -> None:
    """One step at a time: the cell takes an input and a state, and gives an output and the next state."""
    input_size, output_size, seq_len = 2, 5, 3
    x = [torch.rand(input_size) for _ in range(seq_len)]
    h0 = torch.zeros(output_size)

    cell = Elman(input_size, output_size)
    y, h = [], h0
    for x_t in x:
        y_t, h = cell.step(x_t, h)
        y.append(y_t)
    report("cell, one step at a time", len(y), "steps of", y[-1])
    assert len(y) == seq_len and all(y_t.shape == (output_size,) for y_t in y)

    h = h0
    for x_t, y_t in zip(x, y, strict=True):
        by_hand, h = rnn_cell(x_t, h, cell.Wxh_l0, cell.Whh_l0, cell.b_l0)
        assert torch.allclose(y_t, by_hand, atol=1e-6)

    # Cells of the library take its place, and the loop stays as it is. An LSTM's state has two parts.
    for cell in (GRU(input_size, output_size), LSTM(input_size, output_size)):
        y, state = [], cell.initial_state()
        for x_t in x:
            y_t, state = cell.step(x_t, state)
            y.append(y_t)
        report(f"{type(cell).__name__} in its place", len(y), "steps of", y[-1])
        assert y[-1].shape == (output_size,)


# Using a cell as part of a model


class RecurrentCellModel(nn.Module):
    """A number for each step: the cell, step by step, and one dense layer over all that it gave."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.register_buffer("h0", torch.zeros(hidden_size))  # saved with the model, and not trained
        self.cell = Elman(input_size, hidden_size)
        self.dense = nn.Linear(hidden_size, 1)

    def forward(self, x: list[Tensor]) -> Tensor:
        z, h = [], self.h0
        for x_t in x:
            z_t, h = self.cell.step(x_t, h)
            z.append(z_t)
        return self.dense(torch.stack(z))  # (time, batch, 1) or (time, 1)


def cell_in_a_model() -> None:
    seq_len, batch_size, input_size = 3, 4, 2
    x = [torch.rand(batch_size, input_size) for _ in range(seq_len)]
    y = [torch.rand(batch_size, 1) for _ in range(seq_len)]
    model = RecurrentCellModel(input_size, 5)
    assert "h0" in model.state_dict() and "h0" not in dict(model.named_parameters())
    assert model(x).shape == (seq_len, batch_size, 1)
    assert model([x_t[0] for x_t in x]).shape == (seq_len, 1)
    train("model of a cell", model, x, torch.stack(y))


def train(title: str, model: nn.Module, x: Tensor | list[Tensor], y: Tensor) -> None:
    """AdamW on the mean squared error, which falls."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"{title}: loss {losses[0]:.3f}, after {len(losses)} steps {losses[-1]:.3f}")
    assert losses[-1] < losses[0] / 2


# Handling the whole sequence at once


class RecurrentModel(nn.Module):
    """The same model; its layer reads the sequence in one call."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.register_buffer("h0", torch.zeros(hidden_size))
        self.rnn = Elman(input_size, hidden_size)
        self.dense = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.rnn(x, self.h0)
        return self.dense(z)


def whole_sequence() -> None:
    seq_len, batch_size, input_size = 3, 4, 2
    x = torch.rand(seq_len, batch_size, input_size)
    y = torch.rand(seq_len, batch_size, 1)
    model = RecurrentModel(input_size, 5)
    assert model(x).shape == (seq_len, batch_size, 1)
    assert model(x[:, 0]).shape == (seq_len, 1)

    stepwise = RecurrentCellModel(input_size, 5)
    stepwise.cell.load_state_dict(model.rnn.state_dict())
    stepwise.dense.load_state_dict(model.dense.state_dict())
    assert torch.allclose(model(x), stepwise(list(x)), atol=1e-6)
    train("model of a layer", model, x, y)

    # guide.toml has described this model too, with its untrained h0: nothing is left to write in Python.
    train("model of guide.toml", Guide(return_state=False), x, y)


def wrapped_cell() -> None:
    """A cell of any origin over a sequence; a generated one is a layer already."""
    layer = LSTM(2, 3)
    rnn = Recurrence(layer)
    x = torch.rand(4, 3, 2)
    y, (h, c) = rnn(x)
    report("a wrapped cell", y)
    assert y.shape == (4, 3, 3) and h.shape == c.shape == (1, 3, 3)
    assert torch.allclose(y, layer(x)[0], atol=1e-6)

    gru = Recurrence(nn.GRUCell(2, 3), return_state=False)  # of torch, or of your own
    assert gru(x).shape == (4, 3, 3)


# Stacking recurrent layers


def stacked_layers() -> None:
    """A layer that gives its output alone stands in nn.Sequential."""
    stacked_rnn = nn.Sequential(LSTM(3, 5, return_state=False), nn.Dropout(0.5), LSTM(5, 5, return_state=False))
    stacked_rnn.eval()  # dropout is for training
    x = torch.rand(4, 3)
    y = stacked_rnn(x)
    report("a stack", y)
    assert y.shape == (4, 5)
    assert torch.equal(y, stacked_rnn(x))


class StackedRNN(nn.Module):
    """Layers with initial states that are trained, by hand: each layer is called with its own."""

    def __init__(self, d: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(LSTM(d, d) for _ in range(num_layers))
        self.states0 = nn.ModuleList(
            nn.ParameterList(part[0].clone() for part in layer.initial_state()) for layer in self.layers
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer, state0 in zip(self.layers, self.states0, strict=True):
            x, _ = layer(x, tuple(state0))  # each part is (d,), for every element of a batch
        return x


def learned_states() -> None:
    by_hand = StackedRNN(3, num_layers=2)
    x = torch.rand(10, 3)
    y = by_hand(x)
    report("a stack with states of its own", y)
    assert y.shape == (10, 3)
    assert by_hand(torch.rand(10, 4, 3)).shape == (10, 4, 3)

    rnn = LSTM(3, 3, num_layers=2, initial_state="learned")  # the same in one line
    for number, layer in enumerate(by_hand.layers):
        rnn.load_state_dict({key.replace("l0", f"l{number}"): w for key, w in layer.state_dict().items()}, strict=False)
    again, _ = rnn(x)
    assert torch.allclose(again, y, atol=1e-6)

    target = torch.rand(10, 3)
    F.mse_loss(by_hand(x), target).backward()
    F.mse_loss(rnn(x)[0], target).backward()
    for number, (h0, c0) in enumerate(by_hand.states0):
        assert h0.grad.any() and c0.grad.any()
        assert torch.allclose(rnn.initial_h.grad[number], h0.grad, atol=1e-6)
        assert torch.allclose(rnn.initial_c.grad[number], c0.grad, atol=1e-6)
    print(rnn)


def report(title: str, *words: object) -> None:
    """Print a title and what follows, tensors by their shapes."""
    print(f"{title}:", *(tuple(word.shape) if isinstance(word, Tensor) else word for word in words))


if __name__ == "__main__":
    main()
