"""Time that the parts of a training took, kept over interruptions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Timetable:
    """Seconds by part, in a JSON file.

    Args:
        path: the file; created with the first entry.
    """

    def __init__(self, path: Path):
        self._path = path
        self._seconds: dict[str, float] = {}
        if path.exists():
            self._seconds = json.loads(path.read_text(encoding="utf-8"))

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self._seconds.values())

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure a part; one that was measured before keeps its time."""
        start = time.monotonic()
        yield
        self.decide(name, time.monotonic() - start)

    def decide(self, name: str, seconds: float) -> float:
        """Set the time of a part unless it has one, and return it."""
        if name not in self._seconds:
            self._seconds[name] = seconds
            self._path.write_text(json.dumps(self._seconds), encoding="utf-8")
        return self._seconds[name]
