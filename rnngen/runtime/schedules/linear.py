"""linear: every state's new value is a * old + b, so that steps need not wait for one another. A program for a block of
units of one element of the batch runs over the sequence by chunks, and scans each chunk in the logarithm of its steps.

Where these programs leave most of the machine idle and the sequence is long, it is divided into stretches, each with
programs of its own. What a stretch makes of a state is a * old + b as well: a first launch finds these maps, and in a
second one every program applies those of the stretches before its own, in their order, and then runs its stretch from
there. States that wait for others have a launch of their own in between. The bits of a result depend on the number of
stretches, and so on nothing but sizes and machine.
"""

import math

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import (
    MOST_PROGRAMS,
    Along,
    Choice,
    Facts,
    Footprint,
    Kernel,
    Plan,
    Run,
    Sizes,
    streamed_bytes,
)


def refusal(facts: Facts) -> str:
    if facts.matrices:
        return "a matrix is applied to a state"
    if facts.across:
        return f"'{facts.across[0].op}' looks across units"
    return "" if facts.linear else "a new state is not linear in the old one"


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    if facts.uneven and sizes.resets:
        return "sequences begin within it, and its states have several widths"
    width, block = sizes.widest(facts), _BLOCK[sizes.itemsize]
    if -(-width // block) > MOST_PROGRAMS:
        most = f"{MOST_PROGRAMS} programs of {block}"
        return f"{width} units are more than {most}, which a grid has beside each other"
    tensors = sum(facts.streams) + sum(facts.outputs)
    warps = next(warps for most, warps in _WARPS if tensors <= most)
    if tensors > 9:
        block, warps = block // 2, 8
    elif sizes.resets and tensors > 7:
        block //= 2
    elif sizes.resets:
        warps *= 2
    programs = sizes.batch * -(-width // block)
    at_once = machine.processors * 3
    waves = -(-programs // at_once)
    # A step of a sequence that is much longer than a chunk; one that is shorter takes as long as a chunk, under 2 us.
    memory = streamed_bytes(facts, sizes) / machine.memory_gb_s / 1000
    time = max(waves * 25 / machine.clock_ghz / 1000, memory)
    footprint = Footprint(programs, at_once, {"units": block, "sequences": 1, "steps": CHUNK})
    along = Along(
        chunk=CHUNK,
        chunk_us=CHUNK * time,
        map_us=CHUNK * 9 / machine.clock_ghz / 1000,
        memory_us=CHUNK * memory,
        most=max(1, min(at_once // programs, MOST_STRETCHES)),
        rounds=facts.rounds,
        totals=facts.totals,
        begins=facts.backwards and sizes.resets,
        launch_us=LAUNCH_US,
    )
    return Plan(time, {"CHUNK": CHUNK, "BLOCK": block}, {"num_warps": warps}, footprint, along)


# The constants, from compiling minGRU, the adjoint of an IndRNN and cells of the tests for sm_80, sm_90, sm_100, sm_120
# and gfx942 with Triton 3.6 and 3.9, masked and not. A minGRU takes 17 - 26 cycles a step in half precision, by the
# estimates for sm_80 and sm_90, and up to 177 registers.

# 32 threads of a warp, each with 4 steps in a row, so that a scan has no barrier. With 64 steps it takes twice the
# instructions a step.
CHUNK = 128

# Units by the bytes of one: 32 bytes of a row are what memory gives at once. In float64 with 16 units a minGRU takes
# 50 - 96 cycles and spills up to 824 bytes; with 8 it takes 26 - 33.
_BLOCK = {2: 16, 4: 16, 8: 8}

# Warps by the blocks that a step reads and writes. A minGRU's adjoint has 6, and takes up to 253 registers in float32.
# With 4 warps a cell of 4 states and 7 blocks spills 32 - 168 bytes in half precision and in float32; with 8 it does
# not, and takes half the cycles. With 16 its adjoint, which has 9, takes 60 - 66 cycles instead of 98 - 113; in float64
# that spills with either. With resets a scan has the flags beside a and b: with 4 warps a minGRU spills up to 24 bytes
# then and takes 44 - 58 cycles, with 8 it takes 13 - 25. The adjoint of a BRC, of eight blocks, spills 16 bytes with 16
# warps and takes 64 cycles, with half the units and 8 warps 40. More than nine blocks leave 16 warps too few registers:
# the adjoint of RWKV-4, of ten, spills 24 - 88 bytes then and takes 38 - 54 cycles, 30 - 37 as below.
_WARPS = ((6, 4), (8, 8), (math.inf, 16))


# A program goes through the maps of all stretches before its own, eight loads at a time.
MOST_STRETCHES = 64

# What one more launch costs the host that goes the whole way through Triton's: 16 - 20 us on a core of a CPU server.
# In a CUDA graph it is less, and the GPU may have been behind anyway: this asks for a sequence that is surely worth it.
LAUNCH_US = 20.0


def launch(kernel: Kernel, scan: Run, choice: Choice) -> None:
    directions, along = 2 if scan.both else 1, choice.along
    assert along is not None
    grid = (scan.batch, directions * -(-scan.widest // (directions * choice.constants["BLOCK"])))
    mapped, stretches = len(scan.states) - along.totals, along.stretches(scan.time)
    ways = {"BACKWARDS": scan.backwards, "BOTH": scan.both}
    if stretches == 1:
        tensors = [*scan.tensors, *[None] * mapped]
        scan.launch(kernel, grid, choice, tensors, scan.time, **scan.letters, ROUND=along.rounds, **ways)
        return
    maps = scan.maps(stretches, mapped)
    with scan.in_parts(stretches, along.totals, along.begins) as parts:
        tensors = [*parts.tensors, *maps]
        for number in range(along.rounds + 1):
            scan.launch(kernel, (*grid, stretches), choice, tensors, scan.time, **scan.letters, ROUND=number, **ways)
