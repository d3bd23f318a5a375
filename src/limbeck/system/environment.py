"""Versions, hardware, threads and memory of the machine that runs Limbeck."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "limbeck",
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
)


def package_version(package: str) -> str | None:
    """Return the version of a package, None if it is not installed.

    PyTorch's is that of ``torch.__version__``, which names the build, as in +cu130.
    """
    if package == "torch":
        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_has_bfloat16() -> bool:
    """Return whether the processor has instructions that multiply bfloat16 (AVX-512 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def describe_environment(device: str) -> dict[str, Any]:
    """Return versions and hardware that results may depend on, without names of people or paths."""
    cuda = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "versions": {package: package_version(package) for package in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if cuda else device,
        "cuda": torch.version.cuda if cuda else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
    }


def free_bytes(device: str) -> int | None:
    """Return the memory that a run can still allocate, in bytes; None if it is unknown.

    On CUDA this includes what torch has reserved and does not use. On the host it is within the
    limit of the control group, if there is one.
    """
    if device.startswith("cuda"):
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    lines = _lines(Path("/proc/meminfo"))
    limits = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    limit, used = (_lines(group / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit():
        # the cache of files that were read is freed on demand
        file_cache = sum(
            int(line.split()[1])
            for line in _lines(group / "memory.stat")
            if line.startswith("inactive_file ")
        )
        limits.append(int(limit[0]) - int(used[0]) + file_cache)
    return min(limits, default=None)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def peak_bytes(device: str) -> dict[str, int]:
    """Return the peak memory of this process so far: of the host and, on CUDA, of the device."""
    out = {}
    if sys.platform != "win32":
        import resource  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out["peak_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    if device.startswith("cuda"):
        out["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return out
