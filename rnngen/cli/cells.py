"""`rnngen cells`: the library."""

from __future__ import annotations

import click

from rnngen.cli.answers import Failed, Unusable
from rnngen.cli.names import cells_starting


@click.command("cells")
@click.argument("name", required=False, shell_complete=cells_starting)
@click.option("--find", metavar="TEXT", help="List only those in whose files this text stands.")
@click.option("--source", is_flag=True, help="Print the file of the cell NAME, to begin a cell of your own from.")
@click.option("--json", "in_json", is_flag=True, help="Print in JSON.")
@click.option("--markdown", is_flag=True, help="Print a page of all cells, with their equations and graphs.")
def command(name: str | None, find: str | None, source: bool, in_json: bool, markdown: bool) -> None:
    """List the cells of the library, or show the cell NAME.

    The list has a line for each kind of recurrence: how many products of a matrix with what depends on a state stand in
    a row within a step, whether it is linear in the states, and the schedules that its kernels have.
    """
    from rnngen.errors import did_you_mean, visible
    from rnngen.library import library

    if sum((source, in_json, markdown)) > 1:
        raise click.UsageError("--source, --json and --markdown print different things; choose one.")
    if name is not None and (find is not None or markdown):
        raise click.UsageError("--find and --markdown are for the list, and not for one cell.")
    if name is None and source:
        raise click.UsageError("--source prints the file of one cell: rnngen cells NAME --source.")
    known = library()
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or "'rnngen cells' lists it"
        raise Unusable(f"There is no cell '{visible(name[:200])}' in the library.\nHint: {hint}")
    if source:
        click.echo(known[str(name)].text, nl=False)
        return
    wanted = (find or "").lower()
    names = [key for key in known if wanted in known[key].text.lower()] if name is None else [name]
    if not names:
        raise Failed(f"No file of the library has the text '{visible(wanted[:200])}'.")
    _print(names, name is None, in_json, markdown)


def _print(names: list[str], as_list: bool, in_json: bool, markdown: bool) -> None:
    import json

    from rnngen.catalogue import as_page, as_table, as_text, entries

    found = entries(names)
    if in_json:
        records = [entry.record() for entry in found]
        click.echo(json.dumps(records if as_list else records[0] | {"source": found[0].source}, indent=2))
    elif markdown:
        click.echo(as_page(found), nl=False)
    else:
        click.echo(as_table(found) if as_list else as_text(found[0]), nl=False)
