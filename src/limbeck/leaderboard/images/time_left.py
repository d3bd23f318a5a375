"""How long the rest of a leaderboard takes, by what its rows have taken so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from limbeck.leaderboard.images.cells import Cell
from limbeck.leaderboard.images.measurement import Measurement

Task = Cell | Measurement


@dataclass
class _Sum:
    seconds: float = 0.0
    image_steps: int = 0


@dataclass
class TimeLeft:
    """Estimates the time of tasks from the CPU time that a step of their row takes.

    A step of a method with a critic takes ten times as long as one of another, so that tasks are
    not counted alike.

    Attributes:
        workers: processes that compute.
    """

    workers: int
    _by_row: dict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    _wall: float = 0.0
    _processor: float = 0.0

    def add(self, task: Task, processor: float, wall: float = 0.0) -> None:
        """Take a finished task into account.

        Args:
            task: the task.
            processor: CPU seconds that it took.
            wall: seconds that it took; 0 if not known.
        """
        if not image_steps(task):
            return
        own = self._by_row[task.name]
        own.seconds += processor
        own.image_steps += image_steps(task)
        if wall:
            self._wall += wall
            self._processor += processor

    def knows(self, name: str) -> bool:
        """Whether a task of a row is finished."""
        return name in self._by_row

    def minutes(self, tasks: Sequence[Task]) -> float | None:
        """Minutes that tasks will take, those in progress counted whole.

        Rows of which nothing is finished are taken as slow as the others are on average.

        Args:
            tasks: the tasks.

        Returns:
            The estimate; None while less than half of the rows are known.
        """
        rows = {*self._by_row, *(task.name for task in tasks)}
        if 2 * len(self._by_row) < len(rows):
            return None
        rates = {name: own.seconds / own.image_steps for name, own in self._by_row.items()}
        mean = sum(rates.values()) / len(rates)
        seconds = sum(rates.get(task.name, mean) * image_steps(task) for task in tasks)
        waiting = max(self._wall / self._processor, 1.0) if self._processor else 1.0
        return seconds * waiting / min(self.workers, max(len(tasks), 1)) / 60


def image_steps(task: Task) -> int:
    """Steps of images that a task takes."""
    if isinstance(task, Measurement):
        return task.image_steps
    return len(task.prompts) * task.images * task.steps


def interleaved(tasks: Sequence[Task]) -> list[Task]:
    """Tasks with the first of each row before the second of any, so that all rows are known soon.

    Args:
        tasks: the tasks.
    """
    by_row: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_row[task.name].append(task)
    numbered = [(i, task) for own in by_row.values() for i, task in enumerate(own)]
    return [task for _, task in sorted(numbered, key=lambda pair: pair[0])]
