"""The report of a run while it goes on, which reloads itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.timing import RepeatedWork

RELOAD_SECONDS = 10  #: a page of a run that goes on is loaded again after this time
_MAX_SHARE = 0.02  #: of the time of a run that is spent on its live report
_REFRESH = b'http-equiv="refresh"'


class LiveReport:
    """Writes report.html of a run that goes on, in the background and not too often.

    Args:
        folder: run folder.
        writer: writes in the background.
    """

    def __init__(self, folder: Path, writer: BackgroundWriter):
        self.folder, self.writer = folder, writer
        self._work = RepeatedWork(_MAX_SHARE)
        self._pending = False

    def update(self) -> None:
        """Queue the report, unless the last one was written too recently for its cost."""
        if self._pending or not self._work.is_due:
            return
        self._pending = True
        self.writer.submit(self._write)

    def stop(self) -> None:
        """Write the report of a run that is about to stop, which does not reload itself."""
        from limbeck.runs.report.pages import write_report

        with suppress(Exception):
            write_report([self.folder])

    def _write(self) -> None:
        # the run must not stop for its report
        with self._work.measure(), suppress(Exception):
            write_live_report(self.folder)
        self._pending = False


def write_live_report(folder: Path) -> Path:
    """Write report.html of a run that goes on, without curves and with a reload."""
    from limbeck.runs.report.pages import write_report

    return write_report([folder], reload_seconds=RELOAD_SECONDS)


def is_live(page: Path) -> bool:
    """Whether a page is the report of a run that had not finished when it was written."""
    with page.open("rb") as file:
        return _REFRESH in file.read(1000)
