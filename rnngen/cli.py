"""The commands. Only this file prints and exits.

Exit codes: 0 done; 1 the model was rejected, `--check` found stale output, `verify` found an error too large,
or the disk is full; 2 usage, unreadable input, a place that cannot be written to; 3 a fault of ours;
130 interrupted; 141 the reader of the output has gone.

Imports stand in the commands that need them: `rnngen --help` needs none, and torch is for `verify` and
`doctor` only.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from rnngen.errors import Mistake
    from rnngen.source import Source

__all__ = ["main"]

INTERRUPTED = 130  # as a shell reports SIGINT, and below SIGPIPE
READER_GONE = 141
_LOST = frozenset({errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO, errno.ESHUTDOWN})


class _Stop(click.ClickException):
    """One sentence for the user, and the exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code


class _Rejected(click.ClickException):
    """The mistakes of a model, drawn."""

    exit_code = 1

    def __init__(self, mistakes: Sequence[Mistake], all_found: bool) -> None:
        super().__init__("The model was rejected.")
        self.mistakes, self.all_found = mistakes, all_found

    def show(self, file: Any = None) -> None:
        from rnngen.errors import render_all

        drawn = render_all(self.mistakes, self.all_found, color=True)
        # echo takes the colours out again where none belong.
        click.echo(drawn, file=file or sys.stderr, color=self.show_color)


class _Fault(click.ClickException):
    """rnngen itself has failed."""

    exit_code = 3

    def __init__(self, error: Exception, traceback: bool) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error, self.traceback = error, traceback

    def show(self, file: Any = None) -> None:
        from rnngen.errors import visible

        file = file or sys.stderr
        if self.traceback:
            from traceback import format_exception

            click.echo("".join(format_exception(self.error)), file=file, nl=False)
        click.echo(f"Error: rnngen itself has failed, sorry: {visible(self.message)[:600]}", file=file)
        more = "" if self.traceback else "; RNNGEN_TRACEBACK=1 shows where"
        click.echo(f"This is no mistake in your model. Please report it, with the model{more}.", file=file)


class _OutputLost(Exception):
    """Standard output takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.reason, self.reader_gone = error.strerror, error.errno == errno.EPIPE


class _Commands(click.Group):
    """Commands that answer each exception with a sentence and an exit code; tracebacks are for who asks."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _watching_output():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        elif os.environ.get("FORCE_COLOR"):
            ctx.color = True
        elif os.environ.get("TERM") == "dumb":
            ctx.color = False
        try:
            with _watching_output():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except (click.ClickException, click.Abort, click.exceptions.Exit, _OutputLost):
            raise
        except Exception as error:
            raise _answer(error, ctx.params["traceback"]) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their whole first sentences, where click would cut them to one line."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=1000)) for name, command in commands])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        if sys.stdout is None:  # it was closed before Python began
            sys.stdout = _closed_pipe()
        with suppress(AttributeError):  # where standard output cannot write a character, an escape will do
            sys.stdout.reconfigure(errors="backslashreplace")
        thresholds = gc.get_threshold()
        gc.set_threshold(100_000)  # there is next to no garbage, and looking for it takes a tenth of the time
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            code = result if isinstance(result, int) else 0
        except click.ClickException as error:
            with suppress(OSError):
                error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except _OutputLost as lost:
            code = _give_up_output(lost)
        finally:
            gc.set_threshold(*thresholds)
        sys.exit(code)


def _closed_pipe() -> IO[str]:
    """An output whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", encoding="utf-8")


@contextmanager
def _watching_output() -> Iterator[None]:
    """Tell a failing standard output from other faults: errors of a file carry its name or are sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in _LOST and error.filename is None:
            raise _OutputLost(error) from error
        raise


def _give_up_output(lost: _OutputLost) -> int:
    """The exit code, after making sure that Python does not complain again when it flushes at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    if lost.reader_gone:
        return READER_GONE
    with suppress(OSError):
        click.echo(f"Error: the output cannot be written: {lost.reason}.", err=True)
    return 1


def _answer(error: Exception, traceback: bool) -> click.ClickException:
    """What an exception means for the user."""
    from rnngen.document import Unreadable
    from rnngen.errors import ModelError
    from rnngen.write import Unwritable

    match error:
        case ModelError():
            return _Rejected(error.mistakes, error.all_found)
        case Unreadable():
            return _Stop(str(error), 2)
        case Unwritable():
            return _Stop(str(error), 1 if error.full else 2)
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] != "rnngen":
            package = name.partition(".")[0]
            return _Stop(f"The package '{package}' is not installed: pip install {package}", 2)
    return _Fault(error, traceback)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from rnngen import VERSION

        click.echo(f"rnngen {VERSION}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, envvar="RNNGEN_TRACEBACK", help="Show where a fault of rnngen's lies.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main(traceback: bool) -> None:
    """A compiler for recurrent networks: equations in, a PyTorch module with Triton kernels out.

    MODEL is a path to a .toml file, the name of a cell of the library, or - for standard input.
    """


# Names on the command line. Which there are is asked of the compiler only when one is given, or to be completed.


class _OneOf(click.ParamType):
    """A name of a kind that rnngen has a list of."""

    def __init__(
        self, kind: str, known: Callable[[], Sequence[str]], meant: Callable[[str], str] | None = None
    ) -> None:
        """meant: the hint for another name, in the place of the one that is spelt most like it."""
        self.name, self.known, self.meant = kind, known, meant

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from rnngen.errors import did_you_mean, visible

        known = self.known()
        if value not in known:
            hint = self.meant and self.meant(value)
            hint = hint or did_you_mean(value, known) or f"the {self.name}s are {', '.join(known)}"
            self.fail(f"there is no {self.name} '{visible(value)}'; {hint}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.known() if name.startswith(incomplete)]


class _Model(click.ParamType):
    """A cell of the library, or a path to a .toml file."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from glob import escape, glob

        typed = escape(incomplete)
        # With those of the folders below, whose names alone a shell would take for a whole word.
        paths = [*glob(f"{typed}*.toml"), *glob(f"{typed}*/*.toml")]
        names = [name for name in _cells() if name.startswith(incomplete)]
        return [CompletionItem(name) for name in (*names, *sorted(paths))]


def _cells() -> Sequence[str]:
    from rnngen.description import library

    return tuple(library())


def _stages() -> Sequence[str]:
    from rnngen.compile import PASSES

    return ("resolve", "infer", *(step.__name__ for step in PASSES))


def _schedules() -> Sequence[str]:
    from rnngen.runtime.schedules import SCHEDULES

    return tuple(SCHEDULES)


def _machines() -> Sequence[str]:
    from rnngen.runtime.machine import MACHINES

    return tuple(MACHINES)


def _machine_meant(value: str) -> str:
    """The hint for a machine that has no row. One that is spelt alike may be another generation of cards."""
    from rnngen.runtime.machine import MACHINES

    def plain(text: str) -> str:
        return "".join(char for char in text.lower() if char.isalnum())

    wanted = plain(value).removeprefix("nvidia").removeprefix("amd").removeprefix("instinct")
    for name, machine in MACHINES.items():
        if wanted == plain(name):
            return f"did you mean '{name}'?"
        words = machine.card.split()
        if wanted in (plain("".join(words[first:])) for first in range(len(words))):
            return f"the {machine.card} is {name}"
    return f"the machines are {', '.join(f'{name} ({machine.card})' for name, machine in MACHINES.items())}"


def _cells_starting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in _cells() if name.startswith(incomplete)]


_SIZE = click.IntRange(1, 65536)  # as in a file


# Reading models.


def _open(model: str) -> Source:
    """The text of a model, under the name that the user gave it.

    Raises Unreadable; ModelError if it is no text.
    """
    from rnngen.description import library
    from rnngen.document import Unreadable, read, read_stdin
    from rnngen.errors import did_you_mean, visible

    if model == "-":
        return read_stdin(sys.stdin and sys.stdin.buffer)
    cells = library()
    is_path = model.endswith(".toml") or PurePath(model).name != model
    if not is_path and model in cells:
        return cells[model]
    if is_path or os.path.exists(model):
        try:
            return read(model)
        except Unreadable as error:
            stem = PurePath(model).name.removesuffix(".toml")
            if stem not in cells or os.path.lexists(model):
                raise
            hint = f"the library has a cell '{stem}'; leave out the '.toml'."
            raise Unreadable(f"{error}\nHint: {hint}") from error
    hint = did_you_mean(model, cells) or f"the library has {', '.join(cells)}"
    if os.path.exists(f"{model}.toml"):
        hint = f"did you mean '{visible(model)}.toml'?"
    shown = visible(model[:200])
    raise Unreadable(f"There is no cell '{shown}' in the library, and no such file.\nHint: {hint}")


# compile


@dataclass
class _Compiled:
    """What became of one MODEL. error: why it could not be read, or its file not be written."""

    model: str
    file: Path | None = None
    status: str = ""
    text: str = ""
    before: bytes | None = None
    mistakes: Sequence[Mistake] = ()
    all_found: bool = True
    error: str = ""
    diff: str = ""

    @property
    def content(self) -> bytes:
        return self.text.encode()


@main.command("compile")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=_Model())
@click.option("-o", "--out", metavar="DIR", type=click.Path(path_type=Path), help="Where to write; here by default.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file is stale or missing.")
@click.option("--diff", "show_diff", is_flag=True, help="Write nothing; show what would change.")
@click.option("--stdout", is_flag=True, help="Write nothing; print the module.")
@click.option("--force", is_flag=True, help="Overwrite a file that was edited by hand or is not rnngen's.")
@click.option("--json", "in_json", is_flag=True, help="Report in JSON.")
@click.pass_context
def compile_command(
    ctx: click.Context,
    models: tuple[str, ...],
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
    results = [_compiled(model) for model in models]
    if stdout and results[0].status == "compiled":
        click.echo(results[0].content, nl=False)
        return
    if all(result.status == "compiled" for result in results):
        _place(results, out or Path(), force or check or show_diff)
    ready = all(result.status in ("unchanged", "stale", "missing", "edited") for result in results)
    for result in results if ready else ():
        if show_diff:
            result.diff = _diff(result)
        elif not check:
            _write(result)
    if in_json:
        _print_json(results)
    else:
        _print_problems(results)
        if ready:
            _print_outcomes(ctx, results, quiet=show_diff and not check)
        elif len(results) > 1:
            click.echo("Nothing was written.", err=True)
    ctx.exit(_code(results, check))


def _compiled(model: str) -> _Compiled:
    from rnngen.compile import compile_model
    from rnngen.document import Unreadable
    from rnngen.errors import ModelError

    try:
        module = compile_model(_open(model))
    except Unreadable as error:
        return _Compiled(model, status="unreadable", error=str(error))
    except ModelError as error:
        return _Compiled(model, status="rejected", mistakes=error.mistakes, all_found=error.all_found)
    return _Compiled(model, Path(f"{module.name}.py"), "compiled", module.text)


def _place(results: Sequence[_Compiled], out: Path, overwrite: bool) -> None:
    """Find where each module goes, and what is there; a file that a person has worked on is refused."""
    from rnngen.errors import visible
    from rnngen.runtime.seal import condition
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
        else:
            result.status = "edited"
            if not overwrite:
                result.status = "refused"
                result.error = (
                    f"'{shown}' was edited by hand, or is not rnngen's, so it was left alone.\n"
                    "Hint: --diff shows what would change; --force overwrites it."
                )


def _write(result: _Compiled) -> None:
    from rnngen.write import Unwritable, write

    try:
        result.status = "written" if write(result.file, result.content) else "unchanged"
    except Unwritable as error:
        result.status, result.error = "full" if error.full else "refused", str(error)


def _diff(result: _Compiled) -> str:
    from difflib import unified_diff

    if result.status == "unchanged":
        return ""
    before = (result.before or b"").decode("utf-8", "replace").splitlines(keepends=True)
    after = result.text.splitlines(keepends=True)
    name = result.file.as_posix()
    old = name if result.before is not None else "/dev/null"
    unended = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + unended for line in unified_diff(before, after, old, name))


def _print_problems(results: Sequence[_Compiled]) -> None:
    mistakes = [mistake for result in results for mistake in result.mistakes]
    if mistakes:
        _Rejected(mistakes, all(result.all_found for result in results)).show()
    for result in results:
        if result.error:
            click.echo(f"Error: {result.error}", err=True)


def _print_outcomes(ctx: click.Context, results: Sequence[_Compiled], quiet: bool) -> None:
    """One line for each file, and the differences. quiet: these alone, for `patch`."""
    from rnngen.errors import visible

    sentences = {
        "written": "wrote {}",
        "unchanged": "{} is up to date",
        "stale": "{} is stale",
        "missing": "{} is missing",
        "edited": "{} was edited by hand, or is not rnngen's",
    }
    for result in results:
        if result.diff:
            click.echo(_colored(result.diff), nl=False, color=ctx.color)
        if result.status in sentences and not quiet:
            click.echo(sentences[result.status].format(visible(os.fspath(result.file))))


def _colored(diff: str) -> str:
    from rnngen.errors import visible

    colors = {"+": "green", "-": "red", "@": "cyan"}
    on_screen = sys.stdout is not None and sys.stdout.isatty()  # elsewhere the diff is for `patch`
    lines = []
    for line in diff.split("\n"):
        line = visible(line) if on_screen else line
        bold = line.startswith(("+++", "---"))
        color = None if bold else colors.get(line[:1])
        lines.append(click.style(line, fg=color, bold=bold or None) if bold or color else line)
    return "\n".join(lines)


def _print_json(results: Sequence[_Compiled]) -> None:
    import json

    record = {
        "files": [
            {
                "model": result.model,
                "file": result.file.as_posix() if result.file else None,
                "status": result.status,
                "error": result.error or None,
                **({"diff": result.diff} if result.diff else {}),
            }
            for result in results
        ],
        "mistakes": [_mistake_record(mistake) for result in results for mistake in result.mistakes],
        "all_found": all(result.all_found for result in results),
    }
    click.echo(json.dumps(record, indent=2))


def _mistake_record(mistake: Mistake) -> dict[str, Any]:
    span = mistake.span if mistake.source else None
    return {
        "file": mistake.source.name if mistake.source else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "length": span.length if span else None,
        "code": mistake.code,
        "message": mistake.message,
        "label": mistake.label,
        "notes": list(mistake.notes),
        "hints": list(mistake.hints),
    }


def _code(results: Sequence[_Compiled], check: bool) -> int:
    found = {result.status for result in results}
    if found & {"unreadable", "refused"}:
        return 2
    if found & {"rejected", "full"}:
        return 1
    return 1 if check and found & {"stale", "missing", "edited"} else 0


# show


@main.command()
@click.argument("model", type=_Model())
@click.option(
    "--after",
    metavar="STAGE",
    type=_OneOf("stage", _stages),
    help="resolve, infer, simplify, pack, hoist, differentiate, expand, mask, save, lower or cut; the last by default.",
)
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "json"]), default="text", show_default=True)
def show(model: str, after: str | None, form: str) -> None:
    """Show the cells of MODEL as a pass leaves them."""
    from rnngen.compile import programs_of
    from rnngen.description import describe
    from rnngen.emit import listing

    after = after or _stages()[-1]
    programs = programs_of(describe(_open(model)).cells, after)
    if form == "mermaid":
        click.echo(listing.as_mermaid(programs), nl=False)
    elif form == "json":
        click.echo(listing.as_json(programs, after), nl=False)
    else:
        parts = [f"{program.cell.name}, after {after}\n\n{listing.as_text(program)}" for program in programs]
        click.echo("\n\n".join(parts), nl=False)


# explain


@main.command()
@click.argument("model", type=_Model())
@click.option(
    "--machine",
    type=_OneOf("machine", _machines, _machine_meant),
    default="sm_90",
    show_default=True,
    help="As sm_80, sm_120 or gfx942.",
)
@click.option("--hidden", type=_SIZE, help="Units of a cell, 128 by default; a stack has its own.")
@click.option("--heads", type=_SIZE, help="Of a block-diagonal cell, 1 by default; a stack has its own.")
@click.option("--batch", type=click.IntRange(1, 2**31 - 1), default=16, show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    default="float32",
    show_default=True,
)
def explain(model: str, machine: str, hidden: int | None, heads: int | None, batch: int, dtype: str) -> None:
    """Say which schedule runs each cell of MODEL, and why the others do not."""
    from rnngen.explain import NothingToDo, explain_model
    from rnngen.runtime.machine import MACHINES

    try:
        lines = explain_model(_open(model), MACHINES[machine], hidden, heads, batch, dtype)
    except NothingToDo as reason:
        raise click.UsageError(str(reason)) from reason
    click.echo("\n".join(lines))


# cells


@main.command()
@click.argument("name", required=False, shell_complete=_cells_starting)
@click.option("--json", "in_json", is_flag=True, help="List in JSON.")
def cells(name: str | None, in_json: bool) -> None:
    """List the cells of the library, or print the description of one."""
    import json

    from rnngen.description import describe, library
    from rnngen.errors import did_you_mean, visible

    known = library()
    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"it has {', '.join(known)}"
        raise _Stop(f"There is no cell '{visible(name[:200])}' in the library.\nHint: {hint}", 2)
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


# verify


@main.command()
@click.argument("model", type=_Model())
@click.option(
    "--path",
    type=click.Choice(["kernels", "torch"]),
    default="kernels",
    show_default=True,
    help="What to run: the kernels, on a GPU or else interpreted; or the CPU path.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
    help="May be repeated; all four by default, which takes minutes where kernels are interpreted.",
)
@click.option(
    "--schedule",
    "schedules",
    multiple=True,
    metavar="NAME",
    type=_OneOf("schedule", _schedules),
    help="Of the kernels; may be repeated; all by default.",
)
@click.pass_context
def verify(ctx: click.Context, model: str, path: str, dtypes: tuple[str, ...], schedules: tuple[str, ...]) -> None:
    """Compare MODEL's layers with the reference: every output and every gradient, by name."""
    if path == "torch" and schedules:
        raise click.UsageError("--schedule is for kernels, and --path torch runs none.")
    from rnngen.compile import compile_model
    from rnngen.verify import VerifierFailed
    from rnngen.verify import verify as answers

    source = _open(model)
    module = compile_model(source)
    dtypes, schedules = tuple(dict.fromkeys(dtypes)), tuple(dict.fromkeys(schedules))
    stream = answers(source, module.name, module.text, path, dtypes, schedules)
    try:
        plan = next(stream)
        click.echo(plan.where)
        with click.progressbar(stream, plan.cases, label="verifying", file=sys.stderr) as progress:
            cases = list(progress)
    except VerifierFailed as error:
        if error.ours:
            raise
        raise _Stop(str(error), 2) from error
    finally:
        stream.close()
    if not cases:
        raise _Stop("Nothing could be compared: the module has no recurrent layer.", 1)
    wrong = _print_verdicts(cases, ctx.color)
    if not any(case.errors for case in cases):
        raise _Stop("Nothing could be compared.", 1)
    ctx.exit(1 if wrong else 0)


def _print_verdicts(cases: Sequence[Any], color: bool | None) -> int:
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
            verdict = click.style("WRONG", fg="red", bold=True) if bad else click.style("ok", fg="green")
            line = f"  {name:<{width}}  {worst.errors[name]:8.1e}  {verdict}  {worst.schedule}, {worst.sizes}"
            if worst.errors[name] > tolerance.limit and name in worst.plain:
                line += f" (the reference in {dtype}: {worst.plain[name]:.1e})"
            click.echo(line, color=color)
        failed = [case for case in group if case.failure]
        for failure in dict.fromkeys(case.failure for case in failed):
            alike = [case for case in failed if case.failure == failure]
            first = f"first on {alike[0].schedule}, {alike[0].sizes}"
            click.echo(f"  FAILED {len(alike)} times, {first}: {failure}")
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


# doctor


@main.command()
@click.argument("modules", metavar="[MODULE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "in_json", is_flag=True, help="Report in JSON.")
def doctor(modules: tuple[Path, ...], in_json: bool) -> None:
    """Say which versions are here, what will run where, and which generated modules are not as they were written.

    MODULE is a file, or a folder for the files right in it; this folder by default.
    """
    from rnngen.doctor import OutOfReach, report

    try:
        click.echo(report(modules, in_json))
    except OutOfReach as reason:
        raise _Stop(str(reason), 2) from reason
