"""What there is to say of a model, for a terminal."""

from collections.abc import Iterator

from rnngen.explain.changes import Change
from rnngen.explain.kept import Kept
from rnngen.explain.report import Explained, Sweep, microseconds
from rnngen.explain.scans import Scan
from rnngen.runtime.machine import Machine
from rnngen.runtime.memory import EVERY, KINDS
from rnngen.runtime.plan import Along, Footprint, Plan

_INDENT = " " * 24  # what stands below a reason
_WHERE = {
    "hidden": "with hidden = {}",
    "batch": "with batch = {}",
    "heads": "with heads = {}",
    "dtype": "with dtype = {}",
    "schedule": 'with schedule = "{}"',
}


def as_text(explained: Explained) -> str:
    """Everything, scan by scan."""
    return "\n".join(line for scan, sweeps in explained.scans for line in _lines(explained, scan, sweeps)) + "\n"


def _lines(explained: Explained, scan: Scan, sweeps: tuple[Sweep, ...]) -> Iterator[str]:
    where = f"{explained.target} ({explained.machine.card if explained.machine else 'a CPU'})"
    steps = f", {_plural(explained.time, 'step')}" if explained.time else ""
    yield f"{_title(scan)}, batch {scan.sizes.batch}{steps}, {explained.dtype}, on {where}"
    for sweep in sweeps:
        yield f"  {sweep.direction}"
        yield from (f"    {line}" for line in _work(sweep, explained.time))
        for candidate in sweep.candidates:
            yield f"    {candidate.name:12}{candidate.mark:8}{candidate.reason}{_total(candidate.plan, explained.time)}"
            if candidate.plan and candidate.plan.footprint and explained.machine:
                yield from (_INDENT + line for line in _footprint(candidate.plan.footprint, explained.machine))
            if candidate.plan and candidate.plan.along:
                yield from (_INDENT + line for line in _along(candidate.plan.along, explained.time))
        if sweep.trouble:
            yield f"    {sweep.trouble}"
        yield from (f"    {_change(change)}" for change in sweep.changes)
    yield "  kept for the backward pass"
    yield from (f"    {line}" for line in _kept(scan.kept, explained.time))


def _title(scan: Scan) -> str:
    hidden, heads = scan.sizes.hidden // scan.directions, scan.sizes.heads // scan.directions
    place = f"layer {scan.layer}, " if scan.layer else ""
    count = f"{scan.count} layers of " if scan.count > 1 else ""
    by_heads = f" in {heads} heads" if heads > 1 else ""
    return f"{place}{scan.cell}: {count}{hidden} units{by_heads}{' in both directions' if scan.sizes.both else ''}"


def _work(sweep: Sweep, time: int | None) -> Iterator[str]:
    work = sweep.work
    products = f", {count(work.products)} of them in products" if work.products else ""
    yield f"a step: {count(work.operations)} operations{products}"
    saved = f", {size(work.saved)} saved for the adjoint" if work.saved else ""
    saved += f" ({size(work.saved * time)} in all)" if work.saved and time else ""
    yield f"memory: {size(work.read)} read, {size(work.written)} written{saved}"
    weights = f"{size(work.weights)} of weights, " if work.weights else ""
    yield f"from step to step: {weights}{size(work.states)} of states"
    if sweep.floor:
        yield f"floor: {microseconds(sweep.floor.time)} a step, by {sweep.floor.by}"


def _kept(kept: Kept, time: int | None) -> Iterator[str]:
    def line(name: str, text: str) -> str:
        return f"{name:12}{'chosen' if name.split()[0] == kept.chosen else '':8}{text}"

    for kind, number in kept.kinds.items():
        yield line(kind, f"{size(number)} a step{f'; {size(number * time)} in all' if time else ''}")
    usual = kept.kinds[KINDS[0]]
    if time:
        steps, every = kept.every(time)
        text = f"{size(kept.states)} of states every {_plural(steps, 'step')}; {size(every)} in all"
        yield line(f"{EVERY} {steps}", text)
    else:
        every_so_many = str(kept.memory.every or "N")
        text = f"{size(kept.states)} of states every {every_so_many} steps, and {size(usual)} for each of them"
        yield line(f"{EVERY} {every_so_many}", text)


def _total(plan: Plan | None, time: int | None) -> str:
    return f"; {total_ms(plan, time):.3g} ms in all" if plan and time else ""


def total_ms(plan: Plan, time: int) -> float:
    """Of a sequence; a schedule that takes several steps at a time takes as long for a part of these."""
    if plan.along:
        return plan.along.total_us(time) / 1000
    at_a_time = plan.footprint.tile.get("steps", 1) if plan.footprint else 1
    return plan.time * -(-time // at_a_time) * at_a_time / 1000


def _footprint(footprint: Footprint, machine: Machine) -> Iterator[str]:
    at_once = f"; {footprint.at_once} run at once" if footprint.at_once else ""
    tile = [_plural(number, name.removesuffix("s")) for name, number in footprint.tile.items()]
    yield f"{_plural(footprint.programs, 'program')}{' of ' if tile else ''}{' x '.join(tile)}{at_once}"
    if held := _held(footprint, machine):
        yield f"on the chip: {held}"
    if footprint.moved_bytes:
        yield f"through memory: {size(footprint.moved_bytes)} a step, weights and states among them"
    launches = f"{_plural(footprint.launches, 'launch')} a step" if footprint.launches else "one launch"
    yield f"{launches}, {_plural(footprint.exchanges, 'exchange') if footprint.exchanges else 'no exchange'}"


def _along(along: Along, time: int | None) -> Iterator[str]:
    """How the steps of a sequence are divided among programs, nothing where they are not."""
    if time and along.stretches(time) > 1:
        yield (
            f"along time: {_plural(along.stretches(time), 'stretch')} of {_plural(along.steps(time), 'step')}, "
            f"{_plural(along.launches(time), 'launch')}"
        )
    elif not time and along.most > 1:
        yield f"along time: {_plural(along.most, 'stretch')} of a long sequence at once"


def _held(footprint: Footprint, machine: Machine) -> str:
    """What stays on the chip, "" for nothing that is known."""
    taken, there = (f"{number / 1024:.4g}" for number in (footprint.shared_bytes, machine.shared_bytes))
    shared = f"{taken} of {there} KiB of shared memory" if footprint.shared_bytes else ""
    if not footprint.matrix_bytes:
        return shared
    matrices = f"{size(footprint.matrix_bytes)} of matrices in {footprint.held_in}"
    if footprint.held_in == "shared memory":
        return f"{matrices}, {taken} of {there} KiB with what else is there"
    return f"{matrices}, {shared}" if shared else matrices


def _change(change: Change) -> str:
    where = _WHERE[change.quantity].format(change.value)
    if not change.chosen.schedule:
        return f"{where} it could not run"
    return f"{where} it would be {change.chosen.schedule}: {microseconds(change.chosen.time)} a step"


def count(number: int) -> str:
    """A number of operations."""
    for unit, name in ((10**12, " T"), (10**9, " G"), (10**6, " M")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,}"


def size(number: int) -> str:
    """A number of bytes."""
    for power, name in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:.4g} {name}"
    return f"{number} B"


def _plural(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{ending}"
