"""What ends a command, and its exit code: a sentence, the mistakes of a model, or a fault of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rnngen.errors import Mistake


class Failed(click.ClickException):
    """One sentence for the user: what was asked for is right, and did not come out."""

    exit_code = 1


class Unusable(click.ClickException):
    """One sentence for the user: what was asked for is not there, or cannot be used."""

    exit_code = 2


class Rejected(click.ClickException):
    """The mistakes of a model, drawn."""

    exit_code = 1

    def __init__(self, mistakes: Sequence[Mistake], all_found: bool) -> None:
        super().__init__("The model was rejected.")
        self.mistakes, self.all_found = mistakes, all_found

    def show(self, file: IO[Any] | None = None) -> None:
        from rnngen.errors import render_all

        drawn = render_all(self.mistakes, self.all_found, color=True)
        # echo takes the colours out again where none belong.
        click.echo(drawn, file=file or sys.stderr, color=self.show_color)


class Fault(click.ClickException):
    """rnngen itself has failed."""

    exit_code = 3

    def __init__(self, error: Exception, traceback: bool) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error, self.traceback = error, traceback

    def show(self, file: IO[Any] | None = None) -> None:
        from rnngen.errors import visible

        file = file or sys.stderr
        if self.traceback:
            from traceback import format_exception

            click.echo("".join(format_exception(self.error)), file=file, nl=False)
        click.echo(f"Error: rnngen itself has failed, sorry: {visible(self.message)[:600]}", file=file)
        more = "" if self.traceback else "; RNNGEN_TRACEBACK=1 shows where"
        click.echo(f"This is no mistake in your model. Please report it, with the model{more}.", file=file)


def answer(error: Exception, traceback: bool) -> click.ClickException:
    """What an exception means for the user."""
    from rnngen.document import Unreadable
    from rnngen.errors import ModelError
    from rnngen.write import Unwritable

    match error:
        case ModelError():
            return Rejected(error.mistakes, error.all_found)
        case Unreadable():
            return Unusable(str(error))
        case Unwritable():
            return Failed(str(error)) if error.full else Unusable(str(error))
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] != "rnngen":
            package = name.partition(".")[0]
            return Unusable(f"The package '{package}' is not installed: pip install {package}")
    return Fault(error, traceback)
