"""A folder of the user's in which what was compiled on this machine is kept.

Whoever can write there can run code, so the folder and its files have to be the user's own. A file's name has its
digest: one that was cut off or exchanged is as good as absent. It costs no import of torch.
"""

import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

__all__ = ["Lacking", "cache_folder", "digest", "listed", "place", "put", "reason", "shown", "whole"]

_NAME = re.compile(r"\w+-(?:\w+-)?([0-9a-f]{32})(?:-\w+)*\.(?:so|json)", re.ASCII)  # begins as `put` is told to
_TEMPORARY = ".rnngen-"
_HOUR, _DAY = 3600.0, 86400.0
_UNUSED = 90 * _DAY  # after which a file is removed


class Lacking(Exception):
    """Why something cannot be had, with the remedy; said: the first lines of what a compiler said.

    `str()` is safe to print: the rest of a sentence, without a stop.
    """

    def __init__(self, why: str, said: tuple[str, ...] = ()) -> None:
        super().__init__(why)
        self.said = said


def place() -> Path:
    """Where the folder is, or would be. Raises Lacking."""
    named = os.environ.get("RNNGEN_CACHE", "")
    if not named:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # such a one does not count, by the XDG Base Directory Specification
            base = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
        if not os.path.isabs(base):
            raise Lacking("there is no home folder")
        named = os.path.join(base, "rnngen")
    try:
        return Path(os.path.abspath(named))
    except OSError as error:
        raise Lacking(f"'{shown(named)}' is relative to a folder that is not there") from error


def cache_folder(make: bool = False) -> Path | None:
    """The folder, None where it is not there and not to be made. Raises Lacking where it cannot be used or trusted."""
    path = place()
    try:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        status = path.stat()
        os.scandir(path).close()
    except FileNotFoundError as error:
        if make:
            raise Lacking(f"'{shown(path)}' cannot be made ({reason(error)})") from error
        return None
    except OSError as error:
        raise Lacking(f"'{shown(path)}' cannot be used ({reason(error)})") from error
    if not _own(status):
        why = "others may write to it, which chmod 700 changes" if status.st_mode & 0o022 else "it is another user's"
        raise Lacking(f"'{shown(path)}' is not to be trusted: {why}")
    return path


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """What is kept there. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if _NAME.fullmatch(entry.name)), key=lambda entry: entry.name)


def whole(folder: Path, start: str) -> Iterator[tuple[Path, bytes]]:
    """The files whose names begin so, with their contents. One that is not as it was written is removed.

    Raises OSError.
    """
    for entry in listed(folder):
        if entry.name.startswith(start):
            found, content = _NAME.fullmatch(entry.name), _content(entry.path)
            if found and content and digest(content) == found[1]:
                yield Path(entry.path), content
            else:
                with suppress(OSError):  # another process was quicker, or it is a folder
                    os.unlink(entry.path)


def put(folder: Path, start: str, end: str, content: bytes) -> Path:
    """Keep a content, whole or not at all, under a name with its digest between a start and an end; and remove what was
    not used for long, and what a kill in the middle of this has left. Raises OSError.
    """
    path = folder / f"{start}{digest(content)}{end}"
    file, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:  # an interruption too
        os.unlink(temporary)
        raise
    with os.scandir(folder) as entries:
        for entry in entries:
            age = _UNUSED if _NAME.fullmatch(entry.name) else _HOUR if entry.name.startswith(_TEMPORARY) else None
            with suppress(OSError):  # another process does the same
                if age and time.time() - entry.stat(follow_symlinks=False).st_mtime > age:
                    os.unlink(entry.path)
    return path


def digest(*parts: str | bytes) -> str:
    """Of parts, and of where each ends."""
    total = sha256()
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(b"%d:" % len(content) + content)
    return total.hexdigest()[:32]


def reason(error: OSError) -> str:
    """What an error says, safe to print."""
    return shown(error.strerror or str(error))  # a loader's has no number


def shown(text: str | Path) -> str:
    """A text on one line that no terminal acts on."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in os.fspath(text))


def _own(status: os.stat_result) -> bool:
    """Whether something is the user's or the system's, and nobody else may write to it."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _content(path: str) -> bytes | None:
    """What is in a plain file of the user's own, None if it is none. It counts as used."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would keep one waiting
    except OSError:
        return None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not _own(status):
            return None
        if time.time() - status.st_mtime > _DAY:
            with suppress(OSError):  # it may be there for reading only
                os.utime(file)
        with open(file, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(file)
