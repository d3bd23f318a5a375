"""A run that leaves a folder behind: figures, pictures, checkpoints, cost and report; and that goes on where it was stopped."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from limbeck.system.finite import NonFiniteError
from limbeck.config import yaml as config
from limbeck.runs import images as pictures
from limbeck.runs import contact_sheets as sheets
from limbeck.runs.snapshots_2d import ImageSnapshots
from limbeck.system.checkpoint import keep, read_checkpoint, read_note, write_checkpoint, write_text
from limbeck.system.async_copy import AsyncCopies
from limbeck.training.collapse import CollapseDetector, DegenerateRunError
from limbeck.system.environment import environment, peak_bytes
from limbeck.training.experiment import Experiment
from limbeck.runs.metrics_log import MetricsLog
from limbeck.system.interrupt import CtrlC
from limbeck.metrics.run_scores import score_pictures
from limbeck.runs.loggers import Logger, OpenLogger
from limbeck.training.resources import planned
from limbeck.diffusion.prior import Prior
from limbeck.training.trainer import Run, Step
from limbeck.runs.snapshots_3d import save_snapshot
from limbeck.system.timing import synchronized_time
from limbeck.system.finite import check_finite
from limbeck.system.background_writer import BackgroundWriter

CHECKPOINT_SECONDS = 30.0
FLUSH_SECONDS = 1.0


def record(
    experiment: Experiment,
    prior: Prior,
    folder: Path,
    every: int = 0,
    command: str = "",
    console: Console | None = None,
    mirror: Logger | None = None,
    diagnose: bool = True,
) -> Path:
    """Run ``experiment`` in ``folder`` and return its report; the same run goes on where it stopped, a finished one is left alone.

    every: steps between pictures, 0 for about ten a run. command: what was typed, for the record. mirror: where figures and
    pictures go besides. diagnose: whether a run of what has sides that shows nothing any more is stopped. Ctrl-C is heard between
    steps and leaves a checkpoint; a run killed outright goes on from the last one, about ``CHECKPOINT_SECONDS`` old, and ends
    bit-identical.

    Raises ValueError if the folder holds another run or a damaged checkpoint or where memory cannot suffice, OSError if the disk is
    full, ``NonFiniteError`` after saving the step's inputs as failure.safetensors, and ``Doomed`` after saving a checkpoint.
    """
    console = console or Console(stderr=True)
    folder = Path(folder)
    refuse_other(folder, experiment)
    saved, report = folder / "checkpoint.safetensors", folder / "report.html"
    told = read_note(saved) if saved.exists() else {}
    if told.get("step") == experiment.steps and report.exists():
        console.print(f"{folder} holds this run, finished after {experiment.steps} steps: nothing to do", highlight=False)
        return report
    recorder = Recorder(experiment, prior, folder, every, console, diagnose)
    try:
        recorder.plan.refuse()
        recorder.open(command, mirror)
        recorder.drive()
        return recorder.finish()
    finally:
        recorder.close()


def refuse_other(folder: Path, experiment: Experiment) -> None:
    """ValueError if ``folder`` holds a run of another experiment, naming the first option that differs."""
    path = folder / "run.yaml"
    if path.exists():
        apart = config.differences(config.read_yaml(Experiment, path), experiment)
        if apart:
            more = f" (and {len(apart) - 1} more)" if len(apart) > 1 else ""
            raise ValueError(f"{folder} holds another run: {apart[0]}{more}; name another folder or delete that one")
    elif (folder / "sample.yaml").exists():
        raise ValueError(f"{folder} holds samples, not a run: name another folder")


class Recorder:
    """One sitting of a run: from its start or its checkpoint to its end."""

    def __init__(self, experiment: Experiment, prior: Prior, folder: Path, every: int, console: Console, diagnose: bool = True):
        self.experiment, self.prior, self.folder, self.console = experiment, prior, folder, console
        self.every = every or max(1, round(experiment.steps / 10))
        self.run, self.diagnose, self.diagnosis = Run(experiment, prior), diagnose, CollapseDetector(experiment.steps)
        self.rows_before, self.elapsed_before = 0, 0.0
        self.rows_at_start, self.began = prior.meter.rows, time.perf_counter()
        self.saved_at = self.flushed_at = self.began
        self.plan = planned(self.run)
        self.writer = BackgroundWriter()
        self.sink: OpenLogger | None = None
        self.saving = threading.Event()  #: set while no checkpoint is under way
        self.saving.set()

    @property
    def rows(self) -> int:
        """Network evaluations of the run, over all sittings, pictures for the record not counted."""
        return self.rows_before + self.prior.meter.rows - self.rows_at_start

    @property
    def elapsed(self) -> float:
        return self.elapsed_before + time.perf_counter() - self.began

    def open(self, command: str, mirror: Logger | None = None) -> None:
        """Make or take up the folder, and the mirror if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "images").mkdir(exist_ok=True)
        (self.folder / "checkpoint.safetensors.part").unlink(missing_ok=True)
        if (self.folder / "checkpoint.safetensors").exists():
            self._resume()
        self.first = self.run.step
        if mirror is not None:
            self.sink = mirror.open(self.folder, config.options(self.experiment), self.run.step)
        path, asked = self.folder / "metrics.jsonl", self.run.monitor.ask
        self.figures = MetricsLog(path, self.run.step, self.writer, self.sink, asked, self.diagnosis.see)
        self.album = ImageSnapshots(self.run, self.folder, self.writer, self.sink)
        write_text(self.folder / "run.yaml", config.to_yaml(self.experiment))
        with (self.folder / "command.txt").open("a") as file:
            file.write((command or "(from Python)") + "\n")
        if not (self.folder / "environment.json").exists():
            write_text(self.folder / "environment.json", json.dumps(environment(self.prior.device), indent=1) + "\n")
        if self.run.step == 0:
            if self.run.representation.init_message:
                self.console.print(f"{self.folder}: {self.run.representation.init_message}", highlight=False)
            self.album.of_all(0)
            save_snapshot(self.folder, self.experiment, self.run.representation, 0, self.writer.put)
        if self.plan.step is not None:
            self.console.print(str(self.plan), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Write what waits and let go of the mirror."""
        self.writer.close()
        if self.sink is not None:
            self.sink.close()

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        tensors, note = read_checkpoint(path)
        try:
            self.run.load(tensors, note["step"])
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{path} was written by another version and does not fit: delete it to start the run over") from error
        self.rows_before, self.elapsed_before = note["rows"], note["elapsed"]
        self.run.profile.take_up(note)
        self.console.print(f"{self.folder}: going on after step {note['step']} of {self.experiment.steps}", highlight=False)

    def drive(self) -> None:
        """Step after step to the end."""
        progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), "left",
            TimeRemainingColumn(), TextColumn("{task.fields[says]}"), console=self.console,
        )  # fmt: skip
        with progress, CtrlC() as interrupt:
            task = progress.add_task("", total=self.experiment.steps, completed=self.run.step, says="", rate="")
            try:
                while self.run.step < self.experiment.steps:
                    self._step(progress, task)
                    if interrupt.heard:
                        self.save()
                        self.writer.drain()
                        raise KeyboardInterrupt
                self.save()
                self.writer.drain()
                self._show(progress, task)
            except NonFiniteError as error:
                self._failed(error)
                raise

    def _failed(self, error: NonFiniteError) -> None:
        with suppress(NonFiniteError):  # the writer may have met it too
            self.figures.flush()
            self.writer.drain()
        path = self.folder / "failure.safetensors"
        write_checkpoint(path, error.inputs, {"step": error.step, "cause": error.cause})
        self.console.print(f"{error}; the inputs of the step are in {path}", highlight=False)

    def _step(self, progress: Progress, task: TaskID) -> None:
        cost, step = self.run.profile, self._advance()
        with cost.of("figures"):
            self.figures.add(step, self.rows, self.elapsed)
        if step.step % self.every == 0 or step.step == self.experiment.steps:
            self._pictures(step)
            with cost.of("pictures"):
                save_snapshot(self.folder, self.experiment, self.run.representation, step.step, self.writer.put)
        clock = time.perf_counter()
        if clock - self.flushed_at > FLUSH_SECONDS:
            self.flushed_at = clock
            with cost.of("figures"):
                self.figures.flush()
            self._show(progress, task)
            if self.diagnosis.found is not None and self.diagnose and step.step < self.experiment.steps:
                self._doomed(self.diagnosis.found)
        if clock - self.saved_at > CHECKPOINT_SECONDS:
            self.save()

    def _doomed(self, error: DegenerateRunError) -> None:
        """Keep the run as it is, to be looked at, and raise."""
        self.save()
        self.writer.drain()
        self.console.print(f"{error}; {self.folder} holds the run until here, --no-diagnose goes on with it", highlight=False)
        raise error

    def _advance(self) -> Step:
        """A step; the second of a run is counted, and the third of a sitting is timed for the plan."""
        run, done = self.run, self.run.step - self.first
        if run.step == 1:  # never another: where graphs are used it is eager, and a run gone on with must be the same
            with run.profile.counting():
                return run.advance()
        if done != 2:
            return run.advance()
        began, meter = synchronized_time(self.prior.device), self.prior.meter
        if meter.compiled_graphs:
            self.console.print(f"warm-up: {meter.compiled_graphs} graphs made in {meter.compile_seconds:.1f} s", highlight=False)
        step = run.advance()
        told = self.plan.timed(synchronized_time(self.prior.device) - began, run.profile)
        self.console.print(str(told), highlight=False, soft_wrap=True)
        return step

    def _pictures(self, step: Step) -> None:
        cost, e = self.run.profile, self.experiment
        with cost.counting() if "pictures" not in cost.bytes else nullcontext(), cost.of("pictures"):
            self.figures.flush()
            seen = self.album.of_step(step)
        if seen and not self.console.is_terminal:
            self.console.print(f"step {step.step} of {e.steps}, {self.elapsed:.0f} s", highlight=False)

    def _show(self, progress: Progress, task: TaskID) -> None:
        """How far the run is, with the newest figures that are written."""
        line, speed = self.figures.last, progress.tasks[0].speed
        rate = f"{speed:.1f} steps/s" if speed and speed >= 1 else f"{1 / speed:.1f} s/step" if speed else ""
        whole = line and None not in (line["t"], line["gradient"])  # else the run is about to stop
        told = f"t {line['t']:.2f}  gradient {line['gradient']:.3g}  evaluations {line['evaluations']:,}" if whole else ""
        progress.update(task, completed=self.run.step, says=told, rate=rate)

    def save(self) -> None:
        """Have the writer keep the run as it is now: figures first, as the checkpoint must never be ahead of them.

        A checkpoint waits for the one before, so that only one copy is in memory. Raises ``NonFiniteError`` in the place of keeping a
        value that is not finite; where asking means waiting for the device, the writer does.
        """
        self.figures.flush()
        run, path = self.run, self.folder / "checkpoint.safetensors"
        with run.profile.of("checkpoint"):
            tensors = run.tensors()
            if not run.monitor.lazy:
                check_finite(tensors, run.step)
            self.writer.wait(self.saving)
            note = {"step": run.step, "rows": self.rows, "elapsed": self.elapsed, **run.profile.note()}
            self.saving = self.writer.put(partial(keep, path, AsyncCopies(tensors), note, run.monitor))
        self.saved_at = time.perf_counter()

    def finish(self) -> Path:
        """What is made once the last step is done; done again in full if it was interrupted."""
        from limbeck.runs.report import pages as report  # plotting is slow to import and wanted only here

        e, folder = self.experiment, self.folder
        if len(self.prior.shape) == 3:
            images = self.album.all()
            each, sides = len(images) // len(e.prompts), sheets.sides(self.run)
            pictures.save_finals(folder, images, each, sides)
            sheets.turn(self.run, folder / "turntable", lambda line: self.console.print(line, highlight=False))
            self.run.representation.save(folder / "final", pictures.final_names(e.total, e.particles))
            scores = score_pictures(images, e.prompts, each, max(len(sides), 1))
            write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
            frames = [p for p in sorted((folder / "images").glob("step-*.png")) if p.stem.count("-") == 1]
            pictures.film(frames, folder / "progress.webp")
        e.method.save_critic(self.prior, self.run.state, folder / "critic")
        if e.method.bibtex:
            write_text(folder / "references.bib", e.method.bibtex + "\n")
        write_text(folder / "cost.json", json.dumps(self.spent(), indent=1) + "\n")
        return report.write([folder])

    def spent(self) -> dict[str, Any]:
        """Seconds of all steps by part, operations of all by those of one, and the most bytes a part held beyond what stays."""
        cost, e = self.run.profile, self.experiment
        times = {"pictures": e.steps // self.every + (e.steps % self.every > 0)}
        flops = {part: one * times.get(part, e.steps) for part, one in cost.flops.items()}
        peak = peak_bytes(self.prior.device)
        if "peak_device_bytes" in peak:
            peak["peak_device_bytes"] = max(peak["peak_device_bytes"], cost.peak)
        return {
            "seconds": {part: round(value, 3) for part, value in cost.seconds.items()},
            "elapsed": round(self.elapsed, 3),
            "evaluations": self.rows,
            "flops": flops,
            "bytes": cost.bytes,
            "beside": {"seconds": round(self.writer.seconds, 3), "waited": round(self.writer.waited, 3)},
            **peak,
        }
