"""What pages quote of the command line: in a block of `console`, below each line `$ rnngen ...` what that prints.

python tests/quoted.py docs/explain.md            write it again
python tests/quoted.py --check docs/explain.md    exit with 1 if that would change something
"""

import os
import re
import shlex
import sys
from contextlib import chdir
from pathlib import Path

from click.testing import CliRunner

from rnngen.cli import main

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n\$ (?P<command>rnngen .*)\n(?P<printed>(?:.*\n)*?)```$", re.MULTILINE)


def quotes(page: str) -> dict[str, str]:
    """What a page says that each command prints."""
    return {match["command"]: match["printed"] for match in BLOCK.finditer(page)}


def printed(command: str) -> str:
    """What a command prints at the top of the repository."""
    with chdir(ROOT):
        result = CliRunner().invoke(main, shlex.split(command)[1:])
    if result.exit_code:
        raise RuntimeError(f"{command}: {result.output}")
    return result.stdout


def renewed(page: str) -> str:
    """The page with what its commands print today."""
    return BLOCK.sub(lambda match: f"```console\n$ {match['command']}\n{printed(match['command'])}```", page)


def _main(arguments: list[str]) -> int:
    check, stale = "--check" in arguments, False
    for name in (name for name in arguments if name != "--check"):
        page = Path(name).read_text(encoding="utf-8")
        new = renewed(page)
        if new != page:
            stale = True
            print(f"{name}{' is stale' if check else ''}")
            if not check:
                Path(name).write_text(new, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    os.environ.pop("FORCE_COLOR", None)
    sys.exit(_main(sys.argv[1:]))
