"""The folder of a leaderboard of 3D recipes: its rows, runs, judged views, tables and page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from limbeck.config.yaml import parse_yaml
from limbeck.leaderboard.assets.judgment import AssetJudge, JudgedStage, stopped_metrics
from limbeck.leaderboard.assets.page import write_asset_page, write_sheets
from limbeck.leaderboard.assets.protocol import (
    AssetLeaderboard,
    AssetRun,
    RowOptions,
    plan_asset_runs,
)
from limbeck.leaderboard.assets.statistics import StageResults, make_rows
from limbeck.leaderboard.assets.table import asset_rows_to_csv, asset_rows_to_markdown, runs_to_csv
from limbeck.leaderboard.execution.folder import model_digest
from limbeck.runs.folder_state import foreign_files
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.report.live import RELOAD_SECONDS
from limbeck.runs.report.run_data import read_run_data
from limbeck.sweeps.engines.base import Engine
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.planned_runs import PlannedRun
from limbeck.sweeps.progress import SweepProgress
from limbeck.sweeps.sweep_checks import check_runs
from limbeck.sweeps.sweep_folder import execute_runs
from limbeck.system.files import one_line, read_text, write_text
from limbeck.system.folder_lock import refuse_folder_in_use

BOARD_FILE = "asset-leaderboard.yaml"
_RUNS, _VIEWS = "runs", "views"
_MAX_SHARE = 0.02  #: of the time that is spent on the page while runs go on


@dataclass(frozen=True)
class OpenBoard:
    """A leaderboard whose rows and runs are checked.

    Attributes:
        out: its folder.
        rows: options of each row, those that the folder had before first.
        baseline: row that the others are compared with.
        steps_scale: factor of the number of steps.
        runs: its runs.
        planned: the different ones of them, with the names of their folders.
    """

    out: Path
    rows: RowOptions
    baseline: str
    steps_scale: float
    runs: Sequence[AssetRun]
    planned: Sequence[PlannedRun]

    def save(self) -> None:
        """Write what the folder holds, for the next command."""
        plain = {
            "model": model_digest(),
            "steps_scale": self.steps_scale,
            "baseline": self.baseline,
            "rows": self.rows,
        }
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
        write_text(self.out / BOARD_FILE, text)


def open_asset_leaderboard(
    board: AssetLeaderboard, out: Path, device: str, judge: AssetJudge
) -> OpenBoard:
    """Check everything before something is written.

    Args:
        board: the leaderboard.
        out: its folder: new, or one of the same leaderboard, whose rows are kept.
        device: device of the runs.
        judge: judges its runs.

    Raises:
        ValueError: if the folder holds something else or is in use, or if a row is refused.
    """
    refuse_folder_in_use(out)
    held = _read_board(out)
    own = board.row_options()
    if held is not None:
        own = _merged(held["rows"], own, out)
        _refuse_other_board(held, board, out)
    elif names := foreign_files(out):
        raise ValueError(
            f"{out} holds files already ({names[0]}), and nothing is overwritten; choose another "
            "--out"
        )
    before = str(held["baseline"]) if held is not None else ""
    baseline = board.baseline or before or next(iter(own))
    if baseline not in own:
        raise ValueError(f"--baseline {baseline!r} is no row; the rows are {', '.join(own)}")
    runs = plan_asset_runs(board, own)
    distinct = list({run.planned.key: run.planned for run in runs}.values())
    planned = check_runs(distinct, out / _RUNS, device)
    for experiment in {repr(e.model): e for p in planned for e in p.stages.values()}.values():
        judge.check_model(experiment)
    return OpenBoard(out, own, baseline, board.steps_scale, runs, planned)


def _read_board(out: Path) -> dict[str, Any] | None:
    """What the folder holds; None if it is no leaderboard."""
    path = out / BOARD_FILE
    if not path.is_file():
        return None
    try:
        plain = parse_yaml(read_text(path))
        if not {"model", "steps_scale", "baseline", "rows"} <= plain.keys():
            raise ValueError("an entry is missing")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}): give another --out") from error
    return dict(plain)


def _merged(held: RowOptions, own: RowOptions, out: Path) -> RowOptions:
    for name, options in own.items():
        if name in held and held[name] != options:
            raise ValueError(
                f"{out} holds a row {name!r} with other options ({held[name]}): give the new one "
                "another name, or give another --out"
            )
    return held | own


def _refuse_other_board(held: Mapping[str, Any], board: AssetLeaderboard, out: Path) -> None:
    if held["steps_scale"] != board.steps_scale:
        raise ValueError(
            f"{out} holds a leaderboard with {held['steps_scale']:g} times the steps of its "
            f"recipes, not {board.steps_scale:g}: give another --out"
        )
    if held["model"] != model_digest():
        raise ValueError(
            f"{out} holds a leaderboard of another version of the embedded model: give another "
            "--out"
        )


class AssetReport:
    """Judges runs as they finish, and writes tables and page.

    Args:
        board: the leaderboard.
        judge: judges stages.
        command: command line, for the table.
    """

    def __init__(self, board: OpenBoard, judge: AssetJudge, command: str = ""):
        self.board, self.judge, self.command = board, judge, command
        self._by_key = {run.key: run for run in board.planned}
        self._judged: dict[str, list[JudgedStage]] = {}
        self._due_at = 0.0

    def update(self, progress: SweepProgress) -> None:
        """Judge what has finished since, and write the page unless that was done recently.

        Args:
            progress: state of the runs.
        """
        if not self._judge_new(progress) or time.monotonic() < self._due_at:
            return
        start = time.monotonic()
        self.write(progress, RELOAD_SECONDS)
        self._due_at = time.monotonic() + (time.monotonic() - start) / _MAX_SHARE

    def _judge_new(self, progress: SweepProgress) -> bool:
        """Judge the runs that have ended since the last call; whether there are any."""
        found = False
        for run in self.board.planned:
            outcome = progress.failed.get(run.name)
            is_stopped = outcome is not None and outcome.is_final
            if run.name in self._judged or not (run.name in progress.finished or is_stopped):
                continue
            self._judged[run.name] = self._judge_run(run, is_stopped)
            found = True
        return found

    def _judge_run(self, run: PlannedRun, is_stopped: bool) -> list[JudgedStage]:
        """The stages of a run with the costs of those before; of a stopped run also the rest."""
        stages: list[JudgedStage] = []
        evaluations, cpu_seconds, steps = 0, 0.0, 0
        for number, folder in enumerate(run.folders(self.board.out / _RUNS), 1):
            if is_stopped and not (folder / "profile.json").is_file():
                stage = self._stopped_stage(run, folder)
            else:
                stage = self.judge.judge(folder, f"{run.name}-{number}")
            evaluations += stage.evaluations
            cpu_seconds += stage.cpu_seconds
            steps += stage.steps
            costs = {"evaluations": evaluations, "cpu_seconds": cpu_seconds, "steps": steps}
            stages.append(replace(stage, **costs))  # type: ignore[arg-type]
        return stages

    def _stopped_stage(self, run: PlannedRun, folder: Path) -> JudgedStage:
        """A stage that did not end: it shows nothing, and costs what it has cost."""
        evaluations = steps = 0
        if (folder / "run.yaml").is_file():
            data = read_run_data(folder)
            evaluations, steps = data.evaluations(), len(data.metrics)
        metrics = stopped_metrics(str(run.options["object"]))
        return JudgedStage(metrics, {}, None, evaluations, 0.0, steps, folder)

    def stages(self) -> list[StageResults]:
        """What is judged so far, by row and stage."""
        found = []
        for row in self.board.rows:
            own = [run for run in self.board.runs if run.row == row]
            names = list(own[0].planned.stages)
            for index, name in enumerate(names):
                results = {}
                for run in own:
                    judged = self._judged.get(self._by_key[run.planned.key].name)
                    if judged is not None:
                        results[run.object, run.seed] = judged[index]
                label = f"{index + 1} {name}" if len(names) > 1 else ""
                found.append(StageResults(row, label, index == len(names) - 1, results, len(own)))
        return found

    def write(self, progress: SweepProgress, reload_seconds: int = 0) -> Path:
        """Write the tables and the page.

        Args:
            progress: state of the runs.
            reload_seconds: seconds after which the page loads itself again; 0 at the end.

        Returns:
            The page.
        """
        board, stages = self.board, self.stages()
        rows, changes = make_rows(stages, board.baseline, self.judge.with_features)
        if rows:
            write_text(board.out / "leaderboard.csv", asset_rows_to_csv(rows, changes))
            write_text(board.out / "runs.csv", runs_to_csv(stages, board.out))
            markdown = asset_rows_to_markdown(rows, changes, board.baseline, self.command)
            write_text(board.out / "leaderboard.md", markdown)
            write_sheets(rows, board.out / "sheets")
        failed = {name: o for name, o in progress.failed.items() if not o.is_final}
        missing = len(board.planned) - len(self._judged)
        facts = {"missing": missing, "failed": failed, "reload_seconds": reload_seconds}
        return write_asset_page(board.out, board.baseline, board.rows, rows, changes, facts)


def run_asset_leaderboard(
    board: OpenBoard,
    engine: Engine,
    judge: AssetJudge,
    command: str,
    on_change: Any,
    films: bool = False,
) -> tuple[SweepProgress, Path]:
    """Make the runs that are missing, judge them, and write tables and page.

    Args:
        board: the leaderboard, in a folder that the caller holds.
        engine: what executes its runs.
        judge: judges them.
        command: command line, for the table and the record of each run.
        on_change: called with the state, and with the outcome of each run when it ends.
        films: whether runs write turntables, stills and meshes over time, which the page does not
            need.

    Returns:
        The state at the end, and the page.
    """
    board.save()
    progress = SweepProgress(board.out / _RUNS, list(board.planned))
    progress.root.mkdir(exist_ok=True)
    report = AssetReport(board, judge, command)

    def show(progress: SweepProgress, outcome: RunOutcome | None) -> None:
        on_change(progress, outcome)
        report.update(progress)

    try:
        execute_runs(progress, engine, RecordingOptions(films=films), command, show)
    finally:
        progress.running.clear()
        report.update(progress)
        page = report.write(progress)
    return progress, page
