"""stepwise: every step is a product of torch's and a fused kernel of pointwise work, in turn. It can run whatever the
sizes are, and takes a launch for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Choice, Facts, Footprint, Kernel, Plan, Run, Sizes, Steps, power_of_two

if TYPE_CHECKING:
    from torch import Tensor


def refusal(facts: Facts) -> str:
    return ""


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    if sizes.both:
        return "a kernel is of one time step, and the two directions are at different ones"
    width = sizes.widest(facts)
    block = min(power_of_two(32, width), 256)
    stages = facts.levels + (1 if facts.backwards or not facts.across else 0)
    weights = facts.matrices * width * (width // sizes.heads) * sizes.itemsize
    states = (2 * sum(facts.streams) + facts.matrices + 4) * sizes.batch * width * sizes.itemsize
    launches = stages + len(facts.across)
    host = stages * machine.stage_us + len(facts.across) * machine.product_us
    # The weights are read again at every step; a product takes what the machine is capable of at best.
    products = 2 * sizes.batch * weights // sizes.itemsize / machine.tflops(sizes.itemsize)
    time = host + max((weights + states) / machine.memory_gb_s / 1000, products / 1e6)
    footprint = Footprint(
        sizes.batch * -(-width // block),
        tile={"units": block, "sequences": 1},
        moved_bytes=weights + states,
        launches=launches,
        exchanges=launches,
    )
    return Plan(time, {"BLOCK": block}, {"num_warps": 4 if block == 256 else 1}, footprint)


def launch(steps: Steps, scan: Run, choice: Choice) -> None:
    """Run the loop that the module has for it."""
    with scan.on_device():
        steps(scan, choice)


def stage(kernel: Kernel, scan: Run, choice: Choice, tensors: Sequence[Tensor | None]) -> Callable[[int], None]:
    """A function that runs one stage of a time step."""
    grid = (scan.batch, -(-scan.widest // choice.constants["BLOCK"]))
    return scan.bound(kernel, grid, choice, tensors, **scan.letters)
