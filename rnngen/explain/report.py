"""What there is to say of a model, as values: the schedules of each sweep, and what speaks for or against them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rnngen.chain import Chain
from rnngen.description import describe
from rnngen.emit.targets import TARGETS
from rnngen.explain.changes import Change, changes_of, chosen
from rnngen.explain.scans import ITEM_SIZES, Scan, scans_of
from rnngen.explain.work import Floor, Work, floor_of, work_of
from rnngen.runtime.choose import answers_of
from rnngen.runtime.machine import MACHINES, Machine
from rnngen.runtime.plan import Plan
from rnngen.source import Source

CPU = "c"  # the target that is no GPU


@dataclass(frozen=True)
class Candidate:
    """A schedule, for one sweep. mark: "chosen" if it is the one that runs, "named" if it is so because the file says
    so, else "". plan: None where it cannot run, or where there is no estimate. reason: what speaks for or against it.
    """

    name: str
    mark: str
    plan: Plan | None
    reason: str


@dataclass(frozen=True)
class Sweep:
    """One direction of a scan, "forward" or "adjoint". floor: None for a CPU. trouble: why what the file names cannot
    run here, or "".
    """

    direction: str
    work: Work
    floor: Floor | None
    candidates: tuple[Candidate, ...]
    trouble: str
    changes: tuple[Change, ...]

    @property
    def chosen(self) -> Candidate | None:
        return next((one for one in self.candidates if one.mark), None)


@dataclass(frozen=True)
class Explained:
    """All scans of a model, each with its sweeps. machine: None for a CPU. time: the steps of a sequence, if given."""

    model: str
    target: str
    machine: Machine | None
    dtype: str
    time: int | None
    scans: tuple[tuple[Scan, tuple[Sweep, ...]], ...]


def explain_model(
    source: Source,
    target: str,
    hidden: int | None = None,
    heads: int | None = None,
    batch: int = 16,
    dtype: str = "float32",
    time: int | None = None,
    wrappers: Sequence[str] = (),
    save: str = "",
) -> Explained:
    """The choice for each recurrent layer of a model, or for its only cell at the given sizes.

    target: a machine, or "c" for a CPU. Without `hidden` and `heads` a cell has 128 units and one head; the layers of a
    stack have their own. Raises ModelError if the model is rejected, NothingToDo where a size would be ignored or there
    is no choice.
    """
    description, machine = describe(source, wrappers, save), MACHINES.get(target)
    scans = scans_of(description, machine, hidden, heads, batch, ITEM_SIZES[dtype])
    found = tuple(
        (scan, tuple(_sweep(scan, direction, chain, machine, dtype) for direction, chain in scan.sweeps.items()))
        for scan in scans
    )
    return Explained(description.name, target, machine, dtype, time, found)


def _sweep(scan: Scan, direction: str, chain: Chain, machine: Machine | None, dtype: str) -> Sweep:
    work = work_of(chain, scan.sizes)
    if machine is None:
        return Sweep(direction, work, None, (_on_a_cpu(chain, dtype),), "", ())
    wanted = scan.wanted(chain)
    now = chosen(chain, scan.sizes, machine, wanted).schedule
    mark = "chosen" if wanted == "auto" else "named"
    candidates = []
    for name, answer in answers_of(chain.facts, scan.sizes, machine).items():
        plan = answer if isinstance(answer, Plan) else None
        reason = f"{microseconds(plan.time)} a step, estimated" if plan else str(answer)
        candidates.append(Candidate(name, mark if name == now else "", plan, reason))
    trouble = "" if now else f"The schedule '{wanted}' is named for it, and cannot run here."
    floor, changes = floor_of(work, machine, scan.sizes.itemsize), changes_of(scan, chain, machine)
    return Sweep(direction, work, floor, tuple(candidates), trouble, changes)


def _on_a_cpu(chain: Chain, dtype: str) -> Candidate:
    """There is no choice: native code has one loop, and what it cannot do torch does."""
    if ITEM_SIZES[dtype] < 4:
        return Candidate("torch", "chosen", None, f"there is no native code in {dtype}: torch runs step after step")
    (name,) = TARGETS[CPU].schedules
    part = "part of the batch" if chain.across else "part of the batch, or of the units"
    return Candidate(name, "chosen", None, f"the only one: step after step, each thread with a {part}")


def microseconds(time: float) -> str:
    """A time a step as people read it."""
    return f"{time:.2f} us" if time >= 0.1 else f"{time:.2g} us"
