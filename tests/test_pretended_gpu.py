"""What would happen on a GPU up to the launch of every kernel: arguments, grids, devices, variants, and what fits."""

import re
import warnings
from collections import Counter
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
import torch
from conftest import imported
from pretended_gpu import CARDS, OTHERS, Card, Record, pretended
from torch.nn.utils.rnn import pack_padded_sequence
from triton.runtime.jit import JITFunction

from rnngen.compile import compile_model
from rnngen.description import library
from rnngen.runtime import language, launch, native, sweep
from rnngen.runtime.choose import choose
from rnngen.runtime.plan import NotPossible
from rnngen.runtime.schedules import resident

CELLS = {"lstm": "LSTM", "gru": "GRU", "gru_v3": "GRUv3", "indrnn": "IndRNN", "mingru": "MinGRU"}
CELLS |= {"lstm_heads": "LSTMHeads"}
CLASSES = CELLS | {"rhn": "RHN", "layer_norm_gru": "LayerNormGRU"}
CHECKED_IN = ("lstm", "gru", "gru_v3", "indrnn", "lstm_heads")
DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float32", "float64", "bfloat16", "float16")}
HEADS = {"lstm_heads": 3}
TIME, BATCH, INPUTS, WIDTH = 3, 19, 5, 16
LENGTHS = [1 + n % TIME for n in range(BATCH)]

every_card = pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)


@cache
def module(cell: str) -> ModuleType:
    """A cell's module: the one that is checked in, or one made here."""
    if cell in CHECKED_IN:
        return import_module(f"generated.{cell}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{cell}.py"
        path.write_text(compile_model(library()[cell]).text)
        return imported(path, f"pretended_{cell}")


def layer_class(cell: str) -> type:
    return getattr(module(cell), CLASSES[cell])


def schedules(cell: str) -> list[str]:
    return list(getattr(module(cell), f"{cell}_scan").forward.kernels)


def train(
    cell: str,
    dtype: str,
    width: int = WIDTH,
    packed: bool = False,
    device: str = "cuda",
    resets: bool = False,
    **options,
) -> None:
    """A forward and a backward pass of two layers in two directions."""
    heads = HEADS.get(cell, 1)
    options = {"num_layers": 2, "bidirectional": True, "heads": heads, "device": device} | options
    layer = layer_class(cell)(INPUTS, heads * width, dtype=DTYPES[dtype], **options)
    x = torch.randn(TIME, BATCH, INPUTS, device=device, dtype=DTYPES[dtype], requires_grad=True)
    flags = torch.ones(TIME, BATCH, device=device, dtype=torch.bool) if resets else None
    y, _ = layer(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False) if packed else x, resets=flags)
    (y.data if packed else y).sum().backward()


def check(gpu: Record, cell: str, schedule: str, packed: bool, device: int = 0) -> None:
    """What must hold of the launches of `train`, said without asking the code that made them."""
    assert gpu.faults == []
    # Two layers; both directions of one are a scan of twice the units, unless a kernel is of one step.
    scans, half = (4, 1) if schedule == "stepwise" else (2, 2)
    hidden, heads = half * WIDTH * HEADS.get(cell, 1), half * HEADS.get(cell, 1)
    for direction in ("forward", "adjoint"):
        found = [one for one in gpu.launches if one.kernel.startswith(f"{cell}_{direction}_{schedule}")]
        stages = {one.kernel for one in found}
        assert len(found) == scans * (TIME * len(stages) if schedule == "stepwise" else 1)
        if schedule == "stepwise":
            assert [one.arguments["time"] for one in found[:: len(stages)]] in (
                [step for run in order for step in run]
                for order in ([[0, 1, 2], [2, 1, 0]] * 2, [[2, 1, 0], [0, 1, 2]] * 2)
            )
        else:
            assert {(one.constants["BOTH"], one.constants["BACKWARDS"]) for one in found} == {
                (True, direction == "adjoint")
            }
    for one in gpu.launches:
        assert one.kernel.startswith((f"{cell}_forward_{schedule}", f"{cell}_adjoint_{schedule}"))
        assert packed or one.arguments.get("valid_ptr") is None
        if schedule == "resident":
            assert one.grid == (-(-BATCH // one.constants["BB"]), heads, 1)
        elif schedule == "cooperative":  # all programs at once
            programs = one.constants["SLICES"] * one.constants["PARTS"] * heads
            assert one.grid == (-(-BATCH // one.constants["BB"]), programs, 1)
            assert one.grid[0] * one.grid[1] <= gpu.card.processors
            assert one.constants["SLICES"] * one.constants["KU"] >= WIDTH
        else:
            assert one.grid == (BATCH, half * -(-hidden // (half * one.constants["BLOCK"])), 1)
        assert one.device == device
        assert one.arguments["B"] == BATCH
        assert one.arguments.get("T", TIME) == TIME
        for argument, tensor in one.arguments.items():
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 3 and not argument.startswith("weight_hh_ptr"):
                assert tensor.shape[:2] == (TIME, BATCH), argument
                assert tensor.shape[2] % hidden == 0 or (tensor.shape[2] == 1 and tensor.dtype == torch.int32)
    if packed:  # in each direction the last kernel of a step asks for the mask
        masked = {
            one.kernel.split("_stepwise")[0] for one in gpu.launches if one.arguments.get("valid_ptr") is not None
        }
        assert masked == {one.kernel.split("_stepwise")[0] for one in gpu.launches}
    assert len(gpu.variants) == len({(one.kernel, *map(str, one.constants.values())) for one in gpu.launches})


@pytest.fixture
def forgetful():
    """Each test is told again what is told once in a process."""
    for function in (launch.has_kernels, launch._warn_once):
        function.cache_clear()
    yield
    for function in (launch.has_kernels, launch._warn_once):
        function.cache_clear()


# All are 640 runs of some 0.2 s; `make test` takes each pair of a cell and a card, and of a card and a type.
COMBINATIONS = [
    pytest.param(cell, card, dtype, marks=[pytest.mark.slow] if (i + j + k) % len(DTYPES) else [])
    for i, cell in enumerate(CELLS)
    for j, card in enumerate(CARDS)
    for k, dtype in enumerate(DTYPES)
]


@pytest.mark.parametrize("cell", ["rnn", "mingru"])
def test_no_length_and_no_batch_compiles_a_kernel_anew(cell, layer_of):
    """Triton takes sizes of 1, and those that 16 divides, for something special, unless it is told otherwise."""
    text = library()[cell].text.replace(f'"{cell}"', f'"{cell}_anew"', 1)  # or it would share another's operators
    for schedule in layer_of(text).cell.schedules:
        with pretended(CARDS["H100"]) as gpu:
            layer = layer_of(text)(INPUTS, WIDTH, schedule=schedule, device="cuda")
            counts = []
            for time, batch in ((3, 5), (1, 5), (16, 5), (3, 1), (3, 16)):
                layer(torch.randn(time, batch, INPUTS, device="cuda"))[0].sum().backward()
                counts.append(len(gpu.variants))
            assert counts[0] > 0 and len(set(counts)) == 1, (schedule, counts)


@pytest.mark.parametrize("cell, card, dtype", COMBINATIONS)
def test_every_schedule(cell, card, dtype):
    for schedule in schedules(cell):
        for packed in (False, True):
            with pretended(CARDS[card]) as gpu:
                train(cell, dtype, packed=packed, schedule=schedule)
            check(gpu, cell, schedule, packed)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_resets(cell, card):
    for schedule in schedules(cell):
        with pretended(CARDS[card]) as gpu:
            train(cell, "float32", resets=True, schedule=schedule)
        assert gpu.faults == []
        assert {one.kernel.split("_")[1] for one in gpu.launches} == {"forward", "adjoint"}
        for one in gpu.launches if schedule != "stepwise" else []:  # whose kernels know nothing of them
            states = len(layer_class(cell).cell.states)
            assert one.arguments["resets_ptr"].shape == (TIME + 1, BATCH, 1)
            assert one.arguments["resets_ptr"].dtype == torch.int32
            assert one.arguments["first_ptr"].shape == (BATCH, states * 2 * WIDTH)


ROWS = dict(zip(CARDS, ["sm_75", "sm_86", "sm_80", "sm_90", "sm_89", "sm_120", "sm_100", "gfx942"], strict=True))


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_known_by_its_row(card):
    with pretended(CARDS[card]):
        found = launch.machine_of(torch.device("cuda", 0))
    assert found.name == ROWS[card]
    assert (found.shared_bytes, found.processors) == (CARDS[card].shared, CARDS[card].processors)


def test_kernels_are_launched_where_the_tensors_are():
    with pretended(CARDS["H100"]) as gpu:
        assert torch.cuda.current_device() == 0
        for packed in (False, True):
            gpu.launches.clear()
            gpu.variants.clear()
            train("lstm", "bfloat16", packed=packed, device="cuda:1", schedule="resident")
            check(gpu, "lstm", "resident", packed, device=1)


@pytest.mark.parametrize("schedule", ["resident", "stepwise"])
def test_one_variant_serves_every_length_and_batch(schedule):
    with pretended(CARDS["A100"]) as gpu:
        layer = layer_class("lstm")(INPUTS, WIDTH, device="cuda", dtype=torch.float16, schedule=schedule)
        counts = set()
        for time, batch in [(2, 3), (1, 1), (5, 16), (9, 17), (1, 64)]:
            y, _ = layer(torch.randn(time, batch, INPUTS, device="cuda", dtype=torch.float16))
            y.sum().backward()
            counts.add(len(gpu.variants))
    assert len(counts) == 1
    assert not gpu.faults


@every_card
def test_a_batch_beyond_what_the_second_dimension_of_a_grid_counts(card):
    batch = 8 * 65535 + 1
    with pretended(card, meta=True) as gpu:
        pairs = ("lstm", "resident"), ("indrnn", "elementwise"), ("mingru", "linear"), ("gru", "stepwise")
        for cell, schedule in pairs:
            layer = layer_class(cell)(1, 16, device="cuda", dtype=torch.float16, schedule=schedule)
            layer(torch.empty(1, batch, 1, device="cuda", dtype=torch.float16))[0].sum().backward()
    assert len(gpu.launches) >= 8
    assert not gpu.faults


@pytest.mark.parametrize("card", ["H100", "A100", "B200", "MI300X"])
@pytest.mark.parametrize("resets", [False, True], ids=["", "resets"])
def test_a_long_sequence_over_few_units_fills_the_card(card, resets):
    """A linear scan of one sequence over 256 units: 16 programs, or 22 times as many along time on an H100."""
    time, hidden, processors = 16384, 256, CARDS[card].processors
    with pretended(CARDS[card], meta=True) as gpu:
        for cell in ("mingru", "indrnn"):
            layer = layer_class(cell)(1, hidden, device="cuda", dtype=torch.bfloat16)
            x = torch.empty(time, 1, 1, device="cuda", dtype=torch.bfloat16)
            flags = torch.empty(time, 1, device="cuda", dtype=torch.bool) if resets else None
            layer(x, resets=flags)[0].sum().backward()
    assert not gpu.faults
    found = [one for one in gpu.launches if "linear" in one.kernel]
    sweeps = ("mingru_forward", "mingru_adjoint", "indrnn_adjoint")
    assert [one.kernel for one in found] == [f"{sweep}_linear" for sweep in sweeps for _ in range(2)]
    assert [one.constants["ROUND"] for one in found] == [0, 1] * 3
    for one in found:
        batch, blocks, stretches = one.grid
        assert (batch, blocks * one.constants["BLOCK"]) == (1, hidden)
        assert blocks <= processors / 6 and 1.5 * processors < batch * blocks * stretches <= 3 * processors
        maps = one.arguments["h_maps_ptr" if "forward" in one.kernel else "d_h_maps_ptr"]
        assert (maps.shape, maps.dtype) == ((stretches, 3, 1, hidden), torch.float32)
        assert one.arguments["T"] == time
    last = found[-1].arguments
    assert (last["d_h_last_ptr"].shape, last["d_h_last_ptr"].dtype) == ((1, hidden), torch.bfloat16)
    summed = ["d_weight_hh_last_ptr", *(["first_ptr"] if resets else [])]
    for name in summed:
        assert (last[name].shape, last[name].dtype) == ((found[-1].grid[2], 1, hidden), torch.float32)


def test_a_short_sequence_and_a_full_card_have_one_program_along_time():
    with pretended(CARDS["H100"], meta=True) as gpu:
        for time, batch in ((1024, 1), (16384, 16)):
            layer = layer_class("mingru")(1, 512, device="cuda")
            layer(torch.empty(time, batch, 1, device="cuda"))[0].sum().backward()
    assert [one.grid for one in gpu.launches] == [(1, 32, 1)] * 2 + [(16, 32, 1)] * 2
    assert all(one.constants["ROUND"] == 1 and one.arguments.get("h_maps_ptr") is None for one in gpu.launches)


def test_autocast_on_a_card():
    with pretended(CARDS["H100"]) as gpu, torch.autocast("cuda", dtype=torch.bfloat16):
        y, _ = layer_class("lstm")(INPUTS, WIDTH, device="cuda")(torch.randn(2, 3, INPUTS, device="cuda"))
    assert y.dtype == torch.bfloat16
    assert {one.arguments["y_ptr"].dtype for one in gpu.launches} == {torch.bfloat16}


# What does not fit.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_schedule_that_does_not_fit_gives_way_by_plan(dtype):
    """An LSTM of 64 units takes 73,728 bytes on a T4, which has 65,536."""
    options = {"device": "cuda", "dtype": DTYPES[dtype]}
    with pretended(CARDS["T4"], compiling=True) as gpu:
        y, _ = layer_class("lstm")(8, 64, **options)(torch.randn(3, 2, 8, **options))
        y.sum().backward()
        with pytest.raises(NotPossible, match="KiB of on-chip memory are needed and 64 KiB are there"):
            layer_class("lstm")(8, 64, schedule="resident", **options)(torch.randn(3, 2, 8, **options))
    assert {one.kernel.split("_")[2] for one in gpu.launches} == {"cooperative"}


def test_a_kernel_that_triton_finds_too_large_gives_way_with_one_warning(monkeypatch, forgetful):
    monkeypatch.setattr(resident, "shared_bytes", lambda *_: 0)  # a plan that is wrong
    options = {"device": "cuda", "dtype": torch.float32}
    choose.cache_clear()
    try:
        with pretended(CARDS["T4"], compiling=True) as gpu, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            layer = layer_class("lstm")(8, 64, **options)
            x = torch.randn(3, 2, 8, **options)
            with torch.no_grad():
                layer(x), layer(x)
                wanted = layer_class("lstm")(8, 64, schedule="resident", **options)
                with pytest.raises(NotPossible, match="lstm_forward_resident needs 69632 of shared memory"):
                    wanted(x)
    finally:
        choose.cache_clear()
    assert [str(one.message) for one in warned] == [
        "The schedule 'resident' cannot run here: lstm_forward_resident needs 69632 of shared memory, and 65536 are "
        "there. It gives way to 'stepwise', which is slower."
    ]
    assert {one.kernel for one in gpu.launches} == {"lstm_forward_stepwise_1"}


NOTHING = Card("a card without shared memory", (8, 0), 108, -1)  # one on which no kernel fits


@pytest.mark.parametrize("schedule, planned", [("stepwise", 0), ("auto", 0), ("auto", -1)])
def test_where_stepwise_does_not_fit_either_the_user_is_told(schedule, planned, monkeypatch, forgetful):
    monkeypatch.setattr(resident, "shared_bytes", lambda *_: planned)  # with -1 the plan is that `resident` fits
    choose.cache_clear()
    told = "The schedule 'stepwise' cannot run here: lstm_forward_stepwise_1 needs 0 of shared memory, and -1 are"
    way = pytest.warns(UserWarning, match="It gives way to 'stepwise'") if planned < 0 else nullcontext()
    try:
        with pretended(NOTHING, compiling=True), way, pytest.raises(NotPossible, match=told):
            layer_class("lstm")(8, 64, schedule=schedule, device="cuda")(torch.randn(3, 2, 8, device="cuda"))
    finally:
        choose.cache_clear()


# Some of each card, compiled: (cell, type, width, schedule, packed).
COMPILED = [
    ("lstm", "float16", 32, "resident", False),
    ("gru_v3", "bfloat16", 16, "resident", True),
    ("lstm_heads", "float32", 16, "resident", False),
    ("indrnn", "bfloat16", 64, "elementwise", True),
    ("mingru", "float32", 16, "linear", True),
    ("gru", "float64", 64, "stepwise", False),
]
MORE = [
    (cell, dtype, width, schedule, packed)
    for cell in CELLS
    for dtype in DTYPES
    for width in (16, 32, 64, 128)
    for schedule in schedules(cell)
    for packed in (False, True)
]


def widest(card: str, cell: str, dtype: str) -> int:
    """Units of a head up to which `resident` runs, and beyond which it must be refused.

    By type what the registers hold; by card what its memory does, where that is less: four matrices of 64 units and 4
    bytes are all of a T4's 64 KiB, and three of 128 units and 2 bytes leave 3 of the 99 KiB of an A10.
    """
    by_type = {"float64": 32, "float32": 64}.get(dtype, 128)
    by_card = {"T4": 32 if cell.startswith("lstm") else 64, "A10": 64, "RTX4090": 64, "RTX5090": 64}
    return min(by_type, by_card.get(card, 128))


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize(
    "cell, dtype, width, schedule, packed",
    [*COMPILED, *(pytest.param(*row, marks=pytest.mark.slow) for row in MORE if row not in COMPILED)],
)
def test_kernels_compile_for_a_card_and_take_the_memory_that_was_foretold(
    card, cell, dtype, width, schedule, packed, monkeypatch
):
    foretold = {}  # by direction: the last estimate is that of the constants which the kernel gets
    whole = resident.shared_bytes

    def noted(facts, *args):
        bytes_ = foretold["adjoint" if facts.backwards else "forward"] = whole(facts, *args)
        return bytes_

    monkeypatch.setattr(resident, "shared_bytes", noted)
    choose.cache_clear()
    with pretended(CARDS[card], compiling=True) as gpu:
        if schedule == "resident" and width > widest(card, cell, dtype):
            with pytest.raises(NotPossible, match=r"do not fit|wider than|are needed"):
                train(cell, dtype, width, packed, num_layers=1, bidirectional=False, schedule=schedule)
            return
        train(cell, dtype, width, packed, num_layers=1, bidirectional=False, schedule=schedule)
    assert not gpu.faults
    seen = set()
    for one in gpu.launches:
        assert f"_{schedule}" in one.kernel
        assert one.shared <= CARDS[card].shared
        direction = "adjoint" if "_adjoint" in one.kernel else "forward"
        seen.add(direction)
        if schedule == "resident":
            assert one.shared <= foretold[direction] <= 2.5 * one.shared
    assert seen == {"forward", "adjoint"}


# Devices without kernels.


def outcome(device: str, packed: bool) -> list[torch.Tensor]:
    """Output, state and gradients of a seeded layer on a device, on the CPU."""
    torch.manual_seed(0)
    layer = layer_class("lstm")(INPUTS, 8, num_layers=2)
    x = torch.randn(TIME, BATCH, INPUTS)
    layer, x = layer.to(device), x.to(device).requires_grad_()
    y, (h, _) = layer(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False) if packed else x)
    y = y.data if packed else y
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], create_graph=not packed)
    found = [y, h, *gradients]
    if not packed:  # a second derivative, which kernels do not have
        found += torch.autograd.grad(gradients[0].square().sum(), [x, *layer.parameters()])
    return [tensor.detach().cpu() for tensor in found]


def without_native_code(monkeypatch):
    """The steps in torch on the CPU, too."""
    monkeypatch.setattr(native, "multiplies", lambda *tensors: False)
    monkeypatch.setattr(sweep, "native_of", lambda which, state: None)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("card", OTHERS.values(), ids=OTHERS)
def test_a_device_without_kernels_runs_the_torch_steps_and_says_so_once(card, packed, forgetful, monkeypatch):
    without_native_code(monkeypatch)
    wanted = outcome("cpu", packed)
    with pretended(card, driver=False) as gpu, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            for ours, theirs in zip(outcome(f"{card.kind}:0", packed), wanted, strict=True):
                assert torch.equal(ours, theirs)
    assert [str(one.message) for one in warned] == [
        f"Scans on '{card.kind}' run step by step in torch, which is slow: there are kernels for CUDA and ROCm "
        f"devices, and none for '{card.kind}'."
    ]
    assert (gpu.launches, gpu.faults) == ([], [])


@pytest.mark.parametrize("version", [None, "3.5.1"])
def test_a_card_without_triton_or_with_an_old_one_runs_the_torch_steps(version, forgetful, monkeypatch):
    import triton

    if version is None:
        monkeypatch.setattr(language, "import_module", lambda name: exec("raise ModuleNotFoundError(name='triton')"))
    else:
        monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(launch, "MISSING", language._missing())
    without_native_code(monkeypatch)
    wanted = outcome("cpu", False)
    with pretended(CARDS["H100"]) as gpu:
        with pytest.warns(UserWarning, match="Triton 3.6 or newer") as warned:
            found = outcome("cuda:0", False)
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours, theirs)
    (told,) = (str(one.message) for one in warned)
    assert (version or "the package 'triton' is not installed") in told
    assert not gpu.launches


@pytest.mark.parametrize("resets", [False, True], ids=["", "resets"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_heads", "rhn", "layer_norm_gru"])
def test_a_graph_could_be_captured_of_stepwise(cell, resets, monkeypatch):
    """Nothing waits for the card, and only the first launch of a stage is bound."""
    bound = []
    whole = JITFunction.run
    monkeypatch.setattr(JITFunction, "run", lambda self, *a, **k: bound.append(self.__name__) or whole(self, *a, **k))
    with pretended(CARDS["H100"]) as gpu:
        heads = HEADS.get(cell, 1)
        layer = layer_class(cell)(INPUTS, 4 * heads, heads=heads, device="cuda", schedule="stepwise")
        x = torch.randn(TIME, BATCH, INPUTS, device="cuda", requires_grad=True)
        flags = torch.ones(TIME, BATCH, dtype=torch.int32, device="cuda") if resets else None
        gpu.waits.clear()
        y, _ = layer(x, resets=flags)
        y.sum().backward()
        assert gpu.waits == []
        launched = Counter(launch.kernel for launch in gpu.launches)
        assert launched == dict.fromkeys(bound, TIME)
        assert Counter(bound) == dict.fromkeys(launched, 1)
        y.sum().item()
        y.cpu()
        assert gpu.waits == ["aten::_local_scalar_dense", "aten::_to_copy"]
    assert gpu.faults == []


def test_the_pretence_sees_what_a_driver_would_refuse():
    """The judge is judged: another device, a grid that is too large, a tensor with gaps, an operand on the CPU."""
    kernel = import_module("generated.lstm").lstm_forward_stepwise_1
    constants = {"H": 4, "BLOCK": 32, "SAVE": True, "KEEP": True, "ACC": language.tl.float32}
    with pretended(CARDS["H100"]) as gpu:
        here, there = torch.zeros(2, 4, device="cuda"), torch.zeros(2, 4, device="cuda:1")
        kernel[1, 65536](
            *[here] * 4,
            None,
            torch.zeros(4, 2, device="cuda").T,
            here,
            there,
            0,
            2**31,
            enable_fp_fusion=True,
            **constants,
        )
        assert here.device == torch.device("cuda:0")
        torch.mm(here, torch.zeros(4, 2))
        torch.cat([here, torch.zeros(2, 4)])
        here + there
    names = [fault.split(": ")[0] for fault in gpu.faults]
    assert names == [*["lstm_forward_stepwise_1"] * 3, "aten::mm", "aten::cat", "aten::add"]
    assert re.search("h_operand_ptr is not contiguous.*saved_ptr is on cuda:1.*a grid of", " ".join(gpu.faults))
