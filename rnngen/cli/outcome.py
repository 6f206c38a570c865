"""What became of each MODEL that was to be compiled, told in sentences, as a diff or in JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnngen.cli.answers import Rejected

if TYPE_CHECKING:
    from rnngen.errors import Mistake


@dataclass(kw_only=True)
class Outcome:
    """What became of one MODEL, or of one of its files. error: why it could not be read, or not be written."""

    model: str
    status: str
    mistakes: Sequence[Mistake] = ()
    all_found: bool = True
    error: str = ""


@dataclass(kw_only=True)
class Compiled(Outcome):
    """A file of one that has become a module. before: what is in it, None where there is none; note: what else to know
    once it is written; diff: what would change.
    """

    file: Path
    text: str
    before: bytes | None = None
    note: str = ""
    diff: str = ""

    @property
    def content(self) -> bytes:
        return self.text.encode()


def difference(result: Compiled) -> str:
    """What would change in its file, as `patch` reads it."""
    from difflib import unified_diff

    if result.status == "unchanged":
        return ""
    before = (result.before or b"").decode("utf-8", "replace").splitlines(keepends=True)
    after = result.text.splitlines(keepends=True)
    name = result.file.as_posix()
    old = name if result.before is not None else "/dev/null"
    unended = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + unended for line in unified_diff(before, after, old, name))


def print_problems(results: Sequence[Outcome]) -> None:
    mistakes = [mistake for result in results for mistake in result.mistakes]
    if mistakes:
        Rejected(mistakes, all(result.all_found for result in results)).show()
    for error in dict.fromkeys(result.error for result in results if result.error):  # files of a module share theirs
        click.echo(f"Error: {error}", err=True)


def print_outcomes(ctx: click.Context, results: Sequence[Compiled], quiet: bool) -> None:
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
        if result.note and result.status == "written":
            click.echo(result.note, err=True)


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


def print_json(results: Sequence[Outcome]) -> None:
    import json

    record = {
        "files": [
            {
                "model": result.model,
                "file": result.file.as_posix() if isinstance(result, Compiled) else None,
                "status": result.status,
                "error": result.error or None,
                **({"diff": result.diff} if isinstance(result, Compiled) and result.diff else {}),
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


def exit_code(results: Sequence[Outcome], check: bool) -> int:
    found = {result.status for result in results}
    if found & {"unreadable", "refused"}:
        return 2
    if found & {"rejected", "full"}:
        return 1
    return 1 if check and found & {"stale", "missing", "edited"} else 0
