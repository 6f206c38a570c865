"""The suite of a GPU: LSTM and GRU beside torch.nn's, which run cuDNN on a card of NVIDIA's, and others' kernels; and
cells that are linear in their state beside theirs. Both sides have the same arithmetic; each runs from a cold L2 cache.
"""

from collections.abc import Iterator

from benchmarks.contenders.linear import GATES
from benchmarks.contenders.torch_nn import CLASSES
from benchmarks.measure import Budget, Comparison
from benchmarks.problem import Case
from benchmarks.suites import Task, Wanted

CELLS = ("lstm", "gru", *GATES)
TIME, BATCH, HIDDEN = (1024,), (16, 128), (64, 128, 512)
OTHERS = dict.fromkeys(CLASSES, ("torch.nn", "FlashRNN", "Haste", "TorchRL"))
OTHERS |= dict.fromkeys(GATES, ("loop", "fla", "accelerated-scan"))


def tasks(wanted: Wanted) -> Iterator[Task]:
    for dtype in wanted.dtype or ("bfloat16",):
        for cell in wanted.cells or CELLS:
            others = OTHERS.get(cell, ("loop",))
            for time in wanted.time or (TIME[0] // 16 if wanted.quick else TIME[0],):
                for hidden in wanted.hidden or HIDDEN[: 1 if wanted.quick else None]:
                    for batch in wanted.batch or BATCH[: 1 if wanted.quick else None]:
                        case = Case(cell, time, batch, hidden, dtype, wanted.device)
                        budget = Budget(0.2, 3, 5) if wanted.quick else Budget(2.0, 25, 100)
                        yield Comparison("kernels", case, ("rnngen", *others), others[0], budget)
