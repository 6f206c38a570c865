"""TorchRL's LSTM and GRU, which are written in Python."""

from benchmarks.contenders.run import TorchRun, first, installed, package
from benchmarks.problem import Absent, Problem

CLASSES = {"lstm": "LSTM", "gru": "GRU"}


def build(problem: Problem) -> TorchRun:
    import torch

    case = problem.case
    if case.cell not in CLASSES:
        raise Absent(f"TorchRL has no {case.cell}")
    kind = getattr(package("torchrl.modules"), CLASSES[case.cell])
    layer = kind(case.hidden, case.hidden, batch_first=False)
    if not problem.alone:
        layer.load_state_dict(problem.weights)
    layer.to(case.device, problem.dtype)
    zeros = torch.zeros(1, case.batch, case.hidden, device=case.device, dtype=problem.dtype)
    state = (zeros, zeros) if case.cell == "lstm" else zeros
    return TorchRun(problem, layer, lambda x: first(layer(x, state)), version=installed("torchrl"))
