"""cooperative: a layer too large for one program has a group of them, each with a slice of the units. Their matrices
and states stay on the chip for the whole sequence; what looks across units goes through memory, at every step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Choice, Facts, Footprint, Kernel, Plan, Run, Sizes, power_of_two, streamed_bytes
from rnngen.runtime.schedules.resident import parts_of, stacks_of

ACROSS = ("matmul", "matmul_t", "sum", "mean", "largest")  # what programs can exchange


def refusal(facts: Facts) -> str:
    if not facts.matrices:
        return "no matrix is applied to a state, so there is nothing to keep on the chip"
    if others := sorted({across.op for across in facts.across} - set(ACROSS)):
        return f"it cannot exchange '{others[0]}'"
    return ""


# Programs of a group. SLICES: units of each; PARTS: where transposed matrices are applied, how many have the same units
# and sum up a part of what comes out. On sm_90 the adjoint of an LSTM takes 3123 cycles a step of 256 units with slices
# of 32 in 4 parts, and 3280 with slices of 16 in one; of 1024 units 4348 with 64 in 4 parts, and 4958.
SLICES = (16, 32, 64)
PARTS = (1, 4)
TILES = (8, 16, 32, 64)  # elements of the batch of a program
SPACE = 32  # integers from one counter to the next: a line of the cache for each


def plan(facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    if facts.mixed and sizes.heads > 1:
        return "dense and block-diagonal matrices occur together, so heads cannot be scanned apart"
    if facts.sums and sizes.heads > 1:
        return "units are summed over all heads, and a group of programs has one"
    if facts.dimensions != ("hidden",) and sizes.heads > 1:
        return f"its values are as wide as {' and '.join(facts.dimensions)}, and only hidden units come in heads"
    if not machine.traits.half_products:
        sizes = replace(sizes, itemsize=max(4, sizes.itemsize))
    layouts = list(_layouts(facts, sizes, machine))
    together = [layout for layout in layouts if layout.programs <= machine.processors]
    if not together:
        fewest = min(layout.programs for layout in layouts)
        return f"{fewest} programs would wait for one another, and {machine.processors} run at once"
    fitting = [layout for layout in together if layout.shared_bytes(facts, machine) <= machine.shared_bytes]
    if not fitting:
        least = min(layout.shared_bytes(facts, machine) for layout in together)
        return f"{-(-least // 1024)} KiB of on-chip memory are needed and {machine.shared_bytes // 1024} KiB are there"
    layout = min(fitting, key=lambda layout: layout.cycles(facts, machine))
    # On AMD nothing was measured: there compute units do not share one L2, and what they exchange goes beyond it.
    cycles = layout.cycles(facts, machine) * (2 if machine.backend == "hip" else 1)
    time = max(cycles / machine.clock_ghz, streamed_bytes(facts, sizes) / machine.memory_gb_s) / 1000
    footprint = Footprint(
        layout.programs,
        machine.processors,
        {"units": layout.units, "sequences": layout.batch},
        matrix_bytes=facts.matrices * layout.units * -(-layout.width // layout.parts) * sizes.itemsize,
        held_in="registers" if machine.backend == "hip" else "shared memory",
        shared_bytes=layout.shared_bytes(facts, machine),
        exchanges=facts.levels,
    )
    return Plan(time, layout.constants(facts), layout.options(machine), footprint)


def launch(kernel: Kernel, scan: Run, choice: Choice) -> None:
    """A group for each head and tile of the batch: all programs at once, or none."""
    constants = choice.constants
    groups = -(-scan.batch // constants["BB"]) * scan.heads
    slices, units, batch = constants["SLICES"], constants["KU"], constants["BB"]
    vector = 2 * groups * batch * slices * units  # in two halves
    room = scan.exchange(
        {
            "values": constants["VALUES"] * vector,
            "sums": constants["SUMS"] * vector * slices,
            "numbers": constants["NUMBERS"] * 2 * groups * batch * slices,
        },
        groups * SPACE,
    )
    scan.launch(
        kernel,
        (-(-scan.batch // constants["BB"]), scan.heads * slices * constants["PARTS"]),
        choice,
        [*scan.tensors, *room],
        scan.time,
        HEADS=scan.heads,
        D=scan.hidden // scan.heads,
        **{letter: size for letter, size in scan.letters.items() if letter != "H"},
        PRECISION=scan.precision,
        BACKWARDS=scan.backwards,
        BOTH=scan.both,
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a sweep could be laid out. width: the units of a head, each of so many bytes; units, batch: of a program;
    slices, parts: programs of a group; tile: what is multiplied at once of the other dimension of a matrix.
    """

    width: int
    itemsize: int
    units: int
    batch: int
    slices: int
    parts: int
    groups: int
    tile: int

    @property
    def programs(self) -> int:
        return self.groups * self.slices * self.parts

    @property
    def warps(self) -> int:
        """With 4 a thread has the sums of 64 of the batch in 250 registers, or half a matrix of 1024 units: an LSTM's
        adjoint takes 4607 cycles of these on sm_90, and 4348 with 8. In float32 an LSTM of 512 units spills 200 bytes.
        """
        if self.parts > 1:
            return 8 if self.batch > 8 or self.tile > 128 else 4
        return 8 if self.batch > 32 or (self.itemsize > 2 and self.width > 256) else 4

    def options(self, machine: Machine) -> Mapping[str, int]:
        options = {"num_warps": self.warps, "launch_cooperative_grid": True}
        # Left alone, ptxas saves registers by loading sums a few at a time: there is one program on a multiprocessor.
        return options | ({"maxnreg": 255} if machine.backend == "cuda" else {})

    def constants(self, facts: Facts) -> Mapping[str, int | bool]:
        ops = [across.op for across in facts.across]
        values, sums = ops.count("matmul"), ops.count("matmul_t")
        return {
            "KU": self.units,
            "KT": self.tile,
            "BB": self.batch,
            "SLICES": self.slices,
            "PARTS": self.parts,
            "OWN": max(1, self.units * self.batch // (32 * self.warps)),
            "VALUES": values,
            "SUMS": sums,
            "NUMBERS": len(ops) - values - sums,
        }

    def shared_bytes(self, facts: Facts, machine: Machine) -> int:
        """On-chip memory of a program: the matrices stay there, beside operands on their way to a product. On AMD they
        are in registers, and one tile is there at a time, on its way to them.
        """
        values, operands = 0, 0
        for across in facts.products:
            stacks = sum(parts_of(run) for run in stacks_of(across.matrices))
            if across.op == "matmul":
                other = -(-self.width // self.tile) * self.tile
                operands = max(operands, other)
            else:
                other = -(-self.width // (self.tile * self.parts)) * self.tile
                operands = max(operands, stacks * self.units)
            if machine.backend == "hip":
                values = max(values, min(4, stacks) * self.units * self.tile)
            else:
                values += stacks * self.units * other
        return (values + operands * self.batch) * self.itemsize

    def cycles(self, facts: Facts, machine: Machine) -> float:
        """A plane through the estimates for an LSTM and a GRU of 256, 512 and 1024 units on sm_90, 8 to 64 of the
        batch: every turn has its latency, and reads a vector, or sums for all units, which slices wrote one by one.
        """
        values = facts.matrices * self.units * self.width / self.parts
        speed = {2: 0.002, 4: 0.032, 8: 0.064}[self.itemsize]
        turn = machine.exchange_cycles + 0.075 * self.width * self.batch + (8 * self.slices if facts.backwards else 0)
        return facts.levels * turn + speed * values * self.batch


def _spills(facts: Facts, width: int, units: int, batch: int, parts: int) -> bool:
    """Whether a program has more than the registers hold. The next larger ones than those that are left spill 24 - 464
    bytes: of an LSTM, with layer norms too, or of a GRU, with masks, with resets or without, in half precision on
    sm_90.
    """
    if facts.backwards:
        return units * batch > (128 if parts == 1 else 256 if facts.sums else 2048)
    return units > 16 and (batch > 8 or units * width > 16384)


def _layouts(facts: Facts, sizes: Sizes, machine: Machine) -> Iterator[_Layout]:
    """All that there are for a call."""
    width = sizes.widest(facts) // sizes.heads
    sums = any(across.op == "matmul_t" for across in facts.across)
    for units, batch, parts in product(SLICES, TILES, PARTS if sums else (1,)):
        if machine.backend == "hip" and batch < 16:
            continue  # matrix instructions have 16 columns there
        if _spills(facts, width, units, batch, parts):
            continue
        groups = -(-sizes.batch // batch) * sizes.heads
        tile = min(_tile(facts, machine, width, sizes.itemsize, batch), power_of_two(16, -(-width // parts)))
        yield _Layout(width, sizes.itemsize, units, batch, -(-width // units), parts, groups, tile)


def _tile(facts: Facts, machine: Machine, width: int, itemsize: int, batch: int) -> int:
    """How much is multiplied at once. In half precision forwards as much of a vector as 32 registers of a thread hold,
    if no more than an eighth of it is padding: a GRU v3 of 1024 units takes 7854 cycles a step on sm_90, and 10430 by
    256 at a time. With 32 of the batch an LSTM with resets spills 24 bytes by more than 128.
    """
    if itemsize > 2:
        return {4: 32, 8: 16}[itemsize]
    if facts.backwards or machine.backend == "hip":  # there it passes through on-chip memory on its way to registers
        return 256
    if batch > 16:
        return 128
    tile = 8192 // batch
    while tile > 256 and 8 * (-width % tile) > width:
        tile //= 2
    return tile
