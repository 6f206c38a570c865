"""rnngen's own: a module as anybody has it, its steps in torch, and the plain loop that they replace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.contenders.run import TorchRun
from benchmarks.modules import layer_class
from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

# By name: to ask the registry would import torch where a process is timed that has none.
SCHEDULES = ("elementwise", "linear", "resident", "cooperative", "stepwise")
BY_SCHEDULE = {name: f"rnngen, {name}" for name in SCHEDULES}
GRAPH = "rnngen, stepwise, CUDA graph"


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


def scheduled(schedule: str) -> Callable[[Problem], TorchRun]:
    """The module with one schedule, which raises Absent where that cannot run the cell or its size."""

    def built(problem: Problem) -> TorchRun:
        run = _forward(problem, _layer(problem, native=True, schedule=schedule))
        try:  # of one step, in both directions
            run.call(run.leaf[:1], **{name: rows[:1] for name, rows in run.others.items()}).sum().backward()
        except ValueError as reason:
            raise Absent(str(reason)) from None
        run.module.zero_grad()
        run.leaf.grad = None
        return run

    return built


def graphed(problem: Problem) -> TorchRun:
    """`stepwise` with all its launches in CUDA graphs: one for inference, and one for each direction of training."""
    if problem.case.device == "cpu":
        raise Absent("a CUDA graph needs a GPU")
    return _Graphed(problem, scheduled("stepwise")(problem).module)


class _Graphed(TorchRun):
    def __init__(self, problem: Problem, layer: nn.Module) -> None:
        import torch

        class Output(torch.nn.Module):
            """The layer without its state."""

            def __init__(self) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, x: Tensor) -> Tensor:
                return self.layer(x)[0]

        whole = Output()
        super().__init__(problem, layer, whole)
        self.inference = torch.cuda.CUDAGraph()
        with torch.no_grad():
            whole(self.leaf)
            torch.cuda.synchronize()
            with torch.cuda.graph(self.inference):
                whole(self.leaf)
        self.call = torch.cuda.make_graphed_callables(whole, (self.leaf.detach().clone().requires_grad_(),))

    def forward(self) -> None:
        self.inference.replay()


def _forward(problem: Problem, layer: nn.Module) -> TorchRun:
    def call(x: Tensor, **rows: Tensor) -> Tensor:
        return layer(x, **rows)[0]

    return TorchRun(problem, layer, call)


def _layer(problem: Problem, native: bool, **options: object) -> nn.Module:
    case = problem.case
    # Modules of one cell share the operators of the first, here of the one that has no C; native code goes past them.
    weights = {} if problem.alone else problem.weights
    options = {"device": case.device, "dtype": problem.dtype} | options
    layer = layer_class(case.cell, native)(case.hidden, case.hidden, **options)
    if weights:
        layer.load_state_dict(weights)
    return layer
