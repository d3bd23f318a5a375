"""What a run ran on: versions, hardware, threads, memory."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "limbeck",
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
)


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed. PyTorch's own word for it says which build it is, as in +cu130."""
    if package == "torch":
        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware, as far as a result may depend on them; nothing that names a person or a place."""
    cuda = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "versions": {package: installed(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if cuda else device,
        "cuda": torch.version.cuda if cuda else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
    }


def free_bytes(device: str) -> int | None:
    """Memory that a run can still have: of a CUDA device, also what torch holds and does not use, else of the host, within the
    limit of its control group if there is one. None where nobody says."""
    if device.startswith("cuda"):
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    lines = _lines(Path("/proc/meminfo"))
    told = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    limit, used = (_lines(group / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit():
        # pages of files that were read are given back where they are wanted
        files = sum(
            int(line.split()[1])
            for line in _lines(group / "memory.stat")
            if line.startswith("inactive_file ")
        )
        told.append(int(limit[0]) - int(used[0]) + files)
    return min(told, default=None)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def peak_bytes(device: str) -> dict[str, int]:
    """Most memory this process has held so far: of the host and, on CUDA, of the device."""
    out = {}
    if sys.platform != "win32":
        import resource  # Windows has none

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out["peak_bytes"] = most if sys.platform == "darwin" else most * 1024
    if device.startswith("cuda"):
        out["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return out
