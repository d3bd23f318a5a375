"""What Ray and Slurm have in common: a queue of their own, and cores and GPUs of each run."""

from __future__ import annotations

import abc
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.sweeps.engines.base import Engine
from limbeck.sweeps.execution import RunTask

_MAX_WAITING = 32  #: runs that wait in the queue of the cluster; the others wait here


@dataclass
class QueuedRun:
    """A run that was handed to a cluster.

    Attributes:
        task: the run.
        handle: what the cluster knows it by.
        log: file for its output.
        log_size: bytes of the file before this attempt.
    """

    task: RunTask
    handle: Any
    log: Path
    log_size: int

    def has_started(self) -> bool:
        """Whether a worker has begun with the run, which writes into its log at once."""
        return size_of(self.log) > self.log_size


class Cluster(Engine):
    """Other machines, which see the same files under the same paths and have Limbeck installed.

    Args:
        workers: runs at a time; 0 for as many as the cluster has room for.
        retries: as for ``Engine``.
        device: auto, cpu or cuda; the cluster chooses the GPU.
        cpus: cores of a run.
        gpus: GPUs of a run; None for the default of the cluster.

    Raises:
        ValueError: if the device is a certain GPU.
    """

    def __init__(
        self,
        workers: int = 0,
        retries: int = 0,
        device: str = "auto",
        cpus: int = 1,
        gpus: float | None = None,
    ):
        super().__init__(workers, retries, device)
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device {device}: a cluster chooses the GPU; give auto, cpu or cuda")
        self.cpus, self.gpus = cpus, gpus
        self.queued: dict[str, QueuedRun] = {}
        self._started = set[str]()

    @property
    def device_here(self) -> str | None:
        return None

    def has_room(self) -> bool:
        if self.workers and len(self.queued) >= self.workers:
            return False
        return self.num_waiting() < _MAX_WAITING

    def running(self) -> set[str]:
        self._started &= self.queued.keys()
        waiting = self.queued.keys() - self._started
        self._started |= {name for name in waiting if self.queued[name].has_started()}
        return set(self._started)

    def num_waiting(self) -> int:
        return len(self.queued) - len(self.running())

    def start(self, task: RunTask) -> None:
        log = (self.logs / f"{task.name}.log").absolute()
        size, task = size_of(log), replace(task, threads=self.cpus)
        handle = self.submit(task, str(log), os.getcwd())
        self.queued[task.name] = QueuedRun(task, handle, log, size)

    @abc.abstractmethod
    def submit(self, task: RunTask, log: str, folder: str) -> Any:
        """Hand a run to the cluster, which calls ``execute_on_worker`` with these arguments.

        Args:
            task: the run.
            log: file for its output.
            folder: working folder.

        Returns:
            What the cluster knows it by.
        """


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
