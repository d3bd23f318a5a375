"""Run folders below a folder: all of them, the newest, and the state of each."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from limbeck.runs.error_file import ERROR_FILE
from limbeck.runs.final_products import FAILURES
from limbeck.runs.folder_state import FAILED_STEP
from limbeck.runs.report.live import is_live
from limbeck.runs.report.run_data import RunData, read_run_data
from limbeck.system.folder_lock import holder_has_ended

LATEST = Path("latest")  #: stands for the newest run below ``RUNS``
RUNS = Path("runs")
_MAX_DEPTH = 3  #: of a run folder below the root: stages and studies have folders of their own
_SILENT_SECONDS = 120  #: a run that has written nothing for so long has stopped


@dataclass(frozen=True)
class FoundRun:
    """A run folder.

    Attributes:
        folder: its path.
    """

    folder: Path

    @cached_property
    def data(self) -> RunData:
        """Contents.

        Raises:
            ValueError: if they cannot be read.
        """
        return read_run_data(self.folder)

    @property
    def changed_at(self) -> float:
        """Time of the last change by the run itself, in seconds since the epoch."""
        names = ("run.yaml", "metrics.jsonl", "checkpoint.safetensors")
        files = [self.folder / name for name in names]
        return max(file.stat().st_mtime for file in files if file.exists())

    @property
    def state(self) -> str:
        """``finished``, ``failed``, ``running`` or ``stopped``.

        A run has failed if an error stopped it, or if it has taken all steps, but a product of its
        end could not be written.
        """
        page, has_ended = self.folder / "report.html", (self.folder / "profile.json").exists()
        has_failed = has_ended and (self.folder / FAILURES).exists()
        if has_ended and not (page.exists() and is_live(page)):
            return "failed" if has_failed else "finished"
        if (self.folder / ERROR_FILE).exists():  # which the next session removes
            return "failed"
        # also while the same command tries again what has failed
        is_silent = time.time() - self.changed_at >= _SILENT_SECONDS
        if not is_silent and not holder_has_ended(self.folder):
            return "running"
        is_failed = has_failed or (self.folder / FAILED_STEP).exists()
        return "failed" if is_failed else "stopped"


def find_runs(root: Path) -> list[FoundRun]:
    """Run folders below a folder, or the folder itself, the newest first."""
    runs = [FoundRun(folder) for folder in _run_folders(root, _MAX_DEPTH)]
    return sorted(runs, key=lambda run: run.changed_at, reverse=True)


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "run.yaml").is_file():
        yield folder
    elif depth and folder.is_dir():
        for entry in os.scandir(folder):
            if entry.is_dir() and not entry.name.startswith("."):
                yield from _run_folders(Path(entry.path), depth - 1)


def latest_run(root: Path = RUNS) -> Path:
    """The newest run folder below a folder.

    Raises:
        ValueError: if there is none.
    """
    runs = find_runs(root)
    if not runs:
        raise ValueError(f"latest: there is no run below {root}/; name a run folder")
    return runs[0].folder


def find_folder(path: Path) -> Path:
    """The folder that ``path`` names: for ``latest`` the newest run below runs/, which is printed.

    Raises:
        ValueError: if ``latest`` is asked for and there is no run.
    """
    if path != LATEST or path.exists():
        return path
    found = latest_run()
    print(f"limbeck: latest is {found}", file=sys.stderr, flush=True)
    return found
