"""`rnngen doctor`: what is installed, and what will run where."""

from __future__ import annotations

from pathlib import Path

import click

from rnngen.cli.answers import Failed, Unusable


@click.command("doctor")
@click.argument("modules", metavar="[MODULE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--build", is_flag=True, help="Compile the C texts of the modules now, for this CPU.")
@click.option("--json", "in_json", is_flag=True, help="Report in JSON.")
def command(modules: tuple[Path, ...], build: bool, in_json: bool) -> None:
    """Say which versions are here, what will run where, and which generated modules are not as they were written.

    MODULE is a file, or a folder for the files right in it; this folder by default.
    """
    from rnngen.doctor import NotCompiled, OutOfReach, report

    try:
        click.echo(report(modules, in_json, build))
    except OutOfReach as reason:
        raise Unusable(str(reason)) from reason
    except NotCompiled as reason:
        click.echo(reason.report)
        raise Failed(str(reason)) from reason
