"""The machine's C compiler, and what it makes of the C texts of generated modules.

A library is compiled for this machine when it is first wanted, and kept. Where that cannot be, there is a reason and a
remedy, and torch runs the steps. It costs no import of torch.
"""

import json
import logging
import os
import platform
import re
import shlex
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import CDLL
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from signal import Signals
from threading import Lock
from typing import Any

from rnngen.runtime.cache import Lacking, cache_folder, digest, listed, place, put, reason, shown, whole

__all__ = ["ahead", "library", "survey"]

REALS = ("float", "double")
FOLDER = Path(__file__).with_name("c")  # of the headers that texts include, and of texts that belong to no module
NAMES = ("cc", "gcc", "clang")  # of compilers, where CC says none
LONGEST = 60.0  # seconds that a compiler may take; it takes one or two

_ALWAYS = ("-O3", "-std=gnu11", "-fPIC", "-shared")
# Of each row the first that the compiler takes, if any: a library is as right without.
_WANTED = (
    ("-march=native", "-mcpu=native"),
    ("-fno-math-errno",),
    ("-fno-trapping-math",),
    ("-ffp-contract=fast",),
    # Else GCC contracts a product and a sum, or does not, by how many rows a kernel has, on AMD's cores: then the bits
    # of a row depend on how many others its thread has.
    ("--param=avoid-fma-max-bits=0",),
    ("-fopenmp",),
    ("-mprefer-vector-width=512",),
)
_TRIAL = b"""#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif
double trial(double x) { return exp(x); }
"""
# What of /proc/cpuinfo decides which code runs; the rest is of one core, or changes while one looks.
_FEATURES = (
    *("vendor_id", "cpu family", "model", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
    *("isa", "uarch", "cpu"),
)
_LINES, _WIDTH = 3, 200  # shown of what a compiler says
_POSIX = os.name == "posix"
_OFF = "RNNGEN_NATIVE is 0" if _POSIX else "native code is not made on this system"

_log = logging.getLogger("rnngen")
_lock = Lock()
_libraries: dict[tuple[bytes, str], CDLL | None] = {}
_given_up: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {}  # what is lacking, by the commands of compilers
_told: set[str] = set()


def _forget_lock() -> None:
    """In the child of a fork, where a thread that held it is not there to release it."""
    global _lock
    _lock = Lock()


if _POSIX:
    os.register_at_fork(after_in_child=_forget_lock)


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler that works: its words, the first a whole path; what it calls itself; the flags that it takes."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]


def library(text: bytes, real: str, name: str) -> CDLL | None:
    """A C text as a library for this CPU, compiled unless it was before. real: "float" or "double", what the text calls
    REAL; name: what the user is told is being compiled.

    None where RNNGEN_NATIVE is 0, or where it cannot be had: then a warning says so, once, with the remedy. Another
    tells of a folder that cannot keep it. Raises ValueError for another `real`.
    """
    if real not in REALS:
        raise ValueError(f"REAL is one of {REALS}, not {real!r}")
    on, *complaints = _switch()
    key = text, real
    if on and key not in _libraries:
        with _lock:
            if key not in _libraries:
                _libraries[key], complaint = _library(text, real, name)
                complaints.append(complaint)
    for complaint in filter(None, complaints):  # when all is done, for a warning may be an exception
        if complaint not in _told:
            _told.add(complaint)
            warnings.warn(complaint, stacklevel=2)
    return _libraries[key] if on else None


def ahead(text: bytes, name: str) -> str:
    """Compile a module's C text and those of the runtime as `library` would, for each REAL; why one was not, or is not
    kept, "" if all is well.
    """
    if not _switch()[0]:
        return _OFF
    texts = [(text, name), *((path.read_bytes(), path.stem) for path in sorted(FOLDER.glob("*.c")))]
    made = (_library(text, real, name)[1] for text, name in texts for real in REALS)
    return next(filter(None, made), "")


def survey() -> dict[str, Any]:
    """What `library` has here: "reason", why there is no native code, "" if there is; "compiler", "version" and
    "flags", None and empty without one; "folder", None if no place for one is known, the number of "files" and "bytes"
    in it, and "trouble", why it cannot be used, "" if it can; "complaint", what is wrong with RNNGEN_NATIVE, "" if
    nothing is. Raises nothing.
    """
    found: dict[str, Any] = {"reason": "", "compiler": None, "version": "", "flags": []}
    found |= {"folder": None, "files": 0, "bytes": 0, "trouble": ""}
    if not _POSIX:
        return found | {"reason": _OFF, "complaint": ""}
    folder = None
    try:
        found["folder"] = os.fspath(place())
        if folder := cache_folder():
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in listed(folder)]
            found |= {"files": len(sizes), "bytes": sum(sizes)}
    except (Lacking, OSError) as error:
        found["trouble"] = str(error)
    on, found["complaint"] = _switch()
    try:
        if not on:
            raise Lacking(_OFF)
        compiler = _compiler(folder)
        found |= {"compiler": list(compiler.command), "version": compiler.version, "flags": list(compiler.flags)}
    except (Lacking, OSError) as error:
        found["reason"] = "; it says: ".join([str(error), *getattr(error, "said", ())[:1]])
    return found


def _switch() -> tuple[bool, str]:
    """Whether native code is wanted, where there can be any; and what is wrong with RNNGEN_NATIVE, "" if nothing is."""
    value = os.environ.get("RNNGEN_NATIVE", "")
    known = value in ("", "0", "1")
    complaint = f"RNNGEN_NATIVE is '{shown(value)}', which says nothing: 0 turns native code off, 1 leaves it on."
    return _POSIX and value != "0", "" if known else complaint


# ---- From a text to a library ----


def _library(text: bytes, real: str, name: str) -> tuple[CDLL | None, str]:
    """A library, None where it cannot be had; and a complaint, "" if there is none."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)[:64] or "_"  # as a part of a file's
    folder, trouble = None, ""
    try:
        try:
            folder = cache_folder(make=True)
        except Lacking as lacking:
            trouble = str(lacking)
        headers = {path.name: path.read_bytes() for path in sorted(FOLDER.glob("*.h"))}
        made_of = digest(text, real, _features(), *(part for header in headers.items() for part in header))
        try:
            compiler = _compiler(folder)
        except Lacking:
            if found := _ready(folder, f"{made_of}-"):  # by another one, as in an image of a system without any
                return found, ""
            raise
        start = f"{made_of}-{digest(_identity(compiler.command), compiler.version, *compiler.flags)}-"
        with suppress(OSError):  # to make it again will tell why
            if found := _ready(folder, start):
                return found, ""
        once = ", once" if folder else ""
        _log.warning("rnngen: compiling %s (%s) for this CPU%s; RNNGEN_NATIVE=0 turns this off", name, real, once)
        with _work() as work:
            made = _compiled(compiler, headers | {f"{name}.c": text}, real, name, work)
            if folder:
                try:
                    return _kept(folder, start, f"-{name}-{real}.so", made.read_bytes()), ""
                except OSError as error:
                    trouble = f"'{shown(folder)}' keeps nothing ({reason(error)})"
            try:
                found = CDLL(os.fspath(made))  # it stays when its file goes
            except OSError as error:
                raise _of(compiler.command, f"makes what cannot be loaded ({reason(error)})") from error
    except (Lacking, OSError) as error:
        known = error if isinstance(error, Lacking) else Lacking(f"a file is not to be had ({reason(error)})")
        why = f"Scans on the CPU run step by step in torch, which is slower, since {known}."
        return None, "\n  ".join([f"{why} RNNGEN_NATIVE=0 does without native code.", *known.said])
    return found, f"Native code is compiled anew by each process, since {trouble}; RNNGEN_CACHE may name a folder."


def _compiled(compiler: Compiler, texts: dict[str, bytes], real: str, name: str, work: Path) -> Path:
    """The library of NAME.c among texts, made where they are put. Raises Lacking."""
    for file, content in texts.items():
        (work / file).write_bytes(content)
    if said := _made(compiler.command, (*compiler.flags, f"-DREAL={real}"), work, name):
        raise _of(compiler.command, f"does not compile {name}", said)
    return work / f"{name}.so"


def _ready(folder: Path | None, start: str) -> CDLL | None:
    """The library that is kept under a name that begins so, None where there is none. Raises OSError."""
    for path, _ in whole(folder, start) if folder else ():
        return CDLL(os.fspath(path))
    return None


def _kept(folder: Path, start: str, end: str, content: bytes) -> CDLL:
    """A library, loaded from where it is kept from now on. Raises OSError; it is not kept then."""
    path = put(folder, start, end, content)
    try:
        return CDLL(os.fspath(path))
    except OSError:
        path.unlink()
        raise


@contextmanager
def _work() -> Iterator[Path]:
    """A folder to compile in, of this process alone and gone afterwards. Raises Lacking."""
    try:
        with tempfile.TemporaryDirectory(prefix="rnngen-", ignore_cleanup_errors=True) as work:
            yield Path(work)
    except OSError as error:
        raise Lacking(f"there is no room to compile in ({reason(error)}); TMPDIR may name a folder") from error


# ---- The compiler ----


def _compiler(folder: Path | None) -> Compiler:
    """The compiler of this machine, with what was found when it was first tried. Raises Lacking."""
    command = _command()
    if command in _given_up:
        raise Lacking(*_given_up[command])
    start = f"compiler-{digest(_identity(command), _features(), repr(_WANTED))}-"
    for _, content in whole(folder, start) if folder else ():
        known = json.loads(content)
        return Compiler(command, known["version"], tuple(known["flags"]))
    with _work() as work:
        compiler = Compiler(command, _version(command, work), _flags(command, work))
    if folder:
        content = json.dumps({"version": compiler.version, "flags": compiler.flags}).encode()
        with suppress(OSError):  # a library cannot be kept there either, which will be told
            put(folder, start, ".json", content)
    return compiler


def _command() -> tuple[str, ...]:
    """The words of the command that CC says, or else of the first compiler that is there. Raises Lacking."""
    said = os.environ.get("CC", "")
    try:
        words = shlex.split(said)
    except ValueError as error:
        raise Lacking(f"CC is '{shown(said)}', which is no command ({error})") from error
    for name in words[:1] or NAMES:
        if path := which(name):
            return os.path.abspath(path), *words[1:]
    if words:
        raise Lacking(f"CC names '{shown(words[0])}', which is not there; without CC it is {', '.join(NAMES)}")
    raise Lacking("there is no C compiler: install gcc or clang, or name one in CC")


def _identity(command: tuple[str, ...]) -> str:
    """What changes with a compiler, found without starting it: the files that its words name, for a program may stand
    before it, with their sizes and times.
    """
    parts: list[object] = [command]
    for path in filter(None, map(which, command)):
        status = os.stat(path)
        parts += [os.path.realpath(path), status.st_size, status.st_mtime_ns]
    return repr(parts)


def _version(command: tuple[str, ...], work: Path) -> str:
    """What a compiler calls itself, "" if it does not say. Raises Lacking."""
    failed = _run(command, ("--version",), work)
    return "" if failed else next(iter(_lines(work / "output", work)), "")


def _flags(command: tuple[str, ...], work: Path) -> tuple[str, ...]:
    """The flags that a compiler takes: nearly always all, which one trial shows. Raises Lacking."""
    (work / "trial.c").write_bytes(_TRIAL)
    flags: tuple[str, ...] = (*_ALWAYS, *(row[0] for row in _WANTED))
    if not _made(command, flags, work, "trial"):
        return flags
    flags = _ALWAYS
    if said := _made(command, flags, work, "trial"):
        raise _give_up(command, "does not compile a line of C", said)
    for row in _WANTED:
        flags += next(((flag,) for flag in row if not _made(command, (*flags, flag), work, "trial")), ())
    return flags


def _made(command: tuple[str, ...], flags: Sequence[str], work: Path, name: str) -> tuple[str, ...]:
    """Make NAME.so of NAME.c; () when that is done, or else what the compiler says. Raises Lacking."""
    made = work / f"{name}.so"
    made.unlink(missing_ok=True)
    if said := _run(command, (*flags, "-o", os.fspath(made), os.fspath(work / f"{name}.c"), "-lm"), work):
        return said
    return () if made.is_file() else ("It ends well, and has made nothing.",)


def _run(command: tuple[str, ...], arguments: Sequence[str], work: Path) -> tuple[str, ...]:
    """Run a compiler; () if it ends well, or else the first lines of what it says. Raises Lacking if it does not start
    or end, and then it is given up.
    """
    output = work / "output"
    environment = os.environ | {"LC_ALL": "C", "TMPDIR": os.fspath(work)}
    try:
        with output.open("wb") as stream:  # and no pipe, which a server that it starts would keep open
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                process_group=0,
            )
    except OSError as error:
        raise _give_up(command, f"does not run ({reason(error)})") from error
    try:
        code = process.wait(LONGEST)
    except BaseException as error:  # an interruption too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, Signals["SIGKILL"])  # and what it has started
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise _give_up(command, f"has not ended after {LONGEST:g} seconds") from None
        raise
    return () if code == 0 else _lines(output, work) or (f"It ends with code {code}.",)


def _give_up(command: tuple[str, ...], why: str, said: tuple[str, ...] = ()) -> Lacking:
    """What to raise of a compiler that does not work at all: this process does not try it again."""
    lacking = _of(command, why, said)
    _given_up[command] = str(lacking), said
    return lacking


def _of(command: tuple[str, ...], why: str, said: tuple[str, ...] = ()) -> Lacking:
    """What to raise of a compiler."""
    return Lacking(f"'{shown(shlex.join(command))}' {why}; CC may name another compiler", said)


def _lines(output: Path, work: Path) -> tuple[str, ...]:
    """The first lines of what a compiler has said, without the folder that it saw."""
    with output.open("rb") as stream:
        text = stream.read(_LINES * 4 * _WIDTH).decode(errors="replace").replace(f"{work}{os.sep}", "")
    return tuple(shown(line)[:_WIDTH] for line in text.splitlines() if line.strip())[:_LINES]


@cache
def _features() -> str:
    """The CPU, as far as code that is compiled for it depends on it."""
    found = [platform.machine()]
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as stream:  # the start of it: a machine may have 500 cores
            first = stream.read(16384).decode(errors="replace").partition("\n\n")[0]
        found += [line for line in first.splitlines() if line.partition(":")[0].strip() in _FEATURES]
    except OSError:  # as on macOS
        order = ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(order, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST)
            found.append(done.stdout.decode(errors="replace"))
    return "\n".join(found)
