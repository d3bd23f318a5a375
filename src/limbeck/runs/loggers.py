"""Where figures and pictures of a run go besides its folder, which alone is complete: TensorBoard, Weights & Biases."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image


class OpenLogger(Protocol):
    """A mirror of one run that is open."""

    def figures(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Lines as in metrics.jsonl."""

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture as in images/."""

    def close(self) -> None:
        """All is said."""


@dataclass(frozen=True)
class Logger(abc.ABC):
    """What a run is mirrored to."""

    @abc.abstractmethod
    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> OpenLogger:
        """A sink for the run in ``folder``, after ``step`` steps of it; ModuleNotFoundError where the package is missing."""


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Event files in tensorboard/ of the run folder: tensorboard --logdir runs."""

    name = "tensorboard"

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> OpenLogger:
        import tensorboard  # noqa: F401  (torch's own message about its absence is long)
        from torch.utils.tensorboard import SummaryWriter

        return _Events(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))


class _Events:
    def __init__(self, writer: Any):
        self.writer = writer

    def figures(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            for name, value in numbers(line).items():
                self.writer.add_scalar(name, value, line["step"])

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True)
class WandB(Logger):
    """A run of Weights & Biases, on line or, with WANDB_MODE=offline, in wandb/ of the run folder.

    project: its name there. entity: account or team, your own if left out.
    """

    name = "wandb"

    project: str = "limbeck"
    entity: str | None = None

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> OpenLogger:
        import wandb

        name = folder.resolve().name
        run = wandb.init(
            project=self.project, entity=self.entity, dir=str(folder), name=name, id=name, config=dict(settings), resume="allow"
        )
        return _Online(run, wandb.Image)


class _Online:
    def __init__(self, run: Any, image: Any):
        self.run, self.image = run, image

    def figures(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            self.run.log(numbers(line), step=line["step"])

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        self.run.log({name: self.image(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a line; what is not finite is absent from both."""
    return {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
