"""Layers: a generated cell as an `nn.Module` with the constructor, the calls and the weights of torch.nn's."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnngen.runtime.agreement import Report, reporting
from rnngen.runtime.both import joined, side_by_side
from rnngen.runtime.cell import Cell, Initialiser, Weight, blocks_of, checked_init, fill
from rnngen.runtime.direction import Direction, Lengths, Result, filled
from rnngen.runtime.drawn import Rate, checked_rates, probability
from rnngen.runtime.inputs import Given, Input, others_of, rows_of
from rnngen.runtime.launch import accumulator_of
from rnngen.runtime.layout import NAME, is_chunked, sizes_of
from rnngen.runtime.leaf import Leaf
from rnngen.runtime.masks import drawn_inputs, with_drops, with_numbers
from rnngen.runtime.memory import KINDS, memory_of
from rnngen.runtime.resets import Resets, boundaries_of, flags_of, without_resets
from rnngen.runtime.scan import autocasting

State = Tensor | tuple[Tensor, ...]

# What kernels and derivatives are made for; those of complex numbers would be others.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Layer(Leaf):
    """A cell scanned over time; the classes of generated modules derive from this one.

    Shapes, with D the number of directions:
        The input is (time, batch, input_size), or (time, input_size) without a batch, or a PackedSequence; the output
        alike with D * hidden_size features (D * proj_size with a projection), without the time if `last_only`. Where
        the cell says so, its output has another width than hidden_size, that of several outputs together.
        A state is (num_layers * D, batch, hidden_size), or (num_layers * D, hidden_size) without a batch; a tuple of
        these where the cell has several. Some are as wide as a size of the cell, or input_size, or 1, as the cell says.
        A state given as (hidden_size,) holds for all layers and the whole batch. With a projection, the state that is
        the output is proj_size wide if the cell has no other use for it than products with square matrices.
    """

    cell: ClassVar[Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        heads: int = 1,
        initial_state: str = "zeros",
        reverse: bool = False,
        last_only: bool = False,
        return_state: bool = True,
        init: dict[str, Initialiser] | None = None,
        schedule: str = "auto",
        nonlinearity: str | None = None,
        save: str | None = None,
        **others: Rate,
    ):
        """A new layer, its weights drawn.

        Args:
            input_size: features of the input at each step.
            hidden_size: units: the width of each state of which the cell names no other.
            num_layers: layers one upon another, each with the output of the one below as its input.
            bias: whether there are biases; without them they count as zero.
            batch_first: input and output are (batch, time, features) rather than (time, batch, features).
            dropout: probability of a zero in the output of each layer but the last, in training.
            bidirectional: a second direction, from the last step to the first, whose output stands behind the first's.
            proj_size: features of the output after a projection, 0 for none; Sak et al. 2014.
            device, dtype: of the parameters; float16, bfloat16, float32 or float64.
            heads: blocks of the block-diagonal parameters; cells without one have 1.
            initial_state: where the state begins when a call gives none: "zeros", "learned" (a parameter for each
                state) or "buffer" (saved and moved with the module, not trained).
            reverse: run from the last step to the first; the output stays in the order of the input.
            last_only: give the output of the last step alone.
            return_state: give the output and the state; else the output alone.
            init: how weights begin, by the name of a parameter (the whole of it) or of a block in the equations: the
                name of an initialiser in torch.nn.init, a number, or a function that fills a tensor.
            schedule: "auto", or the name of one to insist on; "chunked", or "chunked 512 128" with the steps of a chunk
                and of its warm-up, runs chunks of time side by side, see `rnngen.runtime.chunked`.
            nonlinearity: of a cell with one activation its function, which the compiler has chosen; as torch.nn.RNN
                has it, but by name only.
            save: what is kept for the backward pass: what the class was compiled for, "gates" or "states" and None for
                either; or "every N" for the states of every N steps alone, those between them being run again, and
                "every" for about as many steps as the root of how many there are.
            others: the sizes of a cell that has such, `rank=8` and the like; and of a cell that was compiled with
                wrappers that have a rate these, `zoneout=0.1` and the like, 0 if it is not given, and `clip=1.0`, which
                has to be; where a state has a rate of its own, `{"h": 0.1}` by its name. Rates are attributes of the
                layer and can be set.

        Raises TypeError or ValueError for arguments that cannot be, alone or together, as torch.nn does; warns of a
        dropout that a single layer would make nothing of.
        """
        super().__init__()
        if isinstance(bias, str) and self.cell.nonlinearity:
            raise TypeError(
                f"bias should be of type bool, got: str; a nonlinearity is given by name: nonlinearity={bias!r}"
            )
        flags = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, "reverse": reverse}
        flags |= {"last_only": last_only, "return_state": return_state}
        _check_types(flags, bool)
        _check_types({"proj_size": proj_size}, int)
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers, "heads": heads}
        _checked_sizes(sizes)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, _checked_dropout(dropout, num_layers)
        self.bidirectional, self.proj_size, self.heads = bidirectional, proj_size, heads
        self.initial, self.reverse, self.last_only, self.return_state = initial_state, reverse, last_only, return_state
        self.schedule, self.save = schedule, self.cell.save if save is None else save
        self._reports: list[Report] = []
        self.sizes: dict[str, int] = _checked_sizes({n: others.pop(n, size) for n, size in self.cell.sizes.items()})
        for name, rate in checked_rates(others, self.cell.drawn, self._title).items():
            setattr(self, name, rate)
        if nonlinearity is not None:
            self._check_nonlinearity(nonlinearity)
        if self.cell.nonlinearity:
            self.nonlinearity = self.cell.nonlinearity
        self._check_options()
        if dtype is not None:
            self._check_dtype(dtype)
        self.init = checked_init(init, self._weights())
        self._of_sizes: tuple[tuple[int, ...], list[list[tuple[str, str, tuple[int, ...]]]]] = (), []
        for row in self._own_weights:
            for weight, (_, name, size) in zip(self._weights(), row, strict=True):
                empty = torch.empty(size, device=device, dtype=dtype)
                if weight.trained:
                    self.register_parameter(name, nn.Parameter(empty))
                else:
                    self.register_buffer(name, empty)
        for state in self.cell.states if initial_state != "zeros" else ():
            tensor = torch.zeros(self._runs, self._width(state), device=device, dtype=dtype)
            if initial_state == "learned":
                self.register_parameter(f"initial_{state}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"initial_{state}", tensor)
        self.reset_parameters()

    def _check_options(self) -> None:
        """Raises ValueError for options that cannot be, alone or together."""
        if self.proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size has to be smaller than hidden_size, got {self.proj_size} and {self.hidden_size}"
            )
        if self.cell.inputs["x"] == "hidden":
            self._check_input_size()
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be divisible by heads ({self.heads})")
        if self.heads > 1 and not any(weight.heads for weight in self.cell.weights):
            raise ValueError(f"{self._title} has no block-diagonal parameter, so heads must be 1, got {self.heads}")
        if self.initial not in ("zeros", "learned", "buffer"):
            raise ValueError(f"initial_state must be 'zeros', 'learned' or 'buffer', got {self.initial!r}")
        if self.reverse and self.bidirectional:
            raise ValueError("a bidirectional layer runs both ways, so reverse must be False")
        if not self.bias and all(weight.bias for weight in self.cell.weights):
            raise ValueError(f"without bias {self._title} has no weights at all")
        second = self._sizes(1)["inputs"]
        as_wide = "takes in more" if list(self.cell.inputs.values()).count("inputs") > 1 else ""
        as_wide = as_wide or ("carries a state" if "inputs" in self.cell.widths.values() else "")
        if as_wide and self.num_layers > 1 and second != self.input_size:
            raise ValueError(
                f"{self._title} {as_wide} that is as wide as x, and with num_layers={self.num_layers} the x of the "
                f"second layer has {second} features, that of the first {self.input_size}"
            )
        if is_chunked(self.schedule):
            sizes_of(self.schedule)
        elif self.schedule not in (schedules := ("auto", *self.cell.schedules, NAME)):
            choices = ", ".join(map(repr, schedules))
            raise ValueError(
                f"schedule must be one of {choices} for the cell '{self.cell.name}', got {self.schedule!r}"
            )

    @property
    def save(self) -> str:
        """What is kept for a backward pass: "gates", "states", "every" or "every N"."""
        return self._save

    @save.setter
    def save(self, value: str) -> None:
        """Raises TypeError or ValueError for what cannot be kept, or not by this class."""
        _check_types({"save": value}, str)
        try:
            memory = memory_of(value)
        except ValueError as reason:
            raise ValueError(f"save cannot be {value!r}: {reason}") from None
        compiled = memory_of(self.cell.save).kind or KINDS[0]
        if memory.kind not in ("", compiled):
            option = f" --save {memory.kind}" if memory.kind != KINDS[0] else ""
            remedy = f"`rnngen compile NAME{option}` makes a class that does"
            raise ValueError(f"{self._title} was compiled with save={compiled!r} and keeps no {memory.kind}; {remedy}")
        self._save, self._every = value, memory.every

    def _check_input_size(self) -> None:
        """Raises ValueError unless every layer gets as many features as it has units."""
        of_a_later = self._sizes(1)["inputs"]
        if self.input_size != self.hidden_size:
            raise ValueError(
                f"{self._title} uses its input beside its state, so input_size must be equal to hidden_size, "
                f"got {self.input_size} and {self.hidden_size}"
            )
        if self.num_layers > 1 and of_a_later != self.hidden_size:
            given, reason = self._given_on(self.input_size), "proj_size" if self.proj_size else "bidirectional"
            if not self.proj_size and given != self.hidden_size:
                several = len(self.cell.features) > 1
                reason = f"{'outputs' if several else 'an output'} of {given} features{' together' if several else ''}"
            raise ValueError(
                f"{self._title} uses its input beside its state, so with {reason} num_layers must be 1: a second layer "
                f"would get {of_a_later} features for {self.hidden_size} units"
            )

    def _check_dtype(self, dtype: torch.dtype) -> None:
        """Raises TypeError for a type that weights cannot have."""
        if dtype not in DTYPES:
            raise TypeError(f"{self._title}: dtype should be float16, bfloat16, float32 or float64, got {dtype}")

    def _check_nonlinearity(self, wanted: str) -> None:
        """Raises TypeError for a cell that has none to choose, ValueError for another than it was compiled with."""
        own = self.cell.nonlinearity
        if not own:
            raise TypeError(f"{self._title} has no nonlinearity to choose")
        if wanted != own:
            known = {"tanh": "rnn", "relu": "rnn_relu"}.get(wanted) if self.cell.name in ("rnn", "rnn_relu") else None
            remedy = f"`rnngen compile {known}` makes the one with {wanted!r}, and " if known else ""
            raise ValueError(
                f"Unknown nonlinearity {wanted!r}. {self._title} was compiled with {own!r}: {remedy}"
                "the key activations of a layer in a model file chooses any function"
            )

    # Sizes and names.

    @property
    def _title(self) -> str:
        return type(self).__name__

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _runs(self) -> int:
        """Scans of a call, and rows of a state."""
        return self.num_layers * self._directions

    def _places(self) -> Iterator[tuple[int, int]]:
        """Layer and direction of each scan, in the order of a state's rows."""
        return ((layer, direction) for layer in range(self.num_layers) for direction in range(self._directions))

    def _weights(self) -> tuple[Weight, ...]:
        """The weights of a layer and direction."""
        weights = tuple(weight for weight in self.cell.weights if self.bias or not weight.bias)
        projection = Weight("weight_hr", ("weight_hr",), ("output", "given"), ("uniform",))
        return (*weights, projection) if self.proj_size else weights

    @property
    def _own_weights(self) -> list[list[tuple[str, str, tuple[int, ...]]]]:
        """The weights of each scan of a call: their names, those of the parameters, and their shapes.

        Sizes are attributes, which can be set with the weights.
        """
        sizes = self.input_size, self.hidden_size, self.proj_size, self.heads, *self.sizes.values()
        if sizes != self._of_sizes[0]:
            self._of_sizes = sizes, [list(self._names_and_sizes(*place)) for place in self._places()]
        return self._of_sizes[1]

    def _names_and_sizes(self, layer: int, direction: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """The weights of one layer and direction."""
        sizes = self._sizes(layer)
        for weight in self._weights():
            yield weight.name, self._suffixed(weight.name, layer, direction), weight.size(sizes, self.heads)

    def _suffixed(self, name: str, layer: int, direction: int) -> str:
        """The name of a parameter for one layer and direction."""
        return f"{name}_l{layer}{'_reverse' if direction else ''}"

    def _sizes(self, layer: int) -> dict[str, int]:
        """What the dimensions of a weight mean in a layer."""
        inputs = self.input_size
        for _ in range(layer):
            inputs = self._directions * (self.proj_size or self._given_on(inputs))
        output = self.proj_size or self.hidden_size
        return self._units(inputs) | {"output": output, "given": self._given_on(inputs), "earlier": inputs}

    def _units(self, inputs: int) -> dict[str, int]:
        """The dimensions of a cell with an x of so many features."""
        return {"inputs": inputs, "hidden": self.hidden_size, **self.sizes}

    def _given_on(self, inputs: int) -> int:
        """The features of the output of a cell, without a projection."""
        return self.cell.given_on(self._units(inputs))

    @property
    def _rates(self) -> dict[str, Rate]:
        """The rates by the names of the arguments. Raises as the constructor does for what has been set since."""
        if not self.cell.drawn:
            return {}
        rates = {drawn.rate: getattr(self, drawn.rate) for drawn in self.cell.drawn}
        return checked_rates(rates, self.cell.drawn, self._title) if rates else rates

    def _width(self, state: str) -> int:
        """Of a state, which has the same in all layers."""
        if self.proj_size and self.cell.narrow and state == self.cell.output:
            return self.proj_size
        if state not in self.cell.widths:
            return self.hidden_size
        return {"": 1, **self._sizes(0)}[self.cell.widths.get(state, "hidden")]

    # Weights.

    @property
    def _some(self) -> Tensor:
        """A parameter, for the type and the device that all have; not a weight that is computed when it is read."""
        own = next(iter(self._parameters.values()), None)
        own = next(self.parameters(), None) if own is None else own
        return self._flat_weights[0] if own is None else own  # in a replica of nn.DataParallel none are parameters

    def reset_parameters(self) -> None:
        """Draw new weights, each block by its initialiser; "uniform" is torch.nn's, within 1 / sqrt(hidden_size)."""
        for layer, direction in self._places():
            for weight in self._weights():
                name = self._suffixed(weight.name, layer, direction)
                tensor = getattr(self, name)
                # By torch.nn.utils.parametrize: then it is set as a whole.
                parametrized = name not in self._parameters and name not in self._buffers
                tensor = torch.empty_like(tensor) if parametrized else tensor
                fill(tensor, weight, self.init, self.hidden_size)
                if parametrized:
                    setattr(self, name, tensor)
        for state in self.cell.states if self.initial != "zeros" else ():
            with torch.no_grad():
                getattr(self, f"initial_{state}").zero_()

    def block(self, name: str, layer: int = 0, reverse: bool = False) -> Tensor:
        """A part of a parameter by its name in the equations, as a view: `layer.block("U_f")`.

        Of a parametrized weight it is a part of what was computed: to write into that changes nothing.

        Raises KeyError if there is no block of this name, IndexError if there is no such layer or direction.
        """
        if layer not in range(self.num_layers) or (reverse and not self.bidirectional):
            raise IndexError(
                f"{self._title} has no weights for layer={layer}, reverse={reverse}: "
                f"num_layers is {self.num_layers} and bidirectional is {self.bidirectional}"
            )
        names = [block for weight in self._weights() for block in weight.blocks]
        for weight in self._weights():
            if name in weight.blocks:
                return blocks_of(getattr(self, self._suffixed(weight.name, layer, int(reverse))), weight)[name]
        raise KeyError(f"{self._title} has no block {name!r}; there are {', '.join(names)}")

    def _tensors(self, run: int, x: Tensor) -> dict[str, Tensor]:
        """The weights of a layer and direction by name, zeros for biases that are not there.

        Raises RuntimeError for one that does not fit x.
        """
        # As `_own` does, which here would take 2 us more: a parameter by its name takes torch 0.6 us.
        parameters, dtype, device = self._parameters, x.dtype, x.device
        found: dict[str, Tensor] = {}
        for name, own, size in self._own_weights[run]:
            one = parameters.get(own)
            fits = one is not None and one.shape == size and one.dtype == dtype and one.device == device
            found[name] = one if one is not None and fits else self._own(own, size, x, "parameter")
        for weight in self.cell.weights if not self.bias else ():
            if weight.bias:
                size = weight.size(self._sizes(run // self._directions), self.heads)
                found[weight.name] = self._some.new_zeros(size)
        return found

    def _own(self, name: str, size: tuple[int, ...], x: Tensor, kind: str) -> Tensor:
        """A parameter or buffer by its name. Raises RuntimeError for one that does not fit x or is of another size.

        A kernel would read past the end of it; such a one comes by torch.func.functional_call, or is set by hand.
        """
        tensor: Tensor = getattr(self, name)
        if tensor.shape == size and tensor.dtype == x.dtype and tensor.device == x.device:
            return tensor  # nearly always
        self._check_fit(tensor, x, kind, name)
        if tensor.shape != size:
            raise RuntimeError(f"{self._title}: Expected {name} size {size}, got {tuple(tensor.shape)}")
        return tensor

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction, as torch.nn has them."""
        names = [[self._suffixed(weight.name, *place) for weight in self._weights()] for place in self._places()]
        return [[getattr(self, name) for name in row] for row in names]

    # What torch.nn's own layers have, and code that is written for them reads.

    @property
    def mode(self) -> str:
        """The name of the cell in capitals, as torch.nn has it for its own: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU"."""
        return "RNN_TANH" if self.cell.name == "rnn" else self.cell.name.upper()

    @property
    def _flat_weights_names(self) -> list[str]:
        return [self._suffixed(weight.name, *place) for place in self._places() for weight in self._weights()]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    def flatten_parameters(self) -> None:
        """For torch.nn's sake: weights are used where they are, so there is nothing to do."""

    def get_expected_hidden_size(self, input: Tensor, batch_sizes: Tensor | None = None) -> tuple[int, int, int]:
        """The shape of the first state for an input with a batch, or for the data of a PackedSequence and its sizes."""
        batch = int(batch_sizes[0]) if batch_sizes is not None else input.shape[0 if self.batch_first else 1]
        return self._runs, batch, self._width(self.cell.states[0])

    def __prepare_scriptable__(self) -> None:  # torch.jit.script asks modules for it
        raise NotImplementedError(
            f"{self._title}: torch.jit.script cannot read generated layers; use torch.export.export or torch.jit.trace"
        )

    @property
    def qconfig(self) -> None:
        """What torch.ao.quantization sets on each module of a model, and whoever wants to keep one out of it: None."""
        if "qconfig" not in vars(self):
            raise AttributeError("qconfig")  # which nn.Module puts in its own words
        return None

    @qconfig.setter
    def qconfig(self, value: object) -> None:
        remedy = (
            "convert it by .to(torch.bfloat16), or load its state_dict into the layer of torch.nn if there is one, "
            "and quantize that"
        )
        if value is not None:
            raise NotImplementedError(
                f"{self._title} cannot be quantized, it computes in floating point; set its qconfig to None to keep it "
                f"so in a model that is quantized. To make it smaller, {remedy}"
            )
        if "qconfig" not in vars(self):
            warnings.warn(
                f"{self._title} stays in floating point when the model is quantized; to make it smaller, {remedy}",
                stacklevel=3,  # past nn.Module.__setattr__
            )
        vars(self)["qconfig"] = None

    @qconfig.deleter
    def qconfig(self) -> None:
        if "qconfig" not in vars(self):
            raise AttributeError("qconfig")
        del vars(self)["qconfig"]

    # Calls.

    def forward(
        self,
        input: Input,
        hx: State | None = None,
        *,
        resets: Input | None = None,
        reset_to: State | None = None,
        **inputs: Input,
    ) -> tuple[Input, State] | Input:
        """The output at every step, and the states after the last one.

        resets: for several sequences one behind another, true where one begins: (time, batch), (batch, time) with
        `batch_first`, (time,) without a batch, or packed as the input is; bool, or integers that are 0 or not. Before
        such a step the state of that element of the batch becomes the layer's initial state, and no gradient passes;
        from the last step to the first, it does behind it. hx is where the call begins, so that a long sequence can be
        cut into calls anywhere, but for a direction from the last step to the first: that one does not end with the
        reset of its first step. reset_to: what to return to instead, in the form of hx.

        inputs: what the cell takes in at each step beside x, by name, for all layers: in the shape of the input but for
        the features, of which it has as many as the cell says; one that is a number at each step has no such dimension.

        Raises TypeError, ValueError or RuntimeError, as torch.nn does, where input, states and resets do not fit.
        """
        self._refuse_proxy(input)
        given = Given(hx, resets, reset_to, inputs)
        if not is_chunked(self.schedule) or torch.compiler.is_compiling():
            y, state = self._call(self.cell.run, input, given, schedule=self.schedule)
        else:
            reports: list[Report] = []  # those of this call: another thread may call the layer too
            self._reports = reports
            with reporting(reports):
                y, state = self._call(self.cell.run, input, given, schedule=self.schedule)
        return (y, state) if self.return_state else y

    def reference(
        self,
        input: Input,
        hx: State | None = None,
        *,
        resets: Input | None = None,
        reset_to: State | None = None,
        **inputs: Input,
    ) -> tuple[Input, State] | Input:
        """What `forward` computes, step by step in plain torch; slow, and differentiable any number of times.

        Under autocast each operation has the type that torch gives it, and so have the results: float32 where those of
        `forward` have autocast's type, if a sum with a state of float32 comes last. Each takes the other's states.
        """
        y, state = self._call(self.cell.reference, input, Given(hx, resets, reset_to, inputs))
        return (y, state) if self.return_state else y

    def step(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        resets: Tensor | None = None,
        reset_to: State | None = None,
        **inputs: Tensor,
    ) -> tuple[Tensor, State]:
        """One step: input (batch, input_size) to output (batch, features), or both without a batch, and the states.

        A state of a single layer may also be (batch, width). resets: (batch,), or () without a batch, and inputs alike;
        see `forward`.
        Raises ValueError for a bidirectional layer.
        """
        if self.bidirectional:
            raise ValueError(f"{self._title}.step: a bidirectional layer needs the whole sequence")
        if not isinstance(input, Tensor):
            raise TypeError(f"{self._title}.step: Expected a Tensor, got {type(input).__name__}")
        if input.dim() not in (1, 2):
            raise ValueError(f"{self._title}.step: Expected input to be 1D or 2D, got {input.dim()}D instead")
        batched = input.dim() == 2
        if batched and self._runs == 1:
            hx, reset_to = _with_first_dimension(hx), _with_first_dimension(reset_to)
        time = 1 if self.batch_first and batched else 0
        if resets is not None:
            resets = flags_of(resets, input, f"{self._title}.step").unsqueeze(time)
        others = self._others(inputs, input, f"{self._title}.step")
        others = [rows.unsqueeze(time) for rows in others]
        given, options = Given(hx, resets, reset_to), {"schedule": self.schedule}
        y, state = self._call_tensor(self.cell.run, input.unsqueeze(time), others, given, options)
        return (y if self.last_only else y.squeeze(time)), state

    def report(self) -> list[Report]:
        """What the last call did, and the backward pass behind it, if the schedule is "chunked": a row for each scan,
        in the order in which they ran. Empty if there was no call, or if it was compiled by torch.compile.
        """
        return list(self._reports)

    def initial_state(self, batch: int | None = None) -> State:
        """The state that a call without one begins with: (num_layers * directions, batch, width) each.

        Without `batch`, (num_layers * directions, width).
        """
        rows = self._initial_rows()
        # Memory of its own for each: to write into one must change nothing else.
        states = [r.clone() if batch is None else r.unsqueeze(1).repeat(1, batch, 1) for r in rows]
        return self._as_state(states)

    def _initial_rows(self, x: Tensor | None = None) -> list[Tensor]:
        """The initial state of each layer and direction. Raises RuntimeError for one that does not fit x."""
        if self.initial == "zeros":
            device = None if x is None else x.device
            return [self._some.new_zeros(self._runs, self._width(s), device=device) for s in self.cell.states]
        if x is None:
            return [getattr(self, f"initial_{state}") for state in self.cell.states]
        return [self._own(f"initial_{s}", (self._runs, self._width(s)), x, "hidden") for s in self.cell.states]

    def extra_repr(self) -> str:
        usual: dict[str, object] = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        usual |= {"bidirectional": False, "heads": 1, "reverse": False, "last_only": False, "return_state": True}
        usual |= {"schedule": "auto", "save": self.cell.save}
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"{name}={value!r}" for name in usual if (value := getattr(self, name)) != usual[name]]
        parts += [f"{name}={size}" for name, size in self.sizes.items() if size != self.cell.sizes[name]]
        parts += [f"{name}={rate!r}" for name, rate in self._rates.items() if rate != 0.0]
        parts += [f"initial_state={self.initial!r}"] if self.initial != "zeros" else []
        return f"{', '.join(parts)}, parameters={sum(parameter.numel() for parameter in self.parameters()):,}"

    def _as_state(self, states: Sequence[Tensor]) -> State:
        return states[0] if len(states) == 1 else tuple(states)

    def _call(self, run: Callable[..., Result], input: Input, given: Given, **options: str) -> tuple[Input, State]:
        if isinstance(input, PackedSequence):
            return self._call_packed(run, input, given, options)
        if not isinstance(input, Tensor):
            raise TypeError(f"{self._title}: Expected a Tensor or a PackedSequence, got {type(input).__name__}")
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._title}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        return self._call_tensor(run, input, self._others(given.inputs, input, self._title), given, options)

    def _call_tensor(
        self, run: Callable[..., Result], input: Tensor, others: list[Tensor], given: Given, options: dict[str, str]
    ) -> tuple[Tensor, State]:
        """others: what the cell takes in beside x, each in the shape of the input but for the features."""
        batched = input.dim() == 3

        def turned(rows: Tensor) -> Tensor:
            return rows.unsqueeze(1) if not batched else rows.transpose(0, 1) if self.batch_first else rows

        x = turned(input)
        self._check_input(x)
        others = [turned(rows) for rows in others]
        states = self._states(given.hx, x, batched)
        flags = None if given.resets is None else turned(flags_of(given.resets, input, self._title))
        begin = self._resets(flags, given, states, x, batched)
        y, last = self._layers(run, x, others, states, given.hx is not None, None, begin, options)
        if not batched:
            y, last = y.squeeze(0 if self.last_only else 1), [state.squeeze(1) for state in last]
        elif self.batch_first and not self.last_only:
            y = y.transpose(0, 1)
        return y, self._as_state(last)

    def _call_packed(
        self,
        run: Callable[..., Result],
        input: PackedSequence,
        given: Given,
        options: dict[str, str],
    ) -> tuple[Input, State]:
        """Sequences of different lengths: padded, in the order of their lengths, and scanned with a mask."""
        data, sizes, order, back = input
        if data.dim() != 2:
            raise RuntimeError(f"{self._title}: Expected packed data to be 2D, got {data.dim()}D instead")
        self._check_input(data)
        others = self._others(given.inputs, input, self._title)
        x, lengths = pad_packed_sequence(PackedSequence(data, sizes))
        others = [pad_packed_sequence(PackedSequence(rows, sizes))[0] for rows in others]
        states = self._states(given.hx, x, True)
        flags = None if given.resets is None else flags_of(given.resets, input, self._title)
        begin = self._resets(flags, given, states, x, True)
        if order is not None:
            states = [state.index_select(1, order) for state in states]
            if begin is not None:
                begin = replace(begin, states=[state.index_select(1, order) for state in begin.states])
        # A trace runs with other lengths than it was made with.
        differ = Lengths(lengths, x.shape[0]) if torch.jit.is_tracing() or lengths[-1] < lengths[0] else None
        y, last = self._layers(run, x, others, states, given.hx is not None, differ, begin, options)
        if back is not None:
            last = [state.index_select(1, back) for state in last]
        if self.last_only:
            return (y if back is None else y.index_select(0, back)), self._as_state(last)
        return PackedSequence(pack_padded_sequence(y, lengths).data, sizes, order, back), self._as_state(last)

    def _check_input(self, x: Tensor) -> None:
        """Raises for an input, (time, batch, features) or packed (steps, features), that this layer cannot take."""
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{self._title}: input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {x.shape[-1]}"
            )
        if x.shape[0] == 0:
            raise RuntimeError(f"{self._title}: Expected sequence length to be larger than 0 in RNN")
        some = self._some
        self._check_dtype(some.dtype)  # a layer can be converted to any
        if not _fit(x, some):
            other = f", or convert model: model.to({x.dtype})" if x.dtype in DTYPES else ""
            raise ValueError(
                f"{self._title}: RNN input dtype ({x.dtype}) does not match weight dtype ({some.dtype}). "
                f"Convert input: input.to({some.dtype}){other}"
            )

    def _others(self, given: Mapping[str, Input], input: Input, title: str) -> list[Tensor]:
        """What the cell takes in beside x, given by name, each with features. Numbers have the accumulators' type.

        Raises as `others_of` does, and RuntimeError for what is of another type or device than x.
        """
        if not given and len(self.cell.inputs) == 1:
            return []
        widths = {"": 0, "hidden": self.hidden_size, "inputs": self.input_size}
        of_cell = {name: widths[dimension] for name, dimension in self.cell.inputs.items() if name != "x"}
        found = others_of(given, input, of_cell, title)
        for name, tensor in zip(of_cell, found, strict=True):
            self._check_fit(tensor, rows_of(input), name, name, number=not of_cell[name])
        wide = accumulator_of(rows_of(input).dtype)
        return [rows if of_cell[name] else rows.to(wide) for name, rows in zip(of_cell, found, strict=True)]

    def _resets(
        self, flags: Tensor | None, given: Given, states: list[Tensor], x: Tensor, batched: bool
    ) -> Resets | None:
        """Where sequences begin within x, by flags (time, batch), and with which states.

        Raises ValueError where there is nothing to return to.
        """
        reset_to = given.reset_to
        if flags is None:
            if reset_to is not None:
                raise without_resets(self._title)
            return None
        if self.proj_size and self.cell.narrow and (reset_to is not None or self.initial != "zeros"):
            raise ValueError(
                f"{self._title}: with proj_size={self.proj_size} resets return to zeros, since a projection does not "
                "say which state it is of; take initial_state='zeros' and no reset_to"
            )
        if given.hx is not None or reset_to is not None:
            states = self._states(reset_to, x, batched, "reset_to")
        return Resets(boundaries_of(flags), states)

    def _states(self, hx: State | None, x: Tensor, batched: bool, called: str = "hx") -> list[Tensor]:
        """The given states, or the initial ones, as (num_layers * directions, batch, width)."""
        batch, names = x.shape[1], self.cell.states
        title = self._title if called == "hx" else f"{self._title}, {called}"
        if hx is None and self.initial == "zeros":
            like = x if x.dtype == self._some.dtype else self._some.new_empty(0, device=x.device)
            widths = [self._width(name) for name in names]
            zeros = {width: like.new_zeros(self._runs, batch, width) for width in dict.fromkeys(widths)}
            return [zeros[width] for width in widths]  # a scan copies its states before it changes them
        if hx is None:
            return [rows.unsqueeze(1).expand(-1, batch, -1) for rows in self._initial_rows(x)]
        if not isinstance(hx, Tensor | list | tuple):
            kind = type(hx).__name__
            raise TypeError(f"{title}: Expected {called} to be a Tensor or a tuple of them, got {kind}")
        given = [hx] if isinstance(hx, Tensor) else list(hx)
        if len(given) != len(names):
            raise RuntimeError(
                f"{title}: Expected {_counted(len(names), 'state tensor')} ({', '.join(names)}), got {len(given)}"
            )
        found = []
        for name, value in zip(names, given, strict=True):
            width = self._width(name)
            if not isinstance(value, Tensor):
                raise TypeError(f"{title}: Expected {name} to be a Tensor, got {type(value).__name__}")
            if value.dim() == 1 and value.shape[0] == width:
                value = value.expand(self._runs, batch, -1) if batched else value.expand(self._runs, -1)
            wanted = (self._runs, batch, width) if batched else (self._runs, width)
            if value.dim() != len(wanted):
                kind = "batched 3-D" if batched else "unbatched 2-D"
                raise RuntimeError(
                    f"{title}: For {kind} input, {name} should also be {len(wanted)}-D of size {wanted} "
                    f"but got {value.dim()}-D tensor of size {tuple(value.shape)}"
                )
            if tuple(value.shape) != wanted:
                raise RuntimeError(f"{title}: Expected {name} size {wanted}, got {tuple(value.shape)}")
            self._check_fit(value, x, "hidden" if called == "hx" else called, name)
            found.append(value if batched else value.unsqueeze(1))
        return found

    def _check_fit(self, tensor: Tensor, x: Tensor, kind: str, name: str, number: bool = False) -> None:
        """Raises RuntimeError, in torch's words, for a state or a weight of another device or type than the input.

        number: whether it may have the type of the accumulators too.
        """
        if tensor.device != x.device:
            raise RuntimeError(
                f"{self._title}: Input and {kind} tensors are not at the same device, found input tensor at {x.device} "
                f"and {kind} tensor at {tensor.device} ({name})"
            )
        if not _fit(tensor, x) and not (number and tensor.dtype == accumulator_of(x.dtype)):
            remedy = f"; convert it: {name}.to({accumulator_of(x.dtype)})" if number else ""
            raise RuntimeError(
                f"{self._title}: Input and {kind} tensors are not the same dtype, found input tensor with {x.dtype} "
                f"and {kind} tensor with {tensor.dtype} ({name}){remedy}"
            )

    # Scans. From here on time comes first and there is a batch.

    def _together(self, x: Tensor) -> bool:
        """Whether both directions of a layer are one scan: on a GPU, where they then run at the same time."""
        apart = is_chunked(self.schedule) or self._every is not None
        if not self.bidirectional or self.proj_size or not self.cell.both or apart:
            return False
        return bool(self.cell.scan.takes_both(self.hidden_size, self.heads, x.dtype, x.device, self.schedule))

    def _layers(
        self,
        run: Callable[..., Result],
        x: Tensor,
        others: Sequence[Tensor],
        states: Sequence[Tensor],
        given: bool,
        lengths: Lengths | None,
        resets: Resets | None,
        options: dict[str, str],
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers and directions. others: what each takes in beside x. given: whether a call brings the states."""
        given = given or self.initial != "zeros"
        weights = [self._tensors(number, x) for number in range(self._runs)]  # all of them before anything runs
        drawn, rates = self.cell.drawn, self._rates
        if drawn:
            weights = [with_drops(tensors, drawn, rates) for tensors in weights] if self.training else weights
            weights = [with_numbers(tensors, drawn, rates) for tensors in weights]
        valid = None if lengths is None else lengths.valid(x.device)
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            rows = (x, *others) if valid is None else tuple(filled(one, valid) for one in (x, *others))
            here = slice(layer * self._directions, (layer + 1) * self._directions)
            final = self.last_only and layer == self.num_layers - 1
            common = partial(Direction, self.cell, run, options, last_only=final, lengths=lengths, valid=valid)
            if run is self.cell.run:
                common = partial(common, every=self._every)
            if run is self.cell.run and self._together(x):
                joint = {w.name: joined(w, *(tensors[w.name] for tensors in weights[here])) for w in self.cell.weights}
                begin = resets and resets.of(here)
                scan = common(weights=joint, both=True, resets=begin)
                x, after = scan(rows, [side_by_side(state[here]) for state in states], given)
                last += zip(*(state.chunk(2, -1) for state in after), strict=True)
            else:
                outputs: list[Tensor] = []
                for tensors in weights[here]:
                    projection = tensors["weight_hr"] if self.proj_size else None
                    backwards = self.reverse or len(outputs) == 1
                    begin = resets and resets.of(len(last))
                    scan = common(weights=tensors, projection=projection, backwards=backwards, resets=begin)
                    masks = drawn_inputs(x, drawn, rates, self._sizes(layer), self.training) if drawn else ()
                    y, after = scan((*rows, *masks), [state[len(last)] for state in states], given)
                    outputs.append(y)
                    last.append(after)
                x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if layer < self.num_layers - 1 and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        ends = zip(*last, strict=True)
        return x, [end[0][None] if len(end) == 1 else torch.stack(end) for end in ends]


def _fit(tensor: Tensor, other: Tensor) -> bool:
    """Whether types can go together: equal ones, or under autocast all that autocast converts."""
    if tensor.dtype == other.dtype:
        return True
    converted = autocasting(tensor.device.type) and torch.float64 not in (tensor.dtype, other.dtype)
    return converted and tensor.is_floating_point()


def _with_first_dimension(hx: State | None) -> State | None:
    """The states of a cell, (batch, width), as those of a layer; anything else as it is."""
    if isinstance(hx, list | tuple):
        return tuple(part.unsqueeze(0) if isinstance(part, Tensor) and part.dim() == 2 else part for part in hx)
    return hx.unsqueeze(0) if isinstance(hx, Tensor) and hx.dim() == 2 else hx


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _check_types(values: Mapping[str, object], kind: type) -> None:
    for name, value in values.items():
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")


def _checked_sizes(given: Mapping[str, Any]) -> dict[str, int]:
    """Raises TypeError for what is no whole number, ValueError for one that is not greater than zero."""
    _check_types(given, int)
    for name, size in given.items():
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero, got {size}")
    return dict(given)


def _checked_dropout(dropout: float, num_layers: int) -> float:
    """The probability. Raises ValueError if it is none; warns, as torch.nn does, where it would do nothing."""
    checked = probability("dropout", dropout)
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=3,
        )
    return checked
