"""From tensors to kernels: the arguments of a scan, and the launcher that the machine's limits choose."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Arguments:
    """The tensors of one direction of a scan, all contiguous; `backwards` says that time runs from T - 1 to 0."""

    inputs: list[Tensor]
    states: list[Tensor]
    parameters: list[Tensor]
    outputs: list[Tensor]
    last: list[Tensor]
    backwards: bool


def launcher_for(which, arguments: Arguments, schedule: str) -> Callable[[Arguments], None]:
    raise RuntimeError("no kernels")
