"""What need not be waited for: jobs done one after the other beside a run, so many waiting at most."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

MOST = 8  #: jobs that may wait; then the run does


class BackgroundWriter:
    """A thread that does jobs in the order they were given in.

    The first job that fails is the last one that is done, so that no file is ahead of one that could not be written; its error is
    raised where the next job is given, or the end is waited for. seconds: spent on jobs. waited: that the giver stood still for.
    """

    def __init__(self, most: int = MOST):
        self.seconds = self.waited = 0.0
        self._error: Exception | None = None
        self._jobs: queue.Queue[tuple[Callable[[], object], threading.Event] | None] = queue.Queue(
            most
        )
        self._thread = threading.Thread(target=self._work, name="limbeck writer", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            began = time.perf_counter()
            try:
                if self._error is None:
                    job[0]()
            except Exception as error:
                self._error = error
            self.seconds += time.perf_counter() - began
            job[1].set()
            self._jobs.task_done()
        self._jobs.task_done()

    def put(self, job: Callable[[], object]) -> threading.Event:
        """Have ``job`` done; answers what is set once it is. Waits while the queue is full; raises what an earlier job raised."""
        self._raise()
        done, began = threading.Event(), time.perf_counter()
        self._jobs.put((job, done))
        self.waited += time.perf_counter() - began
        return done

    def wait(self, done: threading.Event) -> None:
        """Until a job is done; raises what a job raised."""
        began = time.perf_counter()
        done.wait()
        self.waited += time.perf_counter() - began
        self._raise()

    def drain(self) -> None:
        """Until all jobs are done; raises what a job raised."""
        began = time.perf_counter()
        self._jobs.join()
        self.waited += time.perf_counter() - began
        self._raise()

    def close(self) -> None:
        """Do what waits, and end. Raises nothing: whoever needs to know drains before."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
