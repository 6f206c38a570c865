"""`rnngen explain`: which schedule runs each cell, why, what it takes, and what would change that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnngen.cli.names import Model, OneOf, save_option, target_meant, target_names, wrappers_option
from rnngen.cli.reading import open_model

if TYPE_CHECKING:
    from rnngen.explain import Explained

_SIZE = click.IntRange(1, 65536)  # as in a file
_NUMBER = click.IntRange(1, 2**31 - 1)
_PICTURES = (".svg", ".png")


@click.command("explain")
@click.argument("model", type=Model())
@wrappers_option
@save_option
@click.option(
    "--target",
    "--machine",
    "target",
    type=OneOf("target", target_names, target_meant),
    default="sm_90",
    show_default=True,
    help="A GPU, as sm_80, sm_120 or gfx942, or c for native code on a CPU.",
)
@click.option("--hidden", type=_SIZE, help="Units of a cell, 128 by default; a stack has its own.")
@click.option("--heads", type=_SIZE, help="Of a block-diagonal cell, 1 by default; a stack has its own.")
@click.option("--batch", type=_NUMBER, default=16, show_default=True)
@click.option("--time", type=_NUMBER, help="Steps of a sequence: for the time and the stored bytes of all of them.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    default="float32",
    show_default=True,
)
@click.option("--json", "in_json", is_flag=True, help="Print in JSON.")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw time a step against the hidden units, as .svg or .png; needs matplotlib.",
)
def command(
    model: str,
    wrappers: tuple[str, ...],
    save: str,
    target: str,
    hidden: int | None,
    heads: int | None,
    batch: int,
    time: int | None,
    dtype: str,
    in_json: bool,
    plot: Path | None,
) -> None:
    """Say which schedule runs each cell of MODEL, why the others do not, and what would change that.

    Of both directions: operations and bytes of a step, what each schedule has on the chip, what programs exchange, the
    floor of the machine, and an estimate of the time. docs/explain.md says what the words and the keys in JSON mean.
    """
    from rnngen.explain import NothingToDo, explain_model

    if plot and plot.suffix not in _PICTURES:
        raise click.UsageError(f"--plot writes {' or '.join(_PICTURES)} files, by the end of their name.")
    if plot and target == "c":
        raise click.UsageError("--plot draws estimates, and there are none for a CPU; name a GPU with --target.")
    source = open_model(model)
    try:
        explained = explain_model(source, target, hidden, heads, batch, dtype, time, wrappers, save)
    except NothingToDo as reason:
        raise click.UsageError(str(reason)) from reason
    if plot:
        _draw(explained, plot)
    _print(explained, in_json)


def _print(explained: Explained, in_json: bool) -> None:
    import json

    from rnngen.explain.record import as_record
    from rnngen.explain.text import as_text

    click.echo(json.dumps(as_record(explained), indent=2) + "\n" if in_json else as_text(explained), nl=False)


def _draw(explained: Explained, file: Path) -> None:
    from rnngen.explain.picture import picture
    from rnngen.write import write

    write({file: picture(explained, file.suffix[1:])})
    click.echo(f"wrote {file}", err=True)
