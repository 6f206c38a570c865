"""Layers: a generated cell as an `nn.Module` with the manners of torch.nn, and stacks of layers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rnngen.runtime.scan import autocasting

State = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Weight:
    """A learnable tensor of a cell: `blocks` equal blocks of `shape` ("hidden", "inputs"), stacked on dimension 0.

    init: an initialiser or a number for each block. heads: block-diagonal, stored as square blocks.
    """

    name: str
    blocks: int
    shape: tuple[str, ...]
    init: tuple[str | float, ...]
    heads: bool = False

    def size(self, sizes: dict[str, int], heads: int) -> tuple[int, ...]:
        """The torch shape."""
        if self.heads:
            width = sizes["hidden"] // heads
            return (self.blocks * heads, width, width)
        if not self.shape:
            return (self.blocks,)
        rows, *columns = (sizes[dimension] for dimension in self.shape)
        return (self.blocks * rows, *columns)


@dataclass(frozen=True)
class Cell:
    """What a layer knows of its cell. schedules: those that its kernels come in.

    run(x, states, weights, reverse, schedule) gives the output over time and the last states, x being
    (time, batch, inputs) and states (batch, hidden) each. reference is the same in plain torch, as it was described.
    """

    name: str
    weights: tuple[Weight, ...]
    states: tuple[str, ...]
    schedules: tuple[str, ...]
    run: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    reference: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


class Layer(nn.Module):
    """A cell scanned over time; the classes of generated modules derive from this one.

    Args:
        input_size: features of x at each step.
        hidden_size: width of each state.
        batch_first: x and y are (batch, time, features) rather than (time, batch, features).
        heads: blocks of the block-diagonal parameters; cells without one have 1.
        initial_state: where the state begins when a call gives none: "zeros", "learned" (a parameter for each state,
            shared by the batch) or "buffer" (saved and moved with the module, not trained).
        reverse: run from the last step to the first; y stays in the order of x.
        schedule: "auto", or the name of one to insist on.
        device, dtype: of the parameters.

    Shapes:
        x is (time, batch, input_size), or (time, input_size) without a batch; y alike with hidden_size features.
        A state is (1, batch, hidden_size), or (1, hidden_size) without a batch; a tuple of these where the cell has
        several. A state given as (hidden_size,) holds for every element of the batch.
    """

    cell: ClassVar[Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        heads: int = 1,
        initial_state: str = "zeros",
        reverse: bool = False,
        schedule: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("heads", heads)):
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero, got {size}")
        if hidden_size % heads:
            raise ValueError(f"hidden_size ({hidden_size}) must be divisible by heads ({heads})")
        if heads > 1 and not any(weight.heads for weight in self.cell.weights):
            raise ValueError(f"{self._title} has no block-diagonal parameter, so heads must be 1, got {heads}")
        if initial_state not in ("zeros", "learned", "buffer"):
            raise ValueError(f"initial_state must be 'zeros', 'learned' or 'buffer', got {initial_state!r}")
        if schedule not in (schedules := ("auto", *self.cell.schedules)):
            choices = ", ".join(map(repr, schedules))
            raise ValueError(f"schedule must be one of {choices} for the cell '{self.cell.name}', got {schedule!r}")
        self.input_size, self.hidden_size, self.heads = input_size, hidden_size, heads
        self.batch_first, self.reverse, self.schedule = batch_first, reverse, schedule
        self.initial = initial_state
        sizes = {"inputs": input_size, "hidden": hidden_size}
        for weight in self.cell.weights:
            tensor = torch.empty(weight.size(sizes, heads), device=device, dtype=dtype)
            self.register_parameter(f"{weight.name}_l0", nn.Parameter(tensor))
        for state in self.cell.states if initial_state != "zeros" else ():
            tensor = torch.zeros(1, hidden_size, device=device, dtype=dtype)
            if initial_state == "learned":
                self.register_parameter(f"initial_{state}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"initial_{state}", tensor)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights, each block by its initialiser; "uniform" is torch.nn's, within 1 / sqrt(hidden_size)."""
        for weight in self.cell.weights:
            parameter = getattr(self, f"{weight.name}_l0")
            for block, init in zip(parameter.chunk(weight.blocks), weight.init, strict=True):
                for matrix in block if weight.heads else (block,):
                    _initialise(matrix, init, self.hidden_size)
        for state in self.cell.states if self.initial != "zeros" else ():
            getattr(self, f"initial_{state}").zero_()

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The output at every step and the state after the last one.

        Raises ValueError or RuntimeError, as torch.nn does, where the shapes of x or the state do not fit.
        """
        return self._over_time(self.cell.run, x, state, {"reverse": self.reverse, "schedule": self.schedule})

    def reference(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What `forward` computes, step by step in plain torch; slow, and differentiable any number of times."""
        return self._over_time(self.cell.reference, x, state, {"reverse": self.reverse})

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: x (batch, input_size) to y (batch, hidden_size), or both without a batch, and the state."""
        if x.dim() not in (1, 2):
            raise ValueError(f"{self._title}.step: Expected input to be 1D or 2D, got {x.dim()}D instead")
        time = 1 if self.batch_first and x.dim() == 2 else 0
        y, state = self(x.unsqueeze(time), state)
        return y.squeeze(time), state

    def initial_state(self, batch: int | None = None) -> State:
        """The state that a call without one begins with: (1, batch, hidden_size) each, (1, hidden_size) without."""
        some = next(self.parameters())
        shape = (1, self.hidden_size) if batch is None else (1, batch, self.hidden_size)
        if self.initial == "zeros":
            states = [some.new_zeros(shape) for _ in self.cell.states]
        else:
            rows = [getattr(self, f"initial_{state}") for state in self.cell.states]
            states = [row if batch is None else row.unsqueeze(1).expand(shape) for row in rows]
        return states[0] if len(states) == 1 else tuple(states)

    def extra_repr(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"heads": 1, "batch_first": False, "reverse": False, "schedule": "auto"}
        parts += [f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual]
        parts += [f"initial_state={self.initial!r}"] if self.initial != "zeros" else []
        return f"{', '.join(parts)}, parameters={count:,}"

    @property
    def _title(self) -> str:
        return type(self).__name__

    def _over_time(self, run: Callable, x: Tensor, state: State | None, options: dict) -> tuple[Tensor, State]:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{self._title}: Expected a Tensor of one length for the whole batch, got {type(x).__name__}"
            )
        batched = x.dim() == 3
        if x.dim() not in (2, 3):
            raise ValueError(f"{self._title}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{self._title}: input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {x.shape[-1]}"
            )
        rows = x.unsqueeze(1) if not batched else x.transpose(0, 1) if self.batch_first else x
        if rows.shape[0] == 0:
            raise RuntimeError(f"{self._title}: Expected sequence length to be larger than 0")
        weights = [getattr(self, f"{weight.name}_l0") for weight in self.cell.weights]
        if rows.dtype != weights[0].dtype and not autocasting(rows.device.type):
            raise ValueError(
                f"{self._title}: RNN input dtype ({rows.dtype}) does not match weight dtype ({weights[0].dtype}). "
                f"Convert input: input.to({weights[0].dtype}), or convert model: model.to({rows.dtype})"
            )
        states = self._states(state, rows, batched)
        y, states = run(rows, states, weights, **options)
        y = y.squeeze(1) if not batched else y.transpose(0, 1) if self.batch_first else y
        states = tuple(value if not batched else value.unsqueeze(0) for value in states)
        return y, states[0] if len(states) == 1 else states

    def _states(self, state: State | None, x: Tensor, batched: bool) -> tuple[Tensor, ...]:
        """The given state, or the initial one, as (batch, hidden) tensors."""
        batch, names = x.shape[1], self.cell.states
        if state is None:
            state = self.initial_state(batch if batched else None)
        given = (state,) if isinstance(state, Tensor) else tuple(state)
        if len(given) != len(names):
            raise RuntimeError(
                f"{self._title}: Expected {len(names)} state tensors ({', '.join(names)}), got {len(given)}"
            )
        found = []
        for name, value in zip(names, given, strict=True):
            if value.dim() == 1 and value.shape[0] == self.hidden_size:
                value = value.expand(1, batch, -1) if batched else value.unsqueeze(0)
            wanted = (1, batch, self.hidden_size) if batched else (1, self.hidden_size)
            if tuple(value.shape) != wanted:
                raise RuntimeError(f"{self._title}: Expected {name} size {wanted}, got {tuple(value.shape)}")
            if value.dtype != x.dtype and not autocasting(x.device.type):
                raise RuntimeError(
                    f"{self._title}: Input and hidden tensors are not the same dtype, found {x.dtype} and, for {name}, "
                    f"{value.dtype}"
                )
            found.append(value.squeeze(0) if batched else value)
        return tuple(found)


def _initialise(block: Tensor, init: str | float, hidden: int) -> None:
    if isinstance(init, int | float):
        nn.init.constant_(block, init)
    elif init == "uniform":
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(block, -bound, bound)
    else:
        getattr(nn.init, f"{init}_")(block)


class Stack(nn.Module):
    """Layers one after another; the classes of models derive from this one.

    x is (time, batch, features), or (time, features) without a batch, or with `batch_first` (batch, time, features).
    A state is a tuple with one entry for each recurrent layer, as that layer has it.
    """

    def __init__(self, layers: Sequence[nn.Module], batch_first: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.batch_first = batch_first

    @property
    def recurrent(self) -> list[Layer]:
        """The layers that have a state."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def forward(self, x: Tensor, state: Sequence[State | None] | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """The output at every step and the state of each recurrent layer after the last one."""
        return self._through("forward", x, state)

    def reference(self, x: Tensor, state: Sequence[State | None] | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """What `forward` computes, step by step in plain torch."""
        return self._through("reference", x, state)

    def step(self, x: Tensor, state: Sequence[State | None] | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """One step of every layer: x (batch, features) or (features,)."""
        return self._through("step", x, state)

    def initial_state(self, batch: int | None = None) -> tuple[State, ...]:
        """The state that a call without one begins with."""
        return tuple(layer.initial_state(batch) for layer in self.recurrent)

    def _through(
        self, method: str, x: Tensor, state: Sequence[State | None] | None
    ) -> tuple[Tensor, tuple[State, ...]]:
        given = [None] * len(self.recurrent) if state is None else list(state)
        if len(given) != len(self.recurrent):
            raise RuntimeError(
                f"{type(self).__name__}: Expected the states of {len(self.recurrent)} layers, got {len(given)}"
            )
        turned = self.batch_first and method != "step" and x.dim() == 3
        x = x.transpose(0, 1) if turned else x
        found = []
        for layer in self.layers:
            if isinstance(layer, Layer):
                x, last = getattr(layer, method)(x, given[len(found)])
                found.append(last)
            else:
                x = layer(x)
        return (x.transpose(0, 1) if turned else x), tuple(found)
