"""torch.nn's layers: oneDNN or torch's own loops on a CPU, cuDNN on a GPU of NVIDIA's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.run import TorchRun, first
from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import nn

CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "rnn_relu": "RNN"}


def build(problem: Problem) -> TorchRun:
    """The same cell."""
    layer = layer_of(problem.case.cell, problem)
    if not problem.alone:
        layer.load_state_dict(problem.weights)
    return TorchRun(problem, layer, lambda x: first(layer(x)))


def lstm(problem: Problem) -> TorchRun:
    """nn.LSTM of the same size, whatever the cell is: for scale."""
    layer = layer_of("lstm", problem)
    return TorchRun(problem, layer, lambda x, **rows: first(layer(x)))


def layer_of(cell: str, problem: Problem, **options: object) -> nn.Module:
    """A layer of a problem's size. Raises Absent where torch.nn has no such cell."""
    from torch import nn

    if cell not in CLASSES:
        raise Absent(f"torch.nn has no {cell}")
    options = {"device": problem.case.device, "dtype": problem.dtype} | options
    if cell == "rnn_relu":
        options["nonlinearity"] = "relu"
    return getattr(nn, CLASSES[cell])(problem.case.hidden, problem.case.hidden, **options)
