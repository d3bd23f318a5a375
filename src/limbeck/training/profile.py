"""Where a run's time, operations and memory go, by part."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.system.flops import OpCounter

WARMING = "warm-up"  #: part that making graphs is, wherever it happens


class Profile:
    """Seconds by part, added up over a run, and what was counted of one step: floating-point operations and bytes.

    Seconds are the host's; on CUDA the device's, by events, and never waited for. A step that is counted is not timed. What
    ``meter`` sees of graphs being made is a part of its own, and of no other.
    """

    def __init__(self, device: str = "cpu", meter: NetworkCallCounter | None = None):
        self.device, self._meter = device, meter or NetworkCallCounter()
        self.flops: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.peak = 0  #: of a device, before counting reset what the allocator remembers
        self._tally: OpCounter | None = None
        self._seconds: dict[str, float] = {}
        self._open: deque[tuple[str, float, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is done now belongs to ``part``."""
        if self._tally is not None:
            with self._tally.of(part):
                yield
            return
        before = self._meter.compile_seconds
        if self.device.startswith("cuda"):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._open.append((part, self._warmed(before), start, end))
        else:
            began = time.perf_counter()
            yield
            self._add(part, time.perf_counter() - began - self._warmed(before))

    def _warmed(self, before: float) -> float:
        """Seconds in which graphs were made since ``before``, now added to their own part."""
        spent = self._meter.compile_seconds - before
        if spent:
            self._add(WARMING, spent)
        return spent

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Operations and bytes of what is done now are counted, and its seconds are not. The results are the same, bit by bit."""
        if self.device.startswith("cuda"):
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))
        with OpCounter(self.device) as self._tally:
            try:
                yield
            finally:
                tally, self._tally = self._tally, None
        self.flops |= tally.flops
        self.bytes |= {part: size for part, size in tally.bytes.items() if size}

    def _add(self, part: str, seconds: float) -> None:
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part until now; of what a device has yet to do, nothing."""
        while self._open and self._open[0][3].query():
            part, warmed, start, end = self._open.popleft()
            self._add(part, max(0.0, start.elapsed_time(end) / 1000 - warmed))
        return self._seconds

    def note(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": dict(self.seconds), "flops": dict(self.flops), "bytes": dict(self.bytes)}

    def take_up(self, note: Mapping[str, Any]) -> None:
        """Go on from what ``note`` returned."""
        self._seconds.update(note["seconds"])
        self.flops.update(note.get("flops", {}))
        self.bytes.update(note.get("bytes", {}))
