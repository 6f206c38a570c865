"""The suite of a GPU, the largest questions first; MINUTES are what a card is lent for.

correctness  whether kernels are right, by tests/test_gpu.py, of the types that are timed
calibration  the constants of the machine, and estimates beside times
kernels      LSTM and GRU beside torch.nn's, which run cuDNN on a card of NVIDIA's, and others' kernels; cells that are
             linear in their state beside theirs; other arithmetic; long sequences
schedules    one layer by several schedules, and in a CUDA graph
types        whether kernels are right in the other types

Both sides have the same arithmetic; each runs from a cold L2 cache.
"""

from collections.abc import Callable, Iterator

from benchmarks.contenders.linear import GATES
from benchmarks.contenders.ours import BY_SCHEDULE, GRAPH
from benchmarks.contenders.torch_nn import CLASSES
from benchmarks.correctness import DTYPES, Correctness
from benchmarks.gauges import half_of_the_card
from benchmarks.gauges import tasks as gauges
from benchmarks.measure import Budget, Comparison
from benchmarks.problem import Case
from benchmarks.suites import Task, Wanted

MINUTES = 30
CELLS = ("lstm", "gru", *GATES)
TIME, BATCH, HIDDEN = (1024,), (16, 128), (64, 128, 512)
OTHERS = dict.fromkeys(CLASSES, ("torch.nn", "FlashRNN", "Haste", "TorchRL"))
OTHERS |= dict.fromkeys(GATES, ("loop", "fla", "accelerated-scan"))
HALF = "half"  # the type of half precision that the card has
LOOPED = 1024  # steps: beyond, a loop in Python takes seconds

# Cells, steps, sizes of the batch and units, arithmetic. On sm_90 `cooperative` runs 256 to 1024 units, `resident` what
# is narrower and `stepwise` what is wider. The judge's float64 on the CPU takes as long as all else beyond 256 steps.
QUESTIONS = (
    (("lstm", "gru"), 256, (16,), (512, 1024, 256, 2048), HALF),
    (("lstm", "gru"), 1024, (16, 128), (128, 64), HALF),
    (("lstm", "gru"), 256, (64, 128), (512, 1024), HALF),
    (("mingru", "hgrn_fla"), 1024, (16,), (1024,), HALF),
    (("indrnn",), 1024, (16,), (1024,), HALF),
    (("lstm",), 8192, (16,), (128,), HALF),
    (("mingru", "hgrn_fla"), 16384, (1,), (1024,), HALF),
    (("lstm",), 256, (16,), (64, 512), "float32"),
    (("lstm",), 256, (16,), (64, 512), "tf32"),
    (("lstm", "gru"), 1024, (1,), (128,), HALF),
)
SIDE_BY_SIDE = (
    ("lstm", 256, 16, 128, ("resident", "cooperative", "stepwise")),
    ("lstm", 256, 16, 1024, ("cooperative", "stepwise")),
    ("mingru", 256, 16, 1024, ("linear", "elementwise")),
)


def tasks(wanted: Wanted) -> Iterator[Task]:
    """Those of all parts, or of the parts that are named; with cells or sizes alone, or where no GPU is, `kernels`."""
    narrowed = _narrowed(wanted) or not wanted.device.startswith("cuda")
    for part in wanted.parts or (("kernels",) if narrowed else PARTS):
        yield from PARTS[part](wanted)


def _narrowed(wanted: Wanted) -> bool:
    return bool(wanted.cells or wanted.hidden or wanted.batch or wanted.time or wanted.dtype or wanted.quick)


def _correctness(wanted: Wanted) -> Iterator[Task]:
    for arithmetic in _timed():
        yield Correctness(arithmetic)
    yield Correctness("")


def _types(wanted: Wanted) -> Iterator[Task]:
    for arithmetic in DTYPES:
        if arithmetic not in _timed():
            yield Correctness(arithmetic)


def _timed() -> tuple[str, ...]:
    return (half_of_the_card(), "float32")


def _calibration(wanted: Wanted) -> Iterator[Task]:
    yield from gauges(wanted.device)


def _kernels(wanted: Wanted) -> Iterator[Task]:
    if _narrowed(wanted):
        yield from _asked_for(wanted)
        return
    for cells, time, batches, widths, kind in QUESTIONS:
        arithmetic = half_of_the_card() if kind == HALF else kind
        for hidden in widths:
            for batch in batches:
                for cell in cells:
                    others = [name for name in OTHERS.get(cell, ("loop",)) if time <= LOOPED or name != "loop"]
                    case = Case(cell, time, batch, hidden, arithmetic, wanted.device)
                    yield Comparison("kernels", case, ("rnngen", *others), others[0], _budget(wanted))


def _asked_for(wanted: Wanted) -> Iterator[Task]:
    for dtype in wanted.dtype or ("bfloat16",):
        for cell in wanted.cells or CELLS:
            others = OTHERS.get(cell, ("loop",))
            for time in wanted.time or (TIME[0] // 16 if wanted.quick else TIME[0],):
                for hidden in wanted.hidden or HIDDEN[: 1 if wanted.quick else None]:
                    for batch in wanted.batch or BATCH[: 1 if wanted.quick else None]:
                        case = Case(cell, time, batch, hidden, dtype, wanted.device)
                        yield Comparison("kernels", case, ("rnngen", *others), others[0], _budget(wanted))


def _schedules(wanted: Wanted) -> Iterator[Task]:
    for cell, time, batch, hidden, schedules in SIDE_BY_SIDE:
        case = Case(cell, time, batch, hidden, half_of_the_card(), wanted.device)
        contenders = ("rnngen", *(BY_SCHEDULE[name] for name in schedules), GRAPH)
        over = "torch.nn" if cell in CLASSES else contenders[0]
        yield Comparison("schedules", case, tuple(dict.fromkeys((*contenders, over))), over, _budget(wanted))


PARTS: dict[str, Callable[[Wanted], Iterator[Task]]] = {
    "correctness": _correctness,
    "calibration": _calibration,
    "kernels": _kernels,
    "schedules": _schedules,
    "types": _types,
}


def _budget(wanted: Wanted) -> Budget:
    return Budget(0.2, 3, 5) if wanted.quick else Budget(1.0, 10, 100)
