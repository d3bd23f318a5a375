"""The results of a sweep: one tidy table, and the mean of each setting over its seeds."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.metrics.bounds import Bounds, metric_bounds, read_bounds
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.runs.report.run_data import RunData, read_run_data
from limbeck.runs.report.tables import score_columns
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import SEED
from limbeck.sweeps.planned_runs import PlannedRun, format_option
from limbeck.system.files import read_text, replacing, write_text

TABLE_FILE = "results.csv"
#: columns of the table that are neither options nor scores
_FIRST_COLUMNS = ("run", "state", "prompt")
_LAST_COLUMNS = ("evaluations", "seconds", "error")
OTHER_COLUMNS = (*_FIRST_COLUMNS, *_LAST_COLUMNS)
PROMPTS = "prompts"  #: key of the option that can give each run its own prompts
UNFINISHED = ("running", "waiting")  #: states of a run that has not ended


@dataclass(frozen=True)
class RunResult:
    """A run of a sweep and what it left.

    Attributes:
        run: the run.
        state: ``finished``, ``running``, ``waiting``, or how it ended.
        message: why it failed; empty if it did not.
        folder: run folder of the last stage that has started.
        data: contents of the folder; None before the run has started.
        earlier: contents of the folders of the stages before it.
        is_evaluated: whether metrics of ``limbeck eval`` are among the scores.
    """

    run: PlannedRun
    state: str
    message: str
    folder: Path
    data: RunData | None
    earlier: tuple[RunData, ...] = ()
    is_evaluated: bool = False

    @property
    def cost(self) -> dict[str, float]:
        """Network evaluations and seconds of all stages; empty before the run has started."""
        if self.data is None:
            return {}
        stages = (*self.earlier, self.data)
        return {
            "evaluations": sum(stage.evaluations() for stage in stages),
            "seconds": sum(stage.elapsed() for stage in stages),
        }

    @property
    def mean_scores(self) -> dict[str, float]:
        """Scores of a finished run, means over its prompts."""
        if self.state != "finished" or self.data is None:
            return {}
        own = _numbers(self.data.scores.get("mean", {}))
        rows = [_scores_of(row) for row in _evaluated_prompts(self.data) if self.is_evaluated]
        names = dict.fromkeys(name for row in rows for name in row)
        values = {name: [row[name] for row in rows if name in row] for name in names}
        return own | {name: math.fsum(found) / len(found) for name, found in values.items()}

    @property
    def prompt_scores(self) -> dict[str, dict[str, float]]:
        """Scores of a finished run by prompt."""
        found: dict[str, dict[str, float]] = {}
        for number, row in enumerate(self.score_rows):
            prompt = str(row.get("prompt", ""))
            found[f"{prompt} {number}" if prompt in found else prompt] = _numbers(row)
        return found

    @property
    def score_rows(self) -> list[dict[str, Any]]:
        """A row of scores per prompt of a finished run, those of eval.json before its own."""
        if self.state != "finished" or self.data is None:
            return []
        rows = self.data.scores.get("prompts", [])
        if not self.is_evaluated:
            return list(rows)
        evaluated = {str(row["prompt"]): row for row in _evaluated_prompts(self.data)}
        rows = rows or [{"prompt": prompt} for prompt in evaluated]
        return [dict(row) | _scores_of(evaluated.get(str(row["prompt"]), {})) for row in rows]


def _evaluated_prompts(data: RunData) -> list[dict[str, Any]]:
    """Metrics of eval.json by prompt; empty without one."""
    found = data.evaluation
    return list(found.get("by_prompt", found.get("prompts", [])))


def _scores_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a prompt in eval.json, without counts, verdicts and particles."""
    return {name: row[name] for name in score_columns([row])}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a row; one that could not be computed is null."""
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


class ResultReader:
    """Reads the results of the runs of a sweep; those of runs that have ended only once.

    Args:
        runs: the runs.
        root: folder of the sweep.
    """

    def __init__(self, runs: Sequence[PlannedRun], root: Path):
        self.runs, self.root = runs, root
        self._ended: dict[tuple[str, str], RunResult] = {}

    def read(
        self,
        finished: Collection[str],
        failed: Mapping[str, RunOutcome],
        running: Collection[str] = (),
    ) -> list[RunResult]:
        """The results, in the order of the runs.

        Args:
            finished: names of the runs that are finished.
            failed: outcome by name of the runs that failed.
            running: names of the runs in progress.
        """
        results = []
        for run in self.runs:
            outcome, state = failed.get(run.name), "waiting"
            if outcome is not None:
                state = outcome.kind
            elif run.name in finished or run.name in running:
                state = "finished" if run.name in finished else "running"
            key = (run.name, state)
            result = self._ended.get(key) or self._read_run(run, state, outcome)
            if state not in UNFINISHED:
                self._ended[key] = result
            results.append(result)
        judges = judges_of(results)
        if len(judges) != 1 or "" in judges:
            return results  # means of some runs would differ by what is measured
        return [replace(result, is_evaluated=True) for result in results]

    def _read_run(self, run: PlannedRun, state: str, outcome: RunOutcome | None) -> RunResult:
        started = [f for f in run.folders(self.root) if (f / "run.yaml").is_file()]
        folder = started[-1] if started else run.folders(self.root)[0]
        message = outcome.message if outcome is not None else ""
        if state == "waiting" or not started:  # there may be thousands that wait
            return RunResult(run, state, message, folder, None)
        *earlier, last = [read_run_data(stage) for stage in started]
        return RunResult(run, state, message, folder, last, tuple(earlier))


def read_finished(run: PlannedRun, root: Path, is_evaluated: bool) -> RunResult:
    """The result of a run that has finished.

    Args:
        run: the run.
        root: folder of the sweep.
        is_evaluated: whether its metrics of ``limbeck eval`` count.
    """
    folder = run.folders(root)[-1]
    return RunResult(run, "finished", "", folder, read_run_data(folder), (), is_evaluated)


def count_evaluated(results: Sequence[RunResult]) -> int:
    """Number of finished runs that ``limbeck eval`` has evaluated."""
    finished = [result.data for result in results if result.state == "finished"]
    return sum(data is not None and bool(_evaluated_prompts(data)) for data in finished)


def judges_of(results: Sequence[RunResult]) -> set[str]:
    """What has judged the finished runs, the empty text standing for nothing."""
    finished = [result.data for result in results if result.state == "finished"]
    return {
        json.dumps(data.evaluation.get("judges", {}), sort_keys=True)
        if data is not None and _evaluated_prompts(data)
        else ""
        for data in finished
    }


def table_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """One row per run and prompt: options, scores of the prompt, cost; one row for failed runs."""
    rows = []
    for result in results:
        options = {key: _cell(value) for key, value in result.run.options.items()}
        first = {"run": result.run.name, "state": result.state, **options}
        last: dict[str, Any] = {"error": result.message}
        prompts: list[dict[str, Any]] = [{}]
        if result.state == "finished" and result.data is not None:
            last = {**result.cost, **last}
            prompts = result.score_rows or [{}]
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
    rows, path = table_rows(results), root / TABLE_FILE
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        _write_parquet(rows, root / "results.parquet")
    return path


def finished_runs(root: Path) -> list[str]:
    """Names of the finished runs in ``results.csv``, in their order.

    Args:
        root: folder of the sweep.
    """
    rows = _read_table(root)
    return list(dict.fromkeys(row["run"] for row in rows if row["state"] == "finished"))


def count_runs(root: Path) -> int:
    """Number of the runs in ``results.csv``, in whatever state.

    Args:
        root: folder of the sweep.
    """
    return len({row["run"] for row in _read_table(root)})


def _read_table(root: Path) -> list[dict[str, str]]:
    path = root / TABLE_FILE
    return list(csv.DictReader(io.StringIO(read_text(path)))) if path.is_file() else []


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = {k for row in rows for k, v in row.items() if isinstance(v, str)}  # of mixed columns
    table = [
        {k: str(v) if k in texts and v is not None else v for k, v in row.items()} for row in rows
    ]
    with replacing(path) as part:
        parquet.write_table(pyarrow.Table.from_pylist(table), part)


def varies_more_in_prompts(results: Sequence[RunResult]) -> bool:
    """Whether intervals are over prompts: if the sweep has more prompts than seeds.

    Else they are over seeds. A mean over few units has a wide interval, so the more numerous unit
    is taken, and the page says which.
    """
    experiments = [next(iter(result.run.stages.values())) for result in results]
    prompts = {prompt for experiment in experiments for prompt in experiment.prompts}
    return len(prompts) > len({experiment.seed for experiment in experiments})


@dataclass(frozen=True)
class Setting:
    """Runs that differ in the seed only, and in the prompts if these vary beside other options.

    Attributes:
        options: the options that they have in common, as text.
        results: the runs.
        over_prompts: whether intervals are over prompts; else they are over seeds.
    """

    options: dict[str, str]
    results: list[RunResult]
    over_prompts: bool = False

    @property
    def scores(self) -> dict[str, Estimate]:
        """Mean of each score over the finished runs."""
        values: dict[str, list[float]] = {}
        for row in self._prompt_means() if self.over_prompts else self._seed_means():
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        bounds = own_bounds(self.results)
        return {n: mean_estimate(own, metric_bounds(n, bounds)) for n, own in values.items()}

    def _seed_means(self) -> list[dict[str, float]]:
        """Scores of each seed, means over its runs."""
        return _means([(r.run.options.get(SEED), r.mean_scores) for r in self.results])

    def _prompt_means(self) -> list[dict[str, float]]:
        """Scores of each prompt, means over the runs."""
        return _means([pair for r in self.results for pair in r.prompt_scores.items()])


def own_bounds(results: Sequence[RunResult]) -> Bounds:
    """Bounds of scores of one's own in the evaluations of runs, by name."""
    reports = [result.data.evaluation for result in results if result.data is not None]
    return {name: ends for report in reports for name, ends in read_bounds(report).items()}


def _means(rows: Sequence[tuple[Any, Mapping[str, float]]]) -> list[dict[str, float]]:
    """Mean of each score of the rows of each unit, which stands first."""
    values: dict[Any, dict[str, list[float]]] = {}
    for unit, row in rows:
        for name in score_columns([row]):
            values.setdefault(unit, {}).setdefault(name, []).append(row[name])
    return [
        {name: math.fsum(own) / len(own) for name, own in row.items()} for row in values.values()
    ]


def setting_options(results: Sequence[RunResult]) -> list[str]:
    """The options that make a setting: those that vary, without the seed.

    Prompts that vary beside other options are what each setting is tried on, as if every run had
    all of them, so they are left out as well.

    Args:
        results: the results.
    """
    options = [key for key in results[0].run.options if key != SEED] if results else []
    return [key for key in options if key != PROMPTS] or options


def settings_of(results: Sequence[RunResult]) -> list[Setting]:
    """The results by setting, in order."""
    groups: dict[tuple[str, ...], Setting] = {}
    keys, over_prompts = setting_options(results), varies_more_in_prompts(results)
    for result in results:
        options = {key: format_option(result.run.options[key]) for key in keys}
        setting = groups.setdefault(tuple(options.values()), Setting(options, [], over_prompts))
        setting.results.append(result)
    return list(groups.values())


def option_values(results: Sequence[RunResult], key: str) -> list[str]:
    """Values of an option as text, in the order of the runs, or by size if all are numbers.

    Args:
        results: the results.
        key: an option that varies.
    """
    values = list(dict.fromkeys(format_option(r.run.options[key]) for r in results))
    try:
        return sorted(values, key=float)
    except ValueError:
        return values
