"""Wrappers: steps around a step. What changes the equations of a cell, or what is saved of them, is chosen where the
cell is compiled, by `with` in a layer of a file or by `--with`; the module has kernels for that, and for nothing else.

A wrapper is a function from a step to a step, as `unpack` leaves it: every value has its shape, and a product is of one
block. To add one, write the function in a file of its name here, and name it in `WRAPPERS`; the language, the commands
and the reference that `rnngen verify` judges by read of it there. Of the step that it gives, the passes ask that

* every value of the equations keeps its name, by which its equation stands above it in the module; a value that is
  added, by a `build.Builder`, has a point in its name, as "h'.halved";
* where the output is the new value of a state, it stays that of the state;
* a parameter that is added is a leaf of the graph and one of `parameters`, a state a leaf and one of `states`; torch
  knows both by name, so it is of letters, digits and "_", and new to the cell: `fresh(name, "_")`;
* what a layer makes of a rate is a leaf of the graph, of `untrained` and of `drawn`: an input that is drawn, or a
  parameter that is a number;
* a state that takes no part in the recurrence, as the last x of `lag(x)`, stays out of it: the others are those of
  `carried(graph)`. Some of them are what a value was, by `lines` of the program, and have to stay that;
* a vector is as wide as any dimension, hidden or another, and keeps its width.

One that would leave the step of a cell as it is raises NoEffect.

The name of a wrapper ends those of the cells and classes that it makes, as in `lstm_halved`: it is lower case, of
letters and "_", and no name of a cell's functions begins with it.
"""

from collections.abc import Callable

from rnngen.ir import Program
from rnngen.wrappers.clip import clip
from rnngen.wrappers.drop_connect import drop_connect
from rnngen.wrappers.layer_norm import layer_norm
from rnngen.wrappers.recurrent_dropout import recurrent_dropout
from rnngen.wrappers.zoneout import zoneout

WRAPPERS: dict[str, Callable[[Program], Program]] = {
    "layer_norm": layer_norm,
    "zoneout": zoneout,
    "recurrent_dropout": recurrent_dropout,
    "drop_connect": drop_connect,
    "clip": clip,
}
