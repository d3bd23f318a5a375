"""From the folder of a run to what it made, so that another run may begin with it."""

from __future__ import annotations

from pathlib import Path

from limbeck.config.yaml import read_yaml
from limbeck.diffusion.prior import Prior
from limbeck.representations.base import Representation, RepresentationConfig
from limbeck.system.checkpoint import read_checkpoint
from limbeck.training.experiment import Experiment


def load_representation(start: Path, prior: Prior) -> tuple[Representation, int]:
    """What a run made, as of its last checkpoint, and how many particles it has in all.

    start: the folder of the run, or a checkpoint in it. ValueError where there is none, or it does not fit what the run says.
    """
    folder = start if start.is_dir() else start.parent
    saved = folder / "checkpoint.safetensors" if start.is_dir() else start
    if not (folder / "run.yaml").is_file() or not saved.is_file():
        raise ValueError(
            f"{start} holds no run to begin with: give the folder of a run, with its run.yaml and its checkpoint"
        )
    experiment = read_yaml(Experiment, folder / "run.yaml")
    made = experiment.representation.uninitialized.build(prior, experiment.total, experiment.seed)
    head = "representation."
    tensors = {
        name[len(head) :]: value
        for name, value in read_checkpoint(saved)[0].items()
        if name.startswith(head)
    }
    try:
        made.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{saved} was written by another version and does not fit {folder / 'run.yaml'}"
        ) from error
    return made, experiment.total


def build_representation(
    config: RepresentationConfig, prior: Prior, particles: int, seed: int
) -> Representation:
    """Build a representation and, if ``config.init_from`` is set, initialize it from that run.

    Args:
        config: options of the representation.
        prior: the model of the run; the other run is rebuilt with it.
        particles: number of particles.
        seed: seed of the run.

    Raises:
        ValueError: if ``init_from`` holds no run, or one that does not suit this representation.
    """
    made = config.build(prior, particles, seed)
    if config.init_from is not None:
        other, count = load_representation(config.init_from, prior)
        made.initialize_from(other, count, config.init_from, seed)
    return made
