"""linear: every state's new value is a * old + b, so that steps need not wait for one another. A program for a block of
units of one element of the batch runs over the sequence by chunks, and scans each chunk in the logarithm of its steps.
"""

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import MOST_PROGRAMS, Choice, Facts, Kernel, Plan, Run, Sizes


def refusal(facts: Facts) -> str:
    if facts.matrices:
        return "a matrix is applied to a state"
    if facts.across:
        return f"'{facts.across[0].op}' looks across units"
    return "" if facts.linear else "a new state is not linear in the old one"


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    chunk, block, warps = 128, 16, 4
    if -(-sizes.hidden // block) > MOST_PROGRAMS:
        most = f"{MOST_PROGRAMS} programs of {block}"
        return f"{sizes.hidden} units are more than {most}, which a grid has beside each other"
    programs = sizes.batch * -(-sizes.hidden // block)
    waves = -(-programs // (machine.processors * 3))
    bytes_ = (sum(facts.streams) + 2) * sizes.batch * sizes.hidden * sizes.itemsize
    time = max(waves * 30 / machine.clock_ghz / 1000, bytes_ / machine.memory_gb_s / 1000)
    return Plan(time, {"CHUNK": chunk, "BLOCK": block}, {"num_warps": warps})


def launch(kernel: Kernel, scan: Run, choice: Choice) -> None:
    grid = (scan.batch, -(-scan.widest // choice.constants["BLOCK"]))
    scan.launch(kernel, grid, choice, scan.tensors, scan.time, **scan.letters, BACKWARDS=scan.backwards)
