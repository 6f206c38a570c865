"""Standard output that takes no more: its reader has gone, or the disk is full."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import click

READER_GONE = 141  # as a shell reports SIGPIPE
_LOST = frozenset({errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO, errno.ESHUTDOWN})


class OutputLost(Exception):
    """Standard output takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.reason, self.reader_gone = error.strerror, error.errno == errno.EPIPE


def closed_pipe() -> IO[str]:
    """An output whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", encoding="utf-8")


@contextmanager
def watching_output() -> Iterator[None]:
    """Tell a failing standard output from other faults: errors of a file carry its name or are sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in _LOST and error.filename is None:
            raise OutputLost(error) from error
        raise


def give_up_output(lost: OutputLost) -> int:
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
