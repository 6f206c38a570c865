"""Counts read off compiled kernels must be those that the kernel's shapes give on paper."""

import importlib
from concurrent.futures import ProcessPoolExecutor

import pytest

from benchmarks.aot import TARGETS, Compiled, compile_kernel, compiler_processes
from benchmarks.sass import (
    CLOCK_GHZ,
    DRAM_CYCLES,
    L2_BYTES_PER_CYCLE,
    L2_CYCLES,
    Control,
    Instruction,
    Report,
    _parse_sass,
    _Warp,
    analyse,
)
from benchmarks.steps import Trip, trip_of

SCAN = {"x_ptr": "*fp32", "y_ptr": "*fp32", "T": "i32"}
SIGNATURES = {
    "dot_scan": SCAN | {"r_ptr": "*bf16"},
    "elementwise_scan": SCAN | {"stride_t": "i32"},
    "crowded_scan": SCAN,
    "unrolled_scan": SCAN,
    "blocked_scan": SCAN,
}

every_target = pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])


def compile_here(
    kernel: str, constants: dict[str, int], target: str, num_warps: int, aligned: tuple[str, ...]
) -> Compiled:
    """Compile one of this test's kernels; runs in a process without the interpreter."""
    kernels = importlib.import_module("kernels_for_static")
    return compile_kernel(
        getattr(kernels, kernel),
        SIGNATURES[kernel],
        constants,
        target,
        aligned=aligned,
        num_warps=num_warps,
        num_stages=1,
        enable_fp_fusion=True,
    )


@pytest.fixture(scope="module")
def compiled():
    """Compile in another process: in this one other tests may have Triton in its interpreter."""
    with compiler_processes(workers=1) as processes:
        yield Compiler(processes)


class Compiler:
    """`compile_here`, there."""

    def __init__(self, processes: ProcessPoolExecutor) -> None:
        self.processes = processes

    def __call__(
        self, kernel: str, target: str, *, num_warps: int = 4, aligned: tuple[str, ...] = (), **constants: int
    ) -> Compiled:
        return self.processes.submit(compile_here, kernel, constants, target, num_warps, aligned).result()


def elementwise(compiled: Compiler, target: str, *, H: int = 128, WORK: int = 1, STAGES: int = 1) -> Report:
    scan = compiled("elementwise_scan", target, aligned=("stride_t",), H=H, WORK=WORK, STAGES=STAGES)
    return analyse(scan)


# Products of a [64, 64] by a [64, 64] matrix a warp, of four.
#   sm_80    HMMA 16x8x16: 4 x 8 x 4 over the block, a quarter each
#   sm_90    HGMMA 64x64x16: 4, together
#   sm_100   UTCMMA 64x64x16: 4, issued by one warp
#   gfx942   mfma 32x32x8: 2 x 2 x 8 over the block, a quarter each
@pytest.mark.parametrize(("target", "products"), [("sm_80", 32), ("sm_90", 4), ("sm_100", 4), ("gfx942", 8)])
def test_matrix_products_are_those_of_the_shape(compiled, target, products):
    scan = compiled("dot_scan", target, B=64, H=64)
    report = analyse(scan)
    assert report.step.matrix == products
    assert report.step.steps_per_trip == 1
    # Each thread moves 16 bytes at a time.
    accesses = 64 * 64 * 4 / (scan.num_warps * scan.target.warp_size * 16)
    assert (report.step.loads, report.step.stores) == (accesses, accesses)
    assert report.step.barriers > 0, "the state goes from one layout to another through shared memory"
    assert 0 < report.registers < 256
    assert (report.spill_bytes, report.spill_instructions) == (0, 0)
    assert 0 < report.step.instructions < report.instructions


# With 16 rows only, the wide instructions of sm_90 and sm_100 give way to HMMA: 1 x 8 x 4, a quarter each.
@pytest.mark.parametrize(("target", "products"), [("sm_80", 8), ("sm_90", 8), ("sm_100", 8), ("gfx942", 4)])
def test_few_rows_take_the_small_matrix_instruction(compiled, target, products):
    assert analyse(compiled("dot_scan", target, B=16, H=64)).step.matrix == products


@every_target
def test_elementwise_loop_is_counted_per_step_however_it_is_unrolled(compiled, target):
    report = elementwise(compiled, target)
    if target != "gfx942":
        assert report.step.steps_per_trip > 1, "ptxas unrolls so short a loop"
    assert (report.step.loads, report.step.stores) == (1, 1)
    assert (report.step.matrix, report.step.barriers, report.step.async_copies) == (0, 0, 0)
    assert (report.spill_bytes, report.shared_bytes) == (0, 0)
    assert report.registers > 0
    assert report.step.instructions < 20


@every_target
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_steps_of_a_loop_that_triton_unrolls_are_counted(compiled, steps, target):
    step = analyse(compiled("unrolled_scan", target, H=128, UNROLL=steps, STAGES=1)).step
    assert step.steps_per_trip % steps == 0, "LLVM and ptxas may unroll it further"
    assert (step.loads, step.stores) == (1, 1)
    assert step.instructions < 20


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_steps_of_an_unrolled_pipeline_are_counted(compiled, target):
    step = analyse(compiled("unrolled_scan", target, H=128, UNROLL=4, STAGES=3)).step
    assert step.steps_per_trip == 4
    assert (step.async_copies, step.loads, step.stores) == (1, 0, 1)


@every_target
def test_steps_that_a_kernel_writes_out_are_counted(compiled, target):
    step = analyse(compiled("blocked_scan", target, H=128, BLOCK=5)).step
    assert step.steps_per_trip % 5 == 0
    assert (step.loads, step.stores) == (1, 1)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_the_estimate_of_a_step_hardly_depends_on_the_unrolling(compiled, target):
    """Each step begins with a load that nothing hides."""
    for steps in (2, 8):
        step = analyse(compiled("unrolled_scan", target, H=128, UNROLL=steps, STAGES=1)).step
        assert DRAM_CYCLES < step.cycles < DRAM_CYCLES + 60


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_a_pipelined_load_becomes_an_asynchronous_copy(compiled, target):
    report = elementwise(compiled, target, H=256, STAGES=3)
    assert (report.step.async_copies, report.step.loads, report.step.stores) == (1, 0, 1)
    assert report.shared_bytes == 2 * 256 * 4


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_known_alignment_makes_one_wide_load_of_four(compiled, target):
    constants = {"H": 512, "WORK": 0, "STAGES": 1}
    assert analyse(compiled("elementwise_scan", target, aligned=("stride_t",), **constants)).step.loads == 1
    assert analyse(compiled("elementwise_scan", target, **constants)).step.loads == 4


# One warp has 32 x 255 registers on NVIDIA and 64 x 512 on AMD, and the scan needs some for itself.
@pytest.mark.parametrize(("target", "values"), [("sm_80", 8192), ("sm_90", 8192), ("sm_100", 8192), ("gfx942", 32768)])
def test_values_beyond_the_registers_are_seen_to_spill(compiled, target, values):
    report = analyse(compiled("crowded_scan", target, num_warps=1, N=values))
    assert report.spill_bytes > 0
    assert report.spill_instructions > 0
    assert report.step is not None


@every_target
def test_an_estimate_is_made_only_where_the_model_holds(compiled, target):
    step = elementwise(compiled, target).step
    assert (step.cycles is not None) == (target in ("sm_80", "sm_90"))
    assert (step.microseconds is not None) == (target == "sm_90")
    if step.microseconds is not None:
        assert step.microseconds == pytest.approx(step.cycles / CLOCK_GHZ / 1000)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_each_dependent_exponential_costs_at_least_its_latency(compiled, target):
    less, more = (elementwise(compiled, target, WORK=work).step.cycles for work in (4, 12))
    assert less > DRAM_CYCLES, "nothing hides the load of a step"
    # Some versions of Triton scale tiny arguments first, which is one more instruction in the chain.
    assert 17 < (more - less) / 8 < 25


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_nearer_input_and_a_pipeline_both_shorten_the_step(compiled, target):
    plain = compiled("elementwise_scan", target, H=256, WORK=1, STAGES=1)
    far, near = analyse(plain).step.cycles, analyse(plain, load_cycles=L2_CYCLES).step.cycles
    assert far - near == pytest.approx(DRAM_CYCLES - L2_CYCLES)
    assert elementwise(compiled, target, H=256, STAGES=3).step.cycles < far / 1.5


def test_a_block_too_big_for_its_target_compiles_but_does_not_fit(compiled):
    big = compiled("dot_scan", "sm_90", B=16, H=512)
    assert big.shared_bytes >= 512 * 512 * 2
    assert not big.fits
    assert compiled("dot_scan", "sm_90", B=16, H=64).fits


AMDGCN = """
scan:
	s_branch .LBB0_1
.LBB0_1:                                ; header
	global_load_dword v1, v0, s[0:1]
	s_cbranch_scc1 .LBB0_4
.LBB0_2:                                ; latch
	v_add_f32_e32 v2, v2, v1
	global_store_dword v0, v2, s[2:3]
	s_nop 0
	s_cbranch_scc0 .LBB0_1
.LBB0_3:
	v_mov_b32_e32 v9, 0
	s_endpgm
.LBB0_4:                                ; taken rarely, and moved out of the way
	s_barrier
	s_branch .LBB0_2
.LBB0_5:                                ; never reached
	s_branch .LBB0_5
    .vgpr_count:     10
    .private_segment_fixed_size: 0
"""


LLVM_IR = """
define amdgpu_kernel void @scan(ptr addrspace(1) inreg %0, i32 inreg %1) {
  %3 = icmp sgt i32 %1, 0, !dbg !1
  br i1 %3, label %.lr.ph, label %._crit_edge

.lr.ph:                                           ; preds = %2, %.lr.ph
  %4 = phi i32 [ 0, %2 ], [ %6, %.lr.ph ]
  %5 = load float, ptr addrspace(1) %0, align 4
  store float %5, ptr addrspace(1) %0, align 4
  %6 = add nuw nsw i32 %4, 1
  %7 = icmp eq i32 %6, %1
  br i1 %7, label %._crit_edge, label %.lr.ph

._crit_edge:                                      ; preds = %.lr.ph, %2
  ret void
}
"""


def test_a_loop_has_its_displaced_blocks_and_no_others():
    report = analyse(Compiled("scan", TARGETS["gfx942"], 4, 0, b"", AMDGCN, LLVM_IR))
    assert report.instructions == 11
    assert report.step.instructions == 7
    assert (report.step.loads, report.step.stores, report.step.barriers) == (1, 1, 1)
    assert report.registers == 10


def test_a_trip_of_several_steps_is_divided_among_them():
    step = analyse(Compiled("scan", TARGETS["gfx942"], 4, 0, b"", AMDGCN, LLVM_IR.replace("%4, 1", "%4, 2"))).step
    assert step.steps_per_trip == 2
    assert (step.instructions, step.loads) == (3.5, 0.5)


@pytest.mark.parametrize(
    ("bound", "trip"),
    [
        ("and i32 %1, -4", (1, {"load": 1, "store": 1})),
        ("sub i32 %1, 1", (1, {"load": 1, "store": 1})),
        ("ashr exact i32 %1, 3", (8, {"load": 1, "store": 1})),
        ("tail call i32 @llvm.smin.i32(i32 %1, i32 100)", None),
        ("select i1 %3, i32 %1, i32 -1", (1, {"load": 1, "store": 1})),
    ],
)
def test_loops_are_played_to_their_bound(bound, trip):
    bounded = LLVM_IR.replace("  br i1 %3", f"  %bound = {bound}\n  br i1 %3").replace("%6, %1", "%6, %bound")
    assert trip_of(bounded) == (Trip(*trip, {0: 1}) if trip else None)


READS = """
define void @scan(ptr addrspace(1) %0, ptr addrspace(1) %1, ptr addrspace(1) %2, i32 %3) {
  %5 = getelementptr i8, ptr addrspace(1) %1, i64 16
  %6 = tail call { i32 } asm sideeffect "ld.global.b32 { $0 }, [ $1 + 0 ];", "=r,l"(ptr addrspace(1) %0)
  br label %step

step:                                             ; preds = %step, %4
  %7 = phi ptr addrspace(1) [ %5, %4 ], [ %9, %step ]
  %8 = phi i32 [ 0, %4 ], [ %14, %step ]
  %9 = getelementptr bfloat, ptr addrspace(1) %7, i64 8
  %10 = load float, ptr addrspace(1) %9, align 4
  %11 = select i1 true, ptr addrspace(1) %0, ptr addrspace(1) %1
  %12 = load float, ptr addrspace(1) %11, align 4
  %13 = load float, ptr addrspace(1) %unknown, align 4
  store float %10, ptr addrspace(1) %2, align 4
  %14 = add nuw nsw i32 %8, 1
  %15 = icmp eq i32 %14, %3
  br i1 %15, label %last, label %step

last:                                             ; preds = %step
  ret void
}
"""


def test_reads_of_a_step_are_followed_to_their_argument():
    """A pointer that may be either of two counts for both; one that nobody can follow for none."""
    assert trip_of(READS) == Trip(1, {"load": 3, "store": 1}, {1: 2, 0: 1, None: 1})


def test_what_other_blocks_wrote_comes_from_the_l2_cache():
    """Behind what was asked for before; and a fence waits until a store is there."""
    warp = _Warp("sm_90", 4, DRAM_CYCLES)
    load = Instruction("LDG.E.128.STRONG.GPU", "R0", control=Control(1, 0, None, ()))
    for _ in range(2):
        warp.issue(load)
    bytes_read = 2 * 4 * 32 * 16
    assert warp.scoreboards[0] == pytest.approx(L2_CYCLES + bytes_read / L2_BYTES_PER_CYCLE, abs=1)
    began = warp.now
    warp.issue(Instruction("MEMBAR.ALL.CTA", "", control=Control(1, None, None, ())))
    assert warp.now == began + 1
    warp.issue(Instruction("MEMBAR.ALL.GPU", "", control=Control(1, None, None, ())))
    assert warp.now == began + 2 + L2_CYCLES


def test_a_loop_without_an_end_is_refused():
    with pytest.raises(ValueError, match="does not end"):
        trip_of(LLVM_IR.replace("icmp eq i32 %6, %1", "icmp eq i32 %6, -1"))


def test_a_loop_whose_end_nobody_knows_is_refused():
    unknown = LLVM_IR.replace("  br i1 %3", "  %bound = tail call i32 @trips()\n  br i1 %3").replace(
        "%6, %1", "%6, %bound"
    )
    with pytest.raises(ValueError, match=r"cease to repeat: \['%\.lr\.ph'\]"):
        trip_of(unknown)


# The end of the loop comes from memory, and the kernel says what it is at most. Another loop is before it, one behind.
MASKED = """
define amdgpu_kernel void @scan(ptr addrspace(1) inreg %0, i32 inreg %1) {
  br label %read

read:                                             ; preds = %read, %2
  %3 = phi i32 [ 0, %2 ], [ %5, %read ]
  %4 = load <4 x i32>, ptr addrspace(1) %0, align 4
  %5 = add i32 %3, 128
  %6 = icmp slt i32 %5, %1
  br i1 %6, label %read, label %bounds

bounds:                                           ; preds = %read
  %end = tail call i32 @llvm.amdgcn.readlane.i32(i32 %3, i32 63)
  %most = icmp sle i32 %end, %1
  tail call void @llvm.assume(i1 %most), !dbg !1
  br label %step

step:                                             ; preds = %step, %bounds
  %7 = phi i32 [ 0, %bounds ], [ %8, %step ]
  store float 1.0, ptr addrspace(1) %0, align 4
  %8 = add i32 %7, 2
  %9 = icmp slt i32 %8, %end
  br i1 %9, label %step, label %before

before:                                           ; preds = %step
  %10 = icmp slt i32 %end, %1
  br i1 %10, label %fill, label %last

fill:                                             ; preds = %fill, %before
  %11 = phi i32 [ %end, %before ], [ %12, %fill ]
  store float 0.0, ptr addrspace(1) %0, align 4
  %12 = add i32 %11, 1
  %13 = icmp slt i32 %12, %1
  br i1 %13, label %fill, label %last

last:                                             ; preds = %fill, %before
  ret void
}
"""


def test_the_longest_loop_is_played_where_a_bound_is_assumed():
    assert trip_of(MASKED) == Trip(2, {"store": 1})


@pytest.mark.parametrize("stored", ["", "  store float 2.0, ptr addrspace(1) %0, align 4\n"], ids=["waits", "stores"])
def test_what_waits_within_a_step_is_no_loop_without_an_end(stored):
    """Until another program has arrived; a loop that nobody can see through may do no more than that."""
    waiting = f"""  br label %wait

wait:                                             ; preds = %wait, %step
{stored}  %seen = tail call i32 asm sideeffect "ld.acquire", "=r"()
  %come = icmp sgt i32 %seen, %7
  br i1 %come, label %gone, label %wait

gone:                                             ; preds = %wait
  %8 = add i32 %7, 2"""
    text = MASKED.replace("  %8 = add i32 %7, 2", waiting).replace("[ %8, %step ]", "[ %8, %gone ]")
    if stored:
        with pytest.raises(ValueError, match=r"cease to repeat: \['%wait'\]"):
            trip_of(text)
    else:
        assert trip_of(text) == Trip(2, {"store": 1})


def test_a_branch_is_decided_by_the_part_of_its_condition_that_is_known():
    behind = """before:                                           ; preds = %step
  %lane = tail call i32 @llvm.amdgcn.readlane.i32(i32 %3, i32 0)
  %first = icmp eq i32 %lane, 0
  %left = icmp slt i32 %end, %1
  %both = and i1 %left, %first
  br i1 %both, label %fill, label %padding

fill:                                             ; preds = %fill, %before
  %10 = phi i32 [ %end, %before ], [ %11, %fill ]
  store float 1.0, ptr addrspace(1) %0, align 4
  store float 2.0, ptr addrspace(1) %0, align 4
  %11 = add i32 %10, 4
  %12 = icmp eq i32 %11, %1
  br i1 %12, label %padding, label %fill

padding:                                          ; preds = %fill, %before
  ret void
}
"""
    assert trip_of(MASKED[: MASKED.index("before:  ")] + behind) == Trip(2, {"store": 1})


@pytest.mark.parametrize(
    ("wanted", "instead"),
    [
        ("tail call void @llvm.assume(i1 %most), !dbg !1", ""),
        ("icmp sle i32 %end, %1", "icmp sge i32 %end, %1"),
    ],
)
def test_a_loop_that_stores_needs_a_known_end_beside_others(wanted, instead):
    assert MASKED.count(wanted) == 1
    with pytest.raises(ValueError, match="cease to repeat"):
        trip_of(MASKED.replace(wanted, instead))


def test_a_loop_that_the_machine_code_does_not_have_is_refused():
    straight = AMDGCN.replace("s_cbranch_scc0 .LBB0_1", "s_nop 1")
    with pytest.raises(ValueError, match="No loop of kernel 'scan'"):
        analyse(Compiled("scan", TARGETS["gfx942"], 4, 0, b"", straight, LLVM_IR))


def test_a_kernel_without_a_loop_has_no_step():
    straight = AMDGCN.replace("s_cbranch_scc0 .LBB0_1", "s_nop 1")
    no_loop = LLVM_IR.replace("label %._crit_edge, label %.lr.ph", "label %._crit_edge, label %._crit_edge")
    assert analyse(Compiled("scan", TARGETS["gfx942"], 4, 0, b"", straight, no_loop)).step is None


def test_an_interpreted_kernel_is_refused():
    from triton.runtime.interpreter import InterpretedFunction

    def kernel(x_ptr):
        pass

    with pytest.raises(TypeError, match="'kernel' cannot be compiled: TRITON_INTERPRET"):
        compile_kernel(InterpretedFunction(kernel), {"x_ptr": "*fp32"}, {}, "sm_90", num_warps=4, num_stages=1)


@pytest.mark.parametrize(
    ("constants", "aligned", "fault"),
    [
        ({}, (), "N have neither a type nor a value"),
        ({"N": 64, "T": 3}, (), "T have both a type and a value"),
        ({"N": 64, "M": 3}, ("K",), "K, M are not arguments of it"),
        ({"N": 64}, ("N",), "N are aligned but have no type"),
    ],
)
def test_arguments_that_do_not_match_the_kernel_are_refused(compiled, constants, aligned, fault):
    with pytest.raises(ValueError, match=fault):
        compiled("crowded_scan", "sm_90", aligned=aligned, **constants)


def test_a_listing_may_say_what_the_second_words_hold():
    """As the disassembler does that came with Triton 3.6."""
    plain, said = (
        f"        /*0000*/   BSSY.RECONVERGENT B0, 0x30{first};   /* 0x0000000000007945 */\n"
        "                                                        /* 0x000fe20003800200 */\n"
        f"        /*0010*/   @P2 BRA 0x0{second};                 /* 0x0000000000c42947 */\n"
        "                                                        /* 0x000fea0003800000 */\n"
        f"        /*0020*/   BSYNC.RECONVERGENT B0{first};        /* 0x0000000000007941 */\n"
        "                                                        /* 0x000fea0003800200 */\n"
        f"        /*0030*/   EXIT{second};                        /* 0x000000000000794d */\n"
        "                                                        /* 0x000fea0003800000 */\n"
        for first, second in (("", ""), ("    &req={2} &wr=0x1    ?WAIT2_END_GROUP", "          ?trans6"))
    )
    assert _parse_sass(plain) == _parse_sass(said)
    assert [line.targets for line in _parse_sass(said)] == [(), (0,), (), ()]
