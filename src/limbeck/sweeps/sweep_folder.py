"""Run a sweep into a folder: what is finished is skipped, what was killed is completed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from limbeck.config import yaml as config
from limbeck.config.comparison import absolute_paths
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.priors.hub import resolve_model
from limbeck.priors.loading import (
    EMBEDDED_MODELS,
    is_exact,
    load,
    notify_unknown_words,
    pick_device,
)
from limbeck.runs.folder_state import foreign_files, is_finished, refuse_other_experiment
from limbeck.runs.metrics_log import last_recorded_step
from limbeck.runs.own_files import changed_own_files
from limbeck.runs.recording_options import DEFAULT_RECORDING, RecordingOptions
from limbeck.sweeps.engines.base import Engine
from limbeck.sweeps.execution import RunOutcome, RunTask, stage_texts
from limbeck.sweeps.expansion import SEED, Range, Sweep
from limbeck.sweeps.guidance_notice import notify_different_guidance
from limbeck.sweeps.optuna_study import OptunaStudy
from limbeck.sweeps.planned_runs import PlannedRun, with_found_names
from limbeck.sweeps.repeated_failure import RepeatedFailure
from limbeck.system.files import one_line, read_json_object, slug, write_text
from limbeck.system.folder_lock import LOCK_FILE, folder_lock, refuse_folder_in_use
from limbeck.training.resources import check_weights_fit
from limbeck.training.run_prompts import prompts_by_view

SWEEP_FILE = "sweep.yaml"
_FAILED_RUNS = "failed-runs.json"


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


def check_sweep(runs: Sequence[PlannedRun], root: Path, device: str | None) -> list[PlannedRun]:
    """Refuse what cannot be run, before anything is written.

    Args:
        runs: the planned runs.
        root: folder of the sweep.
        device: as for ``limbeck.load``; None if other machines make the runs, whose devices and
            memory are not known here.

    Returns:
        The runs with the names of the folders that they have.

    Raises:
        ValueError: if the folder holds files of something else or is in use, if a run folder holds
            another run or one of other code, or if a model cannot take the prompts or does not fit
            into memory.
    """
    refuse_folder_in_use(root)
    if not _is_sweep(root) and (names := foreign_files(root)):
        raise ValueError(
            f"{root} holds files already ({names[0]}), and nothing is overwritten; choose another "
            "folder with --out"
        )
    return check_runs(runs, root, device)


def check_runs(runs: Sequence[PlannedRun], root: Path, device: str | None) -> list[PlannedRun]:
    """Refuse what cannot be run, as ``check_sweep``, in a folder that holds other files as well.

    Args:
        runs: the planned runs.
        root: folder of their run folders.
        device: as for ``check_sweep``.

    Raises:
        ValueError: as ``check_sweep``, except for other files.
    """
    runs = with_found_names(runs, root)
    for run in runs:
        for folder, experiment in run.experiments(root).items():
            refuse_folder_in_use(folder)
            _refuse_other_run(folder, experiment)
    _refuse_changed_files(runs, root)
    _check_models(runs, device)
    for stage in dict.fromkeys(name for run in runs for name in run.stages):
        notify_different_guidance(run.stages[stage].method for run in runs if stage in run.stages)
    return runs


def _refuse_changed_files(runs: Sequence[PlannedRun], root: Path) -> None:
    """Refuse runs that were started before a file of the user's own has changed."""
    changed: dict[str, str] = {}
    for run in runs:
        for folder, experiment in run.experiments(root).items():
            if files := changed_own_files(folder, experiment):
                changed[folder.relative_to(root).parts[0]] = files[0]
    if changed:
        names = list(changed)
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"{changed[names[0]]} has changed since {len(names)} of these runs: one table must not "
            f"mix two versions; choose another folder with --out, or delete from {root} "
            f"{', '.join(names[:3])}{others}"
        )


def _is_sweep(folder: Path) -> bool:
    """Whether a folder is one of a sweep: beside a file of the user's own there is no lock."""
    return (folder / SWEEP_FILE).is_file() and (folder / LOCK_FILE).is_file()


def _refuse_other_run(folder: Path, experiment: Any) -> None:
    """Refuse a folder of another run; a hash of eight digits may occur twice."""
    path = folder / "run.yaml"
    if path.is_file():  # YAML of hundreds of runs that have not started would take seconds
        text = config.to_yaml(absolute_paths(experiment))
        if path.read_text(encoding="utf-8") == text:
            return
    refuse_other_experiment(folder, experiment)


def _check_models(runs: Sequence[PlannedRun], device: str | None) -> None:
    """Refuse models that do not exist or fit, and prompts that one does not know, once for each.

    Files that are to be downloaded are, so that the runs do not download them all at once.
    """
    if device is not None:
        pick_device(device)
    checked, priors = set[str](), dict[str, Prior]()
    for e in [stage for run in runs for stage in run.stages.values()]:
        key = repr((e.model, e.all_prompts, e.representation, e.precision, e.cameras, e.total))
        if key in checked:
            continue
        checked.add(key)
        notify_unknown_words(e.model, e.all_prompts)
        if device is not None:
            check_weights_fit(e, device)
        if not isinstance(e.model, Model):
            continue
        model = repr((e.model, e.runtime))
        if is_exact(e.model):
            if model not in priors:
                priors[model] = load(e.model, device or "cpu", e.precision, e.runtime)
            priors[model].condition(prompts_by_view(e, priors[model]))
        elif model not in checked and str(e.model) not in EMBEDDED_MODELS:
            resolve_model(str(e.model))
            checked.add(model)


def run_sweep(
    sweep: Sweep,
    progress: SweepProgress,
    engine: Engine,
    recording: RecordingOptions = DEFAULT_RECORDING,
    command: str = "",
    on_change: Callable[[SweepProgress, RunOutcome | None], None] = lambda progress, outcome: None,
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
    """
    root = progress.root
    with folder_lock(root):
        write_text(root / SWEEP_FILE, sweep_to_yaml(sweep))
        study = None
        if sweep.search is not None:
            study = OptunaStudy(sweep, root)
            _refuse_changed_files(study.earlier_runs(), root)
        execute_runs(progress, engine, recording, command, on_change, study)


def execute_runs(
    progress: SweepProgress,
    engine: Engine,
    recording: RecordingOptions = DEFAULT_RECORDING,
    command: str = "",
    on_change: Callable[[SweepProgress, RunOutcome | None], None] = lambda progress, outcome: None,
    study: OptunaStudy | None = None,
) -> None:
    """Execute the runs that are not finished, in a folder that the caller holds.

    Args:
        progress: their folder and the runs, as ``check_runs`` returns them; kept up to date.
        engine: what executes them.
        recording: as for ``run_sweep``.
        command: command line, for the record.
        on_change: as for ``run_sweep``.
        study: chooses further runs; None without a search.
    """
    root = progress.root
    known = read_failed_runs(root)
    template = RunTask("", (), engine.device, 0, recording, command)
    queue: list[RunTask] = []

    def add(runs: Sequence[PlannedRun]) -> None:
        known_names = {run.name for run in progress.runs}
        progress.runs += [run for run in runs if run.name not in known_names]
        queue.extend(_pending_tasks(progress, runs, known, template))

    add(progress.runs)
    if study is not None:
        add(study.known_runs())
        _ask(study, progress, engine, add)
    watch = RepeatedFailure([run for run in progress.runs if run.name not in progress.finished])

    def poll() -> None:
        progress.running, progress.num_waiting = engine.running(), engine.num_waiting()
        on_change(progress, None)

    with closing(engine.run(queue, root / "logs", poll)) as ended:
        for outcome in ended:
            progress.running.discard(outcome.name)
            if outcome.kind == "finished":
                progress.finished.add(outcome.name)
            else:
                progress.failed[outcome.name] = outcome
            _write_failed_runs(root, progress.failed, known)
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


def read_failed_runs(root: Path) -> dict[str, RunOutcome]:
    """Runs of a sweep that failed in the last session, by name."""
    path = root / _FAILED_RUNS
    if not path.exists():
        return {}
    try:
        return {name: RunOutcome(name, **value) for name, value in read_json_object(path).items()}
    except TypeError as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}): delete it") from error


def _write_failed_runs(
    root: Path, failed: dict[str, RunOutcome], known: dict[str, RunOutcome]
) -> None:
    """Replace the list of failed runs; final ones of other sweeps in the folder stay."""
    kept = {name: outcome for name, outcome in known.items() if outcome.is_final}
    plain = {}
    for name, outcome in (kept | failed).items():
        plain[name] = {key: value for key, value in asdict(outcome).items() if key != "name"}
    if not plain:
        (root / _FAILED_RUNS).unlink(missing_ok=True)
    else:
        text = json.dumps(plain, indent=1, ensure_ascii=False)
        write_text(root / _FAILED_RUNS, text + "\n")


def sweep_to_yaml(sweep: Sweep) -> str:
    """A sweep as a file that ``limbeck sweep`` reads."""
    plain: dict[str, Any] = dict(sweep.fixed)
    for name in ("grid", "zip", "random"):
        axes = {
            key: [_plain_value(v) for v in values] for key, values in getattr(sweep, name).items()
        }
        if axes and name == "random":
            number = "trials" if sweep.search is not None else "draws"
            axes |= {number: sweep.draws, "draw_seed": sweep.draw_seed}  # type: ignore[dict-item]
            if sweep.search is not None:
                name = "optuna"
                axes |= {sweep.search.word: sweep.search.score}  # type: ignore[dict-item]
        if axes:
            plain[name] = axes
    if sweep.seeds:
        plain["seeds"] = list(sweep.seeds)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _plain_value(value: Any) -> Any:
    return str(value) if isinstance(value, Range) else value


def default_sweep_folder(sweep: Sweep, file: Path | None) -> Path:
    """``runs/sweep-NAME``: after the file, or after the first prompt and the varied options.

    Values and seeds are not part of it, so that a sweep grows in its folder. The file that a sweep
    wrote stands for its folder.
    """
    if file is not None and file.name == SWEEP_FILE and _is_sweep(file.parent):
        return file.parent
    if file is not None:
        return Path("runs") / f"sweep-{slug(file.stem)}"
    prompts = sweep.fixed.get("prompts") or ["prompts"]
    first = prompts if isinstance(prompts, str) else str(prompts[0])
    names = [key.replace("_", "-").replace(".", "-") for key in sweep.varied if key != SEED]
    return Path("runs") / "-".join(["sweep", slug(first), *names])[:120]
