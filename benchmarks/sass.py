"""What a compiled kernel will cost, read off its machine code without running it.

Counts are of one warp (on AMD a wavefront) and, inside the time loop, of one time step. They say what a
kernel does, not how long it takes, and serve as limits (no spills, no more matrix instructions than the
product needs) or to compare versions of a kernel.

The estimate of cycles plays one warp through the time loop against the scoreboards that the assembler wrote
into the instructions. It knows neither bank conflicts nor other blocks on the same multiprocessor. Against
six published H100 times it came to 0.89 - 1.14 of them, and to 0.55 of that of a kernel that spills: it ranks
kernels, it is no time.

Where blocks exchange something at every step, these are the figures: a block's stores have reached the L2 cache, which
a fence waits for, after L2_CYCLES; the counter is looked at twice, since the first look may come before the slowest
block, and each look is an L2 hit and what hands it to the other warps; what others wrote is an L2 hit, at
L2_BYTES_PER_CYCLE. For an LSTM of 256 units that is 1802 of 2516 cycles of a step, from its store of h to the first
operand: 370 until a program has arrived, 940 until it has seen all others, 490 for h and what is stored meanwhile.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import networkx as nx

from benchmarks.aot import Compiled
from benchmarks.steps import Trip, trip_of

CLOCK_GHZ = 1.755
"""The boost clock of an H100, at which cycles become microseconds."""

DRAM_CYCLES = 650
"""Latency of a global load that misses every cache, as the first touch of a step's input does."""

L2_CYCLES = 290
"""Latency of a global load that hits the L2 cache: 262 on an A100 and 263 on an H100 as measured by Luo et al. (2024),
"Benchmarking and dissecting the Nvidia Hopper GPU architecture", and some more where the other half of it answers; 222
to 339 on an L40, by which multiprocessor asks (arXiv 2606.22588).
"""

L2_BYTES_PER_CYCLE = 32
"""What a multiprocessor gets from the L2 cache where all of them read: 5.5 - 5.7 TB/s were measured on an H100 with 114
of them at 1.755 GHz (chipsandcheese.com, July 2023), 28 bytes. One that reads alone gets 64.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One time step of one warp: how many instructions of each kind, and an estimate of the time.

    A compiler may have unrolled the loop, so that one trip is `steps_per_trip` steps. Subroutines, such as
    that of a division in double precision, are not followed.

    instructions: all but padding.
    matrix: matrix products (HMMA, HGMMA, UTCMMA, DMMA, mfma).
    barriers: waits for the whole block.
    loads, stores: of global memory, to and from registers.
    async_copies: of global memory straight to shared memory (cp.async).
    weights: reads of what `analyse` was told to watch, as the LLVM IR has them, or one whose address it cannot follow.
    cycles: estimate in clock cycles; None where the model does not apply (see `analyse`).
    microseconds: `cycles` at CLOCK_GHZ; None for all but sm_90.
    """

    steps_per_trip: int
    instructions: float
    matrix: float
    barriers: float
    loads: float
    stores: float
    async_copies: float
    weights: float
    cycles: float | None
    microseconds: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """The static cost of one kernel on one target.

    registers: per thread; on AMD the accumulation registers are among them.
    spill_bytes: memory per thread for values that found no register.
    spill_instructions: instructions in the whole kernel that move such values.
    shared_bytes: shared memory per block.
    instructions: in the whole kernel, all but padding.
    step: one trip through the time loop, per time step; None if no loop of the kernel depends on its arguments.
    """

    kernel: str
    target: str
    registers: int
    spill_bytes: int
    spill_instructions: int
    shared_bytes: int
    instructions: int
    step: Step | None


@dataclass(frozen=True, slots=True)
class Control:
    """The scheduling fields of one SASS instruction (Volta and later).

    stall: cycles before this warp may issue the next instruction.
    write_scoreboard: the one released when the result is written, or None.
    read_scoreboard: the one released when the operands are read, or None.
    waits: scoreboards that must be free before this instruction issues.
    """

    stall: int
    write_scoreboard: int | None
    read_scoreboard: int | None
    waits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction and where control goes after it.

    `opcode` keeps its modifiers ("LDG.E.128"), `targets` are positions in the listing, and `continues` says
    whether control can also pass to the next instruction. `control` is None outside SASS.
    """

    opcode: str
    operands: str
    targets: tuple[int, ...] = ()
    continues: bool = True
    control: Control | None = None

    @property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]


def analyse(compiled: Compiled, *, load_cycles: float = DRAM_CYCLES, weights: Collection[str] = ()) -> Report:
    """Read the static cost of `compiled` off its machine code.

    The time loop is the one that makes the stores to global memory that a trip of it makes in the LLVM IR (see
    `benchmarks.steps`), or its loads if it makes none, as often as ptxas unrolled it. If there are several it is the
    largest, of those that hold a matrix instruction if there are any; a loop that waits on a flag in memory is none of
    them.

    `load_cycles` is the latency of a global load assumed in the estimate of cycles. There is an estimate for sm_80 and
    sm_90 only: for sm_100 the model has no figures for products in tensor memory, and AMD's instructions carry no
    scoreboards.

    `weights` names pointers among the arguments: how often a time step reads from them is counted. ptxas adds no load
    that LLVM does not have.

    Raises ValueError if time passes in the LLVM IR and no loop of the machine code makes its accesses.
    """
    if compiled.target.backend == "cuda":
        listing, usage = _disassemble(compiled)
        # An array that a function asks for is no spill: sin has one of 28 bytes for angles beyond 105615.
        arrays = sum(int(size) for size in re.findall(r"\.local\s+\.align.*\[(\d+)\]", compiled.assembly))
        found = usage["STACK"] + usage["LOCAL"] - -(-arrays // 8) * 8
        registers, spill_bytes = usage["REG"], max(0, found)
    else:
        listing = _parse_assembly(compiled.assembly)
        usage = {name: int(n) for name, n in re.findall(r"\.(\w+):\s+(\d+)\s*$", compiled.assembly, re.M)}
        registers, spill_bytes = usage["vgpr_count"], usage["private_segment_fixed_size"]

    trip = trip_of(compiled.llvm_ir)
    loop = _time_loop(compiled, listing, trip) if trip else None
    return Report(
        kernel=compiled.name,
        target=compiled.target.name,
        registers=registers,
        spill_bytes=spill_bytes,
        spill_instructions=_count(listing)["spill"] if spill_bytes else 0,
        shared_bytes=compiled.shared_bytes,
        instructions=_count(listing).total(),
        step=_step(compiled, *loop, load_cycles, _reads(compiled, trip, weights)) if trip and loop else None,
    )


def _reads(compiled: Compiled, trip: Trip, watched: Collection[str]) -> float:
    """How often a step reads from any of some arguments, or from who knows where."""
    places = {None, *(place for place, name in enumerate(compiled.arguments) if name in watched)}
    return float(sum(number for place, number in trip.reads.items() if place in places) / trip.steps)


def _step(compiled: Compiled, loop: Sequence[Instruction], steps: int, load_cycles: float, weights: float) -> Step:
    count = _count(loop)
    cycles = microseconds = None
    if compiled.target.name in _HMMA_CYCLES:
        cycles = _cycles_per_trip(loop, compiled.target.name, compiled.num_warps, load_cycles) / steps
    if cycles is not None and compiled.target.name == "sm_90":
        microseconds = cycles / (CLOCK_GHZ * 1e3)
    return Step(
        steps_per_trip=steps,
        instructions=count.total() / steps,
        matrix=count["matrix"] / steps,
        barriers=count["barrier"] / steps,
        loads=count["load"] / steps,
        stores=count["store"] / steps,
        async_copies=count["async copy"] / steps,
        weights=weights,
        cycles=cycles,
        microseconds=microseconds,
    )


# Kinds of instruction, by opcode; the first that matches counts.

_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("padding", r"NOP\b|s_nop\b"),
        ("matrix", r"[HQIDO]G?MMA\b|UTC[A-Z]*MMA\b|v_s?mfma|mma\.sync|wgmma\.mma|tcgen05\.mma"),
        ("barrier", r"BAR\b|s_barrier\b|bar(rier)?\.sync"),
        ("async copy", r"LDGSTS\b|cp\.async\.c[ag]|global_load_lds|buffer_load\S* .*\blds\b"),
        ("spill", r"(LDL|STL)\b|scratch_(load|store)"),
        ("load", r"LDG?\b|(global|buffer|flat)_load|ld\.(\w+\.)*global"),
        ("store", r"STG?\b|(global|buffer|flat)_store|st\.(\w+\.)*global"),
    )
)


def _kind(instruction: Instruction) -> str:
    text = f"{instruction.opcode} {instruction.operands}"
    return next((kind for kind, pattern in _KINDS if pattern.match(text)), "other")


def _count(instructions: Iterable[Instruction]) -> Counter[str]:
    """Instructions of each kind, padding left out."""
    count = Counter(map(_kind, instructions))
    del count["padding"]
    return count


# Listings.

# Behind the operands some releases of CUDA say what the second word holds, as in "&req={2} ?trans1".
_SASS_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)(?:\s+[&?]\S+)*\s*;\s*/\* 0x[0-9a-f]{16} \*/")
_SASS_SECOND_WORD = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/")
_SASS_TEXT = re.compile(r"(?:\{\s*)?(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[^\s,]+)\s*(?P<operands>.*)")
_ADDRESS = re.compile(r"(?:^|\s)0x([0-9a-f]+)$")


def _disassemble(compiled: Compiled) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of a cubin's kernel, and its resources by ptxas' names (REG a count, others bytes)."""
    from triton import knobs  # knows where the tools of CUDA are that came with Triton

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.binary)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", "-fun", compiled.name, str(cubin)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(rf"Function {re.escape(compiled.name)}:\s*\n(.*)", text)
    if usage is None:
        raise ValueError(f"The disassembler says nothing of kernel '{compiled.name}':\n{text[:500]}")
    return _parse_sass(text), {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", usage[1])}


def _parse_sass(text: str) -> list[Instruction]:
    """Instructions of one function, out of a listing that gives two lines to each, with its two words."""
    found = []
    for line, following in pairwise(text.splitlines()):
        if (first := _SASS_LINE.match(line)) and (second := _SASS_SECOND_WORD.match(following)):
            parts = _SASS_TEXT.match(first[2])
            found.append((int(first[1], 16), parts, _control(int(second[1], 16))))
    position = {address: place for place, (address, _, _) in enumerate(found)}

    # BSYNC resumes where the BSSY of the same barrier register said, which as a rule is right behind it.
    rejoin: dict[str, set[int]] = defaultdict(set)
    for _, parts, _ in found:
        if parts["opcode"].startswith("BSSY"):
            register, address = parts["operands"].split(", ")
            rejoin[register].add(position[int(address, 16)])

    listing = []
    for place, (_, parts, control) in enumerate(found):
        opcode, operands = parts["opcode"], parts["operands"]
        guarded = parts["guard"] is not None and "PT" not in parts["guard"]
        targets: tuple[int, ...] = ()
        continues = True
        match opcode.partition(".")[0]:
            case "BRA" | "JMP":
                address = _ADDRESS.search(operands)
                targets = (position[int(address[1], 16)],) if address else ()
                # A condition can also stand among the operands: "BRA.U !UP0, 0x90", "BRA.DIV UR4, 0x90".
                continues = guarded or "," in operands
            case "EXIT" | "RET" | "KILL":
                continues = guarded
            case "BSYNC" if place + 1 not in rejoin[operands]:
                targets = tuple(sorted(rejoin[operands]))
                continues = guarded or not targets
        listing.append(Instruction(opcode, operands, targets, continues, control))
    return listing


def _control(word: int) -> Control:
    """Decode the second word of an instruction: its fields start at bit 41, bit 105 of the whole."""
    fields = word >> 41
    write, read, waits = fields >> 5 & 7, fields >> 8 & 7, fields >> 11 & 0x3F
    return Control(
        stall=fields & 0xF,
        write_scoreboard=None if write == 7 else write,
        read_scoreboard=None if read == 7 else read,
        waits=tuple(k for k in range(6) if waits >> k & 1),
    )


_ASSEMBLY_LINE = re.compile(
    r"""\s*(?: (?P<label> [.$\w]+) :
          | (?P<guard> @!?%\w+\s+)? (?P<opcode> [a-z][\w.:]*) (?:\s+ (?P<operands> [^;]*?))? \s*(?:;.*)?$
        )""",
    re.VERBOSE,
)


def _parse_assembly(text: str) -> list[Instruction]:
    """Instructions of a module of one kernel in PTX or amdgcn; directives and data are passed over.

    So are jumps under a guard that is no register: they belong to waiting loops in Triton's inline assembly.
    """
    lines: list[re.Match[str]] = []
    position: dict[str, int] = {}
    for raw in text.splitlines():
        if not (line := _ASSEMBLY_LINE.match(raw.partition("//")[0])):
            continue
        if line["label"]:
            position[line["label"]] = len(lines)
        else:
            lines.append(line)

    listing = []
    for line in lines:
        opcode, operands = line["opcode"], line["operands"] or ""
        jumps = opcode.startswith(("bra", "s_branch", "s_cbranch"))
        ends = opcode in ("bra", "bra.uni", "ret", "exit", "s_branch", "s_endpgm", "s_setpc_b64")
        targets = (position[operands],) if jumps else ()
        listing.append(Instruction(opcode, operands, targets, line["guard"] is not None or not ends))
    return listing


# Loops.


def _time_loop(compiled: Compiled, listing: Sequence[Instruction], trip: Trip) -> tuple[list[Instruction], int]:
    """The instructions of the time loop (see `analyse`) by address, and the steps of one trip."""
    loops = _natural_loops(listing)
    bodies = {loop: [listing[place] for place in sorted(loop)] for loop in loops}
    trips = {loop: _trips(body, trip) for loop, body in bodies.items() if not _spins(body)}
    if compiled.target.backend == "cuda":
        candidates = [loop for loop, number in trips.items() if number]
    else:
        # Nothing is unrolled after LLVM, but neighbouring accesses may have become one.
        candidates = [loop for loop, number in trips.items() if number == 1] or list(trips)
        trips = dict.fromkeys(candidates, 1)
    candidates = [loop for loop in candidates if _count(bodies[loop])["matrix"]] or candidates
    innermost = [loop for loop in candidates if not any(other < loop for other in candidates)]
    if not innermost:
        raise ValueError(f"No loop of kernel '{compiled.name}' makes the accesses of a time step: {trip}")
    loop = max(innermost, key=lambda loop: (len(loop), -min(loop)))
    return bodies[loop], trips[loop] * trip.steps


def _trips(loop: Sequence[Instruction], trip: Trip) -> int | None:
    """How many trips of LLVM's one trip through `loop` is; None if it cannot be the time loop.

    ptxas may unroll a loop, and so copy an access to global memory. It drops no store, but a load that two share.
    """
    kind = next((kind for kind in ("store", "async copy", "load") if trip.accesses.get(kind)), None)
    copies = _count(loop)[kind] / trip.accesses[kind] if kind else Fraction(0)
    return copies.numerator or None if copies.denominator == 1 else None


def _natural_loops(listing: Sequence[Instruction]) -> list[frozenset[int]]:
    """The loops of the control-flow graph, as sets of positions.

    A loop belongs to a header that dominates a jump back to it, and is all that can reach such a jump without
    passing the header. Ranges of addresses would not do: ptxas moves the rarely taken blocks of a loop to the
    end.
    """
    if not listing:
        return []
    blocks, graph = _control_flow(listing)
    graph = graph.subgraph(nx.descendants(graph, 0) | {0})
    parents = nx.immediate_dominators(graph, 0)
    # Whether the first block is its own parent, has none or is missing depends on networkx' version.
    tree = nx.DiGraph((parent, block) for block, parent in parents.items() if parent not in (None, block))
    tree.add_node(0)

    loops: dict[int, set[int]] = defaultdict(set)
    for tail, header in graph.edges:
        if header == tail or header in nx.ancestors(tree, tail):
            inside = graph.subgraph(graph.nodes - {header})
            loops[header] |= {header, tail} | (nx.ancestors(inside, tail) if tail != header else set())
    return [frozenset(place for block in body for place in blocks[block]) for body in loops.values()]


def _control_flow(listing: Sequence[Instruction]) -> tuple[dict[int, range], nx.DiGraph]:
    """Basic blocks by the position of their first instruction, and the edges between them."""
    starts = {0}
    for place, instruction in enumerate(listing):
        starts.update(instruction.targets)
        if instruction.targets or not instruction.continues:
            starts.add(place + 1)
    starts.discard(len(listing))
    blocks = {start: range(start, end) for start, end in pairwise([*sorted(starts), len(listing)])}

    graph = nx.DiGraph()
    graph.add_nodes_from(blocks)
    for start, block in blocks.items():
        last = listing[block[-1]]
        graph.add_edges_from((start, target) for target in last.targets)
        if last.continues and block.stop in blocks:
            graph.add_edge(start, block.stop)
    return blocks, graph


def _spins(body: Sequence[Instruction]) -> bool:
    """Whether a loop only waits for another block: it is short and reads memory that others write."""
    shared_read = re.compile(r"LDG?\.\S*STRONG|ATOMG?\b|CCTL\b|ld\.acquire|ld\.volatile|atom\.|buffer_inv\b")
    return len(body) <= 80 and any(shared_read.match(instruction.opcode) for instruction in body)


# The estimate of cycles. Latencies are those of one warp, undisturbed, from public microbenchmarks, rounded.

_HMMA_CYCLES = {"sm_80": (8.0, 4.0), "sm_90": (6.5, 3.3)}
"""Cycles that one HMMA of depth 16, or of less, occupies the matrix unit of its quarter."""

_LATENCY = {
    "LDS": 29,
    "LDSM": 33,
    "LDL": 40,
    "HMMA": 33,
    "MUFU": 18,
    "SHFL": 23,
    "ATOMG": 700,
    "ATOM": 700,
    "S2R": 20,
    "S2UR": 20,
    "R2UR": 12,
    "LDC": 30,
    "ULDC": 10,
    "F2F": 18,
    "I2F": 18,
    "F2I": 18,
    "POPC": 18,
    "REDUX": 30,
    "STS": 20,
    "STSM": 20,
    "STG": 20,
    "STL": 20,
    "MOVM": 20,
    "SYNCS": 20,
    "FENCE": 20,
    "RED": 20,
    "REDG": 20,
}
"""Cycles until the result of an instruction is there, for those that signal it by a scoreboard."""

_OTHER_LATENCY = 12
_OPERAND_READ_CYCLES = 14
_BARRIER_CYCLES = 22
_MUFU_CYCLES = 8
_HGMMA_DRAIN_CYCLES = 40
_SHARED_BYTES_PER_CYCLE = 128
_SCHEDULERS = 4
_THREADS = 32

_STRONG = re.compile(r"\.(GPU|SYS)\b")  # with regard to other blocks
_GLOBAL_READS = frozenset({"LD", "LDG", "LDGSTS"})
_MEMORY = frozenset({"LDS", "STS", "LDSM", "STSM", "LDG", "STG", "LDGSTS", "LDL", "STL"})


def _cycles_per_trip(loop: Sequence[Instruction], target: str, num_warps: int, load_cycles: float) -> float:
    """Clock cycles of one trip through `loop`, once its start no longer matters.

    At least every instruction of every warp has to be issued, by a quarter of the multiprocessor each.
    """
    warm_up, measured = 2, 4
    warp = _Warp(target, num_warps, load_cycles)
    ends = []
    for _ in range(warm_up + measured):
        for instruction in loop:
            warp.issue(instruction)
        ends.append(warp.now)
    return max((ends[-1] - ends[warm_up - 1]) / measured, len(loop) * warp.share)


@dataclass(slots=True)
class _Warp:
    """One warp of a block that has its multiprocessor to itself, issuing in order.

    An instruction issues when the stall of the one before it is over, the scoreboards it waits on are free
    and its unit is. A unit is charged for all warps of the block, as if they did the same at the same time.
    All times are in clock cycles.
    """

    target: str
    num_warps: int
    load_cycles: float
    now: float = 0.0
    scoreboards: list[float] = field(default_factory=lambda: [0.0] * 6)
    unit_free: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    warpgroup_done: float = 0.0
    copies_done: float = 0.0
    copy_groups: deque[float] = field(default_factory=deque)

    @property
    def share(self) -> float:
        """How many warps each quarter of the multiprocessor works for, at least one."""
        return max(1.0, self.num_warps / _SCHEDULERS)

    def issue(self, instruction: Instruction) -> None:
        """Let time pass until `instruction` has issued, and note when its effects will be there."""
        control = instruction.control
        assert control is not None, "only SASS says how it is scheduled"
        for scoreboard in control.waits:
            self._wait(self.scoreboards[scoreboard])
        self._use_unit(instruction)
        self._synchronise(instruction)
        latency = _LATENCY.get(instruction.base, _OTHER_LATENCY)
        if instruction.base in _GLOBAL_READS:
            latency = self._exchanged(instruction) if _STRONG.search(instruction.opcode) else self.load_cycles
        if instruction.base == "LDGSTS":
            self.copies_done = max(self.copies_done, self.now + latency)
        self._occupy_scoreboard(control.write_scoreboard, latency)
        self._occupy_scoreboard(control.read_scoreboard, _OPERAND_READ_CYCLES)
        self.now += max(1, control.stall)

    def _exchanged(self, instruction: Instruction) -> float:
        """Cycles until what other blocks wrote is there, behind what was asked for before."""
        begin = max(self.now + min(L2_CYCLES, self.load_cycles), self.unit_free["L2"])
        self.unit_free["L2"] = begin + _bytes_moved(instruction) * self.num_warps / L2_BYTES_PER_CYCLE
        return self.unit_free["L2"] - self.now

    def _wait(self, moment: float) -> None:
        self.now = max(self.now, moment)

    def _occupy_scoreboard(self, scoreboard: int | None, cycles: float) -> None:
        if scoreboard is not None:
            self.scoreboards[scoreboard] = max(self.scoreboards[scoreboard], self.now + cycles)

    def _use_unit(self, instruction: Instruction) -> None:
        """Wait for the unit that executes `instruction` and keep it busy."""
        if instruction.base == "HMMA":
            deep, shallow = _HMMA_CYCLES[self.target]
            self._occupy_unit("matrix", (deep if "16816" in instruction.opcode else shallow) * self.share)
        elif instruction.base == "HGMMA":
            # Asynchronous: the warp goes on, and only WARPGROUP.DEPBAR waits for the products.
            start = max(self.now, self.unit_free["warpgroup"])
            self.unit_free["warpgroup"] = start + _hgmma_cycles(instruction) * self.share
            self.warpgroup_done = self.unit_free["warpgroup"] + _HGMMA_DRAIN_CYCLES
        elif instruction.base == "MUFU":
            self._occupy_unit("special", _MUFU_CYCLES * self.share)
        elif instruction.base in _MEMORY:
            cycles = max(1.0, _bytes_moved(instruction) / _SHARED_BYTES_PER_CYCLE)
            self._occupy_unit("memory", cycles * self.num_warps)

    def _occupy_unit(self, unit: str, cycles: float) -> None:
        self._wait(self.unit_free[unit])
        self.unit_free[unit] = self.now + cycles

    def _synchronise(self, instruction: Instruction) -> None:
        """Wait for what `instruction` is there to wait for: the block, products, or groups of copies."""
        match instruction.base:
            case "BAR":
                self.now += _BARRIER_CYCLES
            case "MEMBAR" if _STRONG.search(instruction.opcode):
                self.now += L2_CYCLES  # not below the block: that waits for shared memory alone
            case "WARPGROUP" if "DEPBAR" in instruction.opcode:
                self._wait(self.warpgroup_done)
            case "LDGDEPBAR":
                self.copy_groups.append(self.copies_done)
            case "DEPBAR" if groups := re.search(r"\bSB0, 0x([0-9a-f]+)", instruction.operands):
                while len(self.copy_groups) > int(groups[1], 16):
                    self._wait(self.copy_groups.popleft())


def _hgmma_cycles(instruction: Instruction) -> float:
    """Cycles of one 64 x N x 16 product: those to multiply, or to read shared memory if that takes longer."""
    shape = re.search(r"64x(\d+)x", instruction.opcode)
    columns = int(shape[1]) if shape else 64
    left_in_shared = re.match(r"R\d+,\s*gdesc", instruction.operands) is not None
    bytes_read = columns * 16 * 2 + (64 * 16 * 2 if left_in_shared else 0)
    return max(bytes_read / _SHARED_BYTES_PER_CYCLE, columns / 2)


def _bytes_moved(instruction: Instruction) -> int:
    """Bytes that one warp moves by a load or store."""
    if instruction.base in ("LDSM", "STSM"):
        matrices = re.search(r"M88\.(\d)", instruction.opcode)
        return 128 * (int(matrices[1]) if matrices else 1)
    width = re.search(r"\.(?:[US](8|16)|(64|128))\b", instruction.opcode)
    return _THREADS * (int(width[1] or width[2]) // 8 if width else 4)
