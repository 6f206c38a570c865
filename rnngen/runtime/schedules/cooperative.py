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
# and sum up a part of what comes out. On sm_90 the adjoint of an LSTM takes 2339 cycles a step of 256 units with slices
# of 16 in 4 parts, and 2571 in one; of 1024 units 3975 with slices of 64 in 4 parts, and 4452 of 16 in one.
SLICES = (16, 32, 64)
PARTS = (1, 4)
TILES = (8, 16, 32, 64)  # elements of the batch of a program
_ALL = 1 << 16  # more rows than a program has
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
        programs = f"{fewest} programs would wait for one another, and {machine.processors} run at once"
        return f"with as much in each as its registers hold, {programs}"
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
    slices, parts: programs of a group; tile: what is multiplied at once of the other dimension of a matrix. few: of
    fewer rows a product is several, `apart`, each of a part of the sum.
    """

    width: int
    itemsize: int
    units: int
    batch: int
    slices: int
    parts: int
    groups: int
    tile: int
    warps: int
    few: int
    apart: int

    @property
    def programs(self) -> int:
        return self.groups * self.slices * self.parts

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
            "FEW": self.few,
            "APART": self.apart,
            "OWN": max(1, self.units * self.batch // (32 * self.warps)),
            "VALUES": values,
            "SUMS": sums,
            "NUMBERS": len(ops) - values - sums,
        }

    def shared_bytes(self, facts: Facts, machine: Machine) -> int:
        """On-chip memory of a program: the matrices stay there, beside what is on its way to a product or from it, or
        from one layout to another: four tiles in float32. On AMD they are in registers, and one tile is there at a
        time, on its way to them. So is one tile of a vector.
        """
        values, passing = 0, 0
        for across in facts.products:
            stacks = sum(parts_of(run) for run in stacks_of(across.matrices))
            if across.op == "matmul":
                other = -(-self.width // self.tile) * self.tile
                passing = max(passing, self.tile * self.itemsize)
            else:
                other = -(-self.width // (self.tile * self.parts)) * self.tile
                passing = max(passing, max(stacks * self.units, self.tile) * self.itemsize, 4 * self.units * 4)
            if machine.backend == "hip":
                values = max(values, min(4, stacks) * self.units * self.tile)
            else:
                values += stacks * self.units * other
        return values * self.itemsize + passing * self.batch

    def cycles(self, facts: Facts, machine: Machine) -> float:
        """A plane through the estimates for an LSTM and a GRU v3 of 256, 512 and 1024 units on sm_90, 8 to 32 of the
        batch, in 57 layouts of half precision: it lies within 17 % of all, and within 7.4 % as a rule. A turn has its
        latency, reads a vector, or sums for all units, and computes with what its program has, or with all units where
        nothing shares their sums; a product reads the matrix from on-chip memory. In float32 and float64 the speed of
        products is that of an LSTM of 256 units.

        Its latency is 2040 cycles there, and 350 are assumed: a group waits for the slowest of its programs, and what
        was counted is one alone. An LSTM of 128 units, which takes as many cycles resident (2248 and 1997 adjoint) as
        cooperative (2268 and 2244), stays so.
        """
        turn = machine.exchange_cycles + 0.0465 * self.width * self.batch * self.itemsize
        turn += 0.19 * self.units * self.batch
        if facts.backwards and self.parts == 1:
            turn += 0.2 * self.width
        single = (0.044 if facts.backwards else 0.025) * self.batch
        speed = {2: 0.0151 + 0.0004 * self.batch, 4: single, 8: 2 * single}[self.itemsize]
        stacked = sum(parts_of(run) for across in facts.products for run in stacks_of(across.matrices))
        return facts.levels * turn + speed * stacked * self.units * self.width / self.parts


def _spills(facts: Facts, sizes: Sizes, machine: Machine, width: int, units: int, batch: int, parts: int) -> bool:
    """Whether a program has more than the registers hold. The next larger ones than those that are left spill 24 - 464
    bytes: of an LSTM, with layer norms too, or of a GRU, with masks, with resets or without, in half precision on
    sm_90.
    """
    if facts.backwards:
        return units * batch > (128 if parts == 1 else 256 if facts.sums else 2048)
    if batch > 32 and width > 512 and sizes.itemsize == 2 and machine.kin == "sm_80":
        return True  # sums of 64 of the batch: of an LSTM on sm_80, with a mask 8 and with resets 16 bytes
    return units > 16 and (batch > 8 or units * width > (8192 if sizes.masked else 16384))


def _layouts(facts: Facts, sizes: Sizes, machine: Machine) -> Iterator[_Layout]:
    """All that there are for a call."""
    width = sizes.widest(facts) // sizes.heads
    sums = any(across.op == "matmul_t" for across in facts.across)
    for units, batch, parts in product(SLICES, TILES, PARTS if sums else (1,)):
        if machine.backend == "hip" and batch < 16:
            continue  # matrix instructions have 16 columns there
        if _spills(facts, sizes, machine, width, units, batch, parts):
            continue
        groups = -(-sizes.batch // batch) * sizes.heads
        few, apart = _apart(facts, sizes, machine, width, units, batch)
        tile = _tile(facts, sizes, machine, width, batch, few)
        tile = min(tile, power_of_two(16, -(-width // parts)))
        warps = 8 if few == 128 else _warps(sizes.itemsize, width, batch, parts, tile)
        yield _Layout(width, sizes.itemsize, units, batch, -(-width // units), parts, groups, tile, warps, few, apart)


def _apart(facts: Facts, sizes: Sizes, machine: Machine, width: int, units: int, batch: int) -> tuple[int, int]:
    """Of fewer rows than how many a product is several, and how many. In half precision less than 64 rows are for 4
    warps to repeat, and less than 128 for 8. There are 8 where 4 have no room for the sums: of 1024 units and 16 of the
    batch an LSTM takes 6151 cycles a step of these on sm_80, and 7287 where they repeat its products. While the whole
    vector is in the registers of 4 it would take longer: 3886 and not 3502 of 512 units and 8 of the batch.

    In float32 a product of any rows: of 256 units with 4 warps an LSTM takes 5205 cycles a step on sm_90, and 6631.
    """
    if machine.backend == "hip" or sizes.itemsize > 4:
        return 64 if sizes.itemsize == 2 and width <= 256 else 0, 4
    if sizes.itemsize == 4:
        return _ALL if batch == 8 else 0, 8 if width > 256 else 4
    counts = [run for across in facts.products if across.op == "matmul" for run in stacks_of(across.matrices)]
    few = any(not machine.traits.wide_products or parts_of(run) * units < 64 for run in counts)
    if width * batch <= 8192:
        return 64, 4
    return 128 if few and width > 512 and batch <= 32 else 0, 4


def _warps(itemsize: int, width: int, batch: int, parts: int, tile: int) -> int:
    """With 4 a thread has the sums of 64 of the batch in 250 registers, or half a matrix of 1024 units: an LSTM's
    adjoint takes 4199 cycles of these on sm_90, and 3975 with 8. In float32 an LSTM of 512 units spills 200 bytes.
    """
    if parts > 1:
        return 8 if batch > 8 or tile > 128 else 4
    return 8 if batch > 32 or (itemsize > 2 and width > 256) else 4


def _tile(facts: Facts, sizes: Sizes, machine: Machine, width: int, batch: int, few: int) -> int:
    """How much is multiplied at once. In half precision forwards as much of a vector as 32 registers of a thread hold,
    if no more than an eighth of it is padding: a GRU v3 of 1024 units takes 7194 cycles a step on sm_90, and 8752 by
    256 at a time. With a mask an LSTM of 1024 units spills 56 bytes by more than 512. Backwards a product of 64 of the
    batch leaves no room for the sums of 256 units where four warps do not share them: a GRU spills 64 bytes on sm_120.
    """
    if sizes.itemsize > 2:
        return 64 if few else {4: 32, 8: 16}[sizes.itemsize]
    if facts.backwards and batch > 32 and not machine.traits.wide_products and machine.backend == "cuda":
        return 32
    if facts.backwards or machine.backend == "hip":  # there it passes through on-chip memory on its way to registers
        return 256
    tile = 512 if few == 128 else min(8192 // batch, 512) if sizes.masked else 8192 // batch
    while tile > 256 and 8 * (-width % tile) > width:
        tile //= 2
    return tile
