"""A run folder taken up again to look at: its particles as the last checkpoint has them, and the cameras its steps drew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.config import yaml as config
from limbeck.graphics.cameras.camera import Camera
from limbeck.system.checkpoint import read_note
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation
from limbeck.priors.loading import load
from limbeck.runs.images import final_names
from limbeck.diffusion.prior import Prior
from limbeck.representations.base import Representation
from limbeck.training.trainer import draw_particles, generator
from limbeck.graphics.cameras.views import NoCamera


@dataclass(frozen=True)
class ReopenedRun:
    """What a folder holds after ``step`` steps; the critic and the optimiser are left where they are."""

    experiment: Experiment
    prior: Prior
    representation: Representation
    step: int


def experiment_in(folder: Path) -> Experiment:
    """The experiment of a run folder; ValueError where it is none."""
    if not (folder / "run.yaml").is_file():
        raise ValueError(_missing(folder))
    return config.read_yaml(Experiment, folder / "run.yaml")


def _missing(folder: Path) -> str:
    """Why a path is no run folder, and what may have been meant."""
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is a file: name the run folder that it lies in"
    runs = sorted(path.parent for path in folder.glob("*/run.yaml"))
    return f"{folder} is no run folder: it has no run.yaml" + (f"; it holds runs, such as {runs[0]}" if runs else "")


def stages(folder: Path) -> list[Path]:
    """The folders of a recipe's stages begun so far, in order; of any other run, itself alone."""
    begun = [path.parent for path in folder.glob("*/run.yaml") if path.parent.name.partition("-")[0].isdigit()]
    if (folder / "run.yaml").is_file() or not begun:
        return [folder]
    return sorted(begun, key=lambda stage: int(stage.name.partition("-")[0]))


def last_stage(folder: Path) -> Path:
    """Of the folder of a recipe with several stages, that of the last one begun; of any other, itself."""
    return stages(folder)[-1]


def refuse_flat(folder: Path, experiment: Experiment) -> None:
    """ValueError where the particles are pictures."""
    if isinstance(experiment.camera_sampler, NoCamera):
        what = component_name(type(experiment.representation))
        raise ValueError(f"{folder}: {what} are flat, without a surface or splats; what there is to see of them is in final/")


def reopen_run(folder: Path, device: str = "auto") -> ReopenedRun:
    """The particles of a run folder. ValueError where there is no checkpoint yet, or one that does not fit."""
    experiment, path = experiment_in(folder), folder / "checkpoint.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} holds no checkpoint yet: let its run go on for a while")
    prior = load(experiment.model, device, experiment.precision, experiment.parts)
    representation, _ = load_representation(folder, prior)
    return ReopenedRun(experiment, prior, representation.eval(), read_note(path)["step"])


def names(experiment: Experiment) -> list[str]:
    """PROMPT-PARTICLE of every particle, what its files are called."""
    return final_names(experiment.total, experiment.particles)


def step_cameras(experiment: Experiment, step: int) -> tuple[Int[Tensor, "b"], Camera | None]:
    """The particles and the cameras that a step, counted from 0, drew: they follow from its seed."""
    rng = generator(experiment.seed, step)
    view = draw_particles(experiment, rng)
    return view, experiment.camera_sampler.sample(len(view), rng)
