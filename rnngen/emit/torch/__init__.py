"""The target torch: a step as a function of tensors, for the CPU. The loop over time is the runtime's."""

from rnngen.build import with_sums_of_packs
from rnngen.chain import Chain, Chained
from rnngen.emit.statements import Names
from rnngen.emit.target import Target, Written
from rnngen.emit.torch.ahead import ahead
from rnngen.emit.torch.spelling import SPELLING
from rnngen.emit.torch.text import FunctionText, TorchText, function, tuple_text


class Torch(Target):
    name = "torch"
    spelling = SPELLING
    schedules = ()

    def write(self, program: Chained, chain: Chain, prefix: str) -> Written:
        """The steps are written from the graph and not from the stages: they have operations that torch alone has."""
        graph = chain.graph
        before, left = ahead(with_sums_of_packs(graph))
        names = Names([before, left], SPELLING.reserved)
        rows = TorchText(before, names, program.equations)
        for _, value in before.outputs:
            names.share(value, rows.text(value))
        text = TorchText(left, names, program.equations, step=True)
        states = tuple_text([text.text(state.update) for state in left.states])
        outputs = tuple_text([tuple_text(text.blocks(value)) for _, value in left.outputs])
        early = FunctionText(
            name=f"{prefix}_ahead",
            about="Of many steps at once what they need no state for: the inputs of a step.",
            arguments=(*rows.arguments("input", "parameter"), rows.mask),
            lines=tuple(rows.lines),
            returns=tuple_text([rows.text(value) for _, value in before.outputs]),
        )
        step = FunctionText(
            name=f"{prefix}_step",
            about=f"One step {'backwards ' * graph.backwards}in torch: the new states, and of each output its blocks.",
            arguments=(*text.arguments("input", "state", "parameter"), text.mask),
            lines=(*text.clipped(), *text.lines),
            returns=f"{states}, {outputs}",
        )
        record = {"ahead": early.name, "step": step.name}
        return Written(stages="\n\n\n".join(map(function, (early, step))), loops="", record=record)
