"""The target C: native code for CPUs, in a file of its own beside the module."""

from rnngen.chain import Chain, Chained
from rnngen.emit.c.spelling import SPELLING
from rnngen.emit.c.text import SweepText
from rnngen.emit.render import literal, render
from rnngen.emit.target import Target, Written


class C(Target):
    name = "c"
    suffix = ".c"
    spelling = SPELLING
    schedules = ("sequential",)

    def write(self, program: Chained, chain: Chain, prefix: str) -> Written:
        text = SweepText(chain, prefix, program.equations)
        return Written(
            stages=render(self.name, "stages.c.jinja", text=text),
            loops=render(self.name, "sequential.c.jinja", text=text),
            record={"native": literal(prefix)},
        )
