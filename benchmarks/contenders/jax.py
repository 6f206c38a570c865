"""An LSTM and a GRU as users of JAX write them: lax.scan over a step, compiled by XLA, products over all steps before
the scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.contenders.run import installed, package
from benchmarks.problem import Absent, Problem

if TYPE_CHECKING:
    from torch import Tensor

GATES = {"lstm": 4, "gru": 3}


def build(problem: Problem) -> JaxRun:
    if problem.case.cell not in GATES:
        raise Absent(f"no {problem.case.cell} is written for jax here")
    if problem.case.device != "cpu" or problem.case.arithmetic != "float32" or problem.case.threads > 1:
        raise Absent("jax takes part on one thread of a CPU, in float32")
    return JaxRun(problem)


def scan(cell: str, jax: Any) -> Any:
    """A function of weights by name and x (time, batch, features): the output."""
    jnp, sigmoid, tanh = jax.numpy, jax.nn.sigmoid, jax.numpy.tanh

    def lstm(weights: dict, row: Any, states: tuple) -> tuple:
        h, c = states
        i, f, g, o = jnp.split(row + h @ weights["weight_hh_l0"].T, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    def gru(weights: dict, row: Any, states: tuple) -> tuple:
        (h,) = states
        r_x, z_x, n_x = jnp.split(row, 3, -1)
        r_h, z_h, n_h = jnp.split(h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"], 3, -1)
        z = sigmoid(z_x + z_h)
        h = z * h + (1 - z) * tanh(n_x + sigmoid(r_x + r_h) * n_h)
        return (h,), h

    def layer(weights: dict, x: Any) -> Any:
        rows = x @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        rows = rows + weights["bias_hh_l0"] if cell == "lstm" else rows
        zeros = jnp.zeros((x.shape[1], weights["weight_hh_l0"].shape[1]), x.dtype)
        step = {"lstm": lstm, "gru": gru}[cell]
        states = (zeros, zeros) if cell == "lstm" else (zeros,)
        return jax.lax.scan(lambda states, row: step(weights, row, states), states, rows)[1]

    return layer


class JaxRun:
    def __init__(self, problem: Problem) -> None:
        jax, case = package("jax"), problem.case
        self.version = installed("jax")
        if problem.alone:
            import numpy

            draw = numpy.random.default_rng(0).standard_normal
            stack, size = GATES[case.cell] * case.hidden, case.hidden
            shapes = {"weight_ih_l0": (stack, size), "weight_hh_l0": (stack, size)}
            shapes |= {"bias_ih_l0": (stack,), "bias_hh_l0": (stack,)}
            weights = {name: size**-0.5 * draw(shape, "float32") for name, shape in shapes.items()}
            x = draw((case.time, case.batch, case.hidden), "float32")
        else:
            weights = {name: tensor.numpy() for name, tensor in problem.weights.items()}
            x = problem.rows["x"].numpy()
        layer = scan(case.cell, jax)
        self.weights = {name: jax.numpy.asarray(value) for name, value in weights.items()}
        self.x, self.seed = jax.numpy.asarray(x), jax.numpy.ones(x.shape, "float32")

        def gradients(weights: dict, x: Any, seed: Any) -> tuple:
            y, back = jax.vjp(layer, weights, x)
            return y, *back(seed)

        self._forward = jax.jit(layer).lower(self.weights, self.x).compile()
        self._both = jax.jit(gradients).lower(self.weights, self.x, self.seed).compile()

    def forward(self) -> None:
        self._forward(self.weights, self.x).block_until_ready()

    def both(self) -> None:
        *_, last = self._both(self.weights, self.x, self.seed)
        last.block_until_ready()

    def outcome(self, seeds: Tensor) -> dict[str, Tensor]:
        import numpy
        import torch

        y, weights, x = self._both(self.weights, self.x, seeds.numpy())
        found = {**weights, "x": x, "y": y}
        return {name: torch.from_numpy(numpy.array(value)).double() for name, value in found.items()}
