"""`rnngen show`: the cells of a model as a pass leaves them."""

from __future__ import annotations

import click

from rnngen.cli.names import PASSES, Model, OneOf, save_option, wrappers_option
from rnngen.cli.reading import open_model


@click.command("show")
@click.argument("model", type=Model())
@wrappers_option
@save_option
@click.option(
    "--after",
    metavar="PASS",
    type=OneOf("pass", lambda: PASSES),
    help=f"{', '.join(PASSES[:-1])} or {PASSES[-1]}; the last by default.",
)
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "json"]), default="text", show_default=True)
def command(model: str, wrappers: tuple[str, ...], save: str, after: str | None, form: str) -> None:
    """Show the cells of MODEL as a pass leaves them."""
    from rnngen.compile import programs_of
    from rnngen.description import describe
    from rnngen.emit import listing

    after = after or PASSES[-1]
    programs = programs_of(describe(open_model(model), wrappers, save).cells, after)
    if form == "mermaid":
        click.echo(listing.as_mermaid(programs), nl=False)
    elif form == "json":
        click.echo(listing.as_json(programs, after), nl=False)
    else:
        parts = [f"{program.cell.name}, after {after}\n\n{listing.as_text(program)}" for program in programs]
        click.echo("\n\n".join(parts), nl=False)
