"""Table and page of a sweep while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from limbeck.runs.report.live import RELOAD_SECONDS
from limbeck.runs.report.tables import seconds_text
from limbeck.sweeps.effects import write_effects
from limbeck.sweeps.expansion import Sweep
from limbeck.sweeps.page import SweepPage
from limbeck.sweeps.progress import SweepProgress
from limbeck.sweeps.results import ResultReader, RunResult, write_table

_MAX_SHARE = 0.02  #: of the time of a sweep that is spent on its page


class SweepReport:
    """Writes ``results.csv`` and ``report.html`` of a sweep, not too often while it goes on.

    Args:
        progress: state of the sweep.
        rows: option of the rows of the image matrix; empty for the first one that varies.
        columns: option of its columns.
        sweep: the sweep, if it searches for the best setting.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        progress: SweepProgress,
        rows: str = "",
        columns: str = "",
        sweep: Sweep | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.progress, self.clock = progress, clock
        self._reader = ResultReader(progress.runs, progress.root)
        self._page = SweepPage(progress.root, rows, columns, sweep)
        self._started_at = self._due_at = clock()

    def update(self) -> None:
        """Write both, unless that was done too recently for its cost."""
        start = self.clock()
        if start < self._due_at:
            return
        with suppress(Exception):  # the runs must not stop for their page
            results = self.read()
            write_table(results, self.progress.root)
            self._page.write(results, RELOAD_SECONDS, self._progress_text())
        end = self.clock()
        self._due_at = end + max(RELOAD_SECONDS, (end - start) / _MAX_SHARE)

    def write(self) -> tuple[Path, Path]:
        """Write table, effects and page of a sweep that has ended.

        Returns:
            Paths of table and page.
        """
        results = self.read()
        write_effects(results, self.progress.root)
        return write_table(results, self.progress.root), self._page.write(results)

    def read(self) -> list[RunResult]:
        """The results so far."""
        progress = self.progress
        return self._reader.read(progress.finished, progress.failed, progress.running)

    def _progress_text(self) -> str:
        left = self.progress.seconds_left(self.clock() - self._started_at)
        text = f"As of {time.strftime('%H:%M:%S')}: {len(self.progress.running)} running"
        return f"{text}, about {seconds_text(left)} left" if left else text
