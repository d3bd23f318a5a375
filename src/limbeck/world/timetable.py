"""Time that the parts of a training took, kept over interruptions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.system.files import write_text


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
        """Measure a part over all attempts; one that was finished before keeps its time."""
        attempts, start = f"{name}, unfinished", time.monotonic()
        try:
            yield
        except BaseException:  # a signal, too
            if name not in self._seconds:
                self._seconds[attempts] = (
                    self._seconds.get(attempts, 0.0) + time.monotonic() - start
                )
                self._write()
            raise
        before = self._seconds.pop(attempts, 0.0)
        self.decide(name, before + time.monotonic() - start)

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._seconds))

    def decide(self, name: str, seconds: float) -> float:
        """Set the time of a part unless it has one, and return it."""
        if name not in self._seconds:
            self._seconds[name] = seconds
            self._write()
        return self._seconds[name]
