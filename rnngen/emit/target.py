"""What a target is: a language that the sweeps of a scan are written in.

A target is an object, in a file of its name here, and a folder of templates of that name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from rnngen.chain import Chain, Chained
from rnngen.emit.statements import Spelling


@dataclass(frozen=True, slots=True)
class Written:
    """A sweep in a target's language.

    stages: what a step computes. loops: how it runs over time, "" where the runtime knows. record: where both are to be
    found, as arguments of `rnngen.runtime.Sweep` by name.
    """

    stages: str
    loops: str
    record: Mapping[str, str]


class Target(ABC):
    """name: of its templates' folder. suffix: of the file that has its text: the module, or one of its own beside it.
    spelling: how it writes operations. schedules: those that it has loops for.
    """

    name: str
    suffix: str = ".py"
    spelling: Spelling
    schedules: tuple[str, ...]

    @property
    def preface(self) -> str:
        """What a file says once, before its first cell; "" for nothing."""
        return ""

    @abstractmethod
    def write(self, program: Chained, chain: Chain, prefix: str) -> Written:
        """One of the two sweeps of a program. prefix: what the names of its functions begin with."""
