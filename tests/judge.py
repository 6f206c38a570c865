"""Kernels judged by the equations of their cell in float64.

The judge is the module's reference: the step as it was described, in plain torch, looped and differentiated by torch.
It is emitted too, with the spellings of the CPU path, and shares nothing with the adjoint, the schedules and what the
kernels are made of. `rnngen.reference`, which shares nothing with any of these, judges it in test_random_cells.py.
"""

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# Relative error in the root mean square. In float32 and float64 sums are ordered differently; in half precision inputs
# are the same rounded numbers for both, and the kernels round what they store and what they multiply, which costs up to
# one unit in the last place (2**-9 and 2**-12) for each of the roundings in a chain of three steps.
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2e-2, torch.float16: 2.5e-3}


def compare(
    layer_class, dtype, sizes, schedule, reverse=False, heads=1, device="cpu", lengths=None, both=False, resets=()
):
    """By name, of every output and gradient: the relative error, and the largest that is allowed.

    That is the type's tolerance, or in half precision twice the error of the reference itself in that type: a cell may
    amplify the rounding of its inputs, or compare numbers that rounding makes change places.

    sizes: time, batch, inputs and the width of a head. The layer runs on the device by the schedule, its reference in
    float64 on the CPU. lengths: of the sequences, if they differ; the batch is packed then. both: bidirectional.
    resets: (step, element of the batch) of each sequence that begins, with states that are given.
    """
    time, batch, inputs, width = sizes
    hidden = width * heads
    options = {"reverse": reverse, "heads": heads, "bidirectional": both}
    layer = layer_class(inputs, hidden, dtype=dtype, schedule=schedule, device=device, **options)
    drawn = torch.float32 if dtype.itemsize == 2 else dtype  # torch 2.11 draws other numbers straight in half precision
    torch.manual_seed(0)
    layer.load_state_dict(layer_class(inputs, hidden, dtype=drawn, device=device, **options).state_dict())
    judge = layer_class(inputs, hidden, dtype=torch.float64, **options)
    judge.load_state_dict(layer.state_dict())
    states = len(layer.cell.states)
    widths = {"": (), "hidden": (hidden,), "inputs": (inputs,), **{n: (size,) for n, size in layer.sizes.items()}}
    own = [widths[layer.cell.widths.get(name, "hidden")] or (1,) for name in layer.cell.states]
    numbers = [not of for of in layer.cell.inputs.values()]  # which keep the type of the accumulators
    xs = {name: torch.randn(time, batch, *widths[of]) for name, of in layer.cell.inputs.items()}
    xs = {
        name: rows if number and dtype.itemsize == 2 else rows.to(dtype)
        for (name, rows), number in zip(xs.items(), numbers, strict=True)
    }
    runs = 2 if both else 1
    first = [torch.randn(runs, batch, *width).to(dtype) for width in own]
    seeds = [torch.randn(time, batch, 1).to(dtype), *(torch.randn_like(state) for state in first)]
    begins = [torch.randn_like(state) for state in first] if resets else []
    flags = torch.zeros(time, batch, dtype=torch.bool)
    for place in resets:
        flags[place] = True

    def run(function, module, place, kind):
        def packed(rows):
            return pack_padded_sequence(rows, torch.tensor(lengths), enforce_sorted=False) if lengths else rows

        wide = torch.float32 if kind.itemsize == 2 else kind
        kinds = [wide if number else kind for number in numbers] + [kind] * len((*first, *begins))
        given = zip((*xs.values(), *first, *begins), kinds, strict=True)
        leaves = [t.detach().clone().to(place, own).requires_grad_() for t, own in given]
        given = dict(zip(xs, map(packed, leaves), strict=False))
        state, returned = tuple(leaves[len(xs) :][:states]), tuple(leaves[len(xs) + states :])
        if states == 1:
            (state,), returned = state, returned[0] if returned else ()
        options = {"resets": packed(flags.to(place)), "reset_to": returned} if resets else {}
        y, last = function(given.pop("x"), state, **options, **given)
        if lengths:
            y, _ = pad_packed_sequence(y)
        outputs = [y, *(last if isinstance(last, tuple) else (last,))]
        loss = sum((output * seed.to(place, kind)).sum() for output, seed in zip(outputs, seeds, strict=True))
        parameters = dict(module.named_parameters())
        leaves = [*leaves, *parameters.values()]
        found = [torch.zeros_like(leaf) for leaf in leaves]  # conditions may let nothing through at all
        if loss.requires_grad:
            found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        names = ["y", *(f"last {s}" for s in module.cell.states), *(f"d {name}" for name in (*xs, *module.cell.states))]
        names += [f"d first {s}" for s in module.cell.states] if resets else []
        named = zip([*names, *(f"d {name}" for name in parameters)], [*outputs, *found], strict=True)
        return {name: value.detach().cpu().double() for name, value in named}

    ours, theirs = run(layer, layer, device, dtype), run(judge.reference, judge, "cpu", torch.float64)
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in theirs.items()}
    plain = run(layer.reference, layer, device, dtype) if dtype.itemsize == 2 else theirs
    scale = max(1e-30, *(value.square().mean().sqrt().item() for value in theirs.values()))

    def error(value, exact):
        return ((value - exact).square().mean().sqrt() / max(exact.square().mean().sqrt(), 1e-3 * scale)).item()

    return {
        name: (error(ours[name], exact), max(TOLERANCES[dtype], 2 * error(plain[name], exact)))
        for name, exact in theirs.items()
    }
