"""Who is compared: adapters of a few lines. Each makes a `Run` of a `Problem`, or raises Absent with a reason."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.contenders import flashrnn, haste, jax, linear, ours, torch_nn, torchrecurrent, torchrl
from benchmarks.contenders.run import Run
from benchmarks.problem import Problem


@dataclass(frozen=True, slots=True)
class Contender:
    """about: what it is, for the reader of a report."""

    build: Callable[[Problem], Run]
    about: str


CONTENDERS = {
    "rnngen": Contender(ours.build, "a generated module, as anybody has it"),
    **{
        name: Contender(ours.scheduled(schedule), f"the same by the schedule `{schedule}`, whatever is chosen")
        for schedule, name in ours.BY_SCHEDULE.items()
    },
    ours.GRAPH: Contender(ours.graphed, "the same by `stepwise`, all launches of a pass in one CUDA graph"),
    "torch steps": Contender(ours.steps, "the same module without its C: its scan is one step of torch at a time"),
    "torch.nn": Contender(torch_nn.build, "torch's own layer of the same cell"),
    "nn.LSTM": Contender(torch_nn.lstm, "torch's LSTM of the same size, whatever the cell is"),
    "loop": Contender(ours.loop, "the equations as they stand, in a Python loop, differentiated by torch"),
    "loop, compiled": Contender(ours.compiled_loop, "that loop under `torch.compile`"),
    "torchrecurrent": Contender(torchrecurrent.build, "torchrecurrent's layer of the same cell"),
    "jax": Contender(jax.build, "`lax.scan` over the same equations, compiled by XLA"),
    "FlashRNN": Contender(flashrnn.build, "FlashRNN's fused CUDA kernel"),
    "Haste": Contender(haste.build, "Haste's layer, in CUDA"),
    "TorchRL": Contender(torchrl.build, "TorchRL's layer, in Python"),
    "fla": Contender(linear.fla, "flash-linear-attention's kernel"),
    "accelerated-scan": Contender(linear.accelerated_scan, "accelerated-scan's kernel"),
}
"""In the order of a report's columns."""
OTHER_CELL = "nn.LSTM"
"""The one that runs a cell of its own, for scale: its answer is another one."""
PLAIN = ("torch.nn", "loop")
"""torch's own answers: how far off one may be, an answer of ours may be twice."""
