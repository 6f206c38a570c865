"""What the templates receive: records of text, with nothing left to compute."""

from dataclasses import dataclass

from rnngen.runtime.drawn import Drawn
from rnngen.runtime.plan import Facts


@dataclass(frozen=True, slots=True)
class SweepView:
    """One direction of a scan, as the fields of `rnngen.runtime.Sweep`. record: those that the targets give."""

    inputs: dict[str, tuple[int | str, ...]]
    states: dict[str, tuple[int | str, ...]]
    parameters: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    carried: dict[str, str]
    facts: Facts
    record: dict[str, str]


@dataclass(frozen=True, slots=True)
class ScanView:
    """A scan in both directions, as the fields of `rnngen.runtime.Scan`.

    identity: the cell's name and a digest of what the scan computes, for the operators' names. again: the name of a
    function, "" if there is none.
    """

    name: str
    identity: str
    parameters: tuple[str, ...]
    forward: SweepView
    adjoint: SweepView
    gradients: str
    gradient_inputs: tuple[str, ...]
    sources: dict[str, tuple[str, ...]]
    stream_gradients: tuple[str | None, ...]
    again: str
    again_inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """The function that runs a cell over a sequence: lines before the scan, its call, lines after it.

    places: of the states of the scan among those of the cell, () where these are all. last: what its last ones are
    called then; states: what those of the cell are.
    """

    weights: tuple[str, ...]
    before: tuple[str, ...]
    streams: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[str, ...]
    places: tuple[int, ...]
    last: tuple[str, ...]
    states: tuple[str, ...]
    after: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class WeightView:
    """A parameter, as the fields of `rnngen.runtime.Weight`."""

    name: str
    blocks: tuple[str, ...]
    shape: tuple[str, ...]
    init: tuple[str | float, ...]
    heads: bool
    bias: bool
    trained: bool


@dataclass(frozen=True, slots=True)
class LayerView:
    """What a layer's class knows of its cell, as the fields of `rnngen.runtime.Cell`."""

    weights: tuple[WeightView, ...]
    states: tuple[str, ...]
    widths: dict[str, str]
    inputs: dict[str, str]
    drawn: tuple[Drawn, ...]
    output: str
    sizes: dict[str, int]
    features: tuple[str, ...]
    narrow: bool
    schedules: tuple[str, ...]
    nonlinearity: str
    both: bool


@dataclass(frozen=True, slots=True)
class CellView:
    """Everything about one cell.

    about, remarks: the paragraphs of its class's docstring.
    stages, loops: what its steps compute, and how they run over time, in the languages of the targets.
    beside: both, by the suffix of another file than the module.
    wrappers: what the equations are compiled with, the first innermost. save: what layers keep, "" for the
    usual. equations_function: the name of the step in plain torch.
    """

    name: str
    class_name: str
    about: str
    remarks: tuple[str, ...]
    equations: tuple[str, ...]
    wrappers: tuple[str, ...]
    save: str
    stages: tuple[str, ...]
    loops: tuple[str, ...]
    beside: dict[str, tuple[str, ...]]
    scan: ScanView
    run: RunView
    equations_function: str
    layer: LayerView


@dataclass(frozen=True, slots=True)
class ModelView:
    """A stack: its class and, as lines, the expressions that make its layers."""

    class_name: str
    inputs: int
    layers: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class FileView:
    """A file beside the module. module: the name of that one's."""

    first_words: str
    version: str
    no_digest: str
    module: str
    cells: tuple[CellView, ...]
    last_line: str


@dataclass(frozen=True, slots=True)
class ModuleView:
    """The top of a file, and its last line.

    No text from outside stands before the third line. source: the label of the model; digest: of its text; renewal: the
    command that compiles it. beside: the digests of the files that belong to it, by their suffixes without the point.
    torch, published: what is imported of torch and of the runtime.
    """

    first_words: str
    version: str
    no_digest: str
    source: str
    digest: str
    renewal: str
    format: int
    beside: dict[str, str]
    docstring: str
    torch: tuple[str, ...]
    published: tuple[str, ...]
    last_line: str
