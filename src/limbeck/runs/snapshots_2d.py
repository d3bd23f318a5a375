"""Images of a run while it trains, in images/; drawn and written in the background."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.distillation.timesteps.base import training_progress
from limbeck.graphics.export.png import NonFiniteImageError
from limbeck.methods.base import Method
from limbeck.runs.contact_sheets import (
    ParticleImages,
    arrange_step_images,
    contact_sheet,
    render_particles,
)
from limbeck.runs.images import heat_map, heat_map_grid, image_grid, save_png
from limbeck.runs.loggers import LogWriter
from limbeck.runs.metrics_log import read_metrics
from limbeck.system.async_copy import AsyncCopies
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.files import write_text
from limbeck.training.step import Step
from limbeck.training.trainer import Run


class ImageSnapshots:
    """Writes images/ of a run folder.

    Tensors are copied when a method is called, so that the next step may change them, and are
    fetched and drawn in the background.

    Args:
        run: the run.
        folder: its folder.
        writer: draws and writes in the background.
        log_writer: also gets every image.
        report: called once for each kind of image that cannot be shown.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        writer: BackgroundWriter,
        log_writer: LogWriter | None,
        report: Callable[[str], object] = print,
    ):
        self.report = report
        self._reported: set[str] = set()
        self.run, self.prior, self.folder = run, run.prior, folder
        self.writer, self.log_writer = writer, log_writer

    def particle_images(self) -> Float[Tensor, "n 3 h w"]:
        """Images of all particles, each from the views ``VIEW_NAMES`` if it is 3D."""
        return render_particles(self.run).images()[""]

    def save_particles(self, step: int) -> bool:
        """Save a contact sheet of all particles; if they are 3D also normals, depth and opacity.

        Returns:
            False if the model has no images, as a mixture in the plane; nothing is saved then.
        """
        if len(self.prior.shape) != 3:
            return False
        self.writer.submit(partial(self._draw_particles, step, render_particles(self.run)))
        return True

    @torch.no_grad()
    def save_step(self, step: Step) -> bool:
        """Save the particles, the x0 predictions of prior and critic, and the gradient of a step.

        Returns:
            False if the model has no images; nothing is saved then.
        """
        if not self.save_particles(step.step):
            return False
        inputs, counter = step.inputs, self.prior.call_counter
        method = self.run.experiment.method.at(training_progress(inputs.step, inputs.steps))
        calls, rows = counter.calls, counter.rows
        prediction = guided_prediction(
            self.prior, inputs.xt, inputs.t, inputs.conditions, _guidance_scale(method)
        )
        x0 = {"x0": prediction.x0}
        critic = method.critic_prior(self.prior, self.run.state)
        if critic is not None:
            condition = inputs.with_pose(inputs.conditions.pos)
            x0["critic"] = critic(inputs.xt, inputs.t, condition)[0].x0
        counter.calls, counter.rows = calls, rows  # recording is not part of the cost of the run
        tensors = {name: self._decode(value) for name, value in x0.items()}
        tensors["gradient"] = step.gradient.float().flatten(1, -3).norm(dim=1)
        particle = inputs.particle.tolist()
        self.writer.submit(partial(self._draw_step, step.step, particle, AsyncCopies(tensors)))
        return True

    def _decode(self, x0: Tensor) -> Tensor:
        return torch.cat([self.prior.decode(part).float() for part in x0.split(8)])

    def _draw_particles(self, step: int, renders: ParticleImages) -> None:
        for kind, images in renders.images().items():
            with self._reporting(kind):
                self._save(contact_sheet(self.run, images), step, kind)

    def _draw_step(self, step: int, particle: list[int], copies: AsyncCopies) -> None:
        tensors = copies.to_cpu()
        maps = tensors.pop("gradient")
        for kind, images in tensors.items():
            with self._reporting(kind):
                self._save(image_grid(*arrange_step_images(self.run, images, particle)), step, kind)
        top = self._gradient_scale(maps)
        colored, columns = arrange_step_images(self.run, heat_map(maps, top), particle)
        self._save(heat_map_grid(colored, columns, top), step, "gradient")

    @contextmanager
    def _reporting(self, kind: str) -> Iterator[None]:
        """Leave out an image that is not finite, and say so once; particles must be finite."""
        try:
            yield
        except NonFiniteImageError as error:
            if not kind:
                raise ValueError(f"the particles cannot be shown: {error}") from error
            if kind not in self._reported:
                self._reported.add(kind)
                self.report(f"{self.folder}: the images of {kind} are left out: {error}")

    def _save(self, sheet: Image.Image, step: int, kind: str = "") -> None:
        """Write an image of a step and log it; ``kind`` is empty for the particles themselves."""
        suffix = f"-{kind}" if kind else ""
        save_png(sheet, self.folder / "images" / f"step-{step:05d}{suffix}.png")
        if self.log_writer is not None:
            self.log_writer.log_image(kind or "image", sheet, step)

    def _gradient_scale(self, maps: Float[Tensor, "b h w"]) -> float:
        """Top of the color scale of the gradient maps, fixed by the first map of the run.

        As the first map may have drawn an unusual t, its 99th percentile is rescaled by the ratio
        of the median gradient norm so far to that of its step. The metrics up to this step are
        already in the file, as they were queued before the images.
        """
        path = self.folder / "images" / "gradient-scale.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["top"]
        lines = read_metrics(self.folder / "metrics.jsonl")
        norms = torch.tensor([line["gradient"] or 0.0 for line in lines], dtype=torch.float64)
        stride = max(1, maps.numel() // 1_000_000)  # quantile refuses more than 16 million values
        high = maps.double().flatten()[::stride].quantile(0.99)
        scaled = high / norms[-1].clamp_min(1e-30) * norms.median()
        top = float(f"{scaled.item():.2g}") or 1.0
        write_text(path, json.dumps({"top": top, "colormap": "viridis"}) + "\n")
        return top


def _guidance_scale(method: Method) -> float:
    """The guidance scale of a method; 1 if it has none."""
    has_guidance = "guidance" in {f.name for f in dataclasses.fields(method)}
    return method.guidance if has_guidance else 1.0  # type: ignore[attr-defined]
