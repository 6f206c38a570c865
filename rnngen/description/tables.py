"""The tables of a file: their keys, the types of these, and their limits. It is the whole schema. What the
docstrings say of a key, `docs/language.md` says in the same words, and an editor shows.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from rnngen.equations import LARGEST
from rnngen.runtime.layout import NAME as CHUNKED
from rnngen.runtime.layout import is_chunked
from rnngen.runtime.memory import KINDS
from rnngen.runtime.memory import PATTERN as KEPT
from rnngen.runtime.schedules import SCHEDULES

SCHEDULE_NAMES = ("auto", *SCHEDULES, CHUNKED)
SIZES = rf"^{CHUNKED}( [1-9][0-9]{{0,8}}){{1,2}}$"
if TYPE_CHECKING:
    Schedule = str  # a Literal of a tuple is known when this runs, and not before
else:
    Schedule = Annotated[
        Annotated[Literal[SCHEDULE_NAMES], Tag("name")] | Annotated[str, Field(pattern=SIZES), Tag("sizes")],
        Discriminator(lambda given: "sizes" if is_chunked(given) and given != CHUNKED else "name"),
    ]
DIMENSIONS = ("hidden", "inputs")  # which every layer has; others are sizes of a cell
if TYPE_CHECKING:
    Dimension = str
else:
    Dimension = Literal[DIMENSIONS]
MOST_LAYERS = 256
MOST_CELLS = 64
MOST_STATES = 16
MOST_ACTIVATIONS = 16
MOST_SIZES = 8
MOST_OUTPUTS = 8
MOST_WRAPPERS = 8
MOST_CHARACTERS = 2000  # of a text about a cell

Size = Annotated[int, Field(ge=1, le=65536)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class Table(BaseModel):
    """What all tables have in common: no other keys, and no value of another type."""

    # A schema is built when a file first needs it: for a cell file that saves 20 ms.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class InputTable(Table):
    """[inputs.NAME] of a cell.

    shape: `[]` a number, `["hidden"]` a vector as wide as the states, `["inputs"]` one as wide as x
    """

    shape: list[Dimension] = Field(max_length=1)


class StateTable(Table):
    """[states.NAME] of a cell.

    shape: `["hidden"]` a vector as wide as the layer, `["inputs"]` one as wide as x, or a size of the cell; `[]` a
        number
    """

    shape: list[str] = Field(max_length=1)


# Told apart before anything in them is looked at, so that a mistake is one of a list, or of a table.
States = Annotated[
    Annotated[dict[str, StateTable], Field(min_length=1, max_length=MOST_STATES), Tag("table")]
    | Annotated[list[str], Field(min_length=1, max_length=MOST_STATES), Tag("list")],
    Discriminator(lambda given: "table" if isinstance(given, dict) else "list"),
]


class ParameterTable(Table):
    """[parameters.NAME] of a cell.

    shape: of one block: `[]` a scalar, one dimension a vector, two a matrix (rows, columns); each is `"hidden"`,
        `"inputs"` or a size of the cell
    blocks: the names of its blocks, in the order in which they are stacked; one block is called as the parameter is
    init: how the blocks begin
    heads: block-diagonal: as many square blocks as the layer has heads; only for hidden by hidden
    bias: whether a layer with `bias = false` is without it; true if its name is `b` or `bias`, or begins with `bias_`
    trained: whether it is learned; if not, it is a buffer of the layer
    """

    shape: list[str] = Field(max_length=2)
    blocks: list[str] | None = Field(default=None, min_length=1, max_length=64)
    init: Any = "uniform"  # looked at with the cell: pydantic reports a union once for each member
    heads: bool = False
    bias: bool | None = None
    trained: bool = True


class CellTable(Table):
    """[cells.NAME] of a stack.

    class: the class's name; `leaky_unit` becomes `LeakyUnit`
    about: one sentence, the docstring of the class
    paper: who published the cell, when and where; stands below `about`
    year: when it was published
    note: what a user has to know, as how other forms of the cell differ; stands below `paper`
    states: the values carried from step to step, by name; in a list each is a vector hidden wide
    inputs: what a step takes in beside x, each by its name, and how wide x is
    sizes: further dimensions by name, each an argument of the class, with the number that it has if none is given
    output: which equation is the output; several stand beside each other
    constants: numbers with names; they are not learned
    activations: functions with names, which a layer can change
    step: the equations, one a line
    parameters: what is learned, and what a layer has beside that; one at least, since a layer takes its type and its
        device from them
    """

    class_name: str = Field(default="", alias="class")
    about: str = Field(default="", max_length=MOST_CHARACTERS)
    paper: str = Field(default="", max_length=MOST_CHARACTERS)
    year: int | None = Field(default=None, ge=1900, le=2100)
    note: str = Field(default="", max_length=MOST_CHARACTERS)
    states: States
    inputs: dict[str, InputTable] = Field(default={}, max_length=16)
    sizes: dict[str, Size] = Field(default={}, max_length=MOST_SIZES)
    output: Any = ""  # a text, or a list of them: looked at with the cell
    constants: dict[str, Number] = Field(default={}, max_length=64)
    activations: dict[str, str] = Field(default={}, max_length=MOST_ACTIVATIONS)
    step: str
    parameters: dict[str, ParameterTable] = Field(default={}, max_length=64)


class CellFile(CellTable):
    """A file that is one cell.

    name: the cell's name, and the module's
    """

    name: str


class LayerTable(Table):
    """[[layers]] with a cell.

    cell: a cell of this file or of the library
    hidden: the units: the width of states, and of what the layer gives on, where the cell names no other
    num_layers: layers one above the other, each with weights of its own
    bias: whether there are biases; without them, each counts as zero
    dropout: the probability of a zero, in training, between the layers of `num_layers`
    bidirectional: a second scan from the last step to the first, with weights of its own; its features stand behind
        those of the first
    proj_size: if not 0, a matrix `weight_hr` makes the output this wide
    heads: blocks of the block-diagonal parameters
    initial_state: where the states begin when a call gives none: at zero, at a parameter, or at a buffer that is saved
        with the module and not trained
    reverse: from the last step to the first; the output keeps the order of x; not with `bidirectional`
    last_only: the output is that of the last step alone; no recurrent layer can follow
    init: initialisers that take the place of the cell's: for the name of a block that block, and for the name of a
        parameter the whole stack at once, so that `xavier_uniform` counts the rows of all its blocks
    activations: functions that take the place of the cell's, by the names of its activations
    sizes: numbers that take the place of the cell's, by the names of its sizes
    with: wrappers, which change the step of the cell, the first innermost
    zoneout: of that wrapper: the probability, in training, that a unit keeps its old value at a step; for all states,
        or for some by their names
    recurrent_dropout: of that wrapper: the probability of a zero, in training, before the recurrent matrices
    drop_connect: of that wrapper: the probability of a zero, in training, in the recurrent matrices
    clip: of that wrapper: what the gradient of each unit is cut off at, on either side, on its way from a step to the
        one before; for all states, or for some by their names
    schedule: how the scan is laid on a GPU; or `chunked`, on any device, with the least steps of a chunk and those of
        its warm-up behind it or without: `chunked 512 128`
    save: what is kept for the backward pass: `"gates"`, all but what is cheap to compute again; `"states"`, these
        alone; or `"every 256"`, the states of every 256 steps, and `"every"`, of about as many as the root of all
    """

    cell: str
    hidden: Size
    num_layers: int = Field(default=1, ge=1, le=MOST_LAYERS)
    bias: bool = True
    dropout: float = Field(default=0.0, ge=0, le=1)
    bidirectional: bool = False
    proj_size: int = Field(default=0, ge=0, le=65536)
    heads: Size = 1
    initial_state: Literal["zeros", "learned", "buffer"] = "zeros"
    reverse: bool = False
    last_only: bool = False
    init: dict[str, Any] = {}  # looked at with the layer
    activations: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    wrappers: list[str] = Field(default=[], alias="with", max_length=MOST_WRAPPERS)
    zoneout: Any = None  # looked at with the layer, as `init` is
    recurrent_dropout: float | None = Field(default=None, ge=0, le=1)
    drop_connect: float | None = Field(default=None, ge=0, le=1)
    clip: Any = None
    schedule: Schedule = "auto"
    save: Annotated[str, Field(pattern=KEPT)] = KINDS[0]


class DropoutTable(Table):
    """[[layers]] with dropout alone.

    dropout: the probability of a zero, in training
    """

    dropout: float = Field(ge=0, le=1)


class DenseTable(Table):
    """[[layers]] with a matrix.

    dense: features that the layer gives on: `nn.Linear` at each step
    bias: whether it adds a bias
    """

    dense: Size
    bias: bool = True


class ModelFile(Table):
    """A file that is a stack of layers.

    name: the module's name; the class is named after it
    inputs: features of x at each step
    layers: the layers, from the input to the output
    cells: cells of this file; one with the name of a library cell takes its place
    """

    name: str
    inputs: Size
    layers: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_LAYERS)
    cells: dict[str, dict[str, Any]] = Field(default={}, max_length=MOST_CELLS)


# A layer is of the first of these kinds whose key it has.
LAYERS: dict[str, type[Table]] = {"cell": LayerTable, "dense": DenseTable, "dropout": DropoutTable}
