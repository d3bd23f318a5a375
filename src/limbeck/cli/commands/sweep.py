"""run every combination of option values, each in its own process"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli.sweep_command_line import SweepOptions
    from limbeck.evaluation.run_judge import RunJudge
    from limbeck.sweeps.engines.base import Engine
    from limbeck.sweeps.expansion import Sweep
    from limbeck.sweeps.planned_runs import PlannedRun


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck sweep``: start or continue a sweep, and write its table and page."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.cli.sweep_command_line import read_command
    from limbeck.cli.sweep_judge import check_score, load_judge
    from limbeck.sweeps.optuna_study import check_search
    from limbeck.sweeps.page import matrix_axes
    from limbeck.sweeps.planned_runs import plan_runs, with_found_names
    from limbeck.sweeps.sweep_checks import check_sweep
    from limbeck.sweeps.sweep_file import default_sweep_folder

    command = read_command(argv)
    sweep, options, file = command.sweep, command.options, command.file
    engine = make_engine(options)
    if sweep.search is not None:
        check_search(sweep)
        check_score(sweep.search, command.judges)
    try:
        runs = plan_runs(sweep, "" if file is not None else "--")
    except ValueError as error:
        raise ValueError(f"{file}: {error}" if file is not None else str(error)) from error
    matrix_axes(sweep.varied, options.rows, options.columns)
    root = options.out or default_sweep_folder(sweep, file)
    if sweep.search is None and (repeated := sweep.count - len(runs)):
        text = f"limbeck: {repeated} of {sweep.count} runs are identical with others and run once"
        print(text, file=sys.stderr)
    if options.dry_run:
        check_sweep(runs, root, engine.device_here)
        if sweep.search is not None:  # the planned runs are of random settings
            seeds = f" x {len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else ""
            text = f"limbeck: up to {sweep.draws} settings{seeds}, which Optuna chooses one after "
            print(f"{text}another; nothing was written", file=sys.stderr)
            return
        for run in with_found_names(runs, root):
            stages = f" ({', '.join(run.stages)})" if len(run.stages) > 1 else ""
            print(f"{root / run.name}{stages}")
        count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
        print(f"limbeck: {count}; nothing was written", file=sys.stderr)
        return
    runs = check_sweep(runs, root, engine.device_here)
    judge = load_judge(options, command.judges, sweep.search, runs)
    words = shlex.join(["limbeck", "sweep", *argv])
    with resume_hint(words):
        code = _run(sweep, runs, root, options, engine, words, judge)
    if code:
        raise SystemExit(code)


def _run(
    sweep: Sweep,
    runs: Sequence[PlannedRun],
    root: Path,
    options: SweepOptions,
    engine: Engine,
    command: str,
    judge: RunJudge | None,
) -> int:
    """Run a sweep, write its table and page, and say what failed; return the exit code."""
    from rich.console import Console

    from limbeck.cli.main import USER_ERROR
    from limbeck.cli.run_folder import INCOMPLETE
    from limbeck.runs.recording_options import RecordingOptions
    from limbeck.sweeps.execution import RunOutcome
    from limbeck.sweeps.live_report import SweepReport
    from limbeck.sweeps.live_table import LiveTable, sweep_closing_lines
    from limbeck.sweeps.progress import SweepProgress
    from limbeck.sweeps.ranking import best_line
    from limbeck.sweeps.sweep_folder import run_sweep

    # the settings of a search are chosen later; those that were checked are random ones
    progress = SweepProgress(root, [] if sweep.search is not None else list(runs))
    report = SweepReport(progress, options.rows, options.columns, sweep)
    try:
        with LiveTable(Console(stderr=True)) as table:

            def show(progress: SweepProgress, outcome: RunOutcome | None) -> None:
                table.update(progress, outcome)
                report.update()

            recording = RecordingOptions(
                options.image_every, options.checkpoint_every, films=options.films
            )
            run_sweep(sweep, progress, engine, recording, command, show, judge)
    finally:
        progress.running.clear()
        if progress.runs:
            csv, page = report.write()
    if not progress.runs:
        raise ValueError(
            f"none of {sweep.draws} settings of the search is accepted: give other values of "
            f"{', '.join(sweep.random)}"
        )
    for line in sweep_closing_lines(progress):
        print(line, file=sys.stderr)
    if best := best_line(report.read(), sweep):
        print(best, file=sys.stderr)
    print(csv)
    print(page, flush=True)
    if not progress.failed:
        return 0
    is_input = all(outcome.is_input for outcome in progress.failed.values())
    return USER_ERROR if is_input and not progress.finished else INCOMPLETE


def make_engine(options: SweepOptions) -> Engine:
    """What executes the runs.

    Raises:
        ModuleNotFoundError: if its package is not installed.
        ValueError: if an option does not go with it.
    """
    from limbeck.sweeps.engines.process_pool import ProcessPool
    from limbeck.sweeps.engines.ray_cluster import RayCluster
    from limbeck.sweeps.engines.slurm_cluster import SlurmCluster

    _refuse_unused(options)
    cores, gpus = options.cpus_per_run, options.gpus_per_run
    if options.slurm:
        limits = (options.partition, options.minutes_per_run)
        return SlurmCluster(options.retries, options.device, cores, gpus, *limits)
    common = (options.workers, options.retries, options.device)
    return RayCluster(options.ray, *common, cores, gpus) if options.ray else ProcessPool(*common)


def _refuse_unused(options: SweepOptions) -> None:
    """Refuse options of engines that another one would ignore."""
    if options.slurm and options.ray:
        raise ValueError("--slurm and --ray exclude each other: give one of them")
    if options.slurm and options.workers:
        raise ValueError("--workers: Slurm decides how many runs there are at a time; leave it out")
    for name in ("partition", "minutes_per_run", "gpus_per_run", "cpus_per_run"):
        if getattr(options, name) == getattr(type(options), name) or options.slurm:
            continue
        flag = name.replace("_", "-")
        if name in ("partition", "minutes_per_run"):
            raise ValueError(f"--{flag} is for Slurm: add --slurm, or leave it out")
        if not options.ray:
            problem = f"--{flag} is for clusters: add --ray ADDRESS or --slurm, or leave it out"
            raise ValueError(problem)
