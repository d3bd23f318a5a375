"""Loggers: send metrics and images of a run to TensorBoard or Weights & Biases as well.

The run folder is always complete without them.
"""

from __future__ import annotations

import abc
import importlib.util
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from limbeck.system.files import one_line, write_text
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
    """Base class of loggers.

    Attributes:
        package: Python package that it needs; empty for none.
    """

    package: ClassVar[str] = ""

    def check_package(self) -> None:
        """Refuse a logger whose package is missing, before a run is started.

        Raises:
            ModuleNotFoundError: if the package is not installed.
        """
        if self.package and importlib.util.find_spec(self.package) is None:
            raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)

    @abc.abstractmethod
    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> LogWriter:
        """Open the log of a run.

        Args:
            folder: run folder.
            settings: options of the experiment by name.
            step: number of steps already logged; later ones are overwritten.
        """


def open_log(
    logger: Logger, folder: Path, settings: Mapping[str, Any], step: int
) -> GuardedLogWriter:
    """Open the log of a run, as ``Logger.open`` does.

    Args:
        logger: its kind.
        folder: run folder.
        settings: options of the experiment by name.
        step: number of steps already logged.

    Raises:
        ModuleNotFoundError: if a package is not installed.
        ValueError: if the log cannot be opened for another reason, such as a missing account.
    """
    try:
        return GuardedLogWriter(logger.open(folder, settings, step))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"--logger cannot start ({one_line(error, 300)}); the same command without it makes "
            "the same run"
        ) from error


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Event files in tensorboard/ of the run folder; view them with tensorboard --logdir runs."""

    name = "tensorboard"
    package = "tensorboard"

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> LogWriter:
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
    package = "wandb"

    project: str = "limbeck"
    entity: str | None = None

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> LogWriter:
        import wandb

        run = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(folder),
            name=folder.resolve().name,
            id=_run_id(folder / "wandb" / "run-id.txt"),
            config=dict(settings),
            resume="allow",
        )
        return _WandBWriter(run, wandb.Image)


def _run_id(path: Path) -> str:
    """Id of a run on the server, which is the same when it resumes.

    A new folder is a new run, also if another one had its name: the server drops steps that it has.
    """
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text(encoding="utf-8").strip()


class _WandBWriter:
    def __init__(self, run: Any, image_type: Any):
        self.run, self.image_type = run, image_type

    def log_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            self.run.log(scalars(line), step=line["step"])

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        # in a section of its own: an image would replace the metric of the same name
        self.run.log({f"images/{name}": self.image_type(image)}, step=step)

    def close(self) -> None:
        self.run.finish()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Scalar metrics of a line of metrics.jsonl, without the step and non-finite values."""
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, int | float) and name != "step"
    }
