"""Timing of work on a device, which the host runs ahead of."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def synchronized_time(device: str) -> float:
    """Return a clock's seconds once ``device`` has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def elapsed_seconds(function: Callable[[], object], device: str) -> float:
    """Return the seconds ``function`` takes until it is finished on the device."""
    start = synchronized_time(device)
    function()
    return synchronized_time(device) - start
