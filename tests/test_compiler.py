"""The C compiler of the machine and what it makes: compiled once, kept safely, and told about where it cannot be."""

import atexit
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from _ctypes import dlclose
from ctypes import CDLL, c_double, c_float, c_int64
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from click.testing import CliRunner
from conftest import imported

from rnngen.cli import main
from rnngen.runtime import cache as kept
from rnngen.runtime import compiler, seal

ROOT = Path(__file__).parent.parent
HEADER = b"#include <stdint.h>\n#include <stdlib.h>\n#define FACTOR 2\n"
TEXT = b'#include "rnngen.h"\nint scaled(int64_t n, REAL *x) { while (n--) x[n] *= FACTOR; return 0; }\n'
GONE = re.compile("^Scans on the CPU run step by step in torch, which is slower, since ")
ANEW = re.compile("^Native code is compiled anew by each process, since ")


def result(found: CDLL | None, real: str = "float") -> list[float]:
    """What the library makes of 1, 2, 3."""
    numbers = ((c_float if real == "float" else c_double) * 3)(1, 2, 3)
    assert found is not None and found.scaled(c_int64(3), numbers) == 0
    return list(numbers)


@cache
def made(text: bytes, *flags: str) -> Path:
    """What gcc makes of a text."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    (folder / "rnngen.h").write_bytes(HEADER)
    (folder / "text.c").write_bytes(text)
    subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", "made", "text.c"], cwd=folder, check=True)
    return folder / "made"


class Machine:
    """A folder for libraries, another for headers, compilers that are written down, and processes that begin."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        self.path, self.patch = tmp_path, monkeypatch
        self.folder, self.headers = tmp_path / "kept", tmp_path / "headers"
        self.headers.mkdir()
        (self.headers / "rnngen.h").write_bytes(HEADER)
        for name in ("CC", "RNNGEN_NATIVE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("RNNGEN_CACHE", str(self.folder))
        monkeypatch.setattr(compiler, "FOLDER", self.headers)
        self.forget()  # what this process has loaded for others stays open

    def begin(self) -> None:
        """As a process does that has loaded nothing yet."""
        for found in filter(None, compiler._libraries.values()):
            dlclose(found._handle)  # a system loads what has one name once
        self.forget()

    def forget(self) -> None:
        """Let the compiler know of nothing."""
        for name in ("_libraries", "_given_up", "_told"):
            self.patch.setattr(compiler, name, type(getattr(compiler, name))())

    def library(self, text: bytes = TEXT, real: str = "float") -> CDLL | None:
        """In a process that has just begun."""
        self.begin()
        return compiler.library(text, real, "lstm")

    def both(self) -> list[tuple[CDLL | None, str]]:
        """For float and double, in such a process."""
        return [(self.library(), "float"), (compiler.library(TEXT, "double", "lstm"), "double")]

    def made(self) -> Path:
        """A kept library, which is not loaded any more."""
        self.library()
        self.begin()
        (file,) = self.kept()
        return file

    def program(self, script: str, name: str = "cc") -> Path:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self.patch.setenv("CC", f"'{path}'")
        return path

    def counted(self) -> "Machine":
        """With a compiler that writes down what it is asked for, and has the answer."""
        answers = {real: made(TEXT, f"-DREAL={real}") for real in compiler.REALS}
        self.program(f"""
            echo "$*" >> '{self.path}/asked'
            case "$*" in *-DREAL=double*) answer='{answers["double"]}';; *) answer='{answers["float"]}';; esac
            while [ $# -gt 0 ]; do [ "$1" = -o ] && cp "$answer" "$2"; shift; done""")
        return self

    def compiled(self) -> int:
        """How often it was asked for a library, and not tried."""
        asked = self.path / "asked"
        return asked.read_text().count("-DREAL=") if asked.exists() else 0

    def kept(self, pattern: str = "*.so") -> list[Path]:
        return sorted(self.folder.glob(pattern))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def process(machine: Machine, script: str = "print(result())", *options: str, **environment: str) -> subprocess.Popen:
    """Another process, which has `compiler`, `TEXT` and `result()`."""
    before = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from ctypes import c_float, c_int64\n"
        "from pathlib import Path\n"
        "from rnngen.runtime import compiler\n"
        f"compiler.FOLDER, TEXT = Path({str(machine.headers)!r}), {TEXT!r}\n"
        "def result(text=TEXT):\n"
        "    found, numbers = compiler.library(text, 'float', 'lstm'), (c_float * 3)(1, 2, 3)\n"
        "    return found.scaled(c_int64(3), numbers), *numbers\n"
    )
    return subprocess.Popen(
        [sys.executable, *options, "-c", before + script],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- What is made, and made once ----


@pytest.mark.parametrize("real", compiler.REALS)
def test_a_text_becomes_a_library(machine, real):
    assert result(machine.library(real=real), real) == [2, 4, 6]


def test_another_real_is_refused(machine):
    with pytest.raises(ValueError, match="half"):
        machine.library(real="half")


def test_it_is_compiled_once_and_then_loaded(machine):
    machine.counted()
    first = machine.library()
    assert first is not None and compiler.library(TEXT, "float", "another name") is first
    assert result(machine.library()) == [2, 4, 6]
    assert machine.compiled() == 1
    asked = (machine.path / "asked").read_text()
    assert result(machine.library()) == [2, 4, 6]
    assert (machine.path / "asked").read_text() == asked, "a warm process starts no compiler"


def test_whatever_it_depends_on_makes_another(machine):
    """The text, REAL, a header, the command, the compiler itself and the CPU."""
    machine.counted()
    machine.library()
    number = machine.compiled()

    def is_made_again(*arguments) -> bool:
        nonlocal number
        before, number = number, 0
        assert machine.library(*arguments) is not None
        number = machine.compiled()
        machine.library(*arguments)
        assert machine.compiled() == number, "and kept"
        return number == before + 1

    assert is_made_again(TEXT + b"\n")
    assert is_made_again(TEXT, "double")
    (machine.headers / "more.h").write_bytes(b"")
    assert is_made_again(TEXT)
    (machine.headers / "rnngen.h").write_bytes(HEADER.replace(b"2", b"3"))
    assert is_made_again(TEXT)
    machine.patch.setenv("CC", f"'{machine.path}/cc' -DA=1")
    assert is_made_again(TEXT)
    os.utime(machine.path / "cc", (1, 1))
    assert is_made_again(TEXT)
    machine.patch.setattr(compiler, "_features", lambda: "another CPU")
    assert is_made_again(TEXT)
    machine.patch.setattr(compiler, "_WANTED", ())
    assert is_made_again(TEXT)


def test_a_header_is_what_it_is_now(machine):
    machine.library()
    (machine.headers / "rnngen.h").write_bytes(HEADER.replace(b"2", b"3"))
    assert result(machine.library()) == [3, 6, 9]


def test_a_program_before_the_compiler_is_not_all_that_counts(machine):
    machine.counted()
    before = compiler._identity(("/usr/bin/env", str(machine.path / "cc")))
    os.utime(machine.path / "cc", (1, 1))
    assert compiler._identity(("/usr/bin/env", str(machine.path / "cc"))) != before


def test_a_digest_knows_where_a_part_ends():
    assert len({kept.digest(*parts) for parts in ((b"ab", "c"), (b"a", "bc"), (b"abc",), (b"abc", ""))}) == 4


def test_the_cpu_is_known_by_what_code_depends_on(machine):
    text = "processor\t: 0\nmodel\t\t: 2\ncpu MHz\t\t: {}\nflags\t\t: fpu {}\nbogomips\t: {}\n\nprocessor\t: 1\n"

    def features(*values: object) -> str:
        machine.patch.setattr(
            compiler, "open", lambda *_, **__: io.BytesIO(text.format(*values).encode()), raising=False
        )
        return compiler._features.__wrapped__()

    assert features(2000, "avx2", 1) == features(3000, "avx2", 2) != features(2000, "avx512f", 1)


def test_the_folder_and_its_files_are_the_users_alone(machine):
    before = os.umask(0)
    try:
        machine.library()
    finally:
        os.umask(before)
    assert machine.folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in machine.folder.iterdir()} == {0o600}
    assert len(machine.kept("*")) == 2, "the library, and what is known of the compiler"


def test_it_tells_in_one_line_what_it_waits_for(machine, caplog):
    machine.library()
    assert caplog.messages == ["rnngen: compiling lstm (float) for this CPU, once; RNNGEN_NATIVE=0 turns this off"]
    machine.library()
    assert len(caplog.messages) == 1


def test_the_line_is_on_stderr_and_no_warning(machine):
    answers = [process(machine, "print(result())", "-W", "error").communicate() for _ in range(2)]
    assert [answer[0] for answer in answers] == ["(0, 2.0, 4.0, 6.0)\n"] * 2
    assert [answer[1].count("\n") for answer in answers] == [1, 0]
    assert answers[0][1].startswith("rnngen: compiling lstm (float)")


def test_it_needs_no_torch(machine):
    out, err = process(machine, "print(sorted({'torch', 'triton', 'numpy'} & sys.modules.keys()))").communicate()
    assert (out, err) == ("[]\n", "")


# ---- Where it is kept ----


def test_where_the_folder_is(machine):
    machine.patch.setenv("HOME", "/home/me")
    machine.patch.setattr(sys, "platform", "linux")
    for named, base, place in (
        ("/a/b", "/x", "/a/b"),
        ("", "/x", "/x/rnngen"),
        ("", "relative", "/home/me/.cache/rnngen"),
        ("", "", "/home/me/.cache/rnngen"),
    ):
        machine.patch.setenv("RNNGEN_CACHE", named)
        machine.patch.setenv("XDG_CACHE_HOME", base)
        assert kept.place() == Path(place)
    machine.patch.setattr(sys, "platform", "darwin")
    assert kept.place() == Path("/home/me/Library/Caches/rnngen")


def test_without_a_home_it_is_compiled_anew(machine):
    machine.patch.delenv("RNNGEN_CACHE")
    machine.patch.setattr(os.path, "expanduser", lambda path: path)  # for a user that the system does not know
    with pytest.warns(UserWarning, match=f"{ANEW.pattern}there is no home folder; RNNGEN_CACHE may name"):
        assert result(machine.library()) == [2, 4, 6]
    assert compiler.survey()["trouble"] == "there is no home folder"


@pytest.mark.parametrize(
    "name", ["a b", "a'b\"c", "\xe4\u2603", "-o", "--", "$(touch x)", "a;b", "%s", "a\\b", "a\nb", "@file", "a,b=c"]
)
def test_a_folder_may_have_any_name(machine, name):
    for folder in ("here", "temporary"):
        (machine.path / folder).mkdir()
    machine.patch.chdir(machine.path / "here")
    machine.patch.setenv("RNNGEN_CACHE", name)
    (machine.path / "temporary" / name).mkdir()
    machine.patch.setattr("tempfile.tempdir", str(machine.path / "temporary" / name))
    assert result(machine.library()) == [2, 4, 6]
    assert len(list((machine.path / "here" / name).glob("*.so"))) == 1
    assert [path.name for path in Path.cwd().iterdir()] == [name]
    assert not any((machine.path / "temporary" / name).iterdir()), "what it works in is gone"


def plant(machine: Machine, path: Path, whole: bool = False) -> Path:
    """Put another library in the place of the kept one; the file that is there once it was loaded. whole: as one that
    was kept, with its digest.
    """
    marker = machine.path / "loaded"
    machine.patch.setenv("LOADED", str(marker))
    text = '__attribute__((constructor)) void f(void) { fopen(getenv("LOADED"), "w"); }'
    shutil.copy(made(f"#include <stdio.h>\n#include <stdlib.h>\n{text}".encode()), path)
    if whole:
        start, how, _, end = path.name.split("-", 3)
        path.rename(path.with_name(f"{start}-{how}-{kept.digest(path.read_bytes())}-{end}"))
    return marker


def misnamed(file: Path) -> Path:
    """A name with another digest."""
    return file.with_name(re.sub("-[0-9a-f]{32}(?=-lstm|.json)", f"-{'0' * 32}", file.name))


DAMAGE = {
    "empty": lambda file, _: file.write_bytes(b""),
    "cut": lambda file, _: os.truncate(file, file.stat().st_size // 2),
    "cut by a byte": lambda file, _: os.truncate(file, file.stat().st_size - 1),
    "longer": lambda file, _: file.write_bytes(file.read_bytes() + b"\0"),
    "a bit": lambda file, _: file.write_bytes(bytes([*file.read_bytes()[:-1], file.read_bytes()[-1] ^ 1])),
    "writable by a group": lambda file, _: file.chmod(0o620),
    "under another digest": lambda file, _: file.rename(misnamed(file)),
    "a pipe": lambda file, _: (file.unlink(), os.mkfifo(file)),
    "a link to a sound one": lambda file, elsewhere: (file.rename(elsewhere), file.symlink_to(elsewhere)),
    "a link to nothing": lambda file, elsewhere: (file.unlink(), file.symlink_to(elsewhere)),
}


@pytest.mark.parametrize("which", ["so", "json"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_was_damaged_is_made_again(machine, damage, which):
    machine.counted().made()
    asked = (machine.path / "asked").read_text().count("\n")
    (file,) = machine.kept(f"*.{which}")
    damage(file, machine.path / "elsewhere")
    assert result(machine.library()) == [2, 4, 6]
    assert (machine.path / "asked").read_text().count("\n") == asked + (1 if which == "so" else 2)
    (again,) = machine.kept(f"*.{which}")
    assert again.is_file() and not again.is_symlink()
    machine.library()
    assert machine.compiled() == (2 if which == "so" else 1)


def test_another_library_under_its_name_is_never_loaded(machine):
    file = machine.made()
    marker = plant(machine, file)
    assert result(machine.library()) == [2, 4, 6]
    assert not marker.exists() and machine.kept() == [file]
    assert file.name.split("-")[2] == kept.digest(file.read_bytes()), "it is the right one again"


def test_a_folder_in_the_place_of_a_file_is_told(machine):
    file = machine.made()
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match=rf"{ANEW.pattern}'.*kept' keeps nothing \(Is a directory\)"):
        assert result(machine.library()) == [2, 4, 6]
    assert file.is_dir()
    assert not list(machine.folder.glob(".*"))


def of_another_user(machine: Machine, path: Path) -> None:
    """Make the file one of somebody else's, or us."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        machine.patch.setattr(os, "geteuid", lambda: 12345)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777, "another's"])
def test_a_folder_in_which_others_may_write_is_not_used(machine, mode):
    marker = plant(machine, machine.made(), whole=True)
    before = machine.kept("*")
    if mode == "another's":
        of_another_user(machine, machine.folder)
        told = "it is another user's"
    else:
        machine.folder.chmod(mode)
        told = "others may write to it, which chmod 700 changes"
    with pytest.warns(UserWarning, match=rf"{ANEW.pattern}'.*' is not to be trusted: {told}; RNNGEN_CACHE may name"):
        assert result(machine.library()) == [2, 4, 6]
    assert not marker.exists()
    assert machine.kept("*") == before
    assert told in compiler.survey()["trouble"]


def test_a_planted_file_would_be_seen(machine):
    """That what the test above plants is found where the folder is the user's own."""
    marker = plant(machine, machine.made(), whole=True)
    machine.library()
    assert marker.exists()


def test_a_file_of_another_user_is_made_again(machine):
    file = machine.counted().made()
    stat = os.fstat
    machine.patch.setattr(os, "fstat", lambda number: os.stat_result([*stat(number)[:4], 12345, *stat(number)[5:10]]))
    assert result(machine.library()) == [2, 4, 6]
    assert machine.compiled() == 2 and machine.kept() == [file]


@pytest.mark.parametrize("place", ["/proc/rnngen", "a file", "a link", "/dev/null/rnngen"])
def test_a_folder_that_cannot_be_made_is_told_once(machine, place, caplog):
    if not place.startswith("/"):
        path = machine.path / place
        path.write_text("") if place == "a file" else path.symlink_to("nowhere")
        place = str(path)
    machine.patch.setenv("RNNGEN_CACHE", place)
    with pytest.warns(UserWarning, match=rf"{ANEW.pattern}'{re.escape(place)}' cannot be (made|used) \(") as warned:
        found = machine.both()
    assert len(warned) == 1 and [result(*each) for each in found] == [[2, 4, 6]] * 2
    assert "(float) for this CPU; RNNGEN_NATIVE=0" in caplog.text
    out, err = process(machine).communicate()
    assert out == "(0, 2.0, 4.0, 6.0)\n" and err.count("compiled anew") == 1


def fails(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_full_disk_is_told_and_nothing_is_left_there(machine):
    class Full(io.FileIO):
        write = fails(errno.ENOSPC)

    machine.patch.setattr(kept, "open", lambda file, mode: Full(file, mode), raising=False)
    with pytest.warns(UserWarning, match=rf"{ANEW.pattern}.* keeps nothing \(No space left on device\)"):
        assert result(machine.library()) == [2, 4, 6]
    assert not any(machine.folder.iterdir())


def test_a_folder_from_which_nothing_may_be_run_is_told(machine):
    def load(path: str) -> CDLL:
        if path.startswith(str(machine.folder)):
            raise OSError(f"{path}: failed to map segment from shared object")
        return CDLL(path)

    machine.patch.setattr(compiler, "CDLL", load)
    with pytest.warns(UserWarning, match=rf"{ANEW.pattern}.* keeps nothing \(.*failed to map segment"):
        assert result(machine.library()) == [2, 4, 6]
    assert not machine.kept()


def test_where_nothing_can_be_written_torch_runs_the_steps(machine):
    machine.patch.setattr("tempfile.TemporaryDirectory", fails(errno.EROFS))
    with pytest.warns(UserWarning, match=rf"{GONE.pattern}there is no room to compile in \(Read-only .*TMPDIR may"):
        assert machine.library() is None


def test_a_folder_for_reading_only_serves_what_it_has(machine):
    machine.counted().library()
    for file in machine.kept("*"):
        os.utime(file, (1e9, 1e9))
    machine.patch.setattr("tempfile.mkstemp", fails(errno.EROFS))
    machine.patch.setattr(os, "utime", fails(errno.EROFS))
    assert result(machine.library()) == [2, 4, 6]
    assert machine.compiled() == 1


def test_what_is_old_goes_and_what_is_used_stays(machine):
    machine.counted().library()
    used, known = machine.kept("*")
    names = {
        "-".join(["0" * 32] * 3) + "-lstm-float.so": 100,
        "compiler-0-" + 32 * "0" + ".json": 100,
        "-".join(["1" * 32] * 3) + "-lstm-float.so": 80,
        ".rnngen-abc": 0.1,
        ".rnngen-new": 0.01,
        "mine.so": 1000,
        "notes.txt": 1000,
    }
    for name, days in names.items():
        path = machine.folder / name
        path.write_text("")
        os.utime(path, (time.time() - days * 86400,) * 2)
    os.utime(used, (time.time() - 89 * 86400,) * 2)
    os.utime(known, (time.time() - 89 * 86400,) * 2)
    machine.library()
    assert time.time() - used.stat().st_mtime < 100, "it counts as used today"
    assert len(os.listdir(machine.folder)) == 2 + len(names), "only who compiles looks for what is old"
    machine.library(TEXT + b"\n")
    left = {path.name for path in machine.folder.iterdir()}
    assert left >= {used.name, known.name, ".rnngen-new", "mine.so", "notes.txt"}
    assert len(left) == 7


# ---- The compiler ----


def test_the_first_compiler_that_is_there(machine):
    folder = machine.path / "bin"
    for name in ("clang", "gcc", "cc"):
        path = machine.program('exec /usr/bin/gcc "$@"', f"bin/{name}")
        machine.patch.delenv("CC")
        machine.patch.setenv("PATH", f"{folder}")
        assert compiler._command() == (str(path),)
    machine.patch.setenv("CC", "clang -DA='1 2'")
    assert compiler._command() == (f"{folder}/clang", "-DA=1 2")


def test_cc_may_have_arguments(machine):
    machine.patch.setenv("CC", "gcc -DSEVEN=7 -DTEXT='\"a b\"'")
    text = TEXT.replace(b"FACTOR", b"SEVEN * (sizeof TEXT - 3)")
    assert result(machine.library(text)) == [7, 14, 21]


@pytest.mark.parametrize(
    "cc, told",
    [
        ("nosuch -O1", "CC names 'nosuch', which is not there; without CC it is cc, gcc, clang"),
        ("'gcc", r"CC is ''gcc', which is no command \(No closing quotation\)"),
        ("''", "CC names '', which is not there"),
        ("/", "CC names '/', which is not there"),
        ("\x1b[31m", r"CC names '\\x1b\[31m', which is not there"),
    ],
)
def test_a_cc_that_is_none_is_told_once(machine, cc, told):
    machine.patch.setenv("CC", cc)
    with pytest.warns(UserWarning, match=f"{GONE.pattern}{told}.* RNNGEN_NATIVE=0 does without") as warned:
        found = machine.both()
    assert compiler.library(TEXT, "float", "lstm") is None
    assert len(warned) == 1 and [each for each, _ in found] == [None, None]
    assert re.match(told, compiler.survey()["reason"])


def test_without_a_compiler_torch_runs_the_steps(machine):
    machine.patch.setenv("PATH", str(machine.headers))
    with pytest.warns(UserWarning, match="there is no C compiler: install gcc or clang, or name one in CC"):
        assert machine.library() is None


def test_without_a_compiler_what_one_has_made_serves(machine):
    machine.library()
    machine.patch.setenv("PATH", "")
    assert result(machine.library()) == [2, 4, 6]
    with pytest.warns(UserWarning, match="there is no C compiler"):
        assert machine.library(real="double") is None


def test_without_a_compiler_what_cannot_be_loaded_is_told(machine):
    """As where the system has no libgomp."""
    machine.library()
    machine.patch.setenv("PATH", "")
    machine.patch.setattr(compiler, "CDLL", fails_to_load)
    with pytest.warns(UserWarning, match=rf"{GONE.pattern}a file is not to be had \(libgomp\.so\.1: cannot open"):
        assert machine.library() is None
    assert len(machine.kept()) == 1


def fails_to_load(path: str) -> None:
    raise OSError("libgomp.so.1: cannot open shared object file")


def test_on_another_system_there_is_none(machine):
    machine.patch.setattr(compiler, "_POSIX", False)
    assert machine.library() is None
    assert compiler.survey()["reason"] == compiler._OFF
    assert not machine.folder.exists()


def test_a_compiler_that_fails_is_quoted_safely_and_not_tried_again(machine):
    says = r"no \033[31mlicence\n\n\tcall us\n3\n4\n"
    machine.program(f"echo >> '{machine.path}/asked'; printf '{says}' >&2; exit 1")
    with pytest.warns(UserWarning, match=GONE) as warned:
        assert machine.library() is None
    asked = (machine.path / "asked").read_text()
    assert compiler.library(TEXT + b"\n", "float", "gru") is None
    assert (machine.path / "asked").read_text() == asked
    (warning,) = warned
    first, *said = str(warning.message).split("\n")
    assert GONE.match(first) and "cc' does not compile a line of C; CC may name another compiler." in first
    assert said == ["  no \\x1b[31mlicence", "  \\tcall us", "  3"]
    assert not machine.kept("*"), "and it is tried again by the next process"


def test_a_text_that_does_not_compile_takes_no_other_with_it(machine):
    wrong = TEXT.replace(b"REAL", b"UNREAL")
    said = r"does not compile lstm; CC may name another compiler\..*\n  lstm\.c:2:\d+: error: unknown type name"
    machine.begin()
    with pytest.warns(UserWarning, match=said) as warned:
        found = [compiler.library(*text, "lstm") for text in ((wrong, "float"), (wrong, "double"), (TEXT, "float"))]
    assert len(warned) == 1
    assert found[:2] == [None, None] and result(found[2]) == [2, 4, 6]


@pytest.mark.parametrize("when", ["--version", "trial.c", "lstm.c"])
def test_a_compiler_that_hangs_is_ended_with_its_children(machine, when):
    child = machine.path / "child"
    machine.program(f'case "$*" in *{when}*) sleep 60 & echo $! > \'{child}\'; wait;; *) exec gcc "$@";; esac')
    machine.patch.setattr(compiler, "LONGEST", 0.3)
    with pytest.warns(UserWarning, match=r"cc' has not ended after 0\.3 seconds; CC may name another") as warned:
        found = machine.both()
    assert len(warned) == 1 and [each for each, _ in found] == [None, None]
    number = int(child.read_text())
    for _ in range(100):
        if not is_running(number):
            break
        time.sleep(0.02)
    assert not is_running(number)


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_that_a_compiler_leaves_behind_is_not_waited_for(machine):
    child = machine.path / "child"
    machine.program(f"sleep 30 & echo $! > '{child}'; exec gcc \"$@\"")
    begin = time.monotonic()
    assert result(machine.library()) == [2, 4, 6]
    assert time.monotonic() - begin < 20
    subprocess.run(["kill", child.read_text().strip()], check=True)


def test_an_interrupted_build_leaves_nothing(machine):
    work = machine.path / "work"
    work.mkdir()
    machine.patch.setattr("tempfile.tempdir", str(work))
    machine.library(TEXT + b"\n")
    child = machine.path / "child"
    before = machine.kept("*")
    with machine.patch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", interrupted_once(subprocess.Popen.wait))
        with pytest.raises(KeyboardInterrupt):
            machine.library()
    assert not child.exists() and not any(work.iterdir())
    assert machine.kept("*") == before
    assert result(compiler.library(TEXT, "float", "lstm")) == [2, 4, 6]


def interrupted_once(wait):
    calls = []

    def interrupted(self, timeout=None):
        calls.append(timeout)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(self, timeout)

    return interrupted


def test_a_compiler_that_makes_garbage(machine):
    machine.program('for last; do :; done; while [ "$1" != -o ] && [ $# -gt 0 ]; do shift; done; echo garbage > "$2"')
    with pytest.warns(
        UserWarning, match=rf"{GONE.pattern}'.*cc' makes what cannot be loaded \(.*(short|header).*CC may"
    ):
        assert machine.library() is None
    assert not machine.kept()


def test_a_compiler_that_makes_nothing(machine):
    machine.program("exit 0")
    with pytest.warns(UserWarning, match=r"(?s)does not compile a line of C.*It ends well, and has made nothing\."):
        assert machine.library() is None


@pytest.mark.parametrize(
    "content, mode, told",
    [("\x7fELF", 0o755, r"does not run \(Exec format error\)"), ("", 0o644, "which is not there")],
)
def test_a_file_that_is_no_program(machine, content, mode, told):
    path = machine.program("")
    path.write_text(content)
    path.chmod(mode)
    with pytest.warns(UserWarning, match=told):
        assert machine.library() is None


def test_flags_that_a_compiler_does_not_take_are_left_out(machine):
    refused = "-march=native|-fopenmp|-mprefer-vector-width=512|--param=*"
    machine.program(f'for a; do case $a in {refused}) echo "what is $a?" >&2; exit 1;; esac; done; exec gcc -w "$@"')
    assert result(machine.library()) == [2, 4, 6]
    found = compiler.survey()
    flags = "-O3 -std=gnu11 -fPIC -shared -mcpu=native -fno-math-errno -fno-trapping-math -ffp-contract=fast"
    assert found["flags"] == flags.split()
    assert found["version"]


def test_a_compiler_speaks_english_and_works_in_a_folder_of_its_own(machine):
    said = machine.path / "said"
    machine.program(f'echo "$LC_ALL $TMPDIR" >> "{said}"; exec gcc "$@"')
    machine.patch.setenv("LC_ALL", "de_DE.UTF-8")
    assert result(machine.library()) == [2, 4, 6]
    languages, folders = zip(*(line.split() for line in said.read_text().splitlines()), strict=True)
    assert set(languages) == {"C"}
    assert all(Path(folder).name.startswith("rnngen-") and not Path(folder).exists() for folder in folders)


def test_a_header_of_a_stranger_is_not_read(machine):
    (machine.path / "here").mkdir()
    machine.patch.chdir(machine.path / "here")
    Path("rnngen.h").write_text("#error a stranger's\n")
    assert result(machine.library()) == [2, 4, 6]


# ---- RNNGEN_NATIVE ----


def test_zero_turns_it_off_silently(machine):
    machine.patch.setenv("RNNGEN_NATIVE", "0")
    machine.patch.setenv("CC", "nosuch")
    assert machine.library() is None
    assert not machine.folder.exists()
    assert compiler.survey()["reason"] == "RNNGEN_NATIVE is 0"
    machine.patch.setenv("RNNGEN_NATIVE", "1")
    machine.patch.delenv("CC")
    assert result(compiler.library(TEXT, "float", "lstm")) == [2, 4, 6]
    machine.patch.setenv("RNNGEN_NATIVE", "0")
    assert compiler.library(TEXT, "float", "lstm") is None


@pytest.mark.parametrize("value", ["no", "false", "2", " 0", "\x1b"])
def test_another_value_is_told_once(machine, value):
    machine.patch.setenv("RNNGEN_NATIVE", value)
    with pytest.warns(UserWarning, match="RNNGEN_NATIVE is '.*', which says nothing: 0 turns native") as warned:
        found = machine.both()
    assert len(warned) == 1 and str(warned[0].message).isprintable()
    assert [result(*each) for each in found] == [[2, 4, 6]] * 2


def test_a_warning_that_is_an_error_is_raised_once(machine):
    """As in a run of tests that makes one of each: what comes after is as it would have been."""
    machine.patch.setenv("RNNGEN_CACHE", "/proc/rnngen")
    with pytest.raises(UserWarning, match=ANEW):
        machine.library()
    assert result(compiler.library(TEXT, "float", "lstm")) == [2, 4, 6]
    machine.patch.setenv("CC", "nosuch")
    machine.begin()
    with pytest.raises(UserWarning, match=GONE):
        machine.library()
    assert compiler.library(TEXT, "float", "lstm") is None


# ---- Several at once ----


def test_processes_at_once_do_not_collide(machine):
    processes = [process(machine) for _ in range(4)]
    answers = [each.communicate() for each in processes]
    assert [answer[0] for answer in answers] == ["(0, 2.0, 4.0, 6.0)\n"] * 4, answers
    assert len(machine.kept()) == 1 and len(machine.kept("*")) == 2 and not list(machine.folder.glob(".*"))


def test_threads_at_once_compile_once(machine):
    machine.counted().begin()
    barrier, found = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait()
        found.append(compiler.library(TEXT, "float", "lstm"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.compiled() == 1
    assert len(found) == 8 and len(set(map(id, found))) == 1 and result(found[0]) == [2, 4, 6]


def test_a_child_of_a_fork_uses_and_compiles(machine):
    """Though another thread was compiling when it was forked, as when a worker that loads data begins."""
    script = """
import os, threading
first = result()
begun, goes_on = threading.Event(), threading.Event()
library = compiler._library
def slow(*arguments):
    begun.set(); goes_on.wait(30)
    return library(*arguments)
compiler._library = slow
thread = threading.Thread(target=result, args=(TEXT + b'\\n',)); thread.start(); begun.wait(30)
child = os.fork()
if not child:
    compiler._library = library
    print(first == result() == result(TEXT + b'\\n\\n'), flush=True)
    os._exit(0)
for _ in range(200):
    done, _ = os.waitpid(child, os.WNOHANG)
    if done: break
    __import__('time').sleep(.05)
else:
    os.kill(child, 9); print('it hangs')
goes_on.set(); thread.join(); print(result(TEXT + b'\\n'))
"""
    out, err = process(machine, script).communicate()
    assert out == "True\n(0, 2.0, 4.0, 6.0)\n", err


# ---- The C text of a module ----


def module_with(text: bytes | None) -> str:
    """A module as one is written with a C text, if only its seals."""
    c = "" if text is None else f', c="{seal.c_digest(text)}"'
    lines = (
        f"{seal.FIRST_WORDS}0.1.0; do not edit, change the model and compile it again.",
        f"# Body:   sha256 {seal.NO_DIGEST}",
        f"# Source: rnn, sha256 {'1' * 64}",
        "# Renew:  rnngen compile rnn",
        '"""The cell rnn."""',
        "from rnngen.runtime import check_module",
        f"check_module(__spec__, format={seal.FORMAT}{c})",
        f"{seal.LAST_LINE}\n",
    )
    return seal.sealed("\n".join(lines))


@pytest.fixture
def rnn(tmp_path):
    """The path of a module beside its C text."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "rnn.py").write_text(module_with(TEXT))
    (folder / "rnn.c").write_bytes(TEXT)
    return folder / "rnn.py"


def imports(path: Path) -> str:
    """The name under which a module was imported."""
    sys.modules.pop(path.stem, None)
    return imported(path).__name__


def test_a_module_finds_its_c_text(rnn):
    assert seal.condition(rnn.read_bytes()) == "intact" and seal.format_of(rnn.read_bytes()) == seal.FORMAT
    assert seal.c_text(rnn) == TEXT == seal.native_text(imports(rnn))
    for file in (rnn, rnn.with_suffix(".c")):  # as a checkout on another system has them
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert seal.c_text(rnn) == TEXT == seal.native_text(imports(rnn))
    assert seal.native_text("nosuch") is None


def test_a_module_without_its_c_text_works_silently(rnn):
    rnn.with_suffix(".c").unlink()
    assert seal.native_text(imports(rnn)) is None
    with pytest.raises(seal.Unfit, match=r"^rnn\.c is missing: rnngen compile rnn$"):
        seal.c_text(rnn)


def test_another_c_text_is_told_once(rnn):
    rnn.with_suffix(".c").write_bytes(TEXT + b"\n")
    name = imports(rnn)
    again = "rnngen compile --force rnn$"  # what is there is not rnngen's
    told = f"The C text beside the generated module 'rnn' is not the one .* It comes back by: {again}"
    with pytest.warns(UserWarning, match=told) as warned:
        assert seal.native_text(name) is seal.native_text(name) is None
    assert len(warned) == 1
    with pytest.raises(seal.Unfit, match=rf"^rnn\.c is not the one that was written with rnn\.py: {again}"):
        seal.c_text(rnn)
    rnn.with_suffix(".c").write_bytes(TEXT)
    assert seal.native_text(imports(rnn)) == TEXT


def test_an_edited_module_has_no_c_text(rnn):
    """It no longer says the same."""
    rnn.write_text(rnn.read_text().replace("The cell", "My cell"))
    with pytest.warns(UserWarning, match="was edited by hand"):
        name = imports(rnn)
    assert seal.native_text(name) is None
    with pytest.raises(seal.Unfit, match=r"^rnn\.py is not as it was written with rnn\.c: rnngen compile --force rnn$"):
        seal.c_text(rnn)


def test_a_module_that_names_none_has_none(rnn):
    rnn.write_text(module_with(None))
    assert seal.c_text(rnn) is seal.native_text(imports(rnn)) is None
    rnn.write_text("import torch\n")
    assert seal.c_text(rnn) is None
    with pytest.raises(FileNotFoundError):
        seal.c_text(rnn.with_name("nosuch.py"))


def test_a_c_text_lies_in_an_archive(rnn, tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for path in (rnn, rnn.with_suffix(".c")):
            archive.write(path, path.name)
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'whole.zip')!r}, {str(ROOT)!r}]\n"
        "import rnn\nfrom rnngen.runtime.seal import native_text\nprint(native_text('rnn'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{TEXT}\n", done.stderr


# ---- rnngen doctor ----


def doctor(*arguments: object):
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def test_doctor_says_what_runs_on_the_cpu(machine, rnn):
    found = doctor(rnn)
    assert found.exit_code == 0
    assert re.search(r"CPU path of a generated module: native code by \S.*[0-9.]+ \(/\S+\), or torch", found.stdout)
    assert f"Native code is kept in {machine.folder}: 0 files, 0 kB." in found.stdout
    assert not machine.folder.exists()
    machine.library()
    assert f"Native code is kept in {machine.folder}: 2 files," in doctor().stdout
    native = json.loads(doctor("--json").stdout)["native"]
    assert native["compiler"] == ["/usr/bin/cc"] and native["files"] == 2 and native["bytes"] > 1000
    assert (native["reason"], native["trouble"], native["complaint"]) == ("", "", "")
    machine.folder.chmod(0o777)
    assert f"kept nowhere, since '{machine.folder}' is not to be trusted: others may write" in doctor().stdout
    machine.patch.setenv("RNNGEN_NATIVE", "no")
    assert "RNNGEN_NATIVE is 'no', which says nothing" in doctor().stdout
    machine.patch.setenv("CC", "nosuch")
    assert "a generated module, in torch: CC names 'nosuch', which is not there;" in doctor().stdout
    machine.program("echo 'no licence' >&2; exit 1")
    assert "does not compile a line of C; CC may name another compiler; it says: no licence." in doctor().stdout


def test_doctor_says_what_is_wrong_with_a_c_text(machine, rnn):
    assert doctor(rnn).stdout.endswith(f"{rnn} is as it was written.\n")
    assert "rnn.py" not in doctor(rnn.parent).stdout
    rnn.with_suffix(".c").write_bytes(b"int x;")
    for path in (rnn, rnn.parent):
        told = "runs on the CPU in torch, which is slower: rnn.c is not the one that was written with rnn.py"
        assert doctor(path).stdout.endswith(f"{rnn} {told}: rnngen compile --force rnn\n")
    rnn.with_suffix(".c").unlink()
    assert "slower: rnn.c is missing: rnngen compile rnn" in doctor(rnn).stdout
    os.mkfifo(rnn.with_suffix(".c"))
    assert "slower: rnn.c is missing: rnngen compile rnn" in doctor(rnn).stdout
    (module,) = json.loads(doctor("--json", rnn).stdout)["modules"]
    assert (module["condition"], module["c"]) == ("intact", "unfit")


def test_doctor_builds_ahead(machine, rnn):
    machine.counted()
    found = doctor("--build", rnn)
    assert (found.exit_code, found.stdout.splitlines()[-1]) == (0, f"{rnn} is compiled for this CPU.")
    assert len(machine.kept()) == machine.compiled() == 2, "for float and double"
    for real in compiler.REALS:
        assert result(machine.library(real=real), real) == [2, 4, 6]
    assert machine.compiled() == 2
    assert doctor("--build", "--json", rnn.parent).exit_code == 0
    assert machine.compiled() == 2
    (machine.headers / "products.c").write_bytes(TEXT + b"\n")
    assert doctor("--build", rnn).exit_code == 0
    assert machine.compiled() == 4, "with what all modules share"


def test_doctor_says_what_it_could_not_build(machine, rnn):
    machine.patch.setenv("RNNGEN_CACHE", "/proc/rnngen")
    (rnn.parent / "other.py").write_text("import torch\n")
    for _ in range(2):
        found = doctor("--build", rnn, rnn.parent / "other.py")
        assert found.exit_code == 1
        assert "rnn.py was not compiled ahead: Native code is compiled anew by each process" in found.stdout
        assert found.stderr.endswith(f"Error: Not compiled: {rnn}, {rnn.parent / 'other.py'}.\n")
    machine.patch.setenv("RNNGEN_CACHE", str(machine.folder))
    machine.program("printf 'no \\033licence\\nat all\\n'; exit 1")
    told = doctor("--build", rnn).stdout.splitlines()[-3:]
    assert told[0].startswith(f"{rnn} was not compiled ahead: ") and "does not compile a line of C;" in told[0]
    assert told[1:] == ["  no \\x1blicence", "  at all"]
    machine.patch.setenv("RNNGEN_NATIVE", "0")
    assert "rnn.py was not compiled ahead: RNNGEN_NATIVE is 0" in doctor("--build", rnn).stdout
    empty = machine.path / "empty"
    empty.mkdir()
    found = doctor("--build", empty)
    assert (found.exit_code, found.stderr) == (1, "Error: Not compiled: there is no generated module here.\n")


def test_doctor_builds_where_packages_are_missing(machine, rnn):
    """In an image that has no more than it needs to run."""
    (rnn.parent / "other.py").write_text("import torch\n")
    script = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); sys.modules |= dict.fromkeys(('click', 'torch'))\n"
        "from pathlib import Path; from rnngen.runtime import compiler\n"
        f"compiler.FOLDER = Path({str(machine.headers)!r})\n"
        "sys.argv[1:] = ['doctor', '--build', 'rnn.py', 'other.py']\n"
        "runpy.run_module('rnngen', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=rnn.parent, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.endswith("\nrnn.py is compiled for this CPU.\nother.py is no module of rnngen's.\n")
    assert done.stderr.endswith("\nError: Not compiled: other.py.\n")
    assert len(machine.kept()) == 2
