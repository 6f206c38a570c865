"""The targets, in the order in which a module has them."""

from collections.abc import Mapping

from rnngen.emit.c import C
from rnngen.emit.target import Target
from rnngen.emit.torch import Torch
from rnngen.emit.triton import Triton

TARGETS: Mapping[str, Target] = {target.name: target for target in (Triton(), Torch(), C())}
