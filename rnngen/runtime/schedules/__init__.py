"""The schedules, in the order in which `explain` lists them. Each is a file here: when it can run a sweep, how it would
run a call and at what cost, and how it is launched; its loop is a template of each target that has it.
"""

from collections.abc import Mapping
from typing import Any

from rnngen.runtime.plan import Facts, Schedule
from rnngen.runtime.schedules import cooperative, elementwise, linear, resident, stepwise

# Any: each launches what a module has under its name, and no other.
SCHEDULES: Mapping[str, Schedule[Any]] = {
    "elementwise": elementwise,
    "linear": linear,
    "resident": resident,
    "cooperative": cooperative,
    "stepwise": stepwise,
}


def possible(facts: Facts) -> tuple[str, ...]:
    """The schedules that can run a sweep, whatever its sizes are."""
    return tuple(name for name, schedule in SCHEDULES.items() if not schedule.refusal(facts))
