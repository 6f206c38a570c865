"""What a machine can hold, and which schedule of a scan suits it.

This is arithmetic on a few numbers, without torch: a generated module asks when it is called, and the compiler asks the
same functions when it explains a model. The figures behind the rules are counts of compiled kernels (registers,
spills, shared memory) and a scoreboard estimate of their cycles, not measurements on a GPU.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

SCHEDULES = ("elementwise", "resident", "stepwise")


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU as far as the choice depends on it.

    shared_bytes: what one program may use of on-chip memory. processors: multiprocessors or compute units.
    clock_ghz, memory_gb_s: for estimates. kin: the target whose constants it has, one with its matrix instructions.
    card: the one whose figures these are.
    """

    name: str
    backend: str
    shared_bytes: int
    processors: int
    clock_ghz: float
    memory_gb_s: float
    kin: str
    card: str


# shared_bytes: "maximum amount of shared memory per thread block" in the CUDA C++ programming guide, table of compute
# capabilities; the LDS of a compute unit in AMD's white papers on CDNA 3 and 4. The rest is the data sheet of the card
# that is named (of the A100, the one of 40 GB), its clock the boost clock. sm_86, sm_89 and sm_120 multiply by the
# instructions of sm_80 (mma.sync). For sm_75 Triton 3.6 to 3.9 use no matrix instructions and no asynchronous copies.
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("sm_75", "cuda", 64 * 1024, 40, 1.59, 320, "sm_75", "T4"),
        Machine("sm_80", "cuda", 163 * 1024, 108, 1.41, 1555, "sm_80", "A100"),
        Machine("sm_86", "cuda", 99 * 1024, 72, 1.695, 600, "sm_80", "A10"),
        Machine("sm_89", "cuda", 99 * 1024, 128, 2.52, 1008, "sm_80", "GeForce RTX 4090"),
        Machine("sm_90", "cuda", 227 * 1024, 132, 1.755, 3350, "sm_90", "H100"),
        Machine("sm_100", "cuda", 227 * 1024, 148, 1.85, 8000, "sm_100", "B200"),
        Machine("sm_120", "cuda", 99 * 1024, 170, 2.407, 1792, "sm_80", "GeForce RTX 5090"),
        Machine("gfx942", "hip", 64 * 1024, 304, 2.1, 5300, "gfx942", "MI300X"),
        Machine("gfx950", "hip", 160 * 1024, 256, 2.2, 8000, "gfx942", "MI350X"),
    )
}


def row_of(backend: str, name: str) -> Machine:
    """The row for an architecture: its own, or that of the newest one before it; the oldest if there is none before.

    An AMD architecture that is not in the table counts as gfx942: the 64 KiB of a CDNA or RDNA before gfx950.
    """
    if name in MACHINES:
        return MACHINES[name]
    rows = [machine for machine in MACHINES.values() if machine.backend == backend]
    if backend == "hip":
        return rows[0]
    number = int(name.removeprefix("sm_"))
    return [row for row in rows if row is rows[0] or int(row.name.removeprefix("sm_")) <= number][-1]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the choice needs to know of one direction of a cell.

    adjoint: whether this is the adjoint. stacks: for each product the number of matrices in it, negative where they are
    transposed. reads: blocks of streams that a step loads. tiles: the same as tiles of stacks, those that only fill a
    stack among them. widest: the tiles of the largest stack that a step loads, stores or multiplies. stages: dependent
    products in a row. mixed: whether dense and block-diagonal matrices occur, so that heads cannot be scanned apart.
    masked: whether there is a mask.
    """

    adjoint: bool = False
    stacks: tuple[int, ...] = ()
    reads: int = 1
    tiles: int = 1
    widest: int = 1
    stages: int = 0
    mixed: bool = False
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """One call: batch, hidden units, heads of the block-diagonal matrices, bytes of an element."""

    batch: int
    hidden: int
    heads: int = 1
    itemsize: int = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A schedule, the constants of its kernel and the options of its launch, by Triton's names.

    reasons: what speaks for or against every schedule.
    """

    schedule: str
    constants: Mapping[str, int | bool]
    options: Mapping[str, int]
    reasons: Mapping[str, str] = field(default_factory=dict)


class NotPossible(ValueError):
    """The schedule that was asked for cannot run this scan here."""


@lru_cache(maxsize=1024)  # a call asks twice, and the answer takes longer than a launch
def choose(facts: Facts, sizes: Sizes, machine: Machine, wanted: str = "auto") -> Choice:
    """The schedule with the lowest estimate among those that can run, or the one that is wanted.

    Raises NotPossible, with the reason, if that one cannot run.
    """
    plans = {name: plan(facts, sizes, machine) for name, plan in _PLANS.items()}
    reasons = {name: plan if isinstance(plan, str) else plan[1] for name, plan in plans.items()}
    possible = {name: plan for name, plan in plans.items() if not isinstance(plan, str)}
    if wanted != "auto" and wanted not in possible:
        reason = reasons.get(wanted, f"there is no such schedule; there are {', '.join(SCHEDULES)}")
        raise NotPossible(f"The schedule '{wanted}' cannot run here: {reason}.")
    name = wanted if wanted != "auto" else min(possible, key=lambda name: possible[name][0])
    _, _, constants, options = possible[name]
    return Choice(name, constants, options, reasons)


_GRID = 65535  # programs in the second dimension of a grid, on CUDA and ROCm

# A plan is (estimated microseconds a step, that in words, constants, launch options), or the reason why there is none.
_Plan = tuple[float, str, dict[str, int | bool], dict[str, int]] | str


def _power_of_two(least: int, number: int) -> int:
    return max(least, 1 << (number - 1).bit_length())


def _elementwise(facts: Facts, sizes: Sizes, machine: Machine) -> _Plan:
    if facts.stacks:
        return "a matrix is applied to a state"
    # At least 4 bytes a thread and load, or the loads are not asynchronous copies: 242 cycles a step instead of 688.
    block = min(_power_of_two(32, sizes.hidden), 128 if sizes.itemsize < 4 else 64)
    if sizes.itemsize < 4:
        block = max(block, 64)
    if -(-sizes.hidden // block) > _GRID:
        return f"{sizes.hidden} units are more than {_GRID} programs of {block}, which a grid has beside each other"
    programs = sizes.batch * -(-sizes.hidden // block)
    waves = -(-programs // (machine.processors * 16))
    bytes_ = (facts.reads + 2) * sizes.batch * sizes.hidden * sizes.itemsize
    time = max(waves * 250 / machine.clock_ghz / 1000, bytes_ / machine.memory_gb_s / 1000)
    stages = 3 if machine.backend == "cuda" else 1
    return time, f"{time:.2f} us a step, estimated", {"BLOCK": block, "STAGES": stages}, {"num_warps": 1}


def _resident(facts: Facts, sizes: Sizes, machine: Machine) -> _Plan:
    if not facts.stacks:
        return "no matrix is applied to a state, so there is nothing to keep on the chip"
    if facts.mixed and sizes.heads > 1:
        return "dense and block-diagonal matrices occur together, so heads cannot be scanned apart"
    if machine.kin == "sm_75":
        sizes = replace(sizes, itemsize=max(4, sizes.itemsize))  # half types are widened, and then multiplied
    width = sizes.hidden // sizes.heads
    tile = _power_of_two(16, width)
    matrices = sum(abs(count) for count in facts.stacks)
    widest = {2: 128, 4: 64, 8: 32}[sizes.itemsize]  # beyond it the accumulators spill
    if tile > widest:
        return f"heads of {width} units are wider than the {widest} whose products fit the registers"
    if tile * matrices > 4 * widest:
        return f"{matrices} matrices of {width} units do not fit the registers"
    constants, options = _resident_constants(facts, sizes, machine, tile)
    while (need := shared_bytes(facts, sizes, machine, constants)) > machine.shared_bytes and constants["STAGES"] > 1:
        constants["STAGES"] -= 1
    if need > machine.shared_bytes:
        return f"{need // 1024} KiB of on-chip memory are needed and {machine.shared_bytes // 1024} KiB are there"
    if sizes.heads > _GRID:
        return f"{sizes.heads} heads are more than the {_GRID} programs that a grid has beside each other"
    programs = sizes.heads * -(-sizes.batch // constants["BB"])
    waves = -(-programs // machine.processors)
    # A line through the estimates for sm_90: latency of the chain, and a share for each matrix.
    speed = {2: 1.0, 4: 6.0, 8: 12.0}[sizes.itemsize]
    cycles = 400 + speed * matrices * tile * tile * constants["BB"] / 256
    time = waves * cycles / machine.clock_ghz / 1000
    return time, f"{time:.2f} us a step, estimated", constants, options


@dataclass(frozen=True, slots=True)
class _Case:
    """What the constants of a resident kernel depend on. tile: units, in bytes of `itemsize`."""

    facts: Facts
    tile: int
    itemsize: int
    machine: Machine


def _resident_constants(
    facts: Facts, sizes: Sizes, machine: Machine, tile: int
) -> tuple[dict[str, int | bool], dict[str, int]]:
    """Constants and launch options: those of half precision on sm_90 as the rules that apply change them, in order."""
    constants: dict[str, int | bool] = {"BD": tile, "BB": 8, "MP": max(1, 64 // tile), "WIDE": True, "STAGES": 3}
    options = {"num_warps": {16: 2, 32: 4, 64: 4, 128: 8}[tile]}
    case = _Case(facts, tile, sizes.itemsize, machine)
    for applies, changes in _RESIDENT_RULES:
        if applies(case):
            for name, value in changes.items():
                (constants if name in constants else options)[name] = value
    return constants, options


# What else a kernel needs to have no spills and to fit, from compiling the library for each target: every cell, width
# and type, with masks and without, with Triton 3.6 and 3.9. Registers are those of a thread, cycles are estimates.
_RESIDENT_RULES: tuple[tuple[Callable[[_Case], bool], dict[str, int | bool]], ...] = (
    # The sums of a product take twice the registers of half precision, or four times: one product for each matrix.
    (lambda case: case.itemsize > 2, {"WIDE": False, "STAGES": 2, "num_warps": 4}),
    # Matrices of 64 units in float32 are multiplied by ordinary instructions. With 8 of the batch operands take up to
    # 255 registers, and masked scans spill up to 48 bytes. With 4 they take 142, and a step of half as many sequences
    # 0.61 - 0.75 of the cycles: faster until programs queue for the multiprocessors, then up to 1.5 times slower.
    (
        lambda case: case.itemsize == 4 and case.tile == 64 and case.machine.backend == "cuda",
        {"BB": 4, "num_warps": 8},
    ),
    # Left alone, ptxas gives up registers for more blocks on a multiprocessor, where as a rule there is one, and even
    # spills for them: masked adjoints 16 bytes. With all registers a step takes 0.86 - 0.99 of the cycles.
    (lambda case: (case.itemsize, case.tile, case.machine.backend) == (2, 16, "cuda"), {"maxnreg": 255}),
    # Matrix instructions have 16 columns there, and what is loaded ahead waits in registers.
    (lambda case: case.machine.backend == "hip", {"BB": 16, "STAGES": 1}),
    # Two steps ahead some cells spill, or the streams do not fit.
    (
        lambda case: (
            case.machine.kin == "sm_80"
            and case.tile > (64 if not case.facts.adjoint else 32 if case.facts.stages < 2 else 16)
        ),
        {"STAGES": 2},
    ),
    # 1057 cycles instead of 1300.
    (
        lambda case: (
            (case.itemsize, case.tile, case.machine.name) == (2, 64, "sm_90")
            and not case.facts.adjoint
            and max(case.facts.stacks) > 1
        ),
        {"num_warps": 8},
    ),
    # With Triton 3.6 a stack spills, and on sm_80 ptxas as above: 8 bytes. With 3.9 all take as long, but for 2 %.
    (
        lambda case: case.itemsize == 2 and case.tile == 128 and case.facts.masked and case.facts.adjoint,
        {"WIDE": False},
    ),
    (
        lambda case: (
            (case.itemsize, case.tile, case.machine.kin) == (2, 128, "sm_80")
            and case.facts.masked
            and case.facts.adjoint
        ),
        {"maxnreg": 255},
    ),
    # A stack of matrices passes through local memory, which holds a half of it.
    (lambda case: case.itemsize == 2 and case.tile == 128 and case.machine.backend == "hip", {"WIDE": False}),
)


def shared_bytes(facts: Facts, sizes: Sizes, machine: Machine, constants: Mapping[str, int | bool]) -> int:
    """On-chip memory of a resident program: what Triton 3.6 to 3.9 take at most, on NVIDIA nearly always exactly that.

    On NVIDIA the matrices stay there for the whole sequence, beside the streams that are loaded ahead and the largest
    stack on its way between the layouts of a product and of an access. On AMD the matrices are in registers: one stack
    of them or of sums is there at a time, on its way to them. Sums travel in full precision there, and on sm_100, where
    they come from tensor memory.
    """
    tile, batch = constants["BD"], constants["BB"]
    matrices, widest = [], facts.widest
    full = machine.backend == "hip" or machine.name == "sm_100"
    for count in facts.stacks:
        for run in runs_of(range(abs(count))):
            padding = constants["MP"] if constants["WIDE"] and (count < 0 or len(run) == 1) else 1
            matrices += [parts_of(run) * padding] if constants["WIDE"] else [1] * len(run)
            widest = max(widest, padding if full else 1)
    stack = widest * tile * batch * max(sizes.itemsize, 4 if full else 0)
    if machine.backend == "hip":
        return max(max(matrices) * tile * tile * sizes.itemsize, stack)
    ahead = 0 if machine.kin == "sm_75" else constants["STAGES"] - 1  # it has no asynchronous copies
    streams = facts.tiles * tile * batch * sizes.itemsize + facts.masked * batch * 4
    barriers = 16 if machine.name == "sm_100" else 0
    return sum(matrices) * tile * tile * sizes.itemsize + ahead * streams + stack + barriers


def runs_of(blocks: Iterable[int]) -> list[list[int]]:
    """Blocks in runs of neighbours, at most four to a run."""
    groups: list[list[int]] = []
    for block in blocks:
        if groups and len(groups[-1]) < 4 and groups[-1][-1] + 1 == block:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def parts_of(group: Sequence[int]) -> int:
    """The parts of a stack that holds these blocks."""
    return {1: 1, 2: 2}.get(len(group), 4)


def _stepwise(facts: Facts, sizes: Sizes, machine: Machine) -> _Plan:
    block = min(_power_of_two(32, sizes.hidden), 256)
    matrices = sum(abs(count) for count in facts.stacks)
    launches = len(facts.stacks) + facts.stages + (1 if facts.adjoint or not facts.stacks else 0)
    weights = matrices * sizes.hidden * (sizes.hidden // sizes.heads) * sizes.itemsize
    states = (2 * facts.reads + matrices + 4) * sizes.batch * sizes.hidden * sizes.itemsize
    # Host time, the launch itself left out, measured on a core of a CPU server with Triton 3.9 and torch 2.13: 13.9 us
    # for an LSTM's step of one product (2.1) and one stage (10.6), so 7 us each. What a GPU takes for small launches is
    # not known yet. The weights are read again at every step.
    time = launches * 7.0 + (weights + states) / machine.memory_gb_s / 1000
    return time, f"{time:.2f} us a step, estimated", {"BLOCK": block}, {"num_warps": 4 if block == 256 else 1}


_PLANS = {"elementwise": _elementwise, "resident": _resident, "stepwise": _stepwise}
