"""Which schedule runs a call."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from rnngen.runtime.machine import Machine
from rnngen.runtime.plan import Choice, Facts, NotPossible, Plan, Sizes
from rnngen.runtime.schedules import SCHEDULES


@lru_cache(maxsize=1024)  # a call asks twice, and the answer takes longer than a launch
def choose(facts: Facts, sizes: Sizes, machine: Machine, wanted: str = "auto") -> Choice:
    """The schedule with the lowest estimate among those that can run, or the one that is wanted.

    Raises NotPossible, with the reason, if that one cannot run.
    """
    answers = answers_of(facts, sizes, machine)
    plans = {name: answer for name, answer in answers.items() if isinstance(answer, Plan)}
    reasons = {name: f"{a.time:.2f} us a step, estimated" if isinstance(a, Plan) else a for name, a in answers.items()}
    if not plans:  # only where both directions are to run at once
        raise NotPossible(f"No schedule can run this: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}.")
    if wanted != "auto" and wanted not in plans:
        reason = reasons.get(wanted, f"there is no such schedule; there are {', '.join(SCHEDULES)}")
        raise NotPossible(f"The schedule '{wanted}' cannot run here: {reason}.")
    name = wanted if wanted != "auto" else fastest(plans)
    chosen = plans[name]
    return Choice(name, chosen.constants, chosen.options, reasons, chosen.along)


def answers_of(facts: Facts, sizes: Sizes, machine: Machine) -> dict[str, Plan | str]:
    """Of every schedule its plan, or why it has none."""
    return {name: one.refusal(facts) or plan_of(name, facts, sizes, machine) for name, one in SCHEDULES.items()}


def plan_of(name: str, facts: Facts, sizes: Sizes, machine: Machine) -> Plan | str:
    """The plan of a schedule that can run the sweep, or why it has none for these sizes: its estimate is corrected by
    what was measured on the machine.
    """
    found = SCHEDULES[name].plan(facts, sizes, machine)
    if isinstance(found, str):
        return found
    factor = machine.factor(name)
    along = found.along
    if along:
        along = replace(along, chunk_us=along.chunk_us * factor, map_us=along.map_us * factor)
    return replace(found, time=found.time * factor, along=along)


def fastest(plans: Mapping[str, Plan]) -> str:
    """The one with the lowest estimate, the first of equals."""
    return min(plans, key=lambda name: plans[name].time)
