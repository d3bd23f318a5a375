"""Seconds of what a device does, which the host is ahead of."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def synchronized_time(device: str) -> float:
    """Seconds of a clock, once ``device`` has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(what: Callable[[], object], device: str) -> float:
    """How long ``what`` takes, to its end on the device."""
    began = synchronized_time(device)
    what()
    return synchronized_time(device) - began
