"""The suite of a CPU: float32, and one thread but for the part `threads`.

chunks    long sequences in chunks, by cells that forget and cells that do not
threads   two threads beside one
sizes     LSTM and GRU beside torch.nn's and others', by width and batch
library   every cell of the library beside nn.LSTM of its size
length    time by the number of steps
memory    the same of memory
first     the time to the first result, in a fresh process
floor     how fast torch multiplies
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.alone import FirstResult, Memory
from benchmarks.contenders import OTHER_CELL
from benchmarks.contenders.torch_nn import CLASSES
from benchmarks.contenders.torchrecurrent import CELLS as THEIRS
from benchmarks.forgetting import VARIANTS, Forgetting
from benchmarks.machine import AVAILABLE
from benchmarks.measure import Budget, Comparison, Rate
from benchmarks.problem import Case
from benchmarks.suites import Task, Wanted

TIME, BATCH, HIDDEN = 64, 16, 64
HIDDENS, BATCHES = (16, 64, 256, 512), (1, 16, 64)
LENGTHS = (1, 16, 64, 256, 1024, 4096, 16384)
MEMORIES = (1024, 4096, 16384)
LONG_AND_NARROW = (1000, 1, 16)
ON_THREADS = ((64, 16), (64, 64), (256, 16), (256, 64))  # units, batch
LOOPED = 1024  # steps: a loop in Python keeps some ten tensors of each
WIDEST_OF_ALL = 256  # units: beyond, only torch.nn is beside ours
OURS = ("rnngen", "torch steps")
PEERS = ("lstm", "gru")


def tasks(wanted: Wanted) -> Iterator[Task]:
    """Those of two threads come before what has XLA in it, which has as many threads as there are processors when it
    begins.
    """
    for part in wanted.parts or PARTS:
        yield from PARTS[part](wanted)


def _threads(wanted: Wanted) -> Iterator[Task]:
    if len(AVAILABLE) == 1:
        return
    for cell in _wanted(PEERS[:1], wanted):
        for hidden, batch in ON_THREADS[1 : 2 if wanted.quick else None]:
            for threads in (2, 1):
                case = Case(cell, TIME, batch, hidden, threads=threads)
                yield Comparison("threads", case, ("rnngen", "torch.nn"), "torch.nn", _budget(wanted))


def _sizes(wanted: Wanted) -> Iterator[Task]:
    chosen = wanted.hidden or wanted.batch or wanted.time
    for cell in _wanted(PEERS, wanted):
        sizes = [
            (time, batch, hidden)
            for time in wanted.time or (TIME,)
            for hidden in wanted.hidden or (HIDDENS[:2] if wanted.quick else HIDDENS)
            for batch in wanted.batch or (BATCHES[:2] if wanted.quick else BATCHES)
        ]
        for size in sizes if chosen or wanted.quick else [*sizes, LONG_AND_NARROW]:
            contenders = (*OURS, "torch.nn")
            if size[-1] <= WIDEST_OF_ALL:
                contenders += ("loop", "jax")
            if cell == PEERS[0] and size == (TIME, BATCH, HIDDEN) and not wanted.quick:
                contenders += ("loop, compiled",)  # which takes more than a minute
            yield Comparison("sizes", Case(cell, *size), contenders, "torch.nn", _budget(wanted))


def _library(wanted: Wanted) -> Iterator[Task]:
    from benchmarks import modules
    from benchmarks.products import products
    from rnngen.library import library

    cells = _wanted(tuple(library())[:: 12 if wanted.quick and not wanted.cells else 1], wanted)
    modules.write(cells)
    for cell in cells:
        contenders = (*OURS, OTHER_CELL, "loop")
        contenders += ("torch.nn",) if cell in CLASSES else ()
        contenders += ("torchrecurrent",) if cell in THEIRS else ()
        about = (("products", products(cell, HIDDEN)),)
        case = Case(cell, TIME, BATCH, HIDDEN)
        yield Comparison("library", case, contenders, OTHER_CELL, _budget(wanted), about=about)


def _length(wanted: Wanted) -> Iterator[Task]:
    for cell in _wanted(PEERS[:1], wanted):
        for time in LENGTHS[:5:2] if wanted.quick else LENGTHS:
            contenders = (*OURS, "torch.nn")
            contenders += ("loop",) if time <= LOOPED else ()
            budget = replace(_budget(wanted), least=3)
            yield Comparison("length", Case(cell, time, BATCH, HIDDEN), contenders, "torch.nn", budget)


def _chunks(wanted: Wanted) -> Iterator[Task]:
    for variant in VARIANTS[: 2 if wanted.quick else None]:
        if not wanted.cells or variant.cell in wanted.cells:
            yield Forgetting(variant, replace(_budget(wanted), least=3, most=9))


def _memory(wanted: Wanted) -> Iterator[Task]:
    for cell in _wanted(PEERS[:1], wanted):
        for time in MEMORIES[:1] if wanted.quick else MEMORIES:
            for contender in (*OURS, "torch.nn", *(("loop", "jax") if time <= LOOPED else ())):
                yield Memory(Case(cell, time, BATCH, HIDDEN), contender)


def _first(wanted: Wanted) -> Iterator[Task]:
    for cell in _wanted(PEERS[:1], wanted):
        for contender in OURS[:1] if wanted.quick else (*OURS, "torch.nn", "loop", "jax"):
            yield FirstResult(Case(cell, TIME, BATCH, HIDDEN), contender)


def _floor(wanted: Wanted) -> Iterator[Task]:
    yield Rate()


PARTS: dict[str, Callable[[Wanted], Iterator[Task]]] = {
    "chunks": _chunks,  # before others leave the heap in pieces: then fresh pages take longer than what is computed
    "threads": _threads,
    "sizes": _sizes,
    "library": _library,
    "length": _length,
    "memory": _memory,
    "first": _first,
    "floor": _floor,
}


def _budget(wanted: Wanted) -> Budget:
    return Budget(0.1, 3, 20) if wanted.quick else Budget(0.4, 5, 60)


def _wanted(cells: tuple[str, ...], wanted: Wanted) -> list[str]:
    """Those of the cells that were asked for."""
    return [cell for cell in cells if not wanted.cells or cell in wanted.cells]
