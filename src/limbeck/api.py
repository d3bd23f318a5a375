"""One call for a notebook: distil prompts and hold what came out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.methods.base import EditMethod
from limbeck.methods.dds import DDS
from limbeck.runs.editing import Pictures, edit_to_folder, experiments, places, suited
from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.recorder import record
from limbeck.system.checkpoint import read_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


@dataclass(frozen=True)
class DistillResult:
    """A finished run and its folder."""

    experiment: Experiment
    prior: Prior
    folder: Path

    @cached_property
    def run(self) -> Run:
        """The run after its last step: particles, critic, optimiser."""
        run = Run(self.experiment, self.prior)
        tensors, note = read_checkpoint(self.folder / "checkpoint.safetensors")
        run.load(tensors, note["step"])
        return run

    @property
    def images(self) -> Float[Tensor, "n 3 h w"]:
        """Every particle as an image in [0, 1], prompt by prompt; four sides of each that has sides."""
        with torch.no_grad():
            return (
                self.run.representation.images(self.prior, self.run.eval_request(4)).float().cpu()
            )

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The figures of every step."""
        return read_metrics(self.folder / "metrics.jsonl")

    def report(self) -> Path:
        """The page of the run."""
        return self.folder / "report.html"

    def save(self, folder: str | Path) -> Path:
        """Copy the run folder; FileExistsError where ``folder`` is there already."""
        return Path(shutil.copytree(self.folder, folder))


def distill(
    prompts: str | Sequence[str],
    prior: Prior,
    folder: str | Path | None = None,
    model: str = "made in Python",
    **choices: Any,
) -> DistillResult:
    """Distil prompts under ``prior``; ``choices`` are fields of ``Experiment``, such as method, particles and steps.

    folder: of the run, a temporary one if left out. model: its name in the record. Raises as ``Experiment`` and ``record`` do.
    """
    texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    experiment = Experiment(texts, model=model, **choices)
    place = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="limbeck-"))
    record(experiment, prior, place)
    return DistillResult(experiment, prior, place)


@dataclass(frozen=True)
class EditResult:
    """Finished edits and their folder; ``runs`` has one run per size that the pictures have in the model."""

    folder: Path
    page: Path
    runs: tuple[DistillResult, ...]

    @property
    def images(self) -> list[Float[Tensor, "3 h w"]]:
        """The edited pictures in [0, 1], run by run, in the order they were given in."""
        return [image for run in self.runs for image in run.images]

    def report(self) -> Path:
        """The page with before, after and difference."""
        return self.page


def edit(
    pictures: str | Path | Sequence[str | Path], target: str | Sequence[str], source: str | Sequence[str], prior: Prior,
    method: EditMethod | None = None, mask: str | Path | Sequence[str | Path] = (), folder: str | Path | None = None,
    model: str = "made in Python", **choices: Any,
) -> EditResult:  # fmt: skip
    """Edit picture files from what ``source`` says to what ``target`` says, each one for all or one for each.

    method: DDS if left out. mask: files, white where something may change. choices: fields of ``limbeck.runs.editing.How`` in the place
    of those that suit the method, such as steps and rate. folder: a temporary one if left out. Raises ValueError for pictures,
    masks or texts that cannot be used.
    """
    one = method or DDS()
    how = replace(suited(type(one)), method=one, model=model, **choices)
    what = Pictures(*(_several(part) for part in (pictures, target, source, mask)))  # type: ignore[arg-type]
    what = replace(what, pictures=tuple(map(Path, what.pictures)), mask=tuple(map(Path, what.mask)))
    place = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="limbeck-"))
    page = edit_to_folder(what, how, prior, place)
    runs = places(place, experiments(what, how, prior))
    return EditResult(
        place, page, tuple(DistillResult(experiment, prior, at) for at, experiment in runs.items())
    )


def _several(value: Any) -> tuple[Any, ...]:
    """One or several of something as a tuple."""
    return (value,) if isinstance(value, str | Path) else tuple(value)
