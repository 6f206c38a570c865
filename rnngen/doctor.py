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
from rnngen.runtime.compiler import ahead, survey
from rnngen.runtime.seal import FIRST_WORDS, FORMAT, MOST_BYTES, Unfit, c_text, condition, format_of, renewal

__all__ = ["NotCompiled", "OutOfReach", "diagnose", "examine", "report"]


class OutOfReach(Exception):
    """A path that was to be examined is not there. `str()` of it is a sentence that is safe to print."""


class NotCompiled(Exception):
    """Of the modules that were to be compiled for this CPU, some were not. `str()` of it is a sentence.

    report: what there is to tell all the same.
    """

    def __init__(self, sentence: str, report: str) -> None:
        super().__init__(sentence)
        self.report = report


def diagnose() -> dict[str, Any]:
    """The versions, None for what is missing; the gpus; whether kernels are interpreted; what makes native code for the
    CPU, as `survey` has it; sentences.

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
    native = survey()
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
        sentences += _of_native_code(native)
        sentences += _of_kernels(language.MISSING, gpus, versions)
    if gpu_fault:
        sentences.append(f"Asked about GPUs, torch says: {gpu_fault}")
    found = {"versions": versions, "gpus": gpus, "interpreting": interpreting, "native": native}
    return found | {"sentences": sentences}


def examine(paths: Sequence[Path], build: bool = False) -> list[dict[str, Any]]:
    """Files that are named, and the generated modules in folders: the file, its condition ("intact", "edited", "cut
    off", "foreign" or "unreadable"), its format, that of its C text ("intact", "unfit" or, if that was compiled now,
    "compiled"; None where it has none), and a sentence, "" for what is intact in a folder.

    build: compile the C texts for this CPU.

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
            records = [_examined(file, build) for file in sorted(path.glob("*.py"))]
            found += [record for record in records if record["condition"] not in ("foreign", "unreadable")]
        else:
            found.append(_examined(path, build, named=True))
    return found


def _examined(file: Path, build: bool, named: bool = False) -> dict[str, Any]:
    """named: what is intact has a sentence too."""
    content, state, sentence = b"", "foreign", "is no module of rnngen's."
    c: str | None = None
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
            c, sentence = _of_c_text(file, build)
            sentence = sentence or ("is as it was written." if named else "")
    if sentence:
        sentence = f"{visible(os.fspath(file))} {sentence}"
    return {"file": file.as_posix(), "condition": state, "format": format, "c": c, "sentence": sentence}


def _of_c_text(file: Path, build: bool) -> tuple[str | None, str]:
    """The condition of the C text of a module that is intact; and the rest of a sentence, "" where all is well."""
    try:
        text = c_text(file)
    except Unfit as unfit:
        return "unfit", f"runs on the CPU in torch, which is slower: {visible(str(unfit))}"
    except OSError as error:
        return "unfit", f"cannot be read any more: {error.strerror or 'unknown reason'}."
    if text is None:
        return None, "has no C text, and nothing was compiled." if build else ""
    if not build:
        return "intact", ""
    if why := ahead(text, file.stem):
        return "intact", f"was not compiled ahead: {why}"
    return "compiled", "is compiled for this CPU."


def report(modules: Sequence[Path], in_json: bool, build: bool = False) -> str:
    """What `diagnose` finds, and `examine` in the modules or in this folder, for a reader or in JSON.

    Raises OutOfReach, and NotCompiled.
    """
    examined = examine(modules or [Path()], build)
    found = diagnose() | {"modules": examined}
    told = json.dumps(found, indent=2) if in_json else _for_a_reader(found)
    failed = [visible(module["file"]) for module in examined if module["c"] != "compiled"] if build else []
    if failed or (build and not examined):
        raise NotCompiled(f"Not compiled: {', '.join(failed) or 'there is no generated module here'}.", told)
    return told


def _for_a_reader(found: dict[str, Any]) -> str:
    width = max(map(len, found["versions"]))
    rows = [f"{name:<{width}}  {version or 'missing'}" for name, version in found["versions"].items()]
    told = [module["sentence"] for module in found["modules"] if module["sentence"]]
    return "\n".join([*rows, "", *found["sentences"], *told])


def _of_native_code(native: dict[str, Any]) -> Iterator[str]:
    """What runs on the CPU."""
    path = "Tensors on the CPU take the CPU path of a generated module"
    if native["reason"]:
        yield f"{path}, in torch: {visible(native['reason'])}."
    else:
        name = native["version"] or "a compiler without a version"
        yield f"{path}: native code by {visible(name)} ({visible(native['compiler'][0])}), or torch where it has none."
    if native["complaint"]:
        yield native["complaint"]
    if native["trouble"]:
        yield f"Native code is kept nowhere, since {visible(native['trouble'])}; RNNGEN_CACHE may name a folder."
    elif native["folder"]:
        size = f"{native['files']} files, {native['bytes'] // 1000} kB"
        yield f"Native code is kept in {visible(native['folder'])}: {size}."


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
