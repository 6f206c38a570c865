"""The TOML model, validated: what a file says, as plain records.

Two kinds of file exist. A model has `layers` and perhaps `cells`; a cell file describes one cell alone and
compiles to a layer class whose sizes are free. Each of these files imports only from those above it:

    tables         the whole schema: the keys of each table, their types and limits
    records        what is handed on
    validate       a table as a record, or what is wrong with it
    names          which names are names, which are free, and that each means one thing
    initialisers   of parameters
    activations    functions that a cell calls by names of its own
    variants       names for cells that are compiled otherwise than they are described
    size           how many parameters and operations are too many
    cell           a cell: its step and its parameters
    rates          of the wrappers around a layer's cell
    layer          a layer of a stack
    stack          a stack of layers, and the cells of its file
    file           one cell alone, or a stack
    schema         the tables as a JSON schema, for editors
"""

from rnngen.description.file import describe
from rnngen.description.layer import check_init, check_shared
from rnngen.description.rates import check_rated
from rnngen.description.records import CellLayer, DenseLayer, Description, DropoutLayer, Layer
from rnngen.library import library

__all__ = [
    "CellLayer",
    "DenseLayer",
    "Description",
    "DropoutLayer",
    "Layer",
    "check_init",
    "check_rated",
    "check_shared",
    "describe",
    "library",
]
