"""Where a row was made: the processor or the card, the versions, and what sensors say."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

AVAILABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""The processors that this process was begun on."""


def surroundings(device: torch.device) -> dict[str, object]:
    """The machine and the versions, None for what is not there; c: the compiler of native code, or no_c, why it has
    none.
    """
    import torch

    from rnngen.doctor import diagnose
    from rnngen.runtime.language import MISSING, triton

    on_gpu = device.type == "cuda"
    native = diagnose().get("native", {})
    return {
        "machine": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device)))
        if on_gpu
        else torch.backends.cpu.get_cpu_capability(),
        "cores": len(AVAILABLE) or os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "triton": None if MISSING else triton.__version__,
        "python": platform.python_version(),
        "c": native.get("version") or None,
        "no_c": native.get("reason") or None,
        "commit": _answer("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"),
    }


@cache
def processor() -> str:
    """The name of the processor, as the system has it; that of its kind where the system says no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    named = named or _answer("sysctl", "-n", "machdep.cpu.brand_string")
    return named or platform.processor() or platform.machine()


SENSORS = {
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "sm_clock_most_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def sensors(device: torch.device) -> dict[str, str | float | None]:
    """What nvidia-smi says of the card at this moment, None where it says nothing; of a CPU how busy it is: the mean
    number of processes that want to run, over the last minute.
    """
    if device.type != "cuda":
        return {"load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None}
    import torch

    # torch counts the cards that it sees, nvidia-smi all of them.
    card = f"GPU-{getattr(torch.cuda.get_device_properties(device), 'uuid', '')}"
    query = f"--query-gpu={','.join(SENSORS.values())}"
    found = _answer("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", card)
    values = found.split(", ") if found else []
    return dict(zip(SENSORS, values, strict=True)) if len(values) == len(SENSORS) else dict.fromkeys(SENSORS)


def keep_to(threads: int) -> None:
    """So many threads of torch, on as many processors where the system can say so: XLA has a thread for each."""
    import torch

    torch.set_num_threads(threads)
    if AVAILABLE:
        os.sched_setaffinity(0, AVAILABLE[-threads:])


def _answer(*command: str) -> str | None:
    """What a command prints, None if it is not there or fails."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
