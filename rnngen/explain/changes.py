"""What would change the choice of a schedule: one quantity at a time, the value nearest to what it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rnngen.chain import Chain
from rnngen.explain.scans import Scan
from rnngen.runtime.choose import answers_of, fastest
from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Plan, Sizes

MOST = 65536  # units, and sequences of a batch, up to which is looked
UNITS = 16  # hidden units come in multiples of it, in each head
TYPES = {"bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What runs, "" if what is insisted on cannot, and its time a step."""

    schedule: str
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """quantity: hidden, batch, heads, dtype or schedule. value: what it would have to be. chosen: what would run then.
    faster: whether a step takes less time then.
    """

    quantity: str
    value: int | str
    chosen: Chosen
    faster: bool


def chosen(chain: Chain, sizes: Sizes, machine: Machine, wanted: str) -> Chosen:
    """What a sweep is run by. wanted: the schedule that is insisted on, or "auto"."""
    answers = answers_of(chain.facts, sizes, machine)
    plans = {name: answer for name, answer in answers.items() if isinstance(answer, Plan)}
    name = wanted if wanted != "auto" else fastest(plans) if plans else ""
    return Chosen(name, plans[name].time) if name in plans else Chosen("")


def changes_of(scan: Scan, chain: Chain, machine: Machine) -> tuple[Change, ...]:
    """The changes, those that make a step faster first."""
    found = [_change(scan, chain, machine, *one) for one in _nearest(scan, chain, machine)]
    return tuple(sorted(found, key=lambda change: not change.faster))


def _change(scan: Scan, chain: Chain, machine: Machine, quantity: str, value: int | str, sizes: Sizes) -> Change:
    wanted = scan.wanted(chain)
    now = chosen(chain, scan.sizes, machine, wanted)
    then = chosen(chain, sizes, machine, wanted if quantity != "schedule" else "auto")
    faster = bool(then.schedule) and (then.time < now.time or not now.schedule)
    return Change(quantity, value, then, faster)


def _nearest(scan: Scan, chain: Chain, machine: Machine) -> Iterator[tuple[str, int | str, Sizes]]:
    """Each change of one quantity, as (quantity, value, sizes): values are those of one direction."""
    wanted, sizes, both = scan.wanted(chain), scan.sizes, scan.directions
    now = chosen(chain, sizes, machine, wanted).schedule

    def differs(other: Sizes) -> bool:
        return chosen(chain, other, machine, wanted).schedule != now

    if wanted != "auto" and chosen(chain, sizes, machine, "auto").schedule != now:
        yield "schedule", "auto", sizes
    unit = UNITS * sizes.heads
    if sizes.hidden:
        for hidden in _around(sizes.hidden, unit, MOST * both, lambda value: differs(scan.resized(hidden=value))):
            yield "hidden", hidden // both, scan.resized(hidden=hidden)
    for batch in _around(sizes.batch, 1, MOST, lambda value: differs(scan.resized(batch=value))):
        yield "batch", batch, scan.resized(batch=batch)
    if scan.in_heads:
        for heads in _other_heads(sizes.hidden // both, sizes.heads // both):
            if differs(other := scan.resized(heads=heads * both)):
                yield "heads", heads, other
                break
    for name, itemsize in TYPES.items():
        if differs(other := scan.resized(itemsize=itemsize)):
            yield "dtype", name, other


def _other_heads(hidden: int, heads: int) -> list[int]:
    """The numbers of heads that there could be, the next larger ones first."""
    divisors = [number for number in range(1, hidden + 1) if hidden % number == 0]
    more, fewer = [n for n in divisors if n > heads], [n for n in divisors if n < heads]
    return [*more, *reversed(fewer)]


def _around(start: int, unit: int, most: int, differs: Callable[[int], bool]) -> Iterator[int]:
    """The multiples of a unit next to a number, one below it and one above it, for which something is different.

    The number is halved, or doubled, until it is, and what lies between is bisected: the value before has what is now.
    """
    same, last = start, unit
    while same > last:
        probe = max(last, same // 2 // unit * unit)
        if differs(probe):
            yield _bisected(same, probe, unit, differs)
            break
        same = probe
    same, last = start, most // unit * unit
    while same < last:
        probe = min(last, -(-2 * same // unit) * unit)
        if differs(probe):
            yield _bisected(same, probe, unit, differs)
            break
        same = probe


def _bisected(same: int, other: int, unit: int, differs: Callable[[int], bool]) -> int:
    """A multiple of the unit for which it is different, with one on the side of `same` for which it is not."""
    low, high = (same // unit, other // unit) if same < other else (-(-same // unit), other // unit)
    while abs(high - low) > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if differs(middle * unit) else (middle, high)
    return high * unit
