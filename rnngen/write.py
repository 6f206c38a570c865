"""Generated files on disk: written whole or not at all.

A text goes to a temporary file in the same directory, which then takes the place of the old one in a single step.
Whoever looks at the path, before, during or after an interruption, finds the old file or the new one. Files that belong
together are replaced one right after the other, or none is.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rnngen.errors import visible
from rnngen.runtime.seal import with_plain_ends

__all__ = ["Unwritable", "current", "is_current", "write"]

_LEFT_BEHIND = 3600.0  # seconds; to write a module takes milliseconds
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})


class Unwritable(OSError):
    """A file cannot be written where it was asked for; what was there before is as it was.

    `str()` of it is a sentence that is safe to print. full: the place is right, but the machine could not
    take the bytes.
    """

    def __init__(self, sentence: str, full: bool = False) -> None:
        super().__init__(sentence)
        self.full = full


def current(path: Path) -> bytes | None:
    """What is in the file that `write` would replace, None where there is none.

    Raises Unwritable where the path cannot be such a file: it lies in no directory, is one itself, is a
    device, or is a link that leads out of its directory.
    """
    with _naming(path):
        target = _target(path)
        return target.read_bytes() if target.exists() else None


def is_current(before: bytes | None, content: bytes) -> bool:
    """Whether a file that holds `before` need not be written: lines that a checkout ended in "\\r\\n" are the same."""
    return before is not None and with_plain_ends(before) == content


def write(contents: Mapping[Path, bytes]) -> set[Path]:
    """Make these the contents of files that belong together, and make their directories; the files that were others.

    All are at hand before the first takes its place, and they do so in this order. A file that need not change is not
    touched, so that it keeps its time of change. Raises Unwritable; all files are as they were then, and nothing is
    left beside them.
    """
    before = {path: current(path) for path in contents}
    changed = {path: content for path, content in contents.items() if not is_current(before[path], content)}
    ready: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, content in changed.items():
            with _naming(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            with _naming(path):
                ready[path] = _beside(_target(path), content)
        for path, temporary in ready.items():
            with _naming(path):
                os.replace(temporary, _target(path))
            placed.append(path)
    except BaseException:  # an interruption too
        for temporary in ready.values():
            temporary.unlink(missing_ok=True)
        for path in reversed(placed):
            _put_back(_target(path), before[path])
        raise
    for path in placed:
        _remove_leftovers(_target(path))
        _sync_folder(_target(path).parent)
    return set(placed)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system as sentences about a path."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _target(path: Path) -> Path:
    """The file itself: `path`, or what it links to within its directory."""
    folder = path.parent
    nearest = next((found for found in (folder, *folder.parents) if os.path.lexists(found)), folder)
    if os.path.lexists(nearest) and not nearest.is_dir():
        raise Unwritable(f"'{_shown(path)}' cannot be written: '{_shown(nearest)}' is not a directory.")
    target = path
    if path.is_symlink():
        real = Path(os.path.realpath(folder))
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(real):
            message = f"'{_shown(path)}' is a link that leads out of its directory, to '{_shown(target)}'."
            raise Unwritable(message)
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise Unwritable(f"'{_shown(path)}' cannot be written: it is a directory.")
    if not stat.S_ISREG(mode):
        what = "a device, pipe, socket or circle of links"
        raise Unwritable(f"'{_shown(path)}' cannot be written: it is {what}.")
    return target


def _beside(target: Path, content: bytes) -> Path:
    """A temporary file with the content, for the place of the target."""
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not mode & 0o222:  # to replace a file takes no right to write to it
        raise Unwritable(f"'{_shown(target)}' cannot be written: it is write-protected.")
    temporary = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    # O_EXCL and O_NOFOLLOW: the name is new, and nobody has put a link in its place.
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666)
    try:
        with open(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _put_back(target: Path, before: bytes | None) -> None:
    """What was there before."""
    if before is None:
        target.unlink()
    else:
        os.replace(_beside(target, before), target)


def _remove_leftovers(target: Path) -> None:
    """Remove what a kill in the middle of `write` left behind, once it is too old to be another process's work."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.tmp")
    with suppress(OSError), os.scandir(target.parent) as entries:  # the new file is in its place all the same
        for entry in entries:
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _LEFT_BEHIND:
                    os.unlink(entry.path)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the system can do that."""
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(file)
    except OSError:
        pass
    finally:
        os.close(file)


def _unwritable(path: Path, error: OSError) -> Unwritable:
    reason = error.strerror or "unknown reason"
    return Unwritable(f"'{_shown(path)}' cannot be written: {reason}.", full=error.errno in _FULL)


def _shown(path: Path) -> str:
    return visible(os.fspath(path))
