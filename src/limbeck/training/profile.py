"""Time, operations and memory of a run by part, such as render, method and optimizer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.system.flops import OpCounter

_MAX_PENDING = 1000  #: timed parts whose events are kept before the finished ones are released
COMPILATION = "compilation"  #: the part of torch.compile, wherever it happens


class Profile:
    """Seconds by part, summed over a run, and operations and bytes of one step.

    Seconds are those of the host; on CUDA those of the device, by events that are never waited for.
    A step whose operations are counted is not timed. The time of ``torch.compile`` is a part of its
    own and of no other.

    Args:
        device: device of the run.
        call_counter: counter of the prior, which knows the time spent on compilation.

    Attributes:
        flops: floating-point operations by part.
        bytes: peak memory by part.
        peak_device_bytes: peak memory of the device before counting reset the allocator's record.
    """

    def __init__(self, device: str = "cpu", call_counter: NetworkCallCounter | None = None):
        self.device, self._call_counter = device, call_counter or NetworkCallCounter()
        self.flops: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.peak_device_bytes = 0
        self._counter: OpCounter | None = None
        self._seconds: dict[str, float] = {}
        self._pending: deque[tuple[str, float, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Attribute what is done inside to the part ``name``."""
        if self._counter is not None:
            with self._counter.part(name):
                yield
            return
        compiled = self._call_counter.compile_seconds
        if self.device.startswith("cuda"):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._pending.append((name, self._add_compilation(compiled), start, end))
            if len(self._pending) > _MAX_PENDING:  # nobody may read the seconds for long
                self._add_finished()
        else:
            start_time = time.perf_counter()
            yield
            seconds = time.perf_counter() - start_time
            self._add(name, seconds - self._add_compilation(compiled))

    def _add_compilation(self, compiled: float) -> float:
        """Add the compilation since ``compiled`` seconds of it to its own part and return it."""
        seconds = self._call_counter.compile_seconds - compiled
        if seconds:
            self._add(COMPILATION, seconds)
        return seconds

    @contextmanager
    def count_ops(self) -> Iterator[None]:
        """Count operations and bytes instead of seconds. The results are the same, bit by bit."""
        if self.device.startswith("cuda"):
            peak = torch.cuda.max_memory_allocated(self.device)
            self.peak_device_bytes = max(self.peak_device_bytes, peak)
        with OpCounter(self.device) as self._counter:
            try:
                yield
            finally:
                counter, self._counter = self._counter, None
        self.flops |= counter.flops
        self.bytes |= {part: size for part, size in counter.bytes.items() if size}

    def _add(self, part: str, seconds: float) -> None:
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part so far, without what the device has yet to finish."""
        self._add_finished()
        return self._seconds

    def _add_finished(self) -> None:
        """Add what the device has finished, and release its events; nothing is waited for."""
        while self._pending and self._pending[0][3].query():
            part, compilation, start, end = self._pending.popleft()
            self._add(part, max(0.0, start.elapsed_time(end) / 1000 - compilation))

    def state_dict(self) -> dict[str, Any]:
        """Return the values that a checkpoint stores."""
        return {"seconds": dict(self.seconds), "flops": dict(self.flops), "bytes": dict(self.bytes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what ``state_dict`` returned."""
        self._seconds.update(state["seconds"])
        self.flops.update(state.get("flops", {}))
        self.bytes.update(state.get("bytes", {}))
