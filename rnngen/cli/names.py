"""Names on the command line. Which there are is asked of the compiler only when one is given, or to be completed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

PASSES = (
    "resolve", "infer", "unpack", "wrap", "simplify", "pack", "hoist", "unfold", "differentiate", "expand", "mask",
    "save", "supply", "again", "lower", "cut",
)  # fmt: skip

if TYPE_CHECKING:
    _Name = click.ParamType[str]
else:
    _Name = click.ParamType  # that of click 8.2 takes no argument


class OneOf(_Name):
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
            several = f"{self.name}es" if self.name.endswith("s") else f"{self.name}s"
            hint = hint or did_you_mean(value, known) or f"the {several} are {', '.join(known)}"
            self.fail(f"there is no {self.name} '{visible(value)}'; {hint}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.known() if name.startswith(incomplete)]


class Save(_Name):
    """What layers keep for a backward pass."""

    name = "save"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from rnngen.errors import visible
        from rnngen.runtime.memory import memory_of

        try:
            memory_of(value)
        except ValueError as reason:
            self.fail(f"a layer cannot keep '{visible(value)}'; {str(reason).rstrip('.')}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from rnngen.runtime.memory import EVERY, KINDS

        return [CompletionItem(name) for name in (*KINDS, EVERY) if name.startswith(incomplete)]


class Model(_Name):
    """A cell of the library, or a path to a .toml file."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from glob import escape, glob

        typed = escape(incomplete)
        # With those of the folders below, whose names alone a shell would take for a whole word.
        paths = [*glob(f"{typed}*.toml"), *glob(f"{typed}*/*.toml")]
        names = [name for name in cell_names() if name.startswith(incomplete)]
        return [CompletionItem(name) for name in (*names, *sorted(paths))]


def cell_names() -> Sequence[str]:
    from rnngen.library import library

    return tuple(library())


def schedule_names() -> Sequence[str]:
    from rnngen.runtime.schedules import SCHEDULES

    return tuple(SCHEDULES)


def wrapper_names() -> Sequence[str]:
    from rnngen.wrappers import WRAPPERS

    return tuple(WRAPPERS)


def target_names() -> Sequence[str]:
    from rnngen.runtime.machine import MACHINES

    return (*MACHINES, "c")


def target_meant(value: str) -> str:
    """The hint for a target that there is not. A machine that is spelt alike may be another generation of cards."""
    from rnngen.runtime.machine import MACHINES

    def plain(text: str) -> str:
        return "".join(char for char in text.lower() if char.isalnum())

    wanted = plain(value).removeprefix("nvidia").removeprefix("amd").removeprefix("instinct")
    if wanted in ("cpu", "native"):
        return "native code on a CPU is c"
    for name, machine in MACHINES.items():
        if wanted == plain(name):
            return f"did you mean '{name}'?"
        words = machine.card.split()
        if wanted in (plain("".join(words[first:])) for first in range(len(words))):
            return f"the {machine.card} is {name}"
    cards = ", ".join(f"{name} ({machine.card})" for name, machine in MACHINES.items())
    return f"the targets are {cards}, and c, a CPU"


def cells_starting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in cell_names() if name.startswith(incomplete)]


# For the commands that take a cell and compile it.
wrappers_option = click.option(
    "--with",
    "wrappers",
    multiple=True,
    metavar="NAME",
    type=OneOf("wrapper", wrapper_names),
    help="What to put around the step of a cell; may be repeated, the first innermost.",
)
save_option = click.option(
    "--save",
    metavar="WHAT",
    type=Save(),
    callback=lambda ctx, param, value: value or "",
    help="What layers of a cell keep for the backward pass: gates, states, every or 'every N'.",
)
