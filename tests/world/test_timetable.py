"""Times of the parts of a training, over stops and starts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from limbeck.world.timetable import Timetable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, to be set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_part_that_was_stopped_counts_all_its_attempts(
    tmp_path: Path, clock: list[float]
) -> None:
    path = tmp_path / "times.json"
    for seconds in (3.0, 4.0):
        with pytest.raises(KeyboardInterrupt), Timetable(path).measure("images"):
            clock[0] += seconds
            raise KeyboardInterrupt
    assert Timetable(path).total == 7.0
    with Timetable(path).measure("images"):
        clock[0] += 5.0
    assert Timetable(path).total == 12.0
    with Timetable(path).measure("images"):  # finished before: there is nothing left to do
        clock[0] += 1.0
    assert Timetable(path).total == 12.0 and Timetable(path).decide("images", 99.0) == 12.0
