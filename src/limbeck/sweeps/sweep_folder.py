"""Run a sweep into a folder: what is finished is skipped, what was killed is completed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from limbeck.diffusion.model_options import Model
from limbeck.priors.loading import is_exact
from limbeck.runs.folder_state import is_finished
from limbeck.runs.recording_options import DEFAULT_RECORDING, RecordingOptions
from limbeck.sweeps.engines.base import Engine
from limbeck.sweeps.execution import RunOutcome, RunTask, stage_texts
from limbeck.sweeps.expansion import Sweep
from limbeck.sweeps.failed_runs import read_failed_runs, write_failed_runs
from limbeck.sweeps.optuna_study import OptunaStudy
from limbeck.sweeps.planned_runs import PlannedRun
from limbeck.sweeps.progress import SweepProgress
from limbeck.sweeps.repeated_failure import RepeatedFailure
from limbeck.sweeps.sweep_checks import refuse_changed_files
from limbeck.sweeps.sweep_file import LOGS, SWEEP_FILE, sweep_to_yaml
from limbeck.system.files import write_text
from limbeck.system.folder_lock import folder_lock


def run_sweep(
    sweep: Sweep,
    progress: SweepProgress,
    engine: Engine,
    recording: RecordingOptions = DEFAULT_RECORDING,
    command: str = "",
    on_change: Callable[[SweepProgress, RunOutcome | None], None] = lambda progress, outcome: None,
    judge: Callable[[Path], None] | None = None,
) -> None:
    """Run what is not finished yet.

    Args:
        sweep: the sweep, written to ``sweep.yaml``.
        progress: its folder and its runs, as ``check_sweep`` returns them; kept up to date. Those
            of a search are added as they are chosen.
        engine: what executes them.
        recording: what each run writes into its folder, and how often.
        command: command line, for the record.
        on_change: called several times a second with the state, and with the outcome of each run
            when it ends.
        judge: called with the folder of each finished run, also of earlier sessions, before its
            scores are read.
    """
    root = progress.root
    with folder_lock(root):
        write_text(root / SWEEP_FILE, sweep_to_yaml(sweep))
        study = None
        if sweep.search is not None:
            study = OptunaStudy(sweep, root, judge is not None)
            refuse_changed_files(study.earlier_runs(), root)
        execute_runs(progress, engine, recording, command, on_change, study, judge)


def execute_runs(
    progress: SweepProgress,
    engine: Engine,
    recording: RecordingOptions = DEFAULT_RECORDING,
    command: str = "",
    on_change: Callable[[SweepProgress, RunOutcome | None], None] = lambda progress, outcome: None,
    study: OptunaStudy | None = None,
    judge: Callable[[Path], None] | None = None,
) -> None:
    """Execute the runs that are not finished, in a folder that the caller holds.

    Args:
        progress: their folder and the runs, as ``check_runs`` returns them; kept up to date.
        engine: what executes them.
        recording: as for ``run_sweep``.
        command: command line, for the record.
        on_change: as for ``run_sweep``.
        study: chooses further runs; None without a search.
        judge: as for ``run_sweep``.
    """
    root = progress.root
    known = read_failed_runs(root)
    template = RunTask("", (), engine.device, 0, recording, command)
    queue: list[RunTask] = []
    judged: set[str] = set()

    def judge_finished() -> None:
        if judge is None:
            return
        unjudged = progress.finished - judged
        for run in [run for run in progress.runs if run.name in unjudged]:
            judge(run.folders(root)[-1])
            judged.add(run.name)

    def add(runs: Sequence[PlannedRun]) -> None:
        known_names = {run.name for run in progress.runs}
        progress.runs += [run for run in runs if run.name not in known_names]
        queue.extend(_pending_tasks(progress, runs, known, template))
        judge_finished()

    add(progress.runs)
    if study is not None:
        add(study.known_runs())
        _ask(study, progress, engine, add)
    watch = RepeatedFailure([run for run in progress.runs if run.name not in progress.finished])

    def poll() -> None:
        progress.running, progress.num_waiting = engine.running(), engine.num_waiting()
        on_change(progress, None)

    with closing(engine.run(queue, root / LOGS, poll)) as ended:
        for outcome in ended:
            progress.running.discard(outcome.name)
            if outcome.kind == "finished":
                progress.finished.add(outcome.name)
                judge_finished()
            else:
                progress.failed[outcome.name] = outcome
            unfinished = {n: o for n, o in known.items() if n not in progress.finished}
            write_failed_runs(root, progress.failed, unfinished)
            run = next(run for run in progress.runs if run.name == outcome.name)
            watch.add(run, outcome, progress.steps_taken(run))
            _react(watch, queue, progress)
            if study is not None:
                _ask(study, progress, engine, add)
            on_change(progress, outcome)


def _ask(
    study: OptunaStudy,
    progress: SweepProgress,
    engine: Engine,
    add: Callable[[Sequence[PlannedRun]], None],
) -> None:
    """Tell of the trials that have ended, and start as many new ones as there is room for."""
    study.settle(progress.finished, progress.failed)
    # a cluster that is full has no room now, and one trial waits for it
    num_trials = max(1, math.ceil(engine.capacity / study.runs_per_trial))
    while study.num_open < num_trials and not progress.is_hopeless and (runs := study.ask()):
        add(runs)
        study.settle(progress.finished, progress.failed)


def _react(watch: RepeatedFailure, queue: list[RunTask], progress: SweepProgress) -> None:
    """Start no more runs if none can work; before that, try those that differ from the failed."""
    by_name = {run.name: run for run in progress.runs}
    running = [by_name[name] for name in progress.running]
    if not watch.is_suspected or any(progress.steps_taken(run) for run in running):
        return
    if watch.is_hopeless and queue:
        queue.clear()
        progress.is_hopeless = True
    queue.sort(key=lambda task: -watch.num_untried(by_name[task.name]))


def _pending_tasks(
    progress: SweepProgress,
    runs: Sequence[PlannedRun],
    known: dict[str, RunOutcome],
    template: RunTask,
) -> list[RunTask]:
    """The runs to start; the others are entered as finished or failed."""
    tasks = []
    for run in runs:
        if run.name in progress.steps_at_start:  # two trials may choose the same setting
            continue
        experiments = run.experiments(progress.root)
        with suppress(ValueError):  # of a damaged checkpoint, which the run itself will refuse
            if all(is_finished(folder, e) for folder, e in experiments.items()):
                progress.finished.add(run.name)
                continue
        before = known.get(run.name)
        if before is not None and before.is_final and run.folders(progress.root)[0].is_dir():
            progress.failed[run.name] = before
            continue
        progress.steps_at_start[run.name] = progress.steps_taken(run)
        absolute = {folder.absolute(): e for folder, e in experiments.items()}
        models = [stage.model for stage in experiments.values()]
        uses_network = not all(isinstance(m, Model) and is_exact(m) for m in models)
        stages = stage_texts(absolute)
        tasks.append(replace(template, name=run.name, stages=stages, uses_network=uses_network))
    return tasks
