"""The results of a sweep: one tidy table, and the mean of each setting over its seeds."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.metrics.intervals import UNBOUNDED, Interval, mean_interval
from limbeck.runs.report.run_data import RunData, read_run_data
from limbeck.runs.report.tables import SCORES
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import SEED
from limbeck.sweeps.planned_runs import PlannedRun, format_option
from limbeck.system.checkpoint import write_text
from limbeck.system.files import replacing

#: columns of the table that are neither options nor scores
_FIRST_COLUMNS = ("run", "state", "prompt")
_LAST_COLUMNS = ("evaluations", "seconds", "error")


@dataclass(frozen=True)
class RunResult:
    """A run of a sweep and what it left.

    Attributes:
        run: the run.
        state: ``finished``, ``waiting``, or how it ended.
        message: why it failed; empty if it did not.
        folder: run folder of the last stage that has started.
        data: contents of the folder; None before the run has started.
    """

    run: PlannedRun
    state: str
    message: str
    folder: Path
    data: RunData | None

    @property
    def mean_scores(self) -> dict[str, float]:
        """Scores of a finished run, means over its prompts."""
        if self.state != "finished" or self.data is None:
            return {}
        return dict(self.data.scores.get("mean", {}))


def read_results(
    runs: Sequence[PlannedRun], root: Path, finished: set[str], failed: Mapping[str, RunOutcome]
) -> list[RunResult]:
    """The results of the runs of a sweep, in order.

    Args:
        runs: the runs.
        root: folder of the sweep.
        finished: names of the runs that are finished.
        failed: outcome by name of the runs that failed.
    """
    results = []
    for run in runs:
        outcome = failed.get(run.name)
        state = "finished" if run.name in finished else "waiting"
        started = [f for f in run.folders(root) if (f / "run.yaml").is_file()]
        folder = started[-1] if started else run.folders(root)[0]
        data = read_run_data(folder) if started else None
        if outcome is not None:
            results.append(RunResult(run, outcome.kind, outcome.message, folder, data))
        else:
            results.append(RunResult(run, state, "", folder, data))
    return results


def table_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """One row per run and prompt: options, scores of the prompt, cost; one row for failed runs."""
    rows = []
    for result in results:
        options = {key: _cell(value) for key, value in result.run.options.items()}
        first = {"run": result.run.name, "state": result.state, **options}
        last: dict[str, Any] = {"error": result.message}
        prompts: list[dict[str, Any]] = [{}]
        if result.state == "finished" and result.data is not None:
            cost = {"evaluations": result.data.evaluations(), "seconds": result.data.elapsed()}
            last = {**cost, **last}
            prompts = result.data.scores.get("prompts") or [{}]
        rows += [first | prompt | last for prompt in prompts]
    columns = table_columns(results, rows)
    return [{name: row.get(name) for name in columns} for row in rows]


def table_columns(results: Sequence[RunResult], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of the table: run, state, prompt, options, scores, cost and error."""
    options = list(results[0].run.options) if results else []
    known = (*_FIRST_COLUMNS, *options, *_LAST_COLUMNS)
    scores = dict.fromkeys(name for row in rows for name in row if name not in known)
    return [*_FIRST_COLUMNS, *options, *scores, *_LAST_COLUMNS]


def _cell(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else format_option(value)


def write_table(results: Sequence[RunResult], root: Path) -> Path:
    """Write ``results.csv``, and ``results.parquet`` where pyarrow is installed.

    Args:
        results: the results.
        root: folder of the sweep.
    """
    rows, path = table_rows(results), root / "results.csv"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        _write_parquet(rows, root / "results.parquet")
    return path


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = {k for row in rows for k, v in row.items() if isinstance(v, str)}  # of mixed columns
    table = [
        {k: str(v) if k in texts and v is not None else v for k, v in row.items()} for row in rows
    ]
    with replacing(path) as part:
        parquet.write_table(pyarrow.Table.from_pylist(table), part)


@dataclass(frozen=True)
class MeanScore:
    """Mean of a score over seeds.

    Attributes:
        mean: the mean.
        interval: its 95 % interval; None with a single seed.
        count: number of seeds.
    """

    mean: float
    interval: Interval | None
    count: int


def mean_score(values: Sequence[float], bounds: Interval = UNBOUNDED) -> MeanScore:
    """Mean and 95 % interval over seeds, for other seeds at the same prompts.

    Args:
        values: one value per seed, at least one.
        bounds: smallest and largest possible value; (0, 1) for a share.
    """
    mean = math.fsum(values) / len(values)
    return MeanScore(mean, mean_interval(values, bounds), len(values))


@dataclass(frozen=True)
class Setting:
    """Runs that differ in the seed only.

    Attributes:
        options: their options without the seed, as text.
        results: the runs.
    """

    options: dict[str, str]
    results: list[RunResult]

    @property
    def scores(self) -> dict[str, MeanScore]:
        """Mean of each score over the finished runs."""
        values: dict[str, list[float]] = {}
        for result in self.results:
            for name, value in result.mean_scores.items():
                values.setdefault(name, []).append(value)
        return {
            name: mean_score(own, (0.0, 1.0) if SCORES[name].percent else UNBOUNDED)
            for name, own in values.items()
            if name in SCORES
        }


def settings_of(results: Sequence[RunResult]) -> list[Setting]:
    """The results by setting, in order."""
    groups: dict[tuple[str, ...], Setting] = {}
    for result in results:
        options = {k: format_option(v) for k, v in result.run.options.items() if k != SEED}
        setting = groups.setdefault(tuple(options.values()), Setting(options, []))
        setting.results.append(result)
    return list(groups.values())
