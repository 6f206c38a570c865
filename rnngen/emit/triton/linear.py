"""The linear schedule in Triton: beside the stage that every schedule has, what a step computes without the states that
are scanned next, and the scans over a chunk of time that this makes possible.

A state is a row of units before a chunk and behind it. In between it is a tile, its old value at every step.

Where several programs have a stretch of time each, a launch for every round gives the maps of its states, from stretch
to stretch, and one behind the last of them computes everything. A sum over time, which nothing asks for, has no map.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from rnngen.chain import Round
from rnngen.emit.stage import FunctionText
from rnngen.emit.triton.sweep import CallText, LoadText, ResetsText, SweepText


@dataclass(frozen=True, slots=True)
class MapText:
    """What a stretch of time makes of a state. pointer: to that of all stretches. parts: whether it began anew, a and
    b.
    """

    pointer: str
    parts: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class AffineText:
    """A state, and the a and the b of its steps. flag, first: of its resets, "None" where they do not reach it. map:
    None for a sum over time.
    """

    state: str
    a: str
    b: str
    flag: str
    first: str
    width: str
    map: MapText | None

    @property
    def new(self) -> str:
        """Its new value, where it is its old one at every step."""
        return f"{self.a} * {self.state} + {self.b}"


@dataclass(frozen=True, slots=True)
class RoundText:
    """States that are scanned next. call: of the function for their a and b, if there is anything to compute. number:
    of the rounds with maps before it. mapped: its states that have one.
    """

    call: CallText | None
    states: tuple[AffineText, ...]
    number: int

    @property
    def mapped(self) -> tuple[AffineText, ...]:
        return tuple(state for state in self.states if state.map)


@dataclass(frozen=True, slots=True)
class StreamText:
    """A stream. ahead: the name of what is loaded of it for the next chunk."""

    load: LoadText
    ahead: str


class LinearText(SweepText):
    """The loop over chunks, for the template."""

    def __init__(self, text: SweepText, name: str):
        super().__init__(text.chain, text.prefix, text.equations)
        self.name = name

    @cached_property
    def _parts(self) -> tuple[tuple[Round, SweepText], ...]:
        """Each round with the text of its chain."""
        rounds = self.chain.rounds or ()
        names = (
            [f"{self.name}_ab_{number}" for number in range(len(rounds))] if len(rounds) > 1 else [f"{self.name}_ab"]
        )
        return tuple(
            (r, SweepText(r.coefficients, name, self.equations, self)) for name, r in zip(names, rounds, strict=True)
        )

    @cached_property
    def coefficients(self) -> tuple[FunctionText, ...]:
        """What computes the a and the b of a round."""
        return tuple(function for _, text in self._parts for function in text.functions)

    @cached_property
    def rounds(self) -> tuple[RoundText, ...]:
        made: list[RoundText] = []
        for found, text in self._parts:
            states = tuple(
                AffineText(
                    self.names[s.state],
                    text.text(s.a),
                    text.text(s.b),
                    *self._returned(s.state),
                    self.width(s.state),
                    self.maps.get(s.state),
                )
                for s in found.states
            )
            made.append(RoundText(text.call(0), states, sum(bool(one.mapped) for one in made)))
        return tuple(made)

    @cached_property
    def maps(self) -> Mapping[str, MapText]:
        """Of each state that is no sum over time, in their order."""
        return {state: self._map(state) for state in self.chain.returned}

    def _map(self, state: str) -> MapText:
        name = self.names[state]
        anew, a, b = (self.names.made(("map", state, part), f"{name}_{part}") for part in ("anew", "times", "plus"))
        return MapText(self.names.made(("map", state), f"{name}_maps_ptr"), (anew, a, b))

    @property
    def some_maps(self) -> str:
        """A pointer that is None where one program has all steps."""
        return next(iter(self.maps.values())).pointer

    @property
    def totals(self) -> tuple[str, ...]:
        """The states that are sums over time."""
        return tuple(self.names[state] for state, _ in self.chain.states if state not in self.maps)

    @cached_property
    def pointers(self) -> tuple[str, ...]:
        """With those to maps."""
        return (*super().pointers, *(found.pointer for found in self.maps.values()))

    @cached_property
    def wide(self) -> tuple[str, ...]:
        return (*super().wide, *(found.pointer for found in self.maps.values()))

    @property
    def in_parts(self) -> tuple[str, ...]:
        """The pointers to it where every stretch has a part of what is summed over time."""
        return (*self.wide, *(state.last for state in self.states if state.name in self.totals))

    def _returned(self, state: str) -> tuple[str, str]:
        """How resets reach a state: before a step forwards, and behind one of an adjoint, where they set it to zero."""
        if state not in self.chain.returned:
            return "None", "None"
        first = "None" if self.resets.backwards else self.resets.firsts[self.chain.returned.index(state)]
        return self.resets.flag, first

    @cached_property
    def resets(self) -> ResetsText:
        """With what a chunk adds to the gradient of what states return to."""
        usual = super().resets
        sums = zip(usual.firsts, self.chain.states, strict=False)  # the states of accumulators come last
        return replace(
            usual,
            after=tuple(f"{first} + summed({usual.flag}, {self.text(new)})" for first, (_, new) in sums),
        )

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """Each state behind a chunk."""
        news = {state: self.text(new) for state, new in self.chain.states}
        if self.resets.backwards:
            news |= {state: f"cut({self.resets.flag}, {news[state]})" for state in self.chain.returned}
        return tuple(f"row_at({new}, step, last)" for new in news.values())

    @cached_property
    def streams_ahead(self) -> tuple[StreamText, ...]:
        read = [name for name, blocks in self.chain.streams if blocks]
        ahead = [self.names.made(("ahead", name), f"{self.names[name]}_ahead") for name in read]
        return tuple(map(StreamText, self.streams, ahead))

    @cached_property
    def mask_ahead(self) -> str:
        return self.names.made(("ahead", self.chain.mask), f"{self.mask}_ahead")

    @cached_property
    def reset_ahead(self) -> str:
        return self.names.made(("ahead", "resets"), f"{self.resets.flag}_ahead")
