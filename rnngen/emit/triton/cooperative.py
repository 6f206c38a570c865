"""The cooperative schedule in Triton: what a program sends to the others of its group, and when it stores.

Every operation across units is three calls: one that sends, as soon as its operands are there, one that receives, and
one that computes with what was received. Before the second a program loads what the next step reads; while it comes, it
stores what is ready. Where a step begins with what looks across units of its states, all that it makes is stored there,
in the next step: an LSTM of 256 units takes 2516 cycles of these on sm_90, and 2786 where it is stored before.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from rnngen.chain import Atom
from rnngen.emit.triton.sweep import AcrossText, CallText, LoadText, StoreText, SweepText

WHEN = ("always", "keep", "save")
VALUES, SUMS, NUMBERS = "values", "sums", "numbers"
_BUFFERS = {"matmul": VALUES, "matmul_t": SUMS}  # what else there is gives numbers


@dataclass(frozen=True, slots=True)
class ExchangeText:
    """An operation across units. slot: its place in a half of its buffer. sends: whether nothing has sent its operand
    in this turn. received: what is loaded of it while other work is done.
    """

    across: AcrossText
    buffer: str
    slot: int
    sends: bool
    received: str

    def by(self, forms: Mapping[str, str]) -> str:
        """The line for it."""
        return self.across.by(forms, "cooperative", pointer=self.buffer, slot=self.slot, received=self.received)


@dataclass(frozen=True, slots=True)
class AheadText:
    """A stream. runs: what is loaded of it for the next step, each by a name of its own; taken: the names by which this
    step knows what was loaded for it, once the next is loaded.
    """

    target: str
    runs: tuple[LoadText, ...]
    taken: tuple[str, ...]

    def by(self, call: str) -> str:
        """What is computed of it at the next step, of numbers nothing."""
        return " + ".join(
            call.format(ahead=taken, count=run.runs[0][1]) if run.width else taken
            for run, taken in zip(self.runs, self.taken, strict=True)
        )


@dataclass(frozen=True, slots=True)
class TurnText:
    """A part of the chain: what is exchanged, and the stage behind it. turn: how many turns there are in a step before.

    ready: what can be stored as soon as it is sent.
    """

    turn: int
    exchanges: tuple[ExchangeText, ...]
    call: CallText | None
    ready: Callable[[str], tuple[StoreText, ...]]


class CooperativeText(SweepText):
    """The loop of a program with a slice of the units, for the template."""

    def __init__(self, text: SweepText, name: str):
        super().__init__(text.chain, text.prefix, text.equations)
        self.name = name

    @cached_property
    def buffers(self) -> Mapping[str, str]:
        """The pointers to what programs exchange, by what it is."""
        found = {_BUFFERS.get(across.op, NUMBERS) for across in self.chain.across}
        kinds = [kind for kind in (VALUES, SUMS, NUMBERS) if kind in found]
        return {kind: self.names.made(("exchange", kind), f"{kind}_ptr") for kind in kinds}

    @cached_property
    def counters(self) -> str:
        return self.names.made(("exchange", "counters"), "counters_ptr")

    @cached_property
    def pointers(self) -> tuple[str, ...]:
        """As ever, and behind them those to what programs exchange."""
        return (*super().pointers, *self.buffers.values(), self.counters)

    @cached_property
    def wide(self) -> tuple[str, ...]:
        return (*super().wide, *(pointer for kind, pointer in self.buffers.items() if kind == NUMBERS))

    @cached_property
    def ahead(self) -> tuple[AheadText, ...]:
        """The streams, as they are loaded for the next step."""
        read = [name for name, blocks in self.chain.streams if blocks]
        return tuple(
            AheadText(
                stream.target,
                tuple(replace(stream, target=self._run(name, run, "ahead"), runs=(run,)) for run in stream.runs),
                tuple(self._run(name, run, "now" if self.early else "ahead") for run in stream.runs),
            )
            for name, stream in zip(read, self.streams, strict=True)
        )

    def _run(self, name: str, run: tuple[int, int], when: str) -> str:
        part = f"_{run[0]}" if run[0] else ""
        return self.names.made((when, name, str(run[0])), f"{self.names[name]}{part}_{when}")

    @cached_property
    def mask_ahead(self) -> str:
        return self.names.made(("ahead", self.chain.mask), f"{self.mask}_ahead")

    @property
    def turns(self) -> int:
        """How many there are in a step."""
        return len(self.chain.links) - 1

    @cached_property
    def early(self) -> bool:
        """Whether a step begins with what looks across units of its states alone: then they are sent at the end of the
        step before.
        """
        states = {Atom(state, 0) for state, _ in self.chain.states}
        operands = {atom for link in self.chain.links[1:2] for across in link.across for atom in across.operand}
        return bool(operands) and operands <= states

    @property
    def late_numbers(self) -> bool:
        """Whether any output is a number for each element of the batch."""
        return not all(store.width for when in WHEN for store in self.stores(when))

    @cached_property
    def parts(self) -> tuple[TurnText, ...]:
        """The chain, link by link."""
        slots = dict.fromkeys((VALUES, SUMS, NUMBERS), 0)
        return tuple(
            TurnText(number - 1, self._exchanges(link.across, slots), link.call, self._ready_at(number - 1))
            for number, link in enumerate(self.links)
        )

    def _exchanges(self, across: tuple[AcrossText, ...], slots: dict[str, int]) -> tuple[ExchangeText, ...]:
        found: list[ExchangeText] = []
        sent: dict[str, int] = {}  # by a vector's name its slot
        for one in across:
            kind = _BUFFERS.get(one.op, NUMBERS)
            known = sent.get(one.operand) if kind == VALUES else None
            slot = slots[kind] if known is None else known
            received = self.names.made(("received", kind, str(slot)), f"{kind}_{slot}")
            found.append(ExchangeText(one, kind, slot, known is None, received))
            if known is None:
                if kind == VALUES:
                    sent[one.operand] = slots[kind]
                slots[kind] += one.count if kind == NUMBERS else 1
        return tuple(found)

    def _ready_at(self, number: int) -> Callable[[str], tuple[StoreText, ...]]:
        """The stores whose atoms are there behind the stage of a link, and were not before."""
        return lambda when: tuple(store for store, place, _ in self._stores(when) if place == number)

    @cached_property
    def old(self) -> Mapping[str, str]:
        """Of states that are stored when they have a new value already, the name of the old one."""
        late = [atoms for when in WHEN for _, place, atoms in self._stores(when) if place == self.turns]
        found = {atom.value for atoms in late for atom in atoms}
        states = [state for state, _ in self.chain.states if state in found]
        return {self.names[state]: self.names.made(("old", state), f"{self.names[state]}_old") for state in states}

    def behind(self, when: str) -> tuple[StoreText, ...]:
        """What is stored at the end of a step: what the last stage makes, and what lies beside it."""
        return tuple(
            replace(store, atoms=self._old_text(atoms)) if self._has_old(atoms) else store
            for store, place, atoms in self._stores(when)
            if place == self.turns
        )

    def _has_old(self, atoms: tuple[Atom, ...]) -> bool:
        return any(self.names[atom.value] in self.old for atom in atoms)

    def _old_text(self, atoms: tuple[Atom, ...]) -> str:
        texts = [self.old.get(text, text) for text in map(self.text, atoms)]
        return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"

    def _stores(self, when: str) -> tuple[tuple[StoreText, int, tuple[Atom, ...]], ...]:
        """Each with the link that makes the last of its atoms, and with these."""
        return self._placed[when]

    @cached_property
    def _placed(self) -> Mapping[str, tuple[tuple[StoreText, int, tuple[Atom, ...]], ...]]:
        made = self.chain.made_by()
        for number, link in enumerate(self.chain.links):
            made |= {atom: number for across in link.across for atom in across.gives}
        found = {}
        for when in WHEN:
            writes = [write for write in self.chain.writes if write.when == when]
            found[when] = tuple(
                (store, max(made.get(atom, 0) for atom in write.atoms), write.atoms)
                for write, store in zip(writes, self.stores(when), strict=True)
            )
        return found
