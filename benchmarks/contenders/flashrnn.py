"""FlashRNN (Poeppel, Beck and Hochreiter 2024): an LSTM with one head, in its fused CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.run import TorchRun, installed, package
from benchmarks.contenders.torch_nn import layer_of
from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import Tensor


def build(problem: Problem, backend: str = "cuda_fused") -> TorchRun:
    """backend: "vanilla" are its steps in torch, which run on a CPU."""
    from torch.nn.functional import linear

    case = problem.case
    if case.cell != "lstm":
        raise Absent(f"FlashRNN has no {case.cell}")
    if case.device == "cpu" and backend != "vanilla":
        raise Absent("FlashRNN needs a GPU")
    flashrnn = package("flashrnn").flashrnn
    layer = layer_of("lstm", problem)  # for its parameters
    if not problem.alone:
        layer.load_state_dict(problem.weights)

    def call(x: Tensor) -> Tensor:
        products = linear(x, layer.weight_ih_l0).unflatten(-1, (4, 1, case.hidden)).transpose(0, 1)
        recurrent = layer.weight_hh_l0.view(4, 1, case.hidden, case.hidden)
        bias = (layer.bias_ih_l0 + layer.bias_hh_l0).view(4, 1, case.hidden)
        states, _ = flashrnn(
            products, recurrent, bias, function="lstm", backend=backend, dtype=problem.arithmetic.dtype
        )
        return states[0].flatten(-2).transpose(0, 1)

    return TorchRun(problem, layer, call, version=installed("flashrnn"))
