"""The target torch: a step as a function of tensors, for the CPU. The loop over time is the runtime's."""

from rnngen.chain import Chain, Chained
from rnngen.emit.target import Target, Written
from rnngen.emit.torch.spelling import SPELLING
from rnngen.emit.torch.text import FunctionText, TorchText, function, tuple_text


class Torch(Target):
    name = "torch"
    spelling = SPELLING
    schedules = ()

    def write(self, program: Chained, chain: Chain, prefix: str) -> Written:
        """The steps are written from the graph and not from the stages: they have operations that torch alone has."""
        graph = chain.graph
        text = TorchText(graph, equations=program.equations, apart=True)
        states = tuple_text([text.text(state.update) for state in graph.states])
        outputs = tuple_text([tuple_text(text.blocks(value)) for _, value in graph.outputs])
        step = FunctionText(
            name=f"{prefix}_step",
            about=f"One step {'backwards ' * graph.backwards}in torch: the new states, and of each output its blocks.",
            arguments=(*text.arguments("input", "state", "parameter"), text.mask),
            lines=(*text.clipped(), *text.lines),
            returns=f"{states}, {outputs}",
        )
        return Written(stages=function(step), loops="", record={"step": step.name})
