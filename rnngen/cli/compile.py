"""`rnngen compile`: a module for each MODEL, and its C text beside it; all of them or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from rnngen.cli.names import Model, save_option, wrappers_option
from rnngen.cli.outcome import Compiled, Outcome, difference, exit_code, print_json, print_outcomes, print_problems
from rnngen.cli.reading import open_model


@click.command("compile")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=Model())
@wrappers_option
@save_option
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
    save: str,
    out: Path | None,
    check: bool,
    show_diff: bool,
    stdout: bool,
    force: bool,
    in_json: bool,
) -> None:
    """Write DIR/<name>.py for each MODEL, and beside it DIR/<name>.c, its steps for CPUs.

    Nothing is written unless all MODELs are accepted, and a file that would not change is not touched.
    """
    if stdout and (check or show_diff or in_json or out or len(models) > 1):
        raise click.UsageError("--stdout prints one module, without --check, --diff, --json or -o.")
    if models.count("-") > 1:
        raise click.UsageError("Standard input holds one model, so - can be given once.")
    groups = [_compiled(model, wrappers, save) for model in models]
    results = [result for group in groups for result in group]
    modules = [made for group in groups if (made := [result for result in group if isinstance(result, Compiled)])]
    made = [result for module in modules for result in module]
    if stdout and made:
        click.echo(made[-1].content, nl=False)
        return
    if len(made) == len(results):
        _place(modules, out or Path(), force or check or show_diff)
    ready = all(result.status in ("unchanged", "stale", "missing", "edited") for result in results)
    for module in modules if ready else ():
        if show_diff:
            for result in module:
                result.diff = difference(result)
        elif not check:
            _write(module)
    if in_json:
        print_json(results)
    else:
        print_problems(results)
        if ready:
            print_outcomes(ctx, made, quiet=show_diff and not check)
        elif len(results) > 1:
            click.echo("Nothing was written.", err=True)
    ctx.exit(exit_code(results, check))


def _compiled(model: str, wrappers: Sequence[str], save: str) -> list[Outcome]:
    """One for each file, the module last, or one that says why there is none."""
    from rnngen.compile import compile_model
    from rnngen.document import Unreadable
    from rnngen.errors import ModelError

    try:
        module = compile_model(open_model(model), wrappers, save)
    except Unreadable as error:
        return [Outcome(model=model, status="unreadable", error=str(error))]
    except ModelError as error:
        return [Outcome(model=model, status="rejected", mistakes=error.mistakes, all_found=error.all_found)]
    return [Compiled(model=model, status="compiled", file=Path(name), text=text) for name, text in module.files.items()]


def _place(modules: Sequence[Sequence[Compiled]], out: Path, overwrite: bool) -> None:
    """Find where the files of each module go, and what is there; one that a person has worked on is refused."""
    from rnngen.errors import visible
    from rnngen.write import Unwritable, current

    owners: dict[str, str] = {}
    for files in modules:
        for result in files:
            result.file = out / result.file
        module = files[-1]
        first = owners.setdefault(os.path.normcase(module.file).lower(), module.model)
        if first != module.model:
            both = f"'{visible(first)}' and '{visible(module.model)}'"
            _stop(files, "refused", f"{both} would both be written to '{visible(os.fspath(module.file))}'.")
            continue
        try:
            for result in files:
                result.before = current(result.file)
        except Unwritable as error:
            _stop(files, "refused", str(error))
            continue
        for result in files:
            _compare(result, overwrite)


def _compare(result: Compiled, overwrite: bool) -> None:
    """What is in its file, beside what it would become."""
    from rnngen.errors import visible
    from rnngen.runtime.seal import condition, renewal
    from rnngen.write import is_current

    shown = visible(os.fspath(result.file))
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
    elif overwrite:
        result.status = "edited"
    else:
        result.status = "refused"
        result.error = (
            f"'{shown}' was edited by hand, or is not rnngen's, so it was left alone.\n"
            "Hint: --diff shows what would change; --force overwrites it."
        )


def _write(files: Sequence[Compiled]) -> None:
    """The files of a module, all or none."""
    from rnngen.write import Unwritable, write

    try:
        written = write({result.file: result.content for result in files})
    except Unwritable as error:
        _stop(files, "full" if error.full else "refused", str(error))
        return
    for result in files:
        result.status = "written" if result.file in written else "unchanged"


def _stop(files: Sequence[Compiled], status: str, error: str) -> None:
    for result in files:
        result.status, result.error = status, error
