"""3D viewers that the page shows inside itself, one per run that is looked at."""

from __future__ import annotations

import threading
from pathlib import Path

from limbeck.runs.reopen import last_stage, read_experiment
from limbeck.runs.viewer import Viewer

_FIRST_PORT = 8180
_MAX_OPEN = 4  #: the oldest viewer is closed when one more is opened


class Viewers:
    """The open viewers, by folder."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[Viewer, threading.Event]] = {}

    def address(self, folder: Path) -> str:
        """URL of the viewer of a 3D run, which is opened if it is not.

        Args:
            folder: run folder, or the parent of the stages of a preset.
        """
        key = folder.resolve()
        if key not in self._open:
            while len(self._open) >= _MAX_OPEN:
                self._close(next(iter(self._open)))
            viewer = Viewer(folder, read_experiment(last_stage(folder)), _FIRST_PORT)
            stop = threading.Event()
            threading.Thread(target=viewer.follow, args=(stop,), daemon=True).start()
            self._open[key] = viewer, stop
        return self._open[key][0].address

    def close(self) -> None:
        """Close all viewers."""
        for key in list(self._open):
            self._close(key)

    def _close(self, key: Path) -> None:
        viewer, stop = self._open.pop(key)
        stop.set()
        viewer.server.stop()
