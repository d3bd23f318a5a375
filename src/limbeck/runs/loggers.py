"""Loggers: send metrics and images of a run to TensorBoard or Weights & Biases as well.

The run folder is always complete without them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from limbeck.system.files import one_line
from limbeck.system.notices import notify


class LogWriter(Protocol):
    """An open log of one run."""

    def log_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Log lines of metrics.jsonl."""

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Log an image of images/.

        Args:
            name: kind of the image, such as ``image``, ``x0`` or ``gradient``.
            image: the image.
            step: number of steps taken.
        """

    def close(self) -> None:
        """Flush and close the log."""


class GuardedLogWriter:
    """Passes everything on to a log until that fails, which is said once and does not stop the run.

    Args:
        inner: the log.

    Attributes:
        error: why the log failed; None while it works.
    """

    def __init__(self, inner: LogWriter):
        self.inner = inner
        self.error: Exception | None = None
        self._closed = False

    def _guard(self, job: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            job()
        except Exception as error:
            self.error = error
            notify(f"--logger stopped working, the run goes on without it: {one_line(error)}")

    def log_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Log lines of metrics.jsonl."""
        self._guard(lambda: self.inner.log_metrics(lines))

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Log an image, as ``LogWriter`` does."""
        self._guard(lambda: self.inner.log_image(name, image, step))

    def close(self) -> None:
        """Close the log, once."""
        if not self._closed:
            self._closed = True
            self._guard(self.inner.close)


@dataclass(frozen=True)
class Logger(abc.ABC):
    """Base class of loggers."""

    @abc.abstractmethod
    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> LogWriter:
        """Open the log of a run.

        Args:
            folder: run folder.
            settings: options of the experiment by name.
            step: number of steps already logged; later ones are overwritten.

        Raises:
            ModuleNotFoundError: if the package of the logger is not installed.
        """


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Event files in tensorboard/ of the run folder; view them with tensorboard --logdir runs."""

    name = "tensorboard"

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> LogWriter:
        import tensorboard  # noqa: F401  (torch reports its absence in many lines)
        from torch.utils.tensorboard import SummaryWriter

        return _TensorBoardWriter(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))


class _TensorBoardWriter:
    def __init__(self, writer: Any):
        self.writer = writer

    def log_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            for name, value in scalars(line).items():
                self.writer.add_scalar(name, value, line["step"])

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True)
class WandB(Logger):
    """A run of Weights & Biases; with WANDB_MODE=offline, files in wandb/ of the run folder.

    Attributes:
        project: name of the project.
        entity: account or team; None for the default of your account.
    """

    name = "wandb"

    project: str = "limbeck"
    entity: str | None = None

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> LogWriter:
        import wandb

        name = folder.resolve().name
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(folder),
            name=name,
            id=name,
            config=dict(settings),
            resume="allow",
        )
        return _WandBWriter(run, wandb.Image)


class _WandBWriter:
    def __init__(self, run: Any, image_type: Any):
        self.run, self.image_type = run, image_type

    def log_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            self.run.log(scalars(line), step=line["step"])

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        self.run.log({name: self.image_type(image)}, step=step)

    def close(self) -> None:
        self.run.finish()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Scalar metrics of a line of metrics.jsonl, without the step and non-finite values."""
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, int | float) and name != "step"
    }
