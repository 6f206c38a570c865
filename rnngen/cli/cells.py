"""`rnngen cells`: the library."""

from __future__ import annotations

import click

from rnngen.cli.answers import Unusable
from rnngen.cli.names import cells_starting


@click.command("cells")
@click.argument("name", required=False, shell_complete=cells_starting)
@click.option("--json", "in_json", is_flag=True, help="List in JSON.")
def command(name: str | None, in_json: bool) -> None:
    """List the cells of the library, or print the description of one."""
    import json

    from rnngen.description import describe
    from rnngen.errors import did_you_mean, visible
    from rnngen.library import library

    known = library()
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or "'rnngen cells' lists it"
        raise Unusable(f"There is no cell '{visible(name[:200])}' in the library.\nHint: {hint}")
    if name is not None and not in_json:
        click.echo(known[name].text, nl=False)
        return
    found = {key: describe(known[key]).cells[0] for key in (known if name is None else [name])}
    if not in_json:
        columns = [(key, cell.class_name, cell.about) for key, cell in found.items()]
        widths = [max(len(row[place]) for row in columns) for place in (0, 1)]
        for key, class_name, about in columns:
            click.echo(f"{key:<{widths[0]}}  {class_name:<{widths[1]}}  {visible(about)}".rstrip())
        return
    records = [
        {
            "name": key,
            "class": cell.class_name,
            "about": cell.about,
            "paper": cell.paper,
            "year": cell.year,
            "note": cell.note,
            "states": list(cell.states),
            "output": cell.output,
            "equations": [equation.text for equation in cell.equations],
            "parameters": {
                p.name: {"shape": list(p.shape), "blocks": list(p.blocks), "heads": p.heads} for p in cell.parameters
            },
        }
        for key, cell in found.items()
    ]
    click.echo(json.dumps(records if name is None else records[0] | {"source": known[name].text}, indent=2))
