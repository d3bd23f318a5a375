"""What a run has cost, summed over its sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from limbeck.diffusion.prior import NetworkCallCounter


class RunCosts:
    """Network evaluations and time of a run in all of its sessions; this one begins now.

    Args:
        counter: counts the rows of its model.
    """

    def __init__(self, counter: NetworkCallCounter):
        self._counter, self._rows_at_start = counter, counter.rows
        self._started_at, self._cpu_at_start = time.perf_counter(), time.process_time()
        self._rows_before, self._elapsed_before, self._cpu_before = 0, 0.0, 0.0

    @property
    def rows(self) -> int:
        """Network evaluations, without those for recorded images."""
        return self._rows_before + self._counter.rows - self._rows_at_start

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return self._elapsed_before + time.perf_counter() - self._started_at

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of this process during the run."""
        return self._cpu_before + time.process_time() - self._cpu_at_start

    def state_dict(self) -> dict[str, Any]:
        """The costs so far, for a checkpoint."""
        return {"rows": self.rows, "elapsed": self.elapsed, "cpu_seconds": self.cpu_seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add the costs of earlier sessions.

        Args:
            state: the result of ``state_dict``, with other entries or not.
        """
        self._rows_before, self._elapsed_before = int(state["rows"]), float(state["elapsed"])
        self._cpu_before = float(state.get("cpu_seconds", 0.0))  # checkpoints before 2026-12
