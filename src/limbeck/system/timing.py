"""Timing of work on a device, which the host runs ahead of, and of work that is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class RepeatedWork:
    """Says when work that is repeated may be done again without taking too much of the time.

    Args:
        max_share: of the time that the work may take.
    """

    def __init__(self, max_share: float):
        self.max_share = max_share
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the work was done last, for what it cost."""
        return time.perf_counter() >= self._due_at

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Do the work inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self._due_at = end + (end - start) / self.max_share


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
