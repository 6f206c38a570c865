"""`rnngen explain`: which schedule runs each cell, and why."""

from __future__ import annotations

import click

from rnngen.cli.names import Model, OneOf, machine_meant, machine_names, wrappers_option
from rnngen.cli.reading import open_model

_SIZE = click.IntRange(1, 65536)  # as in a file


@click.command("explain")
@click.argument("model", type=Model())
@wrappers_option
@click.option(
    "--machine",
    type=OneOf("machine", machine_names, machine_meant),
    default="sm_90",
    show_default=True,
    help="As sm_80, sm_120 or gfx942.",
)
@click.option("--hidden", type=_SIZE, help="Units of a cell, 128 by default; a stack has its own.")
@click.option("--heads", type=_SIZE, help="Of a block-diagonal cell, 1 by default; a stack has its own.")
@click.option("--batch", type=click.IntRange(1, 2**31 - 1), default=16, show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    default="float32",
    show_default=True,
)
def command(
    model: str,
    wrappers: tuple[str, ...],
    machine: str,
    hidden: int | None,
    heads: int | None,
    batch: int,
    dtype: str,
) -> None:
    """Say which schedule runs each cell of MODEL, and why the others do not."""
    from rnngen.explain import NothingToDo, explain_model
    from rnngen.runtime.machine import MACHINES

    try:
        lines = explain_model(open_model(model), MACHINES[machine], hidden, heads, batch, dtype, wrappers)
    except NothingToDo as reason:
        raise click.UsageError(str(reason)) from reason
    click.echo("\n".join(lines))
