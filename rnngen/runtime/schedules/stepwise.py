"""stepwise: every step is a product of torch's and a fused kernel of pointwise work, in turn. It can run whatever the
sizes are, and takes a launch for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Choice, Facts, Kernel, Plan, Run, Sizes, Steps, power_of_two

if TYPE_CHECKING:
    from torch import Tensor


def refusal(facts: Facts) -> str:
    return ""


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    if sizes.both:
        return "a kernel is of one time step, and the two directions are at different ones"
    width = sizes.widest(facts)
    block = min(power_of_two(32, width), 256)
    launches = len(facts.across) + facts.levels + (1 if facts.backwards or not facts.across else 0)
    weights = facts.matrices * width * (width // sizes.heads) * sizes.itemsize
    states = (2 * sum(facts.streams) + facts.matrices + 4) * sizes.batch * width * sizes.itemsize
    # Host time, the launch itself left out, measured on a core of a CPU server with Triton 3.9 and torch 2.13: 13.9 us
    # for an LSTM's step of one product (2.1) and one stage (10.6), so 7 us each. What a GPU takes for small launches is
    # not known yet. The weights are read again at every step.
    time = launches * 7.0 + (weights + states) / machine.memory_gb_s / 1000
    return Plan(time, {"BLOCK": block}, {"num_warps": 4 if block == 256 else 1})


def launch(steps: Steps, scan: Run, choice: Choice) -> None:
    """Run the loop that the module has for it."""
    steps(scan, choice)


def stage(kernel: Kernel, scan: Run, choice: Choice, tensors: Sequence[Tensor | None], step: int) -> None:
    """Run one stage of one time step."""
    grid = (scan.batch, -(-scan.widest // choice.constants["BLOCK"]))
    scan.launch(kernel, grid, choice, tensors, step, **scan.letters)
