"""What a finished run or edit says at its end: scores, where the images are, what to type next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.config.command_line import without_options
from limbeck.config.discovery import name_of
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.metrics.intervals import wilson_interval
from limbeck.representations.generator import Generator
from limbeck.runs.report.tables import SCORES
from limbeck.system.files import read_json_object
from limbeck.training.experiment import Experiment

VERDICTS = ("object", "color", "pattern", "background")


def closing_lines(folder: Path, experiment: Experiment) -> list[str]:
    """Lines to print after a run.

    Args:
        folder: its folder.
        experiment: what was run.
    """
    lines = [f"finished: {experiment.steps} steps in {folder}"]
    lines += _indented(_recorded_verdicts(folder, experiment))
    if (folder / "final").is_dir():
        lines.append(f"  images: {folder / 'final'}")
    return [*lines, "next:", *_indented(next_commands(folder, experiment))]


def edit_closing_lines(
    folder: Path, runs: Mapping[Path, Experiment], argv: Sequence[str]
) -> list[str]:
    """Lines to print after edits.

    Args:
        folder: the folder of all edits.
        runs: the edits of each image size, by run folder.
        argv: the words of the command line after ``limbeck edit``.
    """
    first = next(iter(runs.values()))
    count = sum(e.total for e in runs.values())
    images = "edited image" if count == 1 else "edited images"
    lines = [f"finished: {count} {images} in {folder}"]
    for run_folder, experiment in runs.items():
        lines += _indented(_recorded_verdicts(run_folder, experiment))
        lines.append(
            f"  images: {run_folder / 'edit'}/*-after.png, beside before, difference and gradient"
        )
    again = shlex.join(["limbeck", "edit", *without_options(argv, "--out", "--seed")])
    commands = [
        f"{again} --seed {first.seed + 1}  # another result",
        f"limbeck report {shlex.quote(str(next(iter(runs))))} OTHER  # compare with another edit",
    ]
    return [*lines, "next:", *_indented(commands)]


def sample_closing_lines(folder: Path, sampling: Sampling) -> list[str]:
    """Lines to print after samples.

    Args:
        folder: their folder.
        sampling: how they were drawn.
    """
    count = len(sampling.prompts) * sampling.num_images
    lines = [f"finished: {count} {'sample' if count == 1 else 'samples'} in {folder}"]
    if sampling.views == 1:  # the views of one object are no independent images
        scores = read_json_object(folder / "scores.json")
        lines += _indented(verdict_lines(scores, sampling.num_images, is_3d=False))
    name = shlex.quote(str(folder))
    commands = [
        f"limbeck report RUN {name}  # compare a run with them",
        f"limbeck eval {name}  # scores with intervals",
    ]
    return [*lines, f"  images: {folder / 'final'}", "next:", *_indented(commands)]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _recorded_verdicts(folder: Path, experiment: Experiment) -> list[str]:
    path = folder / "scores.json"
    scores = read_json_object(path) if path.exists() else {}
    is_3d = not isinstance(experiment.camera_sampler, NoCamera)
    return verdict_lines(scores, experiment.particles, is_3d)


def verdict_lines(scores: dict[str, Any], particles: int, is_3d: bool) -> list[str]:
    """The evaluator's verdicts in words, a line per prompt that it can judge.

    The interval is for other seeds of this one prompt. The views of a 3D particle are not
    independent, so their shares come without one.

    Args:
        scores: content of scores.json.
        particles: particles per prompt.
        is_3d: whether there are several views of each particle.
    """
    lines = []
    for row in scores.get("prompts", []):
        shares = [name for name in VERDICTS if name in row]
        if not shares:
            continue
        count, unit = (particles, "image") if not is_3d else (4 * particles, "view")
        parts = []
        for name in shares:
            part = f"{SCORES[name].label} {round(row[name] * count)} of {count}"
            if not is_3d and count > 1:
                low, high = wilson_interval(row[name], count)
                part += f" (95 %: {100 * low:.0f} to {100 * high:.0f})"
            parts.append(part)
        text = json.dumps(row["prompt"], ensure_ascii=False)
        lines.append(f"{text}, right {unit}s by the evaluator: {', '.join(parts)}")
        if rejected := round(row.get("rejected", 0) * count):
            them = f"{rejected} of {count} {unit}s" if count > 1 else f"this {unit}"
            lines.append(f"rejected: in {them} the evaluator sees none of its objects")
    return lines


def _model_name(model: Model | Prior | str) -> str:
    """What --model takes; of a prior of the user's own its file and class."""
    return str(model) if isinstance(model, str | Model) else name_of(type(model))


def next_commands(folder: Path, experiment: Experiment) -> list[str]:
    """Commands that a user may type after a run, each with what it does."""
    name = shlex.quote(str(folder))
    if isinstance(experiment.camera_sampler, NoCamera):
        commands = {f"limbeck report {name} OTHER": "compare with another run"}
        prompt, model = shlex.quote(experiment.prompts[0]), _model_name(experiment.model)
        own = experiment.model
        has_images = isinstance(own, str | Model) or len(own.shape) == 3
        flag = "" if model == "world" else f" --model {shlex.quote(model)}"
        if has_images and isinstance(experiment.representation, Generator):
            commands[f"limbeck sample {prompt}{flag} --generator {name}"] = "more, in one pass each"
        is_exact = (folder / "critic" / "particles.safetensors").exists()  # nothing to sample
        if has_images and (folder / "critic").is_dir() and not is_exact:
            commands[f"limbeck sample {prompt}{flag} --critic {name}"] = "sample from its critic"
    else:
        commands = {
            f"limbeck view {name}": "look at it from all sides",
            f"limbeck export {name}": "a file for Blender",
            f"limbeck eval {name}": "scores from 32 cameras",
        }
    yaml = shlex.quote(str(folder / "run.yaml"))
    commands[f"limbeck run --config {yaml} --seed {experiment.seed + 1}"] = "another seed"
    return [f"{command}  # {about}" for command, about in commands.items()]
