"""What is installed here, and what will run where. Everything is looked at without trusting that it works.

It needs no package at all: `python -m rnngen doctor` runs where those of the other commands are missing.
"""

import json
import os
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from subprocess import DEVNULL, PIPE, SubprocessError, run
from typing import Any

from rnngen import VERSION
from rnngen.errors import visible
from rnngen.runtime.seal import FIRST_WORDS, FORMAT, condition, format_of, renewal

__all__ = ["OutOfReach", "diagnose", "examine", "report"]

MOST_BYTES = 2**24  # of a generated module: several times what the largest model makes that compiles


class OutOfReach(Exception):
    """A path that was to be examined is not there. `str()` of it is a sentence that is safe to print."""


def diagnose() -> dict[str, Any]:
    """The versions, None for what is missing; the gpus; whether kernels are interpreted; sentences.

    Raises nothing: a broken installation is what this is for.
    """
    torch, torch_fault = _imported("torch")
    versions: dict[str, str | None] = {"rnngen": VERSION, "python": platform.python_version()}
    for package in ("torch", "triton", "numpy", "click", "jinja2", "networkx", "pydantic"):
        versions[package] = _installed(package)
    if torch is not None:
        versions["torch"] = torch.__version__
    versions["CUDA"] = getattr(getattr(torch, "version", None), "cuda", None)
    versions["ROCm"] = getattr(getattr(torch, "version", None), "hip", None)
    versions["driver"] = _driver()
    gpus, gpu_fault = _gpus(torch)
    language, language_fault = _imported("rnngen.runtime.language")
    interpreting = language is not None and language.interpreting()
    sentences = []
    if absent := [package for package in ("click", "jinja2", "networkx", "pydantic") if versions[package] is None]:
        are = "is" if len(absent) == 1 else "are"
        sentences.append(f"{' and '.join(absent)} {are} missing, so no model compiles: pip install {' '.join(absent)}.")
    else:
        sentences.append("rnngen compile, show and cells need none of torch, triton and a GPU: they run here.")
    if torch_fault:
        sentences.append(f"Importing torch fails, so no generated module can run here: {torch_fault}.")
    elif torch is None:
        sentences.append("torch is missing, so no generated module can run here: pip install torch.")
    elif language is None:
        sentences.append(f"No generated module can be imported here: {language_fault}.")
    elif interpreting:
        sentences.append("TRITON_INTERPRET is set: kernels run in Triton's interpreter, slowly, on the CPU too.")
    else:
        sentences.append("Tensors on the CPU take the CPU path of a generated module, in torch.")
        sentences += _of_kernels(language.MISSING, gpus, versions)
    if gpu_fault:
        sentences.append(f"Asked about GPUs, torch says: {gpu_fault}")
    return {"versions": versions, "gpus": gpus, "interpreting": interpreting, "sentences": sentences}


def examine(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Files that are named, and the generated modules in folders: the file, its condition ("intact", "edited", "cut
    off", "foreign" or "unreadable"), its format, and a sentence, "" for what is intact in a folder.

    Raises OutOfReach.
    """
    for path in paths:
        try:
            path.stat()
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise OutOfReach(f"'{visible(os.fspath(path))}' cannot be read: {reason}.") from error
    found = []
    for path in paths:
        if path.is_dir():
            records = map(_examined, sorted(path.glob("*.py")))
            found += [record for record in records if record["condition"] not in ("foreign", "unreadable")]
        else:
            found.append(_examined(path, named=True))
    return found


def _examined(file: Path, named: bool = False) -> dict[str, Any]:
    """named: what is intact has a sentence too."""
    content, state, sentence = b"", "foreign", "is no module of rnngen's."
    try:
        if file.is_file():
            with file.open("rb") as stream:
                start = stream.read(len(FIRST_WORDS))
                content = start + stream.read(MOST_BYTES) if start == FIRST_WORDS.encode() else b""
            if len(content) > MOST_BYTES:
                content, sentence = b"", "is larger than a module of rnngen's can be."
    except OSError as error:
        state, sentence = "unreadable", f"cannot be read: {error.strerror or 'unknown reason'}."
    format = format_of(content)
    if content:
        state, command = condition(content), renewal(content)
        if state == "cut off":
            sentence = f"is cut off, and cannot be imported: {command}"
        elif format not in (None, FORMAT):
            sentence = f"is written in format {format}, and this rnngen runs format {FORMAT}: {command}"
        elif state == "edited":
            sentence = f"was edited by hand: {command}"
        else:
            sentence = "is as it was written." if named else ""
    if sentence:
        sentence = f"{visible(os.fspath(file))} {sentence}"
    return {"file": file.as_posix(), "condition": state, "format": format, "sentence": sentence}


def report(modules: Sequence[Path], in_json: bool) -> str:
    """What `diagnose` finds, and `examine` in the modules or in this folder, for a reader or in JSON.

    Raises OutOfReach.
    """
    examined = examine(modules or [Path()])
    found = diagnose() | {"modules": examined}
    if in_json:
        return json.dumps(found, indent=2)
    width = max(map(len, found["versions"]))
    rows = [f"{name:<{width}}  {version or 'missing'}" for name, version in found["versions"].items()]
    told = [module["sentence"] for module in examined if module["sentence"]]
    return "\n".join([*rows, "", *found["sentences"], *told])


def _of_kernels(missing: str, gpus: Sequence[dict[str, str]], versions: dict[str, str | None]) -> Iterator[str]:
    """Where kernels run. missing: why none can, "" if they can."""
    if missing:
        yield f"Tensors on a GPU take the CPU path there, which is slow: {visible(missing)}."
        return
    for gpu in gpus:
        where = f"{gpu['name']} ({gpu['capability']})"
        yield f"Tensors on {gpu['device']} run the kernels, compiled for {where}."
    if gpus and not (os.environ.get("CC") or which("gcc") or which("clang")):  # Triton asks for no cc
        yield "There is no C compiler, and Triton needs one when it first launches a kernel: install gcc, or set CC."
    if not gpus:
        why = "sees no GPU" if versions["CUDA"] or versions["ROCm"] else "is built without support for GPUs"
        yield f"torch {why}: kernels run only in Triton's interpreter, which `rnngen verify` starts."
    if versions["numpy"] is None:
        yield "numpy is missing: `rnngen verify` cannot interpret kernels without it."


def _imported(package: str) -> tuple[Any, str]:
    """The package, None where it is missing; and what its import says where it is there and broken."""
    try:
        with warnings.catch_warnings(action="ignore"):  # a sentence of ours will say it better
            return import_module(package), ""
    except ModuleNotFoundError as missing:
        return None, "" if missing.name == package else visible(str(missing))
    except Exception as error:  # a library of the wrong version raises whatever it likes
        return None, visible(f"{type(error).__name__}: {error}")[:300]


def _installed(package: str) -> str | None:
    try:
        return version(package) if find_spec(package) else None
    except PackageNotFoundError:
        return "version unknown"
    except ValueError:  # what stands under the name in sys.modules is no module
        return None


def _gpus(torch: Any) -> tuple[list[dict[str, str]], str]:
    """The GPUs that answer, and what torch says of a driver that does not work: in an exception, or a warning."""
    if torch is None:
        return [], ""
    gpus: list[dict[str, str]] = []
    said: list[str] = []
    with warnings.catch_warnings(record=True, action="always") as warned:
        try:
            for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                name = torch.cuda.get_device_name(number)
                capability = ".".join(map(str, torch.cuda.get_device_capability(number)))
                gpus.append({"device": f"cuda:{number}", "name": name, "capability": capability})
        except Exception as error:  # a driver that is there and does not work raises whatever it likes
            said.append(f"{type(error).__name__}: {error}")
    said += [str(warning.message) for warning in warned]
    return gpus, visible(" ".join(" ".join(dict.fromkeys(said)).split()))[:600]


def _driver() -> str | None:
    """The version of NVIDIA's driver, as the kernel module or the driver's own tool says it."""
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text):
            return found[0]
    if tool := which("nvidia-smi"):
        command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, SubprocessError):
            answer = run(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=10, text=True)
            if answer.returncode == 0 and answer.stdout.strip():
                return answer.stdout.split()[0]
    return None
