"""Run an experiment into a run folder: metrics, images, checkpoints, profile and report.

docs/run-folder.md lists the files. A run that was stopped continues from its last checkpoint.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from limbeck.config import yaml as config
from limbeck.config.comparison import absolute_paths
from limbeck.diffusion.prior import Prior
from limbeck.graphics.export.png import NonFiniteImageError
from limbeck.runs.box_contacts import BoxContacts
from limbeck.runs.environment_file import record_environment
from limbeck.runs.error_file import ERROR_FILE, write_error
from limbeck.runs.failure_file import non_finite_step, write_failure
from limbeck.runs.final_products import FinalProducts
from limbeck.runs.folder_state import finished_message, is_finished, refuse_other_experiment
from limbeck.runs.images import SCATTER_FILE
from limbeck.runs.loggers import GuardedLogWriter, Logger, open_log
from limbeck.runs.measured_steps import MeasuredSteps
from limbeck.runs.metrics_log import MetricsLog
from limbeck.runs.notices_file import write_notices
from limbeck.runs.other_processes import take_part
from limbeck.runs.profile_file import profile_content
from limbeck.runs.recording_options import DEFAULT_RECORDING, RecordingOptions
from limbeck.runs.report.live import LiveReport
from limbeck.runs.results import save_scatter, write_results
from limbeck.runs.run_checkpoint import RunCheckpoint
from limbeck.runs.run_costs import RunCosts
from limbeck.runs.run_progress import RunProgress, time_left
from limbeck.runs.snapshots_2d import ImageSnapshots
from limbeck.runs.snapshots_3d import save_snapshot
from limbeck.runs.stage import ONLY_STAGE, StagePosition
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.files import write_text
from limbeck.system.finite import NonFiniteError
from limbeck.system.folder_lock import folder_lock
from limbeck.system.interrupt import DeferredInterrupt, Stopped
from limbeck.system.launch import launched_index
from limbeck.system.notices import collect_notices, notify
from limbeck.system.processes import join_processes
from limbeck.training.collapse import CollapseDetector, DegenerateRunError
from limbeck.training.experiment import Experiment
from limbeck.training.own_results import IdleMethod
from limbeck.training.resources import plan_resources
from limbeck.training.step import Step
from limbeck.training.trainer import Run

CHECKPOINT_SECONDS = 30.0  #: between checkpoints unless ``RecordingOptions`` sets their steps
#: what an earlier session leaves: files that it was writing when it was killed, and its error
_LEFTOVERS = ("checkpoint.safetensors*.part", "images/*.part", "assets/*.part", ERROR_FILE)
FLUSH_SECONDS = 1.0  #: time between writes of metrics and updates of the progress bar


def record(
    experiment: Experiment,
    prior: Prior,
    folder: Path,
    options: RecordingOptions = DEFAULT_RECORDING,
    command: str = "",
    console: Console | None = None,
    logger: Logger | None = None,
    stage: StagePosition = ONLY_STAGE,
) -> Path:
    """Run an experiment into a folder, or continue it there; a finished run is not touched.

    Ctrl-C, SIGTERM and SIGHUP take effect between steps and leave a checkpoint. A killed run
    continues from its last checkpoint. Either way, the result is bit-identical to that of an
    uninterrupted run.

    Args:
        experiment: what to run.
        prior: its model.
        folder: run folder.
        options: what is written, and how often.
        command: command line, for the record.
        console: for messages and the progress bar; stderr if None.
        logger: also gets metrics and images.
        stage: which stage of a preset it is, for the progress bar.

    Returns:
        The report, ``folder/report.html``.

    Raises:
        ValueError: if the folder holds another run, foreign files or a damaged checkpoint, if
            another process writes it, if the run does not fit into memory, or if the logger cannot
            start.
        ModuleNotFoundError: if the package of the logger is not installed.
        OSError: if the disk is full.
        NonFiniteError: if a value is not finite; the inputs of the step are saved as
            failure.safetensors.
        DegenerateRunError: if a 3D run has collapsed; a checkpoint is saved.
    """
    console = console or Console(stderr=True)
    folder = Path(folder)
    experiment = absolute_paths(experiment)  # its run.yaml is read from other folders too
    refuse_other_experiment(folder, experiment)
    report = folder / "report.html"
    if logger is not None:
        logger.check_package()
    join_processes(prior.device)
    if is_finished(folder, experiment):
        console.print(finished_message(folder, experiment), highlight=False)
        return report
    if launched_index() > 0:
        take_part(experiment, prior, folder)
        return report
    recorder = Recorder(experiment, prior, folder, console, options, stage)
    return recorder.record(command, logger)


class Recorder:
    """One session of a run, from its start or last checkpoint to its end.

    Args:
        experiment: what to run.
        prior: its model.
        folder: run folder.
        console: for messages and the progress bar.
        options: what is written, and how often.
        stage: which stage of a preset it is.
    """

    def __init__(
        self,
        experiment: Experiment,
        prior: Prior,
        folder: Path,
        console: Console,
        options: RecordingOptions = DEFAULT_RECORDING,
        stage: StagePosition = ONLY_STAGE,
    ):
        self.experiment, self.prior, self.folder, self.console = experiment, prior, folder, console
        self.options = options
        self.image_every = options.image_every or max(1, round(experiment.steps / 10))
        with collect_notices() as self.notices:
            is_new = not (folder / "checkpoint.safetensors").exists()
            self.run = Run(experiment, prior, pretrain=is_new)
        self.collapse = CollapseDetector(experiment.steps)
        self.idle = IdleMethod(experiment.method, experiment.steps)
        self.costs = RunCosts(prior.call_counter)
        self.saved_at = self.flushed_at = time.perf_counter()
        self.plan = plan_resources(self.run)
        self.writer, self.stage = BackgroundWriter(), stage
        self.live_report = LiveReport(folder, self.writer)
        self.log_writer: GuardedLogWriter | None = None
        self.box_contacts = BoxContacts(self.run.representation.box_bound, self._print)
        path = folder / "checkpoint.safetensors"
        self.checkpoint = RunCheckpoint(path, self.run, self.costs, self.writer)

    def _print(self, message: str, soft_wrap: bool = False) -> None:
        self.console.print(message, highlight=False, soft_wrap=soft_wrap)

    def record(self, command: str, logger: Logger | None = None) -> Path:
        """The whole session, if the run fits into memory and no other process writes the folder.

        Args:
            command: command line, for the record.
            logger: also gets metrics and images.

        Returns:
            The report.
        """
        try:
            self.plan.check_fits()
            with folder_lock(self.folder):
                # again: the folder was free until now
                refuse_other_experiment(self.folder, self.experiment)
                self.begin(command, logger)
                try:
                    self.run_loop()
                    return self.finish()
                except Exception as error:
                    with suppress(Exception):  # of the writer, which may have failed first
                        self.writer.drain()
                    with suppress(OSError):  # the disk may be full
                        write_error(self.folder, error)
                    self.live_report.stop()
                    raise
        finally:
            self.close()

    def begin(self, command: str, logger: Logger | None = None) -> None:
        """Create the folder, or continue the run in it, and open the logger.

        Args:
            command: command line, for the record.
            logger: also gets metrics and images.
        """
        # first: a folder with a run.yaml can be resumed, whatever else it lacks
        write_text(self.folder / "run.yaml", config.to_yaml(self.experiment))
        (self.folder / "images").mkdir(exist_ok=True)
        for pattern in _LEFTOVERS:
            for leftover in self.folder.glob(pattern):
                leftover.unlink(missing_ok=True)
        stage, report = str(self.stage), self.folder / "report.html"
        where = f"{stage}: {self.folder}" if stage else str(self.folder)
        self._print(f"{where}: open {report} while it runs", soft_wrap=True)
        run = self.run
        if self.checkpoint.path.exists():
            self.checkpoint.load()
            step, steps = run.step, self.experiment.steps
            self._print(f"{self.folder}: continuing after step {step} of {steps}")
        elif (self.folder / "metrics.jsonl").exists():
            text = "the session before left no checkpoint, so the run starts over"
            self._print(f"{self.folder}: {text}", soft_wrap=True)
        self.steps = MeasuredSteps(run, self.plan, partial(self._print, soft_wrap=True))
        if run.step < self.experiment.steps:  # there if the run is longer than it was to be
            (self.folder / "profile.json").unlink(missing_ok=True)
        if logger is not None:
            options = config.options(self.experiment)
            self.log_writer = open_log(logger, self.folder, options, run.step)
        self.metrics_log = MetricsLog(
            self.folder / "metrics.jsonl",
            run.step,
            self.writer,
            self.log_writer,
            check=run.monitor.raise_if_bad,
            listener=self.collapse.update,
        )
        self.images = ImageSnapshots(
            run, self.folder, self.writer, self.log_writer, partial(self._print, soft_wrap=True)
        )
        with (self.folder / "command.txt").open("a", encoding="utf-8") as file:
            file.write((command or "(from Python)") + "\n")
        device = self.prior.device
        changes = record_environment(self.folder, self.experiment, device, run.step)
        self.notices += changes
        write_notices(self.notices, self.folder)
        if run.step == 0:
            if run.representation.init_message:
                self._print(f"{self.folder}: {run.representation.init_message}")
            self.images.save_particles(0)
            self._save_assets(0)
        self.live_report.update()
        if self.plan.step is not None:
            self._print(str(self.plan), soft_wrap=True)

    def close(self) -> None:
        """Write what is queued and close the logger."""
        self.writer.close()
        if self.log_writer is not None:
            self.log_writer.close()

    def _save_assets(self, step: int) -> None:
        if not self.options.films and step < self.experiment.steps:
            return
        representation, submit = self.run.representation, self.writer.submit
        assets = save_snapshot(self.folder, self.experiment, representation, step, submit)
        if step >= self.experiment.steps / 2:
            self.box_contacts.check(assets)

    def run_loop(self) -> None:
        """Take all remaining steps."""
        steps = self.experiment.steps
        progress = RunProgress(self.console, self.stage, steps, self.run.step)
        with progress, DeferredInterrupt() as interrupt:
            try:
                while self.run.step < steps:
                    self._step(progress)
                    if interrupt.requested:
                        self.save()
                        self.writer.drain()
                        self.live_report.stop()
                        raise Stopped(interrupt.requested)
                self.save()
                self.writer.drain()
                progress.update(self.run.step, self.metrics_log.last)
            except NonFiniteError as error:
                self._save_failure(error)
                raise
            except ValueError as error:
                # a bad image: the next step says whether the particles are not finite either
                is_image = isinstance(error.__cause__, NonFiniteImageError)
                if is_image and (cause := non_finite_step(self.run)) is not None:
                    self._save_failure(cause)
                    raise cause from error
                raise

    def _save_failure(self, error: NonFiniteError) -> None:
        with suppress(NonFiniteError, ValueError):  # the writer may have failed over it too
            self.metrics_log.flush()
            self.writer.drain()
        self._print(write_failure(self.folder, error), soft_wrap=True)

    def _step(self, progress: RunProgress) -> None:
        profile, calls = self.run.profile, self.prior.call_counter.calls
        step = self.steps.advance()
        if message := self.idle.update(self.prior.call_counter.calls - calls):
            notify(message)
            self.notices.append(message)
            write_notices(self.notices, self.folder)
        with profile.part("metrics"):
            self.metrics_log.add(step, self.costs.rows, self.costs.elapsed)
        if step.step % self.image_every == 0 or step.step == self.experiment.steps:
            self._save_images(step)
            with profile.part("images"):
                self._save_assets(step.step)
            if step.step < self.experiment.steps:
                self.live_report.update()
        clock = time.perf_counter()
        if clock - self.flushed_at > FLUSH_SECONDS:
            self.flushed_at = clock
            with profile.part("metrics"):
                self.metrics_log.flush()
            progress.update(step.step, self.metrics_log.last)
            if self.options.stop_on_collapse and step.step < self.experiment.steps:
                self._check_collapse()
        if self._checkpoint_due(step.step, clock):
            self.save()

    def _checkpoint_due(self, step: int, clock: float) -> bool:
        if self.options.checkpoint_every:
            return step % self.options.checkpoint_every == 0
        return clock - self.saved_at > CHECKPOINT_SECONDS

    def _check_collapse(self) -> None:
        """If the run has collapsed, save a checkpoint to inspect and raise."""
        error: DegenerateRunError | None = self.collapse.error
        if error is None:
            return
        self.save()
        self.writer.drain()
        message = f"{self.folder} holds the run so far, --no-stop-on-collapse continues it"
        self._print(message, soft_wrap=True)
        raise error

    def _save_images(self, step: Step) -> None:
        profile = self.run.profile
        counting = profile.count_ops() if "images" not in profile.bytes else nullcontext()
        with counting, profile.part("images"):
            self.metrics_log.flush()
            saved = self.images.save_step(step)
        if saved and not self.console.is_terminal:
            remaining = self.experiment.steps - step.step
            elapsed = self.costs.elapsed
            left = time_left(self.stage, remaining, step.step / max(elapsed, 1e-9))
            stage = f"{self.stage}, " if str(self.stage) else ""
            self._print(
                f"{stage}step {step.step} of {self.experiment.steps}, {elapsed:.0f} s{left}"
            )

    def save(self) -> None:
        """Queue a checkpoint of the current state.

        Metrics are queued first and synced, as a checkpoint must never be ahead of them. Waits
        for the previous checkpoint, so that at most one copy is in memory.

        Raises:
            NonFiniteError: if a value is not finite. Where that check would wait for the device,
                the writer makes it in the background instead.
        """
        self.metrics_log.flush()
        self.checkpoint.save(self.metrics_log.sync)
        self.saved_at = time.perf_counter()

    def finish(self) -> Path:
        """Write what belongs to a finished run; repeated in full if it was interrupted.

        A product that cannot be written does not cost the others: it is said and listed in
        failures.json, and the same command tries it again.

        Returns:
            The report.

        Raises:
            NonFiniteError: if a product holds values that are not finite; the others are written.
        """
        from limbeck.runs.report import pages  # imports matplotlib, which is slow

        method, folder, products = self.experiment.method, self.folder, FinalProducts(self.folder)
        if method.bibtex:
            text = method.bibtex + "\n"
            products.write("references.bib", lambda: write_text(folder / "references.bib", text))
        critic = partial(method.save_critic, self.prior, self.run.state, folder / "critic")
        products.write("the critic", critic)
        if len(self.prior.shape) == 3:
            with self.run.profile.part("results"):
                films = self.options.films
                write_results(self.run, folder, self.images, products, self._print, films)
        else:
            products.write(SCATTER_FILE, partial(save_scatter, self.run, folder))
        if self.log_writer is not None:
            self.log_writer.close()
            if self.log_writer.error is not None:
                kept = "metrics.jsonl has all of its numbers"
                products.fail("the log of --logger", self.log_writer.error, kept)
        products.save_failures()
        profile = profile_content(self.run, self.costs, self.image_every, self.writer)
        write_text(folder / "profile.json", json.dumps(profile, indent=1) + "\n")
        products.write("report.html", partial(pages.write_report, [folder]))
        products.save_failures()
        products.raise_if_not_finite()
        return folder / "report.html"
