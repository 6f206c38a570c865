"""Haste (LMNT 2020): its LSTM and GRU, in CUDA."""

from benchmarks.contenders.run import TorchRun, first, package
from benchmarks.problem import Absent, Problem

CLASSES = {"lstm": "LSTM", "gru": "GRU"}


def build(problem: Problem) -> TorchRun:
    case = problem.case
    if case.cell not in CLASSES:
        raise Absent(f"Haste has no {case.cell} of the same equations")
    haste = package("haste_pytorch", "it is built from its source")
    layer = getattr(haste, CLASSES[case.cell])(case.hidden, case.hidden)
    if not problem.alone:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        layer.from_native_weights(*(problem.weights[name] for name in names))
    layer.to(case.device, problem.dtype)
    # Its gates stand in another order, and its matrices are transposed: of the gradients only that of x has our form.
    return TorchRun(problem, layer, lambda x: first(layer(x)), lambda _: "", getattr(haste, "__version__", "haste"))
