"""A floor is a model and no measurement: the multiplications of a step at the rate at which torch multiplies two large
matrices on the same machine, and nothing else. A backward pass has two products for each one of a forward pass.
"""

from benchmarks.report.rows import Row, Rows

PRODUCTS = {"lstm": 8, "gru": 6}
"""Of a matrix as wide as the layer with a vector, in each step."""


def rate_of(rows: Rows) -> Row | None:
    """The highest that was measured."""
    return max(rows.of(part="floor"), key=lambda row: row["gflops"], default=None)


def floor_ms(rows: Rows, row: Row, products: float, direction: str) -> float | None:
    """Of a whole call on one thread, of the size of a row; None where the rate was not measured."""
    rate = rate_of(rows)
    if rate is None:
        return None
    operations = 2 * products * row["hidden"] ** 2 * row["batch"] * row["time"] * (3 if direction == "both" else 1)
    return operations / rate["gflops"] / 1e6
