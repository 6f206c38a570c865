"""The adjoint step and the gradients of the parameters, run by the reference, against torch.autograd in float64."""

from dataclasses import fields, replace
from functools import partial

import cells
import pytest
import torch

from rnngen import reference
from rnngen.ir import Program, Split, block_shape, blocks_of
from rnngen.passes.differentiate import differentiate
from rnngen.passes.save import save

every_cell = pytest.mark.parametrize("name", cells.ALL)


class AdjointScan(torch.autograd.Function):
    """A scan whose backward pass is the adjoint graph. Tensors: streams, states, parameters, as the scan has them."""

    @staticmethod
    def forward(ctx, found: Program, reverse: bool, *tensors):
        named = _named(found, tensors)
        outputs, last = reference.scan(found.scan, *named, reverse)
        ctx.found, ctx.reverse, ctx.named, ctx.outputs = found, reverse, named, outputs
        return (*outputs.values(), *last.values())

    @staticmethod
    def backward(ctx, *gradients):
        found, (streams, states, parameters) = ctx.found, ctx.named
        incoming = dict(zip(ctx.outputs, gradients, strict=False))
        sources = {
            "stream": lambda binding: streams[binding.name],
            "output": lambda binding: ctx.outputs[binding.name],
            "saved": lambda binding: ctx.outputs[binding.name],
            "gradient": lambda binding: incoming[binding.name],
            "previous": lambda binding: _one_step_earlier(ctx.outputs[binding.name], states[binding.leaf], ctx.reverse),
        }
        values = {binding.leaf: sources[binding.kind](binding) for binding in found.bindings}
        carried = list(states.values())
        adjoint_states = found.adjoint.states
        widths = {leaf.shape: parameters[leaf.name].shape for leaf in found.scan.leaves("parameter")}
        widths |= {leaf.shape: states[leaf.name].shape[1:] for leaf in found.scan.leaves("state")}
        known = found.adjoint.by_name()
        accumulators = [known[state.name].shape for state in adjoint_states[len(carried) :]]
        zeros = [carried[0].new_zeros(len(carried[0]), *widths[shape]) for shape in accumulators]
        last = [*gradients[len(ctx.outputs) :], *zeros]
        start = {state.name: value for state, value in zip(adjoint_states, last, strict=True)}
        outputs, first = reference.scan(found.adjoint, values, start, parameters, not ctx.reverse)
        results, _ = reference.run(found.gradients, values | outputs | first, {}, parameters)
        d_streams = [
            None if label is None else outputs[label] if leaf.shape else outputs[label].sum(-1, keepdim=True)
            for label, leaf in zip(found.stream_gradients, found.scan.leaves("input"), strict=True)
        ]
        d_states = list(first.values())[: len(carried)]
        return None, None, *d_streams, *d_states, *(results.get(f"d_{name}") for name in parameters)


def _named(found: Program, tensors: tuple) -> list[dict]:
    groups, at = [], 0
    for op in ("input", "state", "parameter"):
        names = [state.name for state in found.scan.states] if op == "state" else _leaves(found, op)
        groups.append(dict(zip(names, tensors[at : at + len(names)], strict=True)))
        at += len(names)
    return groups


def _leaves(found: Program, op: str) -> list[str]:
    return [leaf.name for leaf in found.scan.leaves(op)]


def _one_step_earlier(output, first, reverse):
    return torch.cat((output[1:], first[None]) if reverse else (first[None], output[:-1]))


def by_adjoint(found: Program, graph, streams, states, parameters, reverse):
    """`reference.scan`, differentiated by the adjoint."""
    tensors = [streams[name] for name in _leaves(found, "input")]
    tensors += [states[state.name] for state in graph.states]
    tensors += [parameters[name] for name in _leaves(found, "parameter")]
    results = AdjointScan.apply(found, reverse, *tensors)
    labels = [label for label, _ in graph.outputs]
    outputs = dict(zip(labels, results, strict=False))
    return outputs, dict(zip(states, results[len(labels) :], strict=True))


def gradients(y, last, values: cells.Values) -> dict[str, torch.Tensor]:
    """Of a sum in which every element of the output and of the last states has a weight of its own."""
    total = 0
    for number, result in enumerate((y, *last.values())):
        generator = torch.Generator().manual_seed(number)
        total = total + (result * torch.randn(result.shape, generator=generator, dtype=result.dtype)).sum()
    found = torch.autograd.grad(total, list(values.tensors.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(values.tensors, found, strict=True))


def check(name: str, found: Program, reverse: bool) -> None:
    """Raises AssertionError unless every result and every gradient by name is autograd's."""
    values = cells.random_values(name)
    y, last = cells.in_parts(found, values, reverse, scan=partial(by_adjoint, found))
    want_y, want_last = cells.whole(name, values, reverse)
    torch.testing.assert_close(y, want_y, rtol=1e-10, atol=1e-12)
    got, want = gradients(y, last, values), gradients(want_y, want_last, values)
    for what in want:
        message = f"gradient of {what}: {{}}".format
        torch.testing.assert_close(got[what], want[what], rtol=1e-10, atol=1e-11, msg=message)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@every_cell
def test_gradients(name, reverse):
    check(name, cells.program(name), reverse)


@every_cell
def test_gradients_of_derived_operations(name):
    """Before `lower` too: the partials of derived operations, and not of what they expand to."""
    check(name, cells.forms(name)["save"], False)


@every_cell
def test_the_adjoint_reads_what_is_there(name):
    """Every input is bound to something, and products are never computed twice."""
    found = cells.program(name)
    bound = {binding.leaf for binding in found.bindings}
    outputs = {label for label, _ in found.adjoint.outputs}
    accumulators = {state.name for state in found.adjoint.states[len(found.scan.states) :]}
    assert {leaf.name for leaf in found.adjoint.leaves("input")} <= bound
    assert {leaf.name for leaf in found.gradients.leaves("input")} <= bound | outputs | accumulators
    assert not [value for value in found.gradients.values if value.op in ("matmul", "matmul_t")]
    products = [value for value in found.scan.values if value.op == "matmul"]
    assert len([value for value in found.adjoint.values if value.op == "matmul_t"]) <= len(products)
    assert not [value for value in found.adjoint.values if value.op == "matmul"]


@pytest.mark.parametrize("name", ["lstm", "gru_v3", "slstm_flashrnn", "indrnn"])
def test_a_wrong_adjoint_is_found(name, monkeypatch):
    from rnngen.ops import OPS

    for op in {value.op for value in cells.forms(name)["hoist"].scan.values} & {"tanh", "sigmoid", "mul"}:
        with monkeypatch.context() as patch:
            partials = tuple(f"1.001 * ({partial})" for partial in OPS[op].partials)
            patch.setitem(OPS, op, replace(OPS[op], partials=partials))
            broken = save(differentiate(cells.forms(name)["hoist"]))
        with pytest.raises(AssertionError):
            check(name, broken, False)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", [name for name in cells.ALL if name != "automaton"])  # whose adjoint is zero
def test_an_adjoint_has_an_adjoint(name, reverse):
    """The derivative of a derived step is right too: its products are transposed, its outputs are stacks."""
    once = cells.forms(name)["differentiate"]
    step = {field.name: getattr(once, field.name) for field in fields(Split)}
    twice = save(differentiate(Split(**step | {"scan": once.adjoint})))
    generator = torch.Generator().manual_seed(2)
    weights = cells.random_values(name).weights
    parameters, _ = reference.run(once.once, {}, {}, weights)

    def drawn(leaf, *rows: int) -> torch.Tensor:
        """Numbers that are positive, as variances are."""
        blocks, (width,) = blocks_of(leaf.shape), block_shape(leaf.shape) or ("",)
        units = {"": 1, "hidden": 4, "inputs": 3, **cells.sizes_of(name)}[width]
        tensor = torch.randn(*rows, blocks * units, generator=generator, dtype=torch.float64)
        return (tensor if width else tensor.abs()).requires_grad_()

    streams, states = (
        {leaf.name: drawn(leaf, *rows) for leaf in twice.scan.leaves(op)}
        for op, rows in (("input", (3, 2)), ("state", (2,)))
    )
    parameters = {
        leaf.name: (weights | parameters)[leaf.name].detach().requires_grad_()
        for leaf in twice.scan.leaves("parameter")
    }
    leaves = streams | states | parameters
    found = []
    for scan in (partial(by_adjoint, twice), reference.scan):
        outputs, last = scan(twice.scan, streams, states, parameters, reverse)
        total = 0
        given = [outputs[label] for label, _ in once.adjoint.outputs]
        for number, result in enumerate((*given, *last.values())):
            total = total + (result * torch.linspace(-1, 2 + number, result.numel()).view_as(result)).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        found.append(dict(zip(leaves, gradients, strict=True)))
    for what, wanted in found[1].items():
        message = f"gradient of {what}: {{}}".format
        torch.testing.assert_close(found[0][what], wanted, rtol=1e-9, atol=1e-10, msg=message)
