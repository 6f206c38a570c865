"""`rnngen compile`: a module for each MODEL, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from rnngen.cli.names import Model, wrappers_option
from rnngen.cli.outcome import Compiled, Outcome, difference, exit_code, print_json, print_outcomes, print_problems
from rnngen.cli.reading import open_model


@click.command("compile")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=Model())
@wrappers_option
@click.option("-o", "--out", metavar="DIR", type=click.Path(path_type=Path), help="Where to write; here by default.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file is stale or missing.")
@click.option("--diff", "show_diff", is_flag=True, help="Write nothing; show what would change.")
@click.option("--stdout", is_flag=True, help="Write nothing; print the module.")
@click.option("--force", is_flag=True, help="Overwrite a file that was edited by hand or is not rnngen's.")
@click.option("--json", "in_json", is_flag=True, help="Report in JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    wrappers: tuple[str, ...],
    out: Path | None,
    check: bool,
    show_diff: bool,
    stdout: bool,
    force: bool,
    in_json: bool,
) -> None:
    """Write DIR/<name>.py for each MODEL.

    Nothing is written unless all MODELs are accepted, and a file that would not change is not touched.
    """
    if stdout and (check or show_diff or in_json or out or len(models) > 1):
        raise click.UsageError("--stdout prints one module, without --check, --diff, --json or -o.")
    if models.count("-") > 1:
        raise click.UsageError("Standard input holds one model, so - can be given once.")
    results = [_compiled(model, wrappers) for model in models]
    made = [result for result in results if isinstance(result, Compiled)]
    if stdout and made:
        click.echo(made[0].content, nl=False)
        return
    if len(made) == len(results):
        _place(made, out or Path(), force or check or show_diff)
    ready = all(result.status in ("unchanged", "stale", "missing", "edited") for result in results)
    for result in made if ready else ():
        if show_diff:
            result.diff = difference(result)
        elif not check:
            _write(result)
    if in_json:
        print_json(results)
    else:
        print_problems(results)
        if ready:
            print_outcomes(ctx, made, quiet=show_diff and not check)
        elif len(results) > 1:
            click.echo("Nothing was written.", err=True)
    ctx.exit(exit_code(results, check))


def _compiled(model: str, wrappers: Sequence[str]) -> Outcome:
    from rnngen.compile import compile_model
    from rnngen.document import Unreadable
    from rnngen.errors import ModelError

    try:
        module = compile_model(open_model(model), wrappers)
    except Unreadable as error:
        return Outcome(model=model, status="unreadable", error=str(error))
    except ModelError as error:
        return Outcome(model=model, status="rejected", mistakes=error.mistakes, all_found=error.all_found)
    return Compiled(model=model, status="compiled", file=Path(f"{module.name}.py"), text=module.text)


def _place(results: Sequence[Compiled], out: Path, overwrite: bool) -> None:
    """Find where each module goes, and what is there; a file that a person has worked on is refused."""
    from rnngen.errors import visible
    from rnngen.runtime.seal import condition, renewal
    from rnngen.write import Unwritable, current, is_current

    owners: dict[str, str] = {}
    for result in results:
        result.file = out / result.file
        shown = visible(os.fspath(result.file))
        first = owners.setdefault(os.path.normcase(result.file).lower(), result.model)
        if first != result.model:
            result.status = "refused"
            both = f"'{visible(first)}' and '{visible(result.model)}'"
            result.error = f"{both} would both be written to '{shown}'."
            continue
        try:
            result.before = current(result.file)
        except Unwritable as error:
            result.status, result.error = "refused", str(error)
            continue
        if result.before is None:
            result.status = "missing"
        elif is_current(result.before, result.content):
            result.status = "unchanged"
        elif condition(result.before) == "intact":
            result.status = "stale"
            if (former := renewal(result.before)) != renewal(result.content):
                result.note = (
                    f"Note: '{shown}' was the module of another model until now, made by: {former}\n"
                    "Hint: with another 'name' in one of the models, or with -o, both modules stay."
                )
        else:
            result.status = "edited"
            if not overwrite:
                result.status = "refused"
                result.error = (
                    f"'{shown}' was edited by hand, or is not rnngen's, so it was left alone.\n"
                    "Hint: --diff shows what would change; --force overwrites it."
                )


def _write(result: Compiled) -> None:
    from rnngen.write import Unwritable, write

    try:
        result.status = "written" if write(result.file, result.content) else "unchanged"
    except Unwritable as error:
        result.status, result.error = "full" if error.full else "refused", str(error)
