"""`rnngen verify`: the kernels of a model beside the reference."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, cast

import click

from rnngen.cli.answers import Failed, Unusable
from rnngen.cli.names import Model, OneOf, save_option, schedule_names, wrappers_option
from rnngen.cli.reading import open_model

if TYPE_CHECKING:
    from rnngen.verify import Case, Plan


@click.command("verify")
@click.argument("model", type=Model())
@wrappers_option
@save_option
@click.option(
    "--path",
    type=click.Choice(["kernels", "native", "torch"]),
    default="kernels",
    show_default=True,
    help="What to run: the kernels, on a GPU or else interpreted; or the CPU path, in native code or in torch.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
    help="May be repeated; all that the path has by default, for kernels four: minutes where they are interpreted.",
)
@click.option(
    "--schedule",
    "schedules",
    multiple=True,
    metavar="NAME",
    type=OneOf("schedule", schedule_names),
    help="Of the kernels; may be repeated; all by default.",
)
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    wrappers: tuple[str, ...],
    save: str,
    path: str,
    dtypes: tuple[str, ...],
    schedules: tuple[str, ...],
) -> None:
    """Compare MODEL's layers with the reference: every output and every gradient, by name."""
    from rnngen.compile import compile_model
    from rnngen.verify import NATIVE, VerifierFailed, verify

    if path != "kernels" and schedules:
        raise click.UsageError(f"--schedule is for kernels, and --path {path} runs none.")
    if path == "native" and (halves := [dtype for dtype in dtypes if dtype not in NATIVE]):
        raise click.UsageError(f"There is native code in {' and '.join(NATIVE)}; --path torch runs {halves[0]}.")

    source = open_model(model)
    module = compile_model(source, wrappers, save)
    dtypes, schedules = tuple(dict.fromkeys(dtypes)), tuple(dict.fromkeys(schedules))
    answers = verify(source, module, path, dtypes, schedules, wrappers, save)
    stream = cast("Generator[Case, None, None]", answers)  # once the plan is taken from it
    try:
        plan = cast("Plan", next(answers))
        click.echo(plan.where)
        with click.progressbar(stream, plan.cases, label="verifying", file=sys.stderr) as progress:
            cases = list(progress)
    except VerifierFailed as error:
        if error.ours:
            raise
        raise Unusable(str(error)) from error
    finally:
        stream.close()
    if not cases:
        raise Failed("Nothing could be compared: the module has no recurrent layer.")
    wrong = _print_verdicts(cases, ctx.color)
    if not any(case.errors for case in cases):
        raise Failed("Nothing could be compared.")
    ctx.exit(1 if wrong else 0)


def _print_verdicts(cases: Sequence[Case], color: bool | None) -> int:
    """A table of the worst error of each name; the number of names and cases that are wrong."""
    from rnngen.verify import OWN, TOLERANCES

    wrong = 0
    for layer, dtype in dict.fromkeys((case.layer, case.dtype) for case in cases):
        group = [case for case in cases if (case.layer, case.dtype) == (layer, dtype)]
        tolerance = TOLERANCES[dtype]
        click.echo(f"\n{layer}, {dtype}: at most {tolerance.limit:.0e} ({tolerance.reason})")
        names = sorted(dict.fromkeys(name for case in group for name in case.errors), key=lambda name: name == OWN)
        width = max(map(len, names), default=0)
        for name in names:
            having = [case for case in group if name in case.errors]
            worst = max(having, key=lambda case: _badness(case.errors[name] / case.limit(name)))
            bad = not worst.errors[name] <= worst.limit(name)
            wrong += bad
            if not bad and any(name in case.unknown for case in group):
                continue  # right where it can be compared, which says little: see below
            verdict = click.style("WRONG", fg="red", bold=True) if bad else click.style("ok", fg="green")
            line = f"  {name:<{width}}  {worst.errors[name]:8.1e}  {verdict}  {worst.schedule}, {worst.sizes}"
            if worst.errors[name] > tolerance.limit and name in worst.plain:
                line += f" (the reference in {dtype}: {worst.plain[name]:.1e})"
            if worst.limit(name) > worst.table(name) and name in worst.moved:
                line += f" (unsteady: rounding alone moves the reference by {worst.moved[name]:.1e})"
            click.echo(line, color=color)
        failed = [case for case in group if case.failure]
        for failure in dict.fromkeys(case.failure for case in failed):
            alike = [case for case in failed if case.failure == failure]
            click.echo(f"  FAILED {len(alike)} times, first on {alike[0].schedule}, {alike[0].sizes}: {failure}")
        wrong += len(failed)
        skipped = [case for case in group if case.skipped]
        for reason in dict.fromkeys(case.skipped for case in skipped):
            first = next(case for case in skipped if case.skipped == reason)
            click.echo(f"  left out {first.sizes}: {reason}")
    runs = sum(1 for case in cases if case.errors)
    if runs or wrong:
        click.echo(f"\n{runs} runs compared, {f'{wrong} wrong' if wrong else 'all within tolerance'}")
    return wrong


def _badness(error: float) -> float:
    return error if error == error else float("inf")  # a NaN compares as nothing
