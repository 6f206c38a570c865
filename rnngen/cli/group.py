"""The command `rnngen` itself: which commands there are, and how each of them ends."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from rnngen.cli.answers import answer
from rnngen.cli.output import OutputLost, closed_pipe, give_up_output, watching_output

COMMANDS = ("cells", "compile", "doctor", "explain", "schema", "show", "verify")
INTERRUPTED = 130  # as a shell reports SIGINT


class _Files(MutableMapping[str, click.Command]):
    """The commands by name. Each is the `command` of a file of its own, which is imported when it is wanted."""

    def __init__(self, names: Iterable[str]) -> None:
        self._found: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        command = self._found[name]
        if command is None:
            command = self._found[name] = import_module(f"rnngen.cli.{name}").command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Commands(click.Group):
    """Commands that answer each exception with a sentence and an exit code; tracebacks are for who asks."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with watching_output():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        elif os.environ.get("FORCE_COLOR"):
            ctx.color = True
        elif os.environ.get("TERM") == "dumb":
            ctx.color = False
        try:
            with watching_output():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except (click.ClickException, click.Abort, click.exceptions.Exit, OutputLost):
            raise
        except Exception as error:
            raise answer(error, ctx.params["traceback"]) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their whole first sentences, where click would cut them to one line."""
        with formatter.section("Commands"):
            commands = sorted(self.commands.items())
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
            sys.stdout = closed_pipe()
        if isinstance(sys.stdout, TextIOWrapper):  # where it cannot write a character, an escape will do
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
        except OutputLost as lost:
            code = give_up_output(lost)
        finally:
            gc.set_threshold(*thresholds)
        sys.exit(code)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from rnngen import VERSION

        click.echo(f"rnngen {VERSION}")
        ctx.exit()


@click.group(cls=Commands, commands=_Files(COMMANDS), context_settings={"help_option_names": ["-h", "--help"]})
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
