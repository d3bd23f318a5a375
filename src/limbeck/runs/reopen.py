"""Reopen a run folder: its particles at the last checkpoint and the cameras of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from limbeck.config import yaml as config
from limbeck.config.discovery import component_name
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.priors.loading import load
from limbeck.representations.base import Representation
from limbeck.runs.images import particle_stems
from limbeck.system.checkpoint import read_metadata
from limbeck.system.files import read_json_object
from limbeck.training.experiment import Experiment
from limbeck.training.row_draws import draw_rows
from limbeck.training.warm_start import load_representation

BEST_STAGE = "best-stage.json"  #: beside the stages of a preset: the one with the best result


@dataclass(frozen=True)
class ReopenedRun:
    """A run at its last checkpoint, without critic and optimizer.

    Attributes:
        experiment: the run's experiment.
        prior: its model.
        representation: its particles, in eval mode.
        step: number of steps taken.
    """

    experiment: Experiment
    prior: Prior
    representation: Representation
    step: int


def read_experiment(folder: Path) -> Experiment:
    """Read the experiment of a run folder.

    Raises:
        ValueError: if the path is not a run folder.
    """
    if not (folder / "run.yaml").is_file():
        raise ValueError(_not_a_run_message(folder))
    return config.read_yaml(Experiment, folder / "run.yaml")


def _not_a_run_message(folder: Path) -> str:
    """Why a path is not a run folder, with a suggestion."""
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is a file: give the run folder that contains it"
    message = f"{folder} is not a run folder: it has no run.yaml"
    runs = sorted(path.parent for path in folder.glob("*/run.yaml"))
    return f"{message}; it contains run folders, such as {runs[0]}" if runs else message


def stage_folders(folder: Path) -> list[Path]:
    """Run folders of the stages of a preset that have started, in order.

    A folder without stages is returned as the only item.
    """
    stages = [
        path.parent
        for path in folder.glob("*/run.yaml")
        if path.parent.name.partition("-")[0].isdigit()
    ]
    if (folder / "run.yaml").is_file() or not stages:
        return [folder]
    return sorted(stages, key=lambda stage: int(stage.name.partition("-")[0]))


def last_stage(folder: Path) -> Path:
    """Run folder of the last stage that has started; ``folder`` if it has no stages."""
    return stage_folders(folder)[-1]


def best_stage(folder: Path) -> Path:
    """Run folder of the stage whose result is the best; ``folder`` if it has no stages.

    While a stage still runs, and where the stages were not compared, it is the last one.
    """
    path, stages = folder / BEST_STAGE, stage_folders(folder)
    name = read_json_object(path).get("best") if path.is_file() else None
    return next((stage for stage in stages if stage.name == name), stages[-1])


def require_3d(folder: Path, experiment: Experiment) -> None:
    """Check that the particles of a run are 3D.

    Raises:
        ValueError: if they are images.
    """
    if isinstance(experiment.camera_sampler, NoCamera):
        name = component_name(type(experiment.representation))
        raise ValueError(
            f"{folder}: {name} are 2D, without a surface or splats; the images are in final/"
        )


def reopen_run(folder: Path, device: str = "auto") -> ReopenedRun:
    """Load the particles of a run folder.

    Args:
        folder: run folder.
        device: as for ``limbeck.load``.

    Raises:
        ValueError: if there is no checkpoint, or it does not fit.
    """
    experiment, path = read_experiment(folder), folder / "checkpoint.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} has no checkpoint yet: continue its run for a while")
    prior = load(experiment.model, device, experiment.precision)
    representation, _ = load_representation(folder, prior)
    return ReopenedRun(experiment, prior, representation.eval(), read_metadata(path)["step"])


def particle_names(experiment: Experiment) -> list[str]:
    """Name every particle ``PROMPT-PARTICLE``, two numbers, as in its file names."""
    return particle_stems(experiment.total, experiment.particles)


def step_cameras(experiment: Experiment, step: int) -> tuple[Int[Tensor, "b"], Camera | None]:
    """Draw the particles and cameras of a step again from the seed of the run.

    Without its model, which alone tells whether groups of views are given the image of the run:
    such groups were rendered around the camera of the image, see ``training.known_view``.

    Args:
        experiment: the run's experiment.
        step: index of the step, from 0.

    Returns:
        Particle index of each row, and the cameras (None for 2D particles).
    """
    rng = draw_rows(experiment, step)
    return rng.particle, experiment.camera_sampler.sample(len(rng), rng)
