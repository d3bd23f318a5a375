"""Peak memory of a piece of work within a process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def can_measure_peak() -> bool:
    """Whether the system can tell the peak of a part of a process: Linux can."""
    return _STATUS.exists() and _CLEAR.exists()


def peak_growth(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process grows at most during some work.

    Memory that is free is given back to the system before, as it would hide what the work takes.

    Args:
        work: the work.

    Raises:
        OSError: if the system cannot tell, see ``can_measure_peak``.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    """A size in the status of this process, in bytes."""
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
