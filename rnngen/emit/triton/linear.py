"""The linear schedule in Triton: beside the stage that every schedule has, what a step computes without the states that
are scanned next, and the scans over a chunk of time that this makes possible.

A state is a row of units before a chunk and behind it. In between it is a tile, its old value at every step.
"""

from dataclasses import dataclass
from functools import cached_property

from rnngen.chain import Round
from rnngen.emit.stage import FunctionText
from rnngen.emit.triton.sweep import CallText, LoadText, SweepText


@dataclass(frozen=True, slots=True)
class AffineText:
    """A state, and the a and the b of its steps."""

    state: str
    a: str
    b: str


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
                tuple(AffineText(self.names[s.state], text.text(s.a), text.text(s.b)) for s in found.states),
            )
            for found, text in self._parts
        )

    @cached_property
    def streams_ahead(self) -> tuple[StreamText, ...]:
        read = [name for name, blocks in self.chain.streams if blocks]
        ahead = [self.names.made(("ahead", name), f"{self.names[name]}_ahead") for name in read]
        return tuple(map(StreamText, self.streams, ahead))

    @cached_property
    def mask_ahead(self) -> str:
        return self.names.made(("ahead", self.chain.mask), f"{self.mask}_ahead")
