"""rnngen's own: a module as anybody has it, its steps in torch, and the plain loop that they replace."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from benchmarks.contenders.run import TorchRun
from benchmarks.modules import layer_class
from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(problem: Problem) -> TorchRun:
    """On a CPU what was compiled of the C beside the module, on a GPU the kernels."""
    return _forward(problem, _layer(problem, native=True))


def steps(problem: Problem) -> TorchRun:
    """One step of torch at a time: the module without the C."""
    return _forward(problem, _layer(problem, native=False))


def loop(problem: Problem) -> TorchRun:
    """The equations as they stand, in a Python loop, differentiated by torch."""
    layer = _layer(problem, native=False)
    return TorchRun(problem, layer, lambda x, **rows: layer.reference(x, **rows)[0])


def compiled_loop(problem: Problem) -> TorchRun:
    """That loop under torch.compile, which writes C++ for a CPU."""
    import torch

    if problem.case.device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise Absent("torch.compile needs a C++ compiler on a CPU, and there is none")
    layer = _layer(problem, native=False)
    faster = torch.compile(lambda x: layer.reference(x)[0])
    return TorchRun(problem, layer, faster)


def _forward(problem: Problem, layer: nn.Module) -> TorchRun:
    def call(x: Tensor, **rows: Tensor) -> Tensor:
        return layer(x, **rows)[0]

    return TorchRun(problem, layer, call)


def _layer(problem: Problem, native: bool) -> nn.Module:
    case = problem.case
    # Modules of one cell share the operators of the first, here of the one that has no C; native code goes past them.
    weights = {} if problem.alone else problem.weights
    layer = layer_class(case.cell, native)(case.hidden, case.hidden, device=case.device, dtype=problem.dtype)
    if weights:
        layer.load_state_dict(weights)
    return layer
