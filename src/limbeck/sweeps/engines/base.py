"""What executes the runs of a sweep: the loop, and the retries, that all engines share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

from limbeck.sweeps.execution import RunOutcome, RunTask

POLL_SECONDS = 0.5  #: between two looks at the progress of the runs
STOP_SECONDS = 120.0  #: a run that has not stopped so long after it was asked to is killed


class Engine(abc.ABC):
    """Executes runs, each in a process of its own, so that one that dies fails alone.

    Args:
        workers: runs at a time; 0 for as many as there is room for.
        retries: further attempts for a run that was killed, ran out of memory or failed.
        device: device of the runs, as for ``limbeck.load``.

    Attributes:
        attempts: attempts by name of the run.
        logs: folder for the output of each run.
    """

    def __init__(self, workers: int = 0, retries: int = 0, device: str = "auto"):
        self.workers, self.retries, self.device = workers, retries, device
        self.attempts: dict[str, int] = {}
        self.logs = Path("logs")

    @property
    def device_here(self) -> str | None:
        """Device of this machine that the runs use; None if other machines make them."""
        return self.device

    @property
    def capacity(self) -> int:
        """Number of runs that are executed at a time."""
        return self.workers or 1

    def run(
        self, queue: list[RunTask], logs: Path, on_poll: Callable[[], None] = lambda: None
    ) -> Generator[RunOutcome, None, None]:
        """Run all tasks; yields the outcome of each, retries done, in the order they end.

        Args:
            queue: what to run, taken from the front; may be changed between two outcomes.
            logs: folder for the output of each run; an existing file is continued.
            on_poll: called several times a second.
        """
        if not queue:
            return
        self.logs, tasks = logs, dict[str, RunTask]()
        logs.mkdir(parents=True, exist_ok=True)
        try:
            self.prepare(queue)
            while queue or tasks:
                while queue and self.has_room():
                    task = queue.pop(0)
                    tasks[task.name] = task
                    self.attempts[task.name] = self.attempts.get(task.name, 0) + 1
                    self.start(task)
                on_poll()
                for outcome in self.ended():
                    task, tried = tasks.pop(outcome.name), self.attempts[outcome.name]
                    if outcome.may_retry and tried <= self.retries:
                        queue.append(task)
                        continue
                    suffix = f" ({tried} attempts)" if tried > 1 and outcome.message else ""
                    yield replace(outcome, message=outcome.message + suffix)
        finally:
            self.stop()

    @abc.abstractmethod
    def prepare(self, tasks: list[RunTask]) -> None:
        """Prepare for runs.

        Args:
            tasks: the first ones.
        """

    @abc.abstractmethod
    def has_room(self) -> bool:
        """Whether another run can be started."""

    @abc.abstractmethod
    def start(self, task: RunTask) -> None:
        """Start a run; does not wait for it.

        Args:
            task: the run.
        """

    @abc.abstractmethod
    def ended(self) -> list[RunOutcome]:
        """The runs that have ended since the last call, after waiting for one for a moment."""

    @abc.abstractmethod
    def running(self) -> set[str]:
        """Names of the runs that are in progress; those that wait for a machine are not."""

    def num_waiting(self) -> int:
        """Number of runs that wait for a machine."""
        return 0

    @abc.abstractmethod
    def stop(self) -> None:
        """Let all runs write a checkpoint and stop; waits for them."""
