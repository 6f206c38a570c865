"""What a layer knows of its cell, and how its weights begin."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rnngen.runtime.drawn import Drawn

if TYPE_CHECKING:
    from rnngen.runtime.scan import Scan

Initialiser = str | float | Callable[[Tensor], object]


@dataclass(frozen=True)
class Weight:
    """A tensor of a cell: equal blocks of `shape`, stacked on dimension 0.

    blocks: their names in the equations. shape: of "hidden", "inputs", sizes of the cell, and for the columns of a
    matrix "output" if it is applied to nothing but the output's old value, "earlier" if to nothing but inputs of
    earlier steps. init: how each block begins. heads: block-diagonal, stored as square blocks. bias: left out of a
    layer without bias. trained: a parameter of the layer; else a buffer.
    """

    name: str
    blocks: tuple[str, ...]
    shape: tuple[str, ...]
    init: tuple[Initialiser, ...]
    heads: bool = False
    bias: bool = False
    trained: bool = True

    def size(self, sizes: dict[str, int], heads: int) -> tuple[int, ...]:
        """The torch shape."""
        count = len(self.blocks)
        if self.heads:
            width = sizes["hidden"] // heads
            return (count * heads, width, width)
        if not self.shape:
            return (count,)
        rows, *columns = (sizes[dimension] for dimension in self.shape)
        return (count * rows, *columns)


@dataclass(frozen=True)
class Cell:
    """A cell as its layer sees it.

    states: their names. widths: of those that are not hidden wide the dimension that they are as wide as, "" of a
    number. inputs: what a step takes in, by name, x first, with the dimension that each is as wide as, "" of a
    number; of x "inputs", or "hidden" where it has to be as wide as the states. drawn: what a layer gives it by
    rates; inputs that are drawn stand behind all others. sizes: dimensions beside "hidden" and "inputs", with what
    they are if a layer is not given them. output: the state whose new value is the output, "" if it is another value.
    features: of each of the outputs, which stand beside each other, the dimension. narrow: with a projection, that is
    the state rather than what is projected. schedules: those that its kernels come in. nonlinearity: the function of
    its only activation, "" if it has none or several. tensors: the names of what `run` takes as weights: those of the
    layer, then the numbers that it is given.

    save: what its layers keep for a backward pass unless they are made with another choice, see `memory.Memory`.
    both: whether two directions can be one scan of twice the units.

    run(x, states, weights, valid, *, resets, first, reverse, both, last_only, schedule) gives the output over time and
    the last states, x being (time, batch, inputs) with what comes in beside it behind it, states (batch, width) each;
    see `Scan` for the others.
    reference(x, states, weights, valid, *, resets, first, reverse) is the same in plain torch, as it was described.
    """

    name: str
    weights: tuple[Weight, ...]
    states: tuple[str, ...]
    output: str
    features: tuple[str, ...]
    narrow: bool
    schedules: tuple[str, ...]
    scan: "Scan"
    run: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    reference: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    nonlinearity: str = ""
    both: bool = False
    inputs: Mapping[str, str] = field(default_factory=lambda: {"x": "inputs"})
    drawn: tuple[Drawn, ...] = ()
    widths: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    save: str = "gates"
    tensors: tuple[str, ...] = field(init=False)  # no cached property: torch.compile cannot trace how one is found

    def __post_init__(self) -> None:
        names = (*(weight.name for weight in self.weights), *(one.name for one in self.drawn if one.each == "never"))
        object.__setattr__(self, "tensors", names)

    def given_on(self, widths: Mapping[str, int]) -> int:
        """The features of the output, where the dimensions are so wide."""
        return sum(widths[dimension] for dimension in self.features)


def initialise(tensor: Tensor, init: Initialiser, hidden: int) -> None:
    """Fill a tensor: by a number, the name of an initialiser, or a function that fills what it is given.

    "uniform" is torch.nn's, within 1 / sqrt(hidden); other names are those of torch.nn.init without the underscore
    behind. Raises ValueError for a function that makes another tensor.
    """
    if callable(init):
        made = init(tensor)
        if isinstance(made, Tensor) and made.data_ptr() != tensor.data_ptr():
            raise ValueError("init: a function must fill the tensor that it is given, and this one gave another")
    elif not isinstance(init, str):
        nn.init.constant_(tensor, init)
    elif init == "uniform":
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(tensor, -bound, bound)
    elif init == "orthogonal" and tensor.dtype.itemsize < 4:  # torch factorises no matrix in half precision
        tensor.copy_(nn.init.orthogonal_(torch.empty_like(tensor, dtype=torch.float32)))
    else:
        getattr(nn.init, f"{init}_")(tensor)


def checked_init(init: object, weights: tuple[Weight, ...]) -> dict[str, Initialiser]:
    """A layer's own initialisers by the names of parameters and blocks.

    Raises TypeError or ValueError for what cannot be one.
    """
    if init is None:
        return {}
    if not isinstance(init, dict):
        raise TypeError(f"init should be a dict from names to initialisers, got: {type(init).__name__}")
    names = dict.fromkeys(name for weight in weights for name in (weight.name, *weight.blocks))
    for name, value in init.items():
        if name not in names:
            raise ValueError(f"init: there is no parameter or block {name!r}; there are {', '.join(names)}")
        number = isinstance(value, Real) and not isinstance(value, bool)
        if number and not math.isfinite(value):
            raise ValueError(f"init: {name!r} should have a finite number, got {value}")
        if isinstance(value, str) and value != "uniform" and not _needs_no_more(getattr(nn.init, f"{value}_", None)):
            raise ValueError(f"init: there is no initialiser {value!r} in torch.nn.init that needs a tensor alone")
        if not (number or isinstance(value, str) or callable(value)):
            kind = type(value).__name__
            raise TypeError(f"init: {name!r} should have a name, a number or a function, got: {kind}")
    return dict(init)


def _needs_no_more(function: object) -> bool:
    """Whether a function of torch.nn.init can be called with a tensor alone."""
    if not callable(function):
        return False
    _, *others = signature(function).parameters.values()
    return all(parameter.default is not Parameter.empty for parameter in others)


def blocks_of(tensor: Tensor, weight: Weight) -> dict[str, Tensor]:
    """Views of a weight's blocks by their names in the equations."""
    return dict(zip(weight.blocks, tensor.chunk(len(weight.blocks)), strict=True))


@torch.no_grad()
def fill(tensor: Tensor, weight: Weight, init: dict[str, Initialiser], hidden: int) -> None:
    """Draw a weight anew: the whole of it if `init` has its name, then each block that `init` names, or else each."""
    whole = init.get(weight.name)
    if whole is not None:
        for part in tensor if weight.heads else (tensor,):
            initialise(part, whole, hidden)
    for (name, block), usual in zip(blocks_of(tensor, weight).items(), weight.init, strict=True):
        chosen = init.get(name, usual) if whole is None else init.get(name) if name != weight.name else None
        if chosen is not None:
            for part in block if weight.heads else (block,):
                initialise(part, chosen, hidden)
