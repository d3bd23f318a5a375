"""A thread that executes jobs in order, from a queue of limited length."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

_MAX_PENDING = 8


class BackgroundWriter:
    """Executes jobs in the order they are submitted.

    After the first job that fails no other is executed, so that no file is ahead of one that could
    not be written. The error is raised by the next ``submit``, ``wait`` or ``drain``.

    Args:
        max_pending: number of jobs that may wait; ``submit`` blocks while the queue is full.

    Attributes:
        busy_seconds: time spent on jobs.
        blocked_seconds: time that the submitting thread spent waiting.
    """

    def __init__(self, max_pending: int = _MAX_PENDING):
        self.busy_seconds = self.blocked_seconds = 0.0
        self._error: Exception | None = None
        self._jobs: queue.Queue[tuple[Callable[[], object], threading.Event] | None]
        self._jobs = queue.Queue(max_pending)
        self._thread = threading.Thread(target=self._work, name="limbeck writer", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            start = time.perf_counter()
            try:
                if self._error is None:
                    job()
            except Exception as error:
                self._error = error
            self.busy_seconds += time.perf_counter() - start
            done.set()
            self._jobs.task_done()
        self._jobs.task_done()

    def submit(self, job: Callable[[], object]) -> threading.Event:
        """Queue a job, waiting while the queue is full.

        Returns:
            An event that is set once the job is done.

        Raises:
            Exception: what an earlier job raised.
        """
        self._raise_error()
        done, start = threading.Event(), time.perf_counter()
        self._jobs.put((job, done))
        self.blocked_seconds += time.perf_counter() - start
        return done

    def wait(self, done: threading.Event) -> None:
        """Wait until a job is done; raises what a job raised."""
        start = time.perf_counter()
        done.wait()
        self.blocked_seconds += time.perf_counter() - start
        self._raise_error()

    def drain(self) -> None:
        """Wait until all jobs are done; raises what a job raised."""
        start = time.perf_counter()
        self._jobs.join()
        self.blocked_seconds += time.perf_counter() - start
        self._raise_error()

    def close(self) -> None:
        """Finish the pending jobs and end the thread; errors are raised by ``drain`` only."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
