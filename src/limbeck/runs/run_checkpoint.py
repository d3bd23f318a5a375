"""The checkpoint of a run: read before its first step, written in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from limbeck.runs.run_costs import RunCosts
from limbeck.system.async_copy import AsyncCopies
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.checkpoint import read_checkpoint, write_async_copies
from limbeck.system.files import OtherFileError, one_line
from limbeck.system.finite import check_finite
from limbeck.training.trainer import Run


class RunCheckpoint:
    """What a stopped run continues from.

    Args:
        path: its file.
        run: the run.
        costs: its costs in all sessions.
        writer: writes the file in the background.
    """

    def __init__(self, path: Path, run: Run, costs: RunCosts, writer: BackgroundWriter):
        self.path, self._run, self._costs, self._writer = path, run, costs, writer
        self._written = threading.Event()
        self._written.set()

    def load(self) -> None:
        """Continue after the step of the file.

        Raises:
            OtherFileError: if a file of the run is not the one that it was started with.
            ValueError: if it does not fit the run.
        """
        tensors, metadata = read_checkpoint(self.path)
        try:
            self._run.load(tensors, metadata["step"])
            self._costs.load_state_dict(metadata)
            self._run.profile.load_state_dict(metadata)
        except OtherFileError:
            raise
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{self.path} was written by another version and does not fit: delete it to start "
                f"the run over ({type(error).__name__}: {one_line(error, 120)})"
            ) from error

    def save(self, sync_metrics: Callable[[], object]) -> None:
        """Queue the current state; waits for the one before, so that at most one is in memory.

        Args:
            sync_metrics: called before, as a checkpoint must never be ahead of the metrics.

        Raises:
            NonFiniteError: if a value is not finite. Where that check would wait for the device,
                the writer makes it in the background instead.
        """
        run = self._run
        with run.profile.part("checkpoint"):
            tensors = run.tensors()
            if not run.monitor.deferred:
                check_finite(tensors, run.step)
            self._writer.wait(self._written)
            sync_metrics()
            metadata = {"step": run.step} | self._costs.state_dict() | run.profile.state_dict()
            copies = AsyncCopies(tensors)
            self._written = self._writer.submit(
                partial(write_async_copies, self.path, copies, metadata, run.monitor)
            )
