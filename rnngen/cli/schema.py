"""`rnngen schema`: what an editor has to know of model files."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of model files, by which an editor completes and checks them.

    Save it beside the models as rnngen.schema.json, and begin each of them with the line
    "#:schema ./rnngen.schema.json", which Taplo and Even Better TOML read.
    """
    import json

    from rnngen.description.schema import schema

    click.echo(json.dumps(schema(), indent=2))
