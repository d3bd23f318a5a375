"""A run that leaves a folder behind: figures, pictures, checkpoints, cost and report; and that goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from limbeck import config, pictures, sheets
from limbeck.checkpoint import read_checkpoint, read_note, write_checkpoint
from limbeck.diagnosis import Diagnosis, Doomed
from limbeck.environment import environment, peak_bytes
from limbeck.experiment import Experiment
from limbeck.figures import Figures, read_figures
from limbeck.interrupt import CtrlC
from limbeck.metrics import score_pictures
from limbeck.mirror import Mirror
from limbeck.prior import Prior, guided
from limbeck.run import NonFinite, Run, Step

CHECKPOINT_SECONDS = 30.0
FLUSH_SECONDS = 1.0


def record(
    experiment: Experiment,
    prior: Prior,
    folder: Path,
    every: int = 0,
    command: str = "",
    console: Console | None = None,
    mirror: Mirror | None = None,
    diagnose: bool = True,
) -> Path:
    """Run ``experiment`` in ``folder`` and return its report; the same run goes on where it stopped, a finished one is left alone.

    every: steps between pictures, 0 for about ten a run. command: what was typed, for the record. mirror: where figures and
    pictures go besides. diagnose: whether a run of what has sides that shows nothing any more is stopped. Ctrl-C is heard between
    steps and leaves a checkpoint; a run killed outright goes on from the last one, about ``CHECKPOINT_SECONDS`` old, and ends
    bit-identical.

    Raises ValueError if the folder holds another run or a damaged checkpoint, OSError if the disk is full, ``NonFinite`` after
    saving the step's inputs as failure.safetensors, and ``Doomed`` after saving a checkpoint.
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
    recorder.open(command, mirror)
    try:
        recorder.drive()
        return recorder.finish()
    finally:
        recorder.close()


def refuse_other(folder: Path, experiment: Experiment) -> None:
    """ValueError if ``folder`` holds a run of another experiment, naming the first option that differs."""
    path = folder / "run.yaml"
    if path.exists():
        apart = config.differences(config.load_file(path), experiment)
        if apart:
            more = f" (and {len(apart) - 1} more)" if len(apart) > 1 else ""
            raise ValueError(f"{folder} holds another run: {apart[0]}{more}; name another folder or delete that one")
    elif (folder / "sample.yaml").exists():
        raise ValueError(f"{folder} holds samples, not a run: name another folder")


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one move."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


class Recorder:
    """One sitting of a run: from its start or its checkpoint to its end."""

    def __init__(self, experiment: Experiment, prior: Prior, folder: Path, every: int, console: Console, diagnose: bool = True):
        self.experiment, self.prior, self.folder, self.console = experiment, prior, folder, console
        self.every = every or max(1, round(experiment.steps / 10))
        self.run, self.diagnose, self.diagnosis = Run(experiment, prior), diagnose, Diagnosis(experiment.steps)
        self.rows_before, self.elapsed_before = 0, 0.0
        self.rows_at_start, self.began = prior.meter.rows, time.perf_counter()
        self.saved_at = self.flushed_at = self.began
        options = {f.name for f in dataclasses.fields(experiment.method)}
        self.guidance = experiment.method.guidance if "guidance" in options else 1.0  # type: ignore[attr-defined]

    @property
    def rows(self) -> int:
        """Network evaluations of the run, over all sittings, pictures for the record not counted."""
        return self.rows_before + self.prior.meter.rows - self.rows_at_start

    @property
    def elapsed(self) -> float:
        return self.elapsed_before + time.perf_counter() - self.began

    def open(self, command: str, mirror: Mirror | None = None) -> None:
        """Make or take up the folder, and the mirror if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "images").mkdir(exist_ok=True)
        (self.folder / "checkpoint.safetensors.part").unlink(missing_ok=True)
        if (self.folder / "checkpoint.safetensors").exists():
            self._resume()
        self.sink = mirror.open(self.folder, config.options(self.experiment), self.run.step) if mirror is not None else None
        self.figures = Figures(self.folder / "metrics.jsonl", self.run.step, self.sink, self.diagnosis.see)
        write_text(self.folder / "run.yaml", config.dump(self.experiment))
        with (self.folder / "command.txt").open("a") as file:
            file.write((command or "(from Python)") + "\n")
        if not (self.folder / "environment.json").exists():
            write_text(self.folder / "environment.json", json.dumps(environment(self.prior.device), indent=1) + "\n")
        if self.run.step == 0:
            if self.run.representation.start:
                self.console.print(f"{self.folder}: {self.run.representation.start}", highlight=False)
            self._picture_of_all(0)

    def close(self) -> None:
        """Let go of the mirror."""
        if self.sink is not None:
            self.sink.close()

    def _keep(self, sheet: Image.Image, step: int, kind: str = "") -> None:
        """A picture of a step into images/ and the mirror; ``kind`` is empty for the representation itself."""
        pictures.save_picture(sheet, self.folder / "images" / f"step-{step:05d}{'-' * bool(kind)}{kind}.png")
        if self.sink is not None:
            self.sink.picture(kind or "picture", sheet, step)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        tensors, note = read_checkpoint(path)
        try:
            self.run.load(tensors, note["step"])
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{path} was written by another version and does not fit: delete it to start the run over") from error
        self.rows_before, self.elapsed_before = note["rows"], note["elapsed"]
        self.run.cost.seconds.update(note["seconds"])
        self.console.print(f"{self.folder}: going on after step {note['step']} of {self.experiment.steps}", highlight=False)

    def drive(self) -> None:
        """Step after step to the end."""
        progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), "left",
            TimeRemainingColumn(), TextColumn("{task.fields[says]}"), console=self.console,
        )  # fmt: skip
        with progress, CtrlC() as interrupt:
            task = progress.add_task("", total=self.experiment.steps, completed=self.run.step, says="", rate="")
            while self.run.step < self.experiment.steps:
                self._step(progress, task)
                if interrupt.heard:
                    self.save()
                    raise KeyboardInterrupt
        self.save()

    def _step(self, progress: Progress, task: TaskID) -> None:
        try:
            step = self.run.advance()
        except NonFinite as error:
            self.figures.flush()
            path = self.folder / "failure.safetensors"
            write_checkpoint(path, error.inputs, {"step": error.step, "cause": error.cause})
            self.console.print(f"{error}; the inputs of the step are in {path}", highlight=False)
            raise
        self.figures.add(step, self.rows, self.elapsed)
        last = step.step == self.experiment.steps
        if step.step % self.every == 0 or last:
            with self.run.cost.of("pictures"):
                self._pictures(step)
        now = time.perf_counter()
        if now - self.flushed_at > FLUSH_SECONDS or last:
            self.flushed_at = now
            self._show(progress, task)
            if self.diagnosis.found is not None and self.diagnose and not last:
                self._doomed(self.diagnosis.found)
        if now - self.saved_at > CHECKPOINT_SECONDS:
            self.save()

    def _doomed(self, error: Doomed) -> None:
        """Keep the run as it is, to be looked at, and raise."""
        self.save()
        self.console.print(f"{error}; {self.folder} holds the run until here, --no-diagnose goes on with it", highlight=False)
        raise error

    def _show(self, progress: Progress, task: TaskID) -> None:
        line = self.figures.flush()
        speed = progress.tasks[0].speed
        rate = f"{speed:.1f} steps/s" if speed and speed >= 1 else f"{1 / speed:.1f} s/step" if speed else ""
        says = f"t {line['t']:.2f}  gradient {line['gradient']:.3g}  evaluations {line['evaluations']:,}"
        progress.update(task, completed=line["step"], says=says, rate=rate)

    def save(self) -> None:
        """Figures first: the checkpoint must never be ahead of them."""
        self.figures.flush()
        note = {"step": self.run.step, "rows": self.rows, "elapsed": self.elapsed, "seconds": self.run.cost.seconds}
        with self.run.cost.of("checkpoint"):
            write_checkpoint(self.folder / "checkpoint.safetensors", self.run.tensors(), note)
        self.saved_at = time.perf_counter()

    def _decoded(self, x0: Tensor) -> Tensor:
        return torch.cat([self.prior.decode(part).float().cpu() for part in x0.split(8)])

    def _picture_of_all(self, step: int) -> bool:
        """False where the model has no pictures, as a mixture in the plane."""
        if len(self.prior.shape) != 3:
            return False
        for kind, images in sheets.looks(self.run).items():
            self._keep(sheets.sheet(self.run, images), step, kind)
        return True

    @torch.no_grad()
    def _pictures(self, step: Step) -> None:
        if not self._picture_of_all(step.step):
            return
        self.figures.flush()
        sample, meter, e = step.sample, self.prior.meter, self.experiment
        calls, rows = meter.calls, meter.rows
        shown = {"x0": guided(self.prior, sample.xt, sample.t, sample.told, self.guidance).x0}
        critic = e.method.critic_prior(self.prior, self.run.state)
        if critic is not None:
            shown["critic"] = critic(sample.xt, sample.t, sample.seen(sample.told.pos))[0].x0
        meter.calls, meter.rows = calls, rows  # looking is not part of the run's cost
        view = sample.view.tolist()
        for name, x0 in shown.items():
            self._keep(pictures.grid(*sheets.placed(self.run, self._decoded(x0), view)), step.step, name)
        maps = step.gradient.float().flatten(1, -3).norm(dim=1)
        top = self._scale(maps)
        self._keep(pictures.heat_sheet(*sheets.placed(self.run, pictures.heat(maps, top), view), top), step.step, "gradient")
        if not self.console.is_terminal:
            self.console.print(f"step {step.step} of {e.steps}, {self.elapsed:.0f} s", highlight=False)

    def _scale(self, maps: Float[Tensor, "b h w"]) -> float:
        """Top of the colour scale, one for the whole run: fixed by the first map, brought to the gradients usual until then.

        The step of the first map may have drawn an unusual t; the median of the norms so far has not.
        """
        path = self.folder / "images" / "gradient-scale.json"
        if path.exists():
            return json.loads(path.read_text())["top"]
        lines = read_figures(self.folder / "metrics.jsonl")
        norms = torch.tensor([line["gradient"] or 0.0 for line in lines], dtype=torch.float64)
        few = maps.double().cpu().flatten()[:: max(1, maps.numel() // 1_000_000)]  # quantile refuses more than 16 million
        high = few.quantile(0.99) / norms[-1].clamp_min(1e-30) * norms.median()
        top = float(f"{high.item():.2g}") or 1.0
        write_text(path, json.dumps({"top": top, "colours": "viridis"}) + "\n")
        return top

    def finish(self) -> Path:
        """What is made once the last step is done; done again in full if it was interrupted."""
        from limbeck import report  # plotting is slow to import and wanted only here

        e, folder = self.experiment, self.folder
        if len(self.prior.shape) == 3:
            images = sheets.looks(self.run)[""]
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
        seconds = {part: round(value, 3) for part, value in self.run.cost.seconds.items()}
        cost = {"seconds": seconds, "elapsed": round(self.elapsed, 3), "evaluations": self.rows, **peak_bytes(self.prior.device)}
        write_text(folder / "cost.json", json.dumps(cost, indent=1) + "\n")
        return report.write([folder])
