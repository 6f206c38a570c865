"""Kernels for recurrences that are linear in their state: flash-linear-attention's and accelerated-scan's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.contenders.run import TorchRun, installed, package
from benchmarks.modules import layer_class
from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    # From (gates, inputs), (batch, time, units) each, to h_t = a_t * h_(t - 1) + b_t.
    Scan = Callable[[Tensor, Tensor], Tensor]


def fla(problem: Problem) -> TorchRun:
    """Step by step, of the logarithms of the gates."""
    if problem.case.device == "cpu":
        raise Absent("fla needs a GPU")
    scan = package("fla.ops.hgrn", "pip install flash-linear-attention").fused_recurrent_hgrn
    return _run(problem, lambda a, b: scan(b, a.log())[0], "fla-core")


def accelerated_scan(problem: Problem) -> TorchRun:
    """All steps at once, by associative scans, along the last dimension."""
    if problem.case.device == "cpu":
        raise Absent("accelerated-scan needs a GPU")
    scan = package("accelerated_scan.scalar", "pip install accelerated-scan").scan

    def turned(a: Tensor, b: Tensor) -> Tensor:
        return scan(a.transpose(1, 2).contiguous(), b.transpose(1, 2).contiguous()).transpose(1, 2)

    return _run(problem, turned, "accelerated-scan")


def _run(problem: Problem, scan: Scan, distribution: str) -> TorchRun:
    """The cell with its gates in torch and this scan. Raises Absent for a cell that is not written here."""
    case = problem.case
    if case.cell not in GATES:
        raise Absent(f"no {case.cell} is written for {distribution} here")
    kind = layer_class(case.cell, native=False)
    layer = kind(case.hidden, case.hidden, device=case.device, dtype=problem.dtype)  # for its parameters
    if not problem.alone:
        layer.load_state_dict(problem.weights)

    def call(x: Tensor) -> Tensor:
        return scan(*GATES[case.cell](layer, x.transpose(0, 1))).transpose(0, 1)

    return TorchRun(problem, layer, call, version=installed(distribution))


def _mingru(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    from torch.nn.functional import linear

    z, n = linear(x, layer.weight_ih_l0, layer.bias_l0).chunk(2, -1)
    z = z.sigmoid()
    return 1 - z, z * n


def _hgrn(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    from torch.nn.functional import linear, silu

    f, i = linear(x, layer.weight_ih_l0).chunk(2, -1)
    f = layer.bound_l0 + (1 - layer.bound_l0) * f.sigmoid()
    return f, silu(i) * (1 - f)


GATES = {"mingru": _mingru, "hgrn_fla": _hgrn}
