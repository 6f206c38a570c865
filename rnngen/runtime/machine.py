"""The machines: what a program can hold there, and how fast they are. All constants of machines stand here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kin:
    """What machines with the same matrix instructions have in common, with Triton 3.6 to 3.9.

    half_products: whether half types are multiplied as they are, and not widened first. wide_products: whether four
    warps multiply 64 rows at once. async_copies: whether loads ahead wait in on-chip memory. full_sums: whether sums
    travel through it in full precision. barrier_bytes: what the barriers of its products take of it.
    """

    half_products: bool = True
    wide_products: bool = False
    async_copies: bool = True
    full_sums: bool = False
    barrier_bytes: int = 0


KINS = {
    "sm_75": Kin(half_products=False, async_copies=False),
    "sm_80": Kin(),
    "sm_90": Kin(wide_products=True),
    "sm_100": Kin(wide_products=True, full_sums=True, barrier_bytes=16),  # they come from tensor memory
    "gfx942": Kin(full_sums=True),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU as far as the choice of a schedule depends on it.

    shared_bytes: what one program may use of on-chip memory. processors: multiprocessors or compute units.
    clock_ghz, memory_gb_s: for estimates. kin: the target whose constants it has, one with its matrix instructions.
    card: the one whose figures these are. half_tflops, single_tflops, double_tflops: the most operations, in millions a
    microsecond, that it is capable of in numbers of two, four and eight bytes; for floors.

    stage_us, product_us: of a step of `stepwise` what a kernel of pointwise work costs, and a product of torch's, both
    too small to keep the GPU busy. exchange_cycles: how long programs that wait for one another take at least, from
    one turn of theirs to the next. factors: by how much a schedule's estimates are off, by name, where that was
    measured.
    """

    name: str
    backend: str
    shared_bytes: int
    processors: int
    clock_ghz: float
    memory_gb_s: float
    kin: str
    card: str
    half_tflops: float
    single_tflops: float
    double_tflops: float
    stage_us: float = 3.5
    product_us: float = 4.6
    exchange_cycles: float = 2390
    factors: tuple[tuple[str, float], ...] = ()

    def factor(self, schedule: str) -> float:
        """What an estimate of this schedule is to be multiplied by; 1 where nothing was measured."""
        return dict(self.factors).get(schedule, 1.0)

    def tflops(self, itemsize: int) -> float:
        """The most of products, or of pointwise work, in numbers of so many bytes."""
        return {2: self.half_tflops, 4: self.single_tflops, 8: self.double_tflops}[itemsize]

    @property
    def traits(self) -> Kin:
        return KINS[self.kin]


# shared_bytes: "maximum amount of shared memory per thread block" in the CUDA C++ programming guide, table of compute
# capabilities; the LDS of a compute unit in AMD's white papers on CDNA 3 and 4. The rest is the data sheet of the card
# that is named (of the A100, the one of 40 GB), its clock the boost clock. sm_86, sm_89 and sm_120 multiply by the
# instructions of sm_80 (mma.sync).
#
# Operations: the data sheets' as well, products of dense matrices and no sparsity, sums in float32 for half types, and
# float32 as it is, not TF32. A multiplication with an addition is two. Of the GeForce cards, of the A10 and of the T4
# the data sheets leave out float64: the white papers on GA102, AD102 and GB202 say 1/64 of float32, the one on Turing
# 1/32. That on the 4090 and the 5090 has their 165.2 and 209.5 with sums in float32. The B200 is the one of HGX.
#
# What no data sheet says has one value for all of them, as nothing was measured on a GPU. Host time was, on a core of a
# CPU server with Triton 3.9, torch 2.13 and a driver that does nothing: of a stage 1.0 us, of torch.mm with a result
# that lies ready 2.1. To both are added 2.5 for the driver of a GPU and for the GPU, which are assumed. The cycles from
# turn to turn are those of the plane in `schedules/cooperative.py`, from estimates of compiled kernels for sm_90.
#
# `python -m benchmarks.calibrate` fits all of these on a card that is there, and prints the row to stand here.
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("sm_75", "cuda", 64 * 1024, 40, 1.59, 320, "sm_75", "T4", 65, 8.1, 0.25),
        Machine("sm_80", "cuda", 163 * 1024, 108, 1.41, 1555, "sm_80", "A100", 312, 19.5, 19.5),
        Machine("sm_86", "cuda", 99 * 1024, 72, 1.695, 600, "sm_80", "A10", 125, 31.2, 0.49),
        Machine("sm_89", "cuda", 99 * 1024, 128, 2.52, 1008, "sm_80", "GeForce RTX 4090", 165.2, 82.6, 1.29),
        Machine("sm_90", "cuda", 227 * 1024, 132, 1.755, 3350, "sm_90", "H100", 989.4, 66.9, 66.9),
        Machine("sm_100", "cuda", 227 * 1024, 148, 1.85, 8000, "sm_100", "B200", 2250, 75, 37),
        Machine("sm_120", "cuda", 99 * 1024, 170, 2.407, 1792, "sm_80", "GeForce RTX 5090", 209.5, 104.8, 1.64),
        Machine("gfx942", "hip", 64 * 1024, 304, 2.1, 5300, "gfx942", "MI300X", 1307.4, 163.4, 163.4),
        Machine("gfx950", "hip", 160 * 1024, 256, 2.2, 8000, "gfx942", "MI350X", 2300, 144.2, 72.1),
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
