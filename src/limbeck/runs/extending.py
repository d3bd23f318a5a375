"""Runs that go on with another number of steps than they were started with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.representations.base import RepresentationConfig
from limbeck.system.checkpoint import read_metadata
from limbeck.training.experiment import Experiment
from limbeck.training.extension import dependence_on_steps

_MAX_FILES = 16  #: at most so many final images are named in a command


def refuse_other_steps(folder: Path, old: Experiment, new: Experiment) -> None:
    """Check that a run can end after another number of steps.

    Args:
        folder: run folder.
        old: the run in it.
        new: the same with another number of steps.

    Raises:
        ValueError: if it has taken more, or if those it has taken depend on their number.
    """
    checkpoint = folder / "checkpoint.safetensors"
    done = read_metadata(checkpoint)["step"] if checkpoint.exists() else 0
    if new.steps < done:
        raise ValueError(
            f"{folder} has taken {done} steps, {new.steps} are fewer: use --steps {done} or more, "
            "or another folder"
        )
    reason = dependence_on_steps(old, new, done)
    if reason:
        raise ValueError(
            f"{folder} cannot go on from {old.steps} to {new.steps} steps: {reason}; "
            f"{_instead(folder, new, new.steps - done)}"
        )


def _takes_images(representation: RepresentationConfig, files: Sequence[Path]) -> bool:
    """Whether a representation with these options can start from images, as its own."""
    if representation.contents != "images":
        return False
    try:
        replace(representation, images=tuple(files))
    except ValueError:
        return False
    return True


def _instead(folder: Path, new: Experiment, steps_left: int) -> str:
    """What to do where a run cannot go on."""
    if (folder / "edit").is_dir():
        return "to start over: the same limbeck edit with another --out"
    run, other = shlex.quote(str(folder / "run.yaml")), shlex.quote(f"{folder}-{new.steps}-steps")
    command = f"limbeck run --config {run} --steps"
    anew = f"{command} {new.steps} --out {other}"
    representation, finals = new.representation, sorted((folder / "final").glob("*.png"))
    if "init_from" in [f.name for f in fields(representation)]:
        start = f"--representation.init-from {shlex.quote(str(folder))}"
    elif isinstance(new.camera_sampler, NoCamera) and _takes_images(representation, finals):
        start = f"--representation.images {shlex.join(map(str, finals))}"
    else:
        start = ""
    if not (start and finals and steps_left > 0) or len(finals) > _MAX_FILES or new.source_prompt:
        return f"to start over: {anew}"
    return f"to start from its result: {command} {steps_left} {start} --out {other}"
