"""resident: one program for a head and a tile of the batch runs over the whole sequence, and its matrices and states
stay on the chip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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

ACROSS = ("matmul", "matmul_t", "sum", "mean", "largest")  # what a program computes of its tiles


def refusal(facts: Facts) -> str:
    if not facts.matrices:
        return "no matrix is applied to a state, so there is nothing to keep on the chip"
    if others := sorted({across.op for across in facts.across} - set(ACROSS)):
        return f"it cannot compute '{others[0]}'"
    return ""


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    if facts.mixed and sizes.heads > 1:
        return "dense and block-diagonal matrices occur together, so heads cannot be scanned apart"
    if facts.sums and sizes.heads > 1:
        return "units are summed over all heads, and a program has one"
    streamed = streamed_bytes(facts, sizes)
    if not machine.traits.half_products:
        sizes = replace(sizes, itemsize=max(4, sizes.itemsize))
    several = facts.dimensions != ("hidden",)
    if several and sizes.heads > 1:
        return f"its values are as wide as {' and '.join(facts.dimensions)}, and only hidden units come in heads"
    width = sizes.widest(facts) // sizes.heads
    tile = power_of_two(16, width)
    matrices = facts.matrices
    widest = {2: 128, 4: 64, 8: 32}[sizes.itemsize]  # beyond it the accumulators spill
    if tile > widest:
        return f"heads of {width} units are wider than the {widest} whose products fit the registers"
    if tile * matrices > 4 * widest:
        return f"{matrices} matrices of {width} units do not fit the registers"
    constants, options = _constants(facts, sizes, machine, tile)
    while (need := shared_bytes(facts, sizes, machine, constants)) > machine.shared_bytes and constants["STAGES"] > 1:
        constants["STAGES"] -= 1
    if need > machine.shared_bytes:
        return f"{need // 1024} KiB of on-chip memory are needed and {machine.shared_bytes // 1024} KiB are there"
    if sizes.heads > MOST_PROGRAMS:
        return f"{sizes.heads} heads are more than the {MOST_PROGRAMS} programs that a grid has beside each other"
    programs = sizes.heads * -(-sizes.batch // constants["BB"])
    waves = -(-programs // machine.processors)
    # A line through the estimates for sm_90: latency of the chain, and a share for each matrix.
    speed = {2: 1.0, 4: 6.0, 8: 12.0}[sizes.itemsize]
    cycles = 400 + 450 * facts.sums + speed * matrices * tile * tile * constants["BB"] / 256
    time = max(waves * cycles / machine.clock_ghz, streamed / machine.memory_gb_s) / 1000
    in_registers = constants["HELD"] or machine.backend == "hip"
    footprint = Footprint(
        programs,
        machine.processors,
        {"units": tile, "sequences": constants["BB"]},
        matrix_bytes=matrices * tile * tile * sizes.itemsize,
        held_in="registers" if in_registers else "shared memory",
        shared_bytes=need,
    )
    return Plan(time, constants, options, footprint)


def launch(kernel: Kernel, scan: Run, choice: Choice) -> None:
    """A program for each head and tile of the batch; the first dimension of a grid is the one without a limit."""
    grid = (-(-scan.batch // choice.constants["BB"]), scan.heads)
    scan.launch(
        kernel,
        grid,
        choice,
        scan.tensors,
        scan.time,
        HEADS=scan.heads,
        D=scan.hidden // scan.heads,
        **{letter: size for letter, size in scan.letters.items() if letter != "H"},
        PRECISION=scan.precision,
        BACKWARDS=scan.backwards,
        BOTH=scan.both,
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """What the constants of a kernel depend on, beside the machine. tile: units, in bytes of `itemsize`. masked: by
    lengths or by resets, which take as much in most cases.
    """

    facts: Facts
    tile: int
    itemsize: int
    masked: bool
    resets: bool

    @property
    def stacked(self) -> bool:
        """Whether several matrices are applied to the same tile."""
        return max(across.matrices for across in self.facts.products) > 1

    @property
    def full(self) -> bool:
        """Whether every product is with a stack of three matrices or four."""
        return min(across.matrices for across in self.facts.products) > 2

    @property
    def holds(self) -> bool:
        """Whether the registers hold the matrices, in half precision, beside all else: of 64 units, or as much, four of
        one product, or three of several, whose operands and sums are there too.
        """
        rows = max(64, self.tile) if self.facts.backwards else self.tile
        fits = self.tile >= 32 and self.facts.matrices * rows * self.tile <= (4 if self.full else 3) * 64 * 64
        return self.itemsize == 2 and fits and not self.summed

    @property
    def numbered(self) -> bool:
        """Whether an adjoint reads numbers, and sums nothing over units."""
        return self.facts.backwards and self.facts.numbers > 0 and not self.facts.sums

    @property
    def summed(self) -> bool:
        """Whether an adjoint has sums over units, and registers for little beside them."""
        return self.facts.backwards and self.facts.sums > 0


def _constants(facts: Facts, sizes: Sizes, machine: Machine, tile: int) -> tuple[dict[str, int | bool], dict[str, int]]:
    """Constants and launch options: those of half precision as what is tuned changes them, for any machine first."""
    constants: dict[str, int | bool] = {"BD": tile, "BB": 8, "MP": max(1, 64 // tile)}
    constants |= {"WIDE": True, "HELD": False, "LATE": False, "STAGES": 3}
    options = {"num_warps": {16: 2, 32: 4, 64: 4, 128: 8}[tile]}
    case = _Case(facts, tile, sizes.itemsize, sizes.masked or sizes.resets, sizes.resets)
    for where in dict.fromkeys(("any", machine.backend, machine.kin, machine.name)):
        for applies, changes in _TUNED.get(where, ()):
            if applies(case):
                for name, value in changes.items():
                    (constants if name in constants else options)[name] = value
    for more, widest in _LARGER:
        many = sizes.heads * sizes.batch > 2 * more * machine.processors
        if sizes.itemsize == 2 and tile <= widest and many and not facts.sums:
            constants |= {"BB": max(more, constants["BB"]), "LATE": False}
    return constants, options


# Larger tiles of the batch, each with the widest tiles of units in half precision of which the registers of all targets
# hold the sums. A multiprocessor has more than two programs with them too: then its time goes with instructions, not
# with latency. Those of all warps for a step of a sequence on sm_90: of an LSTM of 12 heads of 64 units 272 with 8 of
# the batch and 211 with 16, of its adjoint 180 and 150; of 24 heads of 32 units 133, 110 and 90 with 32, and 106, 84,
# 74. A program that waits for its stores leaves the multiprocessor to another, and without LATE it has up to 7 % fewer
# instructions and 43 % fewer registers; on sm_80 one with resets spills otherwise. Where units are summed, 8 fill the
# registers.
_LARGER = ((16, 64), (32, 32))


# What else a kernel needs to have no spills and to fit, by backend, by kin of machine or by machine, from compiling the
# library for each target: every cell, width and type, with masks and without, with Triton 3.6 and 3.9. Registers are
# those of a thread, cycles are estimates.
_TUNED: Mapping[str, tuple[tuple[Callable[[_Case], bool], Mapping[str, int | bool]], ...]] = {
    "any": (
        # The sums of a product take twice the registers of half precision, or four times: a product for each matrix.
        (lambda case: case.itemsize > 2, {"WIDE": False, "STAGES": 2, "num_warps": 4}),
        # With Triton 3.6 a stack spills, and on sm_80 ptxas as below: 8 bytes. With 3.9 all take as long, but for 2 %.
        (
            lambda case: (case.itemsize, case.tile) == (2, 128) and case.masked and case.facts.backwards,
            {"WIDE": False},
        ),
    ),
    "cuda": (
        # Matrices of 64 units in float32 are multiplied by ordinary instructions. With 8 of the batch operands take up
        # to 255 registers, and masked scans spill up to 48 bytes. With 4 they take 142, and a step of half as many
        # sequences 0.61 - 0.75 of the cycles: faster until programs queue for the multiprocessors, then up to 1.5 times
        # slower.
        (lambda case: (case.itemsize, case.tile) == (4, 64), {"BB": 4, "num_warps": 8}),
        # Left alone, ptxas gives up registers for more blocks on a multiprocessor, where as a rule there is one, and
        # even spills for them: masked adjoints 16 bytes. With all registers a step takes 0.86 - 0.99 of the cycles.
        (lambda case: (case.itemsize, case.tile) == (2, 16), {"maxnreg": 255}),
        # So does a forward step of 32 units with a mask: 852 cycles of an LSTM on sm_80 instead of 1072, 667 on sm_90
        # instead of 703. With resets one of 64 units spills 8 bytes on sm_120, an MI-RNN's.
        (
            lambda case: case.itemsize == 2 and case.tile in (32, 64) and case.masked and not case.facts.backwards,
            {"maxnreg": 255},
        ),
        # For forward steps of 64 units in float32 it takes 128, and spills 8 bytes: of a GRU on sm_90, of some of the
        # library on sm_100 and sm_120. With all of them a step takes as long to 2 %, on sm_80 too, where none spills.
        (lambda case: (case.itemsize, case.tile) == (4, 64) and not case.facts.backwards, {"maxnreg": 255}),
        # Left with 4 warps, the adjoint of an LSTM of 64 units with layer norms spills 8 - 32 bytes on sm_80, and takes
        # 4797 cycles on sm_90 instead of 3983. With the matrices in registers it spills there. One of several small
        # products, Dreamer's, takes 2975 cycles there instead of 3481, and with a mask spills with 8.
        (lambda case: (case.itemsize, case.tile) == (2, 64) and case.summed and case.full, {"num_warps": 8}),
        # With a number a step an adjoint, a phased LSTM's, spills 8 - 24 bytes on sm_80 with 4 warps. With 8 it takes
        # 0.75 - 0.97 of the cycles there, and 0.80 - 0.91 on sm_90.
        (
            lambda case: (case.itemsize, case.tile) == (2, 64) and case.numbered,
            {"num_warps": 8},
        ),
    ),
    "sm_80": (
        # With a mask it spills there all the same, unless it has a product for each matrix; Dreamer's takes 2920 cycles
        # then instead of 3294.
        (lambda case: (case.itemsize, case.tile) == (2, 64) and case.summed, {"WIDE": False, "num_warps": 8}),
        # Two steps ahead some cells spill.
        (lambda case: case.tile > 64 and not case.facts.backwards, {"STAGES": 2}),
        # Without loads of the matrices an LSTM of 64 units takes 1163 cycles, not 1402. Adjoints take 1.04 - 1.1 times
        # as long, wider ones spill, and stacks of less than 128 rows are loaded all the same.
        (
            lambda case: case.holds and not case.facts.backwards and (case.stacked if case.tile == 64 else case.full),
            {"HELD": True},
        ),
        # More than four matrices of 64 units: forward steps take 0.54 - 1.02 of the cycles with 8 warps; with 4 some of
        # eight spill. Adjoints take up to 1.4 times as long, and with a mask spill with 4.
        (
            lambda case: (
                (case.itemsize, case.tile) == (2, 64)
                and case.facts.matrices > (7 if case.facts.backwards else 4)
                and (case.masked or not case.facts.backwards)
            ),
            {"num_warps": 8},
        ),
        # Stores wait for on-chip memory, beside the activations of the next step: an LSTM's forward step of 64 units
        # takes 961 cycles instead of 1163.
        (lambda case: case.itemsize == 2 and not case.facts.backwards, {"LATE": True}),
        # With a mask an LSTM of 128 units spills 8 bytes then.
        (
            lambda case: (
                (case.itemsize, case.tile) == (2, 128) and case.masked and case.full and not case.facts.backwards
            ),
            {"LATE": False},
        ),
        # As on all of CUDA with 16 units.
        (
            lambda case: (case.itemsize, case.tile) == (2, 128) and case.masked and case.facts.backwards,
            {"maxnreg": 255},
        ),
    ),
    "sm_90": (
        # Products that read the matrices in on-chip memory wait for it: an LSTM's adjoint of 64 units takes 745 cycles,
        # not 1162. Wider ones spill, narrower ones take as long. Two adjoints have no room for them beside all else: of
        # eight blocks with resets one, an sLSTM's, spills 8 bytes, and with a number a step one, a phased LSTM's, 192.
        (
            lambda case: (
                case.holds
                and not (case.resets and case.facts.backwards and sum(case.facts.streams) > 7)
                and not (case.facts.numbers and case.facts.backwards)
            ),
            {"HELD": True},
        ),
        # As on sm_80: 731 cycles instead of 868. One of 128 units has registers for twice the warps then: 2267 cycles
        # and not 2483, with a mask 2258 and not 3256. Smaller stacks are too small for so many.
        (lambda case: case.itemsize == 2 and not case.facts.backwards, {"LATE": True}),
        (
            lambda case: (case.itemsize, case.tile) == (2, 128) and case.full and not case.facts.backwards,
            {"num_warps": 16},
        ),
        # As on all of CUDA with 16 units: 2010 cycles of an LSTM's adjoint instead of 2045.
        (lambda case: (case.itemsize, case.tile) == (2, 128) and case.facts.backwards, {"maxnreg": 255}),
        # 1057 cycles instead of 1300.
        (
            lambda case: (case.itemsize, case.tile) == (2, 64) and case.stacked and not case.facts.backwards,
            {"num_warps": 8},
        ),
    ),
    "sm_120": (
        # There ordinary instructions multiply in float64 as well: with 8 of the batch adjoints of a GRU spill up to 96
        # bytes, with 4 all kernels have at most 140 registers.
        (lambda case: (case.itemsize, case.tile) == (8, 32), {"BB": 4}),
        # With a mask the adjoint of a phased LSTM spills 16 bytes, unless it has a product for each matrix.
        (
            lambda case: (case.itemsize, case.tile) == (2, 64) and case.numbered,
            {"WIDE": False},
        ),
    ),
    "hip": (
        # Matrix instructions have 16 columns there, and what is loaded ahead waits in registers.
        (lambda case: True, {"BB": 16, "STAGES": 1}),
        # A stack of matrices passes through local memory, which holds a half of it.
        (lambda case: (case.itemsize, case.tile) == (2, 128), {"WIDE": False}),
    ),
}


def shared_bytes(facts: Facts, sizes: Sizes, machine: Machine, constants: Mapping[str, int | bool]) -> int:
    """On-chip memory of a resident program: what Triton 3.6 to 3.9 take at most, on NVIDIA nearly always exactly that.

    On NVIDIA the matrices stay there for the whole sequence, unless the registers hold them, beside the streams that
    are loaded ahead, the largest stack on its way between the layouts of a product and of an access, and of several
    products the operands of all but one. On AMD the matrices are in registers: one stack of them or of sums is there at
    a time, on its way to them. Sums travel in full precision there, and on sm_100, where they come from tensor memory.
    """
    tile, batch = constants["BD"], constants["BB"]
    matrices: list[int] = []
    counts = (*facts.streams, *facts.outputs, *(across.matrices for across in facts.products))
    widest = max(parts_of(run) for blocks in counts for run in stacks_of(blocks))
    # Tensor memory takes the products of four warps or more, and two multiply the narrowest tiles of half precision.
    full = machine.traits.full_sums and not (machine.backend == "cuda" and (sizes.itemsize, tile) == (2, 16))
    for across in facts.products:
        for run in stacks_of(across.matrices):
            padding = constants["MP"] if constants["WIDE"] and (across.op == "matmul_t" or run == 1) else 1
            matrices += [parts_of(run) * padding] if constants["WIDE"] else [1] * run
            widest = max(widest, padding if full else 1)
    stack = widest * tile * batch * max(sizes.itemsize, 4 if full else 0)
    if machine.backend == "hip":
        return max(max(matrices) * tile * tile * sizes.itemsize * _at_a_time(facts), stack)
    # Bytes, and what rows of tensors begin at multiples of.
    rows = [width // sizes.heads * sizes.itemsize for width in sizes.widths(facts)]
    ahead = constants["STAGES"] - 1 if machine.traits.async_copies and any(row % 4 == 0 for row in rows) else 0
    tiles = sum(parts_of(run) for blocks in facts.streams for run in stacks_of(blocks))
    # Flags that a step asks for late, or more than once, lie there for longer than they were loaded ahead; with Triton
    # 3.6 once more where an adjoint has several outputs, an intersection RNN's.
    flags = (3 if facts.backwards and len(facts.outputs) > 1 else 2) * (sizes.masked + sizes.resets)
    streams = tiles * tile * batch * sizes.itemsize + flags * batch * 4 + facts.numbers * 64
    operands = [
        parts_of(run) if across.op == "matmul_t" else 1
        for across in facts.products
        for run in stacks_of(across.matrices)
    ]
    # Triton 3.6 has that of a single product forwards too.
    others = (sum(operands) - (max(operands) if facts.backwards else 0)) * tile * batch * sizes.itemsize
    inside = ahead * streams + stack + others + (machine.traits.barrier_bytes if full else 0)
    if constants["HELD"]:
        held = _held_bytes(facts, constants, sizes.itemsize, all(row % 16 == 0 for row in rows)) + flags * batch * 4
        # On sm_80 the loads of the first steps do not wait for two matrices on their way.
        pairs = all(across.op == "matmul" and across.matrices == 2 for across in facts.products)
        return inside + held if machine.kin == "sm_80" and pairs else max(inside, held)
    return sum(matrices) * tile * tile * sizes.itemsize + inside


def _held_bytes(facts: Facts, constants: Mapping[str, int | bool], itemsize: int, aligned: bool) -> int:
    """What `tiles.in_registers` takes of on-chip memory before the loop. aligned: 16 bytes can be read at once."""
    tile, found = constants["BD"], 0
    for across in facts.products:
        parts = max(parts_of(run) for run in stacks_of(across.matrices))
        if across.op == "matmul_t":  # the zeros that are multiplied
            found = max(found, 16 * (constants["MP"] + parts) * tile)
        else:  # the right one of them, and the matrices: of four one half at a time, if they are aligned
            rows = constants["MP"] if parts == 1 else min(parts, 2) if aligned else parts
            found = max(found, (16 + rows * tile) * tile)
    return found * itemsize * _at_a_time(facts)


def _at_a_time(facts: Facts) -> int:
    """Of how many products the matrices pass through on-chip memory at a time, at most: with resets a NARX network's,
    of three, wait for one another.
    """
    return 2 if facts.backwards and len(facts.products) > 2 else 1


def stacks_of(blocks: int) -> list[int]:
    """How neighbouring blocks are stacked: four at a time, as long as there are so many."""
    return [min(4, blocks - start) for start in range(0, blocks, 4)]


def parts_of(run: int) -> int:
    """The parts of a stack that holds so many blocks."""
    return {1: 1, 2: 2}.get(run, 4)
