"""What a run folder holds while the run goes on, read again and again without its whole files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from limbeck.runs.final_products import read_failures
from limbeck.runs.images import recorded_images
from limbeck.runs.metrics_log import parse_row
from limbeck.runs.notices_file import read_notices
from limbeck.runs.reopen import best_stage, last_stage, stage_folders
from limbeck.runs.report.run_data import RunData, read_run_data
from limbeck.system.checkpoint import read_metadata

_POINTS = 200  #: points of a curve
_NOT_CURVES = ("step", "evaluations", "seconds")


class Curve(NamedTuple):
    """A metric over the steps.

    Attributes:
        steps: the last step of each bin.
        values: means over the bins.
    """

    steps: list[int]
    values: list[float]


class MetricsTail:
    """The lines of a metrics file, of which only new ones are read.

    Args:
        path: the file, which may not exist yet.

    Attributes:
        rows: the lines without the values of single rows of a batch, which no curve shows.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._position = 0

    def read(self) -> bool:
        """Read the new lines; returns whether there are any."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self._position:  # a run that resumes removes the lines after its checkpoint
            self.rows, self._position = [], 0
        if size == self._position:
            return False
        with self.path.open("rb") as file:
            file.seek(self._position)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._position += len(complete) + len(newline)
        parsed = [row for line in complete.split(b"\n") if (row := parse_row(line)) is not None]
        new = [_without_lists(row) for row in parsed]
        self.rows += new
        return bool(new)


def _without_lists(row: Mapping[str, Any]) -> dict[str, Any]:
    # json.loads makes new strings of the names in every line
    return {intern(name): value for name, value in row.items() if not isinstance(value, list)}


class RunWatch:
    """A run folder that is watched.

    Args:
        folder: run folder, or the parent of the stages of a preset.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.stage = last_stage(folder)
        self.metrics = MetricsTail(self.stage / "metrics.jsonl")

    @property
    def has_started(self) -> bool:
        """Whether the options of the run are written."""
        return (self.stage / "run.yaml").is_file()

    @property
    def data(self) -> RunData:
        """The files of the stage.

        Raises:
            ValueError: if its run.yaml cannot be read.
        """
        return read_run_data(self.stage)

    @property
    def notices(self) -> list[str]:
        """Notices from before the first step, and about files that could not be written."""
        stages = stage_folders(self.folder)  # the end of an earlier one may have failed, too
        failures = [failure for stage in stages for failure in read_failures(stage)]
        return read_notices(self.stage) + failures

    def export_file(self) -> Path:
        """File of the run's asset: of the stage and step that ``limbeck export`` takes.

        Raises:
            ValueError: if there is no checkpoint to export.
        """
        stage = best_stage(self.folder)
        checkpoint = stage / "checkpoint.safetensors"
        if not checkpoint.is_file():
            raise ValueError(f"{stage} has no checkpoint yet: continue its run for a while")
        prefix = "" if stage == self.folder else f"{stage.name}-"  # stages may have equal steps
        step = read_metadata(checkpoint)["step"]
        return self.folder / "export" / f"{prefix}step-{step:05d}.glb"

    def is_exported(self, file: Path) -> bool:
        """Whether an export is there and not older than the checkpoint.

        Args:
            file: ``export_file``.
        """
        checkpoint = best_stage(self.folder) / "checkpoint.safetensors"
        return file.is_file() and file.stat().st_mtime_ns >= checkpoint.stat().st_mtime_ns

    def refresh(self) -> bool:
        """Look for a new stage and for new metrics; returns whether there are any."""
        stage = last_stage(self.folder)
        if stage != self.stage:
            self.stage, self.metrics = stage, MetricsTail(stage / "metrics.jsonl")
        return self.metrics.read()

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.metrics.rows[-1]["step"]) if self.metrics.rows else 0

    def seconds_left(self, steps: int) -> float:
        """Time left at the speed so far; 0 before the first metrics.

        Args:
            steps: steps of the run.
        """
        rows = self.metrics.rows
        if not rows or not isinstance(rows[-1].get("seconds"), int | float):
            return 0.0
        return float(rows[-1]["seconds"]) / self.step * (steps - self.step)

    def curves(self) -> dict[str, Curve]:
        """Every metric that is a number, over the steps."""
        rows = self.metrics.rows
        names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_CURVES)
        curves = {name: mean_curve(rows, name) for name in names}
        return {name: curve for name, curve in curves.items() if curve.steps}

    def images(self) -> dict[str, dict[int, Path]]:
        """Recorded images by kind (``particles``, ``x0``, ``normal``, ...) and step."""
        found = recorded_images(self.stage)
        first = {"particles": found.pop("")} if "" in found else {}
        return first | found


def mean_curve(rows: Sequence[dict[str, Any]], name: str, points: int = _POINTS) -> Curve:
    """A metric as means over equal bins of rows.

    Args:
        rows: lines of a metrics file.
        name: the metric; rows that lack it, or have no number for it, are left out.
        points: number of bins, of which each has at least one row.
    """
    pairs = [(row["step"], row.get(name)) for row in rows]
    numbers = [(s, float(v)) for s, v in pairs if isinstance(v, int | float) and math.isfinite(v)]
    size = max(math.ceil(len(numbers) / points), 1)
    bins = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    means = [sum(value for _, value in part) / len(part) for part in bins]
    return Curve([part[-1][0] for part in bins], means)
