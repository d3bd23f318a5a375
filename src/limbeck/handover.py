"""From the folder of a run to what it made, so that another run may begin with it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from limbeck.checkpoint import read_checkpoint
from limbeck.config import load_file
from limbeck.prior import Prior
from limbeck.representation import Representation


@runtime_checkable
class Spatial(Protocol):
    """What is known of every point of space: how dense it is there, and of what colour."""

    def density(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]: ...

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]: ...


def representation_of(start: Path, prior: Prior) -> tuple[Representation, int]:
    """What a run made, as of its last checkpoint, and how many particles it has in all.

    start: the folder of the run, or a checkpoint in it. ValueError where there is none, or it does not fit what the run says.
    """
    folder = start if start.is_dir() else start.parent
    saved = folder / "checkpoint.safetensors" if start.is_dir() else start
    if not (folder / "run.yaml").is_file() or not saved.is_file():
        raise ValueError(f"{start} holds no run to begin with: give the folder of a run, with its run.yaml and its checkpoint")
    experiment = load_file(folder / "run.yaml")
    made = experiment.representation.blank.build(prior, experiment.total, experiment.seed)
    head = "representation."
    tensors = {name[len(head) :]: value for name, value in read_checkpoint(saved)[0].items() if name.startswith(head)}
    try:
        made.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{saved} was written by another version and does not fit {folder / 'run.yaml'}") from error
    return made, experiment.total


def matched(theirs: int, ours: int, start: Path) -> list[int]:
    """Which of the particles of the run each of ours begins with: one for all, one per prompt or one for each. ValueError where
    the numbers do not go together."""
    if ours % theirs:
        raise ValueError(f"{start} has {theirs} particles for {ours} of this run: it takes one, one per prompt, or one for each")
    return [i // (ours // theirs) for i in range(ours)]
