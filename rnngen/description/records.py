"""What is handed on: a description as plain records, its sizes known and its cells found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rnngen.cell import Cell
from rnngen.runtime.drawn import Rate
from rnngen.source import Source


@dataclass(frozen=True)
class CellLayer:
    """A cell scanned over time, from `inputs` to `outputs` features; the keys of its table are torch's arguments.

    save: "every N", or "" where all steps are kept; which kind that is belongs to the cell. rates: of its wrappers, by
    their keys. sizes: those that are not as the cell has them.
    """

    cell: Cell
    inputs: int
    hidden: int
    num_layers: int
    bias: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    heads: int
    initial_state: str
    reverse: bool
    last_only: bool
    init: Mapping[str, str | float]
    schedule: str
    save: str = ""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def widths(self) -> dict[str, int]:
        """The dimensions by name."""
        return {"hidden": self.hidden, **dict(self.others)}

    @property
    def others(self) -> tuple[tuple[str, int], ...]:
        """The dimensions beside the hidden units: the width of x, and the sizes of its cell as they are here."""
        own = ((name, self.sizes.get(name, size)) for name, size in self.cell.sizes.items())
        return (("inputs", self.inputs), *own)

    @property
    def given_on(self) -> int:
        """The features of the cell's output, without a projection."""
        widths = self.widths
        return sum(widths[name] for name in self.cell.given_on)

    @property
    def outputs(self) -> int:
        return (self.proj_size or self.given_on) * self.directions


@dataclass(frozen=True)
class DropoutLayer:
    probability: float


@dataclass(frozen=True)
class DenseLayer:
    inputs: int
    outputs: int
    bias: bool


Layer = CellLayer | DropoutLayer | DenseLayer


@dataclass(frozen=True)
class Description:
    """What a file says: one cell if `layers` is empty, else a stack of layers; `cells` has each cell once."""

    name: str
    inputs: int
    layers: tuple[Layer, ...]
    cells: tuple[Cell, ...]
    source: Source = field(compare=False, repr=False)
