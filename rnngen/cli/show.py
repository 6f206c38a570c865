"""`rnngen show`: the cells of a model as a pass leaves them."""

from __future__ import annotations

import click

from rnngen.cli.names import STAGES, Model, OneOf
from rnngen.cli.reading import open_model


@click.command("show")
@click.argument("model", type=Model())
@click.option(
    "--after",
    metavar="STAGE",
    type=OneOf("stage", lambda: STAGES),
    help=f"{', '.join(STAGES[:-1])} or {STAGES[-1]}; the last by default.",
)
@click.option("--masked", is_flag=True, help="The scan for sequences of different lengths.")
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "json"]), default="text", show_default=True)
def command(model: str, after: str | None, masked: bool, form: str) -> None:
    """Show the cells of MODEL as a pass leaves them.

    The pass mask is that of a scan for sequences of different lengths, which every cell has too.
    """
    from rnngen.compile import MASKED, PASSES, programs_of
    from rnngen.description import describe
    from rnngen.emit import listing

    after = after or STAGES[-1]
    programs = programs_of(describe(open_model(model)).cells, after, MASKED if masked or after == "mask" else PASSES)
    if form == "mermaid":
        click.echo(listing.as_mermaid(programs), nl=False)
    elif form == "json":
        click.echo(listing.as_json(programs, after), nl=False)
    else:
        parts = [f"{program.cell.name}, after {after}\n\n{listing.as_text(program)}" for program in programs]
        click.echo("\n\n".join(parts), nl=False)
