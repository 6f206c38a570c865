"""The tables of a file: their keys, the types of these, and their limits. It is the whole schema; `docs/language.md`
explains every key.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rnngen.equations import LARGEST
from rnngen.runtime.schedules import SCHEDULES

SCHEDULE_NAMES = ("auto", *SCHEDULES)
if TYPE_CHECKING:
    Schedule = str  # a Literal of a tuple is known when this runs, and not before
else:
    Schedule = Literal[SCHEDULE_NAMES]
Dimension = Literal["hidden", "inputs"]
MOST_LAYERS = 256
MOST_CELLS = 64
MOST_ACTIVATIONS = 16
MOST_WRAPPERS = 8
MOST_CHARACTERS = 2000  # of a text about a cell

Size = Annotated[int, Field(ge=1, le=65536)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class Table(BaseModel):
    """What all tables have in common: no other keys, and no value of another type."""

    # A schema is built when a file first needs it: for a cell file that saves 20 ms.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class InputTable(Table):
    """[inputs.NAME] of a cell."""

    shape: list[Dimension] = Field(min_length=1, max_length=1)


class ParameterTable(Table):
    """[parameters.NAME] of a cell."""

    shape: list[Dimension] = Field(max_length=2)
    blocks: list[str] = Field(min_length=1, max_length=64)
    init: Any = "uniform"  # looked at with the cell: pydantic reports a union once for each member
    heads: bool = False
    bias: bool | None = None
    trained: bool = True


class CellTable(Table):
    """[cells.NAME] of a stack."""

    class_name: str = Field(default="", alias="class")
    about: str = Field(default="", max_length=MOST_CHARACTERS)
    paper: str = Field(default="", max_length=MOST_CHARACTERS)
    year: int | None = Field(default=None, ge=1900, le=2100)
    note: str = Field(default="", max_length=MOST_CHARACTERS)
    states: list[str] = Field(min_length=1, max_length=16)
    inputs: dict[str, InputTable] = Field(default={}, max_length=1)
    output: str = ""
    constants: dict[str, Number] = Field(default={}, max_length=64)
    activations: dict[str, str] = Field(default={}, max_length=MOST_ACTIVATIONS)
    step: str
    parameters: dict[str, ParameterTable] = Field(default={}, max_length=64)


class CellFile(CellTable):
    """A file that is one cell."""

    name: str


class LayerTable(Table):
    """[[layers]] with a cell."""

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
    wrappers: list[str] = Field(default=[], alias="with", max_length=MOST_WRAPPERS)
    schedule: Schedule = "auto"


class DropoutTable(Table):
    """[[layers]] with dropout alone."""

    dropout: float = Field(ge=0, le=1)


class DenseTable(Table):
    """[[layers]] with a matrix."""

    dense: Size
    bias: bool = True


class ModelFile(Table):
    """A file that is a stack of layers."""

    name: str
    inputs: Size
    layers: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_LAYERS)
    cells: dict[str, dict[str, Any]] = Field(default={}, max_length=MOST_CELLS)


LAYERS: dict[str, type[Table]] = {"cell": LayerTable, "dropout": DropoutTable, "dense": DenseTable}
