"""elementwise: no product in the loop, so every unit is by itself. A program for a block of units of one element of the
batch runs over the whole sequence and loads a few steps ahead. Where units are summed, the block is of all of them.
"""

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import (
    MOST_PROGRAMS,
    Choice,
    Facts,
    Footprint,
    Kernel,
    Plan,
    Run,
    Sizes,
    power_of_two,
    streamed_bytes,
)

ACROSS = ("sum", "mean", "largest")  # what a program computes of its units
WIDEST = 1024  # units of a program that has all of them
MOST_AHEAD = 16 * 1024  # bytes of on-chip memory for what a program loads in advance; some dozen of them share it


def refusal(facts: Facts) -> str:
    if facts.matrices:
        return "a matrix is applied to a state"
    others = {across.op for across in facts.across} - set(ACROSS)
    return f"it cannot compute '{min(others)}'" if others else ""


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    if facts.uneven and sizes.resets:
        return "sequences begin within it, and its states have several widths"
    # At least 4 bytes a thread and load, or the loads are not asynchronous copies: 242 cycles a step instead of 688.
    width = sizes.widest(facts)
    units = width // 2 if sizes.both else width
    block = min(power_of_two(32, units), 128 if sizes.itemsize < 4 else 64)
    if sizes.itemsize < 4:
        block = max(block, 64)
    if facts.across:
        if sizes.both:
            return "units are summed, and a program would have those of both directions"
        if width > WIDEST:
            return f"units are summed, and {width} are more than the {WIDEST} that a program has"
        block = power_of_two(block, width)
    if -(-width // block) > MOST_PROGRAMS:
        most = f"{MOST_PROGRAMS} programs of {block}"
        return f"{width} units are more than {most}, which a grid has beside each other"
    stages = 3 if machine.backend == "cuda" else 1
    # What two steps load in advance does not hide the latency of memory, what two trips of four steps do: an IndRNN
    # takes 146 cycles a step and 126 backwards on sm_90, not 441 and 414. With eight it would take 116 and 79, and two
    # to four times as long to compile.
    unroll = 4 if machine.backend == "cuda" and machine.traits.async_copies else 1
    ahead = sum(facts.streams) * block * sizes.itemsize * (stages - 1)  # bytes, for each step of a trip
    while unroll > 1 and ahead * unroll > MOST_AHEAD:
        unroll //= 2
    warps = max(1, block // 256)
    programs = sizes.batch * -(-width // block)
    at_once = machine.processors * 16
    waves = -(-programs // at_once)
    cycles = {4: 150, 2: 250, 1: 450}[unroll]  # a step of an IndRNN or a minGRU on sm_80 or sm_90
    cycles += facts.sums * (150 if warps == 1 else 270)  # sums in one warp, or in several, on sm_90
    time = max(waves * cycles / machine.clock_ghz / 1000, streamed_bytes(facts, sizes) / machine.memory_gb_s / 1000)
    options = {"num_warps": warps}
    if machine.backend == "cuda" and sum(facts.streams) > 9 and (sizes.masked or sizes.resets):
        # Left alone, ptxas gives up registers for more blocks on a multiprocessor, and for them the adjoint of a
        # rotating minGRU spills 16 bytes. With all of them it takes as long.
        options["maxnreg"] = 255
    footprint = Footprint(
        programs,
        at_once,
        {"units": block, "sequences": 1, "steps": unroll},
        shared_bytes=ahead * unroll if machine.traits.async_copies else 0,
    )
    return Plan(time, {"BLOCK": block, "STAGES": stages, "UNROLL": unroll}, options, footprint)


def launch(kernel: Kernel, scan: Run, choice: Choice) -> None:
    directions = 2 if scan.both else 1
    grid = (scan.batch, directions * -(-scan.widest // (directions * choice.constants["BLOCK"])))
    scan.launch(kernel, grid, choice, scan.tensors, scan.time, **scan.letters, BACKWARDS=scan.backwards, BOTH=scan.both)
