"""The target Triton: kernels for GPUs, one for a sweep or several that a launcher calls, by schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rnngen.chain import Chain, Chained
from rnngen.emit.render import literal, render
from rnngen.emit.target import Target, Written
from rnngen.emit.triton.cooperative import CooperativeText
from rnngen.emit.triton.linear import LinearText
from rnngen.emit.triton.spelling import SPELLING
from rnngen.emit.triton.stepwise import StepwiseText
from rnngen.emit.triton.sweep import SweepText
from rnngen.ir import Equation
from rnngen.runtime.schedules import SCHEDULES, possible

Text = SweepText | CooperativeText | LinearText | StepwiseText
# What the template of a schedule places, where that is more than a `SweepText`.
_TEXTS: Mapping[str, Callable[[SweepText, str], Text]] = {
    "cooperative": CooperativeText,
    "linear": LinearText,
    "stepwise": StepwiseText,
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A sweep by one schedule. name: of what its launcher is given. text: what the template places."""

    schedule: str
    name: str
    text: Text


def kernels(chain: Chain, prefix: str, equations: tuple[Equation, ...] = ()) -> tuple[Kernel, ...]:
    """A sweep by every schedule that can run it."""
    found = []
    for schedule in possible(chain.facts):
        name, text = f"{prefix}_{schedule}", SweepText(chain, prefix, equations)
        found.append(Kernel(schedule, name, _TEXTS[schedule](text, name) if schedule in _TEXTS else text))
    return tuple(found)


class Triton(Target):
    name = "triton"
    spelling = SPELLING
    schedules = tuple(SCHEDULES)  # it has all of them

    @property
    def preface(self) -> str:
        return render(self.name, "preface.py.jinja")

    def write(self, program: Chained, chain: Chain, prefix: str) -> Written:
        found = kernels(chain, prefix, program.equations)
        loops = [render(self.name, f"{k.schedule}.py.jinja", name=k.name, text=k.text) for k in found]
        names = ", ".join(f"{literal(kernel.schedule)}: {kernel.name}" for kernel in found)
        return Written(
            stages=render(self.name, "stages.py.jinja", text=SweepText(chain, prefix, program.equations)),
            loops="\n\n".join(loops),
            record={"kernels": f"{{{names}}}"},
        )
