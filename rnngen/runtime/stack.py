"""Stacks of layers: the classes of models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, overload

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnngen.runtime.inputs import Given, Input
from rnngen.runtime.layer import Layer, State
from rnngen.runtime.leaf import Leaf
from rnngen.runtime.resets import flags_of, without_resets

_Method = Callable[[Layer], Callable[..., Any]]  # by a layer one of its calls


@overload
def detach(state: Tensor) -> Tensor: ...
@overload
def detach(state: Sequence[Tensor]) -> tuple[Tensor, ...]: ...
@overload
def detach(state: Sequence[State]) -> tuple[State, ...]: ...
def detach(state: State | Sequence[State]) -> State | tuple[State, ...]:
    """A state without its history, of a layer or of a stack: what truncated backpropagation carries on."""
    return state.detach() if isinstance(state, Tensor) else tuple(detach(part) for part in state)


class Stack(Leaf):
    """Layers one after another; the classes of models derive from this one.

    The input is (time, batch, features), or (time, features) without a batch, or with `batch_first` (batch, time,
    features), or a PackedSequence. A state is a tuple with one entry for each recurrent layer, as that layer has it;
    one given may be a list, and None in it stands for the layer's own initial state. return_state: give the output and
    the state; else the output alone.
    """

    def __init__(self, layers: Sequence[nn.Module], batch_first: bool = False, return_state: bool = True):
        """Raises ValueError for a layer that gives no state."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.batch_first, self.return_state = batch_first, return_state
        # Found out once: a layer may be put into a wrapper later, as for checkpoints, and be called as before.
        self._places = tuple(n for n, layer in enumerate(layers) if isinstance(layer, Layer))
        self._inputs = tuple(tuple(layer.cell.inputs)[1:] for layer in self.recurrent)
        self._last_only = any(layer.last_only for layer in self.recurrent)
        if not all(layer.return_state for layer in self.recurrent):
            raise ValueError(f"{type(self).__name__}: the layers of a stack must have return_state=True")

    @property
    def recurrent(self) -> list[Layer]:
        """The layers that have a state."""
        return [cast(Layer, self.layers[place]) for place in self._places]  # or what wraps one

    def forward(
        self,
        input: Input,
        hx: Sequence[State | None] | None = None,
        *,
        resets: Input | None = None,
        reset_to: Sequence[State | None] | None = None,
        **inputs: Input,
    ) -> tuple[Input, tuple[State, ...]] | Input:
        """The output at every step and the state of each recurrent layer after the last one.

        resets: where sequences begin, in the shape of the input without its features, for all layers; see
        `Layer.forward`. reset_to: what they return to, in the form of hx. inputs: what layers take in beside their
        input, by name; each layer is given those that its cell has.

        Raises what its layers raise, TypeError for states that are no list or tuple, and RuntimeError if they are not
        as many as the recurrent layers.
        """
        self._refuse_proxy(input)
        # Called, so that their hooks are.
        y, states = self._over_time(lambda layer: layer, input, Given(hx, resets, reset_to, inputs))
        return (y, states) if self.return_state else y

    def reference(
        self,
        input: Input,
        hx: Sequence[State | None] | None = None,
        *,
        resets: Input | None = None,
        reset_to: Sequence[State | None] | None = None,
        **inputs: Input,
    ) -> tuple[Input, tuple[State, ...]] | Input:
        """What `forward` computes, step by step in plain torch."""
        y, states = self._over_time(lambda layer: layer.reference, input, Given(hx, resets, reset_to, inputs))
        return (y, states) if self.return_state else y

    def step(
        self,
        input: Tensor,
        hx: Sequence[State | None] | None = None,
        *,
        resets: Tensor | None = None,
        reset_to: Sequence[State | None] | None = None,
        **inputs: Tensor,
    ) -> tuple[Tensor, tuple[State, ...]]:
        """One step of every layer: input (batch, features) or (features,), resets (batch,) or (), inputs alike."""
        return self._through(lambda layer: layer.step, input, Given(hx, resets, reset_to, inputs))

    def initial_state(self, batch: int | None = None) -> tuple[State, ...]:
        """The state that a call without one begins with."""
        return tuple(layer.initial_state(batch) for layer in self.recurrent)

    def _over_time(self, method: _Method, input: Input, given: Given) -> tuple[Input, tuple[State, ...]]:
        if not self.batch_first or not isinstance(input, Tensor) or input.dim() != 3:
            return self._through(method, input, given)
        resets = given.resets
        if resets is not None:
            resets = flags_of(resets, input, type(self).__name__).transpose(0, 1)
        inputs = {
            name: value.transpose(0, 1) if isinstance(value, Tensor) and value.dim() > 1 else value
            for name, value in given.inputs.items()
        }
        turned = replace(given, resets=resets, inputs=inputs)
        y, states = self._through(method, input.transpose(0, 1), turned)
        return (y if self._last_only else y.transpose(0, 1)), states

    @overload
    def _through(self, method: _Method, x: Tensor, given: Given) -> tuple[Tensor, tuple[State, ...]]: ...
    @overload
    def _through(self, method: _Method, x: Input, given: Given) -> tuple[Input, tuple[State, ...]]: ...
    def _through(self, method: _Method, x: Input, given: Given) -> tuple[Input, tuple[State, ...]]:
        if given.resets is None and given.reset_to is not None:
            raise without_resets(type(self).__name__)
        self._check_inputs(given.inputs)
        states, begin = self._of_layers(given.hx), self._of_layers(given.reset_to)
        options: dict[str, Any] = {} if given.resets is None else {"resets": given.resets}
        found: list[State] = []
        for place, layer in enumerate(self.layers):
            if place in self._places:
                number = len(found)
                options |= {} if given.reset_to is None else {"reset_to": begin[number]}
                own = {name: given.inputs[name] for name in self._inputs[number] if name in given.inputs}
                x, last = method(cast(Layer, layer))(x, states[number], **options, **own)
                found.append(last)
            elif isinstance(x, PackedSequence):
                x = PackedSequence(layer(x.data), *x[1:])
            else:
                x = layer(x)
        return x, tuple(found)

    def _check_inputs(self, inputs: Mapping[str, Input]) -> None:
        """Raises TypeError for an input that no layer takes in; a layer says itself what it misses."""
        known = [name for names in self._inputs for name in names]
        for name in inputs:
            if name not in known:
                others = f"its layers take {', '.join(dict.fromkeys(known))}" if known else "its layers have none but x"
                raise TypeError(f"{type(self).__name__}: got an unexpected input {name!r}; {others}")

    def _of_layers(self, states: Sequence[State | None] | None) -> list[State | None]:
        """The state of each recurrent layer, None where it is the layer's own."""
        count = len(self._places)
        if states is not None and not isinstance(states, list | tuple):
            raise TypeError(
                f"{type(self).__name__}: Expected a list or tuple with the state of each recurrent layer, "
                f"got {type(states).__name__}"
            )
        given = [None] * count if states is None else list(states)
        if len(given) != count:
            layers = "1 recurrent layer" if count == 1 else f"{count} recurrent layers"
            raise RuntimeError(f"{type(self).__name__}: Expected the states of {layers}, got {len(given)}")
        return given
