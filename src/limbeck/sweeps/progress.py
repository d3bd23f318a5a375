"""How far a sweep is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from limbeck.runs.metrics_log import last_recorded_step
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.planned_runs import PlannedRun


@dataclass
class SweepProgress:
    """State of a sweep that goes on.

    Attributes:
        root: folder of the sweep.
        runs: its runs, in order.
        finished: names of the runs that are finished.
        failed: outcome by name of the runs that failed.
        running: names of the runs in progress.
        num_waiting: number of runs that wait in the queue of a cluster.
        steps_at_start: steps by name that were taken before this session.
        is_hopeless: whether the rest was not started, as all runs fail alike.
    """

    root: Path
    runs: list[PlannedRun]
    finished: set[str] = field(default_factory=set)
    failed: dict[str, RunOutcome] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    num_waiting: int = 0
    steps_at_start: dict[str, int] = field(default_factory=dict)
    is_hopeless: bool = False

    def steps_taken(self, run: PlannedRun) -> int:
        """Steps of a run that are on the disk."""
        if run.name in self.finished:
            return run.steps
        folders = run.folders(self.root)
        return sum(last_recorded_step(folder / "metrics.jsonl") for folder in folders)

    def seconds_left(self, elapsed: float) -> float | None:
        """Time left at the speed of this session; None before its first steps.

        Args:
            elapsed: seconds of this session so far.
        """
        taken = left = 0
        for run in self.runs:
            if run.name not in self.steps_at_start or run.name in self.failed:
                continue
            before, now = self.steps_at_start[run.name], self.steps_at_start[run.name]
            if run.name in self.finished or run.name in self.running:
                now = self.steps_taken(run)
            taken, left = taken + now - before, left + run.steps - now
        return elapsed / taken * left if taken > 0 else None
