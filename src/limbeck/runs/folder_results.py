"""Results of the Python API: a folder, what it was made with, and its images as tensors."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.runs.images import particle_stems
from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.report.pages import notebook_html, write_report
from limbeck.runs.report.run_data import read_run_data
from limbeck.system.checkpoint import read_checkpoint
from limbeck.system.image_files import read_whole_image
from limbeck.training.experiment import Experiment
from limbeck.training.particle_images import particle_images
from limbeck.training.trainer import Run


@dataclass(frozen=True, repr=False)
class FolderResult:
    """A result in a folder; in a notebook it displays itself.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @property
    def scores(self) -> dict[str, float]:
        """Mean scores of the final images, see docs/eval.md; empty if the model has no images."""
        return dict(read_run_data(self.folder).scores.get("mean", {}))

    def report(self) -> Path:
        """Path of the HTML report."""
        path = self.folder / "report.html"
        return path if path.exists() else write_report([self.folder])

    def save(self, folder: str | Path) -> Path:
        """Copy the folder.

        Raises:
            FileExistsError: if ``folder`` exists.
        """
        return Path(shutil.copytree(self.folder, folder))

    def __repr__(self) -> str:
        data = read_run_data(self.folder)
        facts = ", ".join([data.title, *data.facts])
        return f"<{type(self).__name__}: {facts}, in {self.folder}>"

    def _repr_html_(self) -> str:
        return notebook_html([self.folder], self.report())


@dataclass(frozen=True, repr=False)
class DistillResult(FolderResult):
    """A finished run.

    Attributes:
        experiment: what was run.
        prior: its model.
        stages: all stages if the run is the last one of a preset with several; else empty.
    """

    experiment: Experiment
    prior: Prior
    stages: tuple[DistillResult, ...] = ()

    @cached_property
    def run(self) -> Run:
        """The run after its last step: representation, optimizer, critic."""
        run = Run(self.experiment, self.prior, pretrain=False)
        tensors, metadata = read_checkpoint(self.folder / "checkpoint.safetensors")
        run.load(tensors, metadata["step"])
        return run

    @property
    def particles(self) -> Float[Tensor, "n ..."]:
        """Raw values of 2D particles, sorted by prompt: latents, pixels, or the points of a toy.

        Raises:
            ValueError: if the particles are 3D; use ``run.representation`` then.
        """
        if not isinstance(self.experiment.camera_sampler, NoCamera):
            raise ValueError("3D particles are not one tensor: use result.run.representation")
        request = RenderRequest(torch.arange(self.experiment.total))
        with torch.no_grad():
            return self.run.representation.render(request).image.float().cpu()

    @property
    def images(self) -> Float[Tensor, "n 3 h w"]:
        """Images of all particles in [0, 1], sorted by prompt; four views of each 3D particle.

        Raises:
            ValueError: if the model has no images, as a mixture of points.
        """
        if len(self.prior.shape) != 3:
            raise ValueError("this model has no images: use result.particles")
        with torch.no_grad():
            images = particle_images(self.run, self.run.eval_request(4))
        return images.float().cpu()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of every step, as in metrics.jsonl."""
        return read_metrics(self.folder / "metrics.jsonl")


@dataclass(frozen=True, repr=False)
class EditResult(FolderResult):
    """Finished edits.

    Attributes:
        runs: one run per size that the images have in the model.
    """

    runs: tuple[DistillResult, ...]

    @property
    def images(self) -> list[Float[Tensor, "3 h w"]]:
        """Edited images in [0, 1], run by run, in the order of the inputs."""
        return [image for run in self.runs for image in run.images]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.images)} edits, in {self.folder}>"

    def _repr_html_(self) -> str:
        return notebook_html([run.folder for run in self.runs], self.report())


@dataclass(frozen=True, repr=False)
class SampleResult(FolderResult):
    """Finished samples.

    Attributes:
        sampling: what was sampled.
        prior: its model.
    """

    sampling: Sampling
    prior: Prior

    @property
    def images(self) -> Float[Tensor, "n 3 h w"]:
        """Images in [0, 1], sorted by prompt."""
        count = len(self.sampling.prompts) * self.sampling.num_images
        stems = particle_stems(count, self.sampling.num_images)
        return torch.stack([read_whole_image(self.folder / "final" / f"{s}.png") for s in stems])
