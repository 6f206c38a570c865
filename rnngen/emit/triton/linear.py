"""The linear schedule in Triton: beside the stage that every schedule has, what a step computes without the states that
are scanned next, and the scans over a chunk of time that this makes possible.

A state is a row of units before a chunk and behind it. In between it is a tile, its old value at every step.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from rnngen.chain import Round
from rnngen.emit.stage import FunctionText
from rnngen.emit.triton.sweep import CallText, LoadText, ResetsText, SweepText


@dataclass(frozen=True, slots=True)
class AffineText:
    """A state, and the a and the b of its steps. flag, first: of its resets, "None" where they do not reach it."""

    state: str
    a: str
    b: str
    flag: str
    first: str


@dataclass(frozen=True, slots=True)
class RoundText:
    """States that are scanned next. call: of the function for their a and b, if there is anything to compute."""

    call: CallText | None
    states: tuple[AffineText, ...]


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
        return tuple(
            RoundText(
                text.call(0),
                tuple(
                    AffineText(self.names[s.state], text.text(s.a), text.text(s.b), *self._returned(s.state))
                    for s in found.states
                ),
            )
            for found, text in self._parts
        )

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
