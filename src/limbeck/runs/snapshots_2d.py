"""The pictures of a run: looked at between steps, drawn and written beside them."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck.runs import images as pictures
from limbeck.runs import contact_sheets as sheets
from limbeck.system.checkpoint import write_text
from limbeck.system.async_copy import AsyncCopies
from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.loggers import OpenLogger
from limbeck.diffusion.guidance import guided_prediction
from limbeck.training.trainer import Run, Step
from limbeck.system.background_writer import BackgroundWriter


class ImageSnapshots:
    """images/ of a run folder. What is looked at is copied at once, so that the next step may change it, and fetched beside it."""

    def __init__(self, run: Run, folder: Path, writer: BackgroundWriter, sink: OpenLogger | None):
        self.run, self.prior, self.folder, self.writer, self.sink = run, run.prior, folder, writer, sink
        self.experiment = e = run.experiment
        options = {f.name for f in dataclasses.fields(e.method)}
        self.guidance = e.method.guidance if "guidance" in options else 1.0  # type: ignore[attr-defined]

    def all(self) -> Float[Tensor, "n 3 h w"]:
        """What every particle shows, from the sides ``SEEN`` if it has any."""
        return sheets.render_particles(self.run).pictures()[""]

    def of_all(self, step: int) -> bool:
        """The particles, of what has sides also normals, depth and opacity; False where the model has no pictures, as a mixture in
        the plane."""
        if len(self.prior.shape) != 3:
            return False
        self.writer.put(partial(self._draw_all, step, sheets.render_particles(self.run)))
        return True

    @torch.no_grad()
    def of_step(self, step: Step) -> bool:
        """The particles, x0 of prior and critic, and the gradient; False where the model has no pictures."""
        if not self.of_all(step.step):
            return False
        sample, meter, e = step.sample, self.prior.meter, self.experiment
        calls, rows = meter.calls, meter.rows
        shown = {"x0": guided_prediction(self.prior, sample.xt, sample.t, sample.conditions, self.guidance).x0}
        critic = e.method.critic_prior(self.prior, self.run.state)
        if critic is not None:
            shown["critic"] = critic(sample.xt, sample.t, sample.with_pose(sample.conditions.pos))[0].x0
        meter.calls, meter.rows = calls, rows  # looking is not part of the run's cost
        seen = {name: self._decoded(x0) for name, x0 in shown.items()}
        seen["gradient"] = step.gradient.float().flatten(1, -3).norm(dim=1)
        self.writer.put(partial(self._draw, step.step, sample.particle.tolist(), AsyncCopies(seen)))
        return True

    def _draw_all(self, step: int, looks: sheets.ParticleImages) -> None:
        for kind, images in looks.pictures().items():
            self._keep(sheets.contact_sheet(self.run, images), step, kind)

    def _decoded(self, x0: Tensor) -> Tensor:
        return torch.cat([self.prior.decode(part).float() for part in x0.split(8)])

    def _draw(self, step: int, view: list[int], copies: AsyncCopies) -> None:
        seen = copies.fetched()
        maps = seen.pop("gradient")
        for name, images in seen.items():
            self._keep(pictures.grid(*sheets.placed(self.run, images, view)), step, name)
        top = self._scale(maps)
        self._keep(pictures.heat_sheet(*sheets.placed(self.run, pictures.heat(maps, top), view), top), step, "gradient")

    def _keep(self, sheet: Image.Image, step: int, kind: str = "") -> None:
        """A picture of a step into images/ and the mirror; ``kind`` is empty for the representation itself."""
        pictures.save_picture(sheet, self.folder / "images" / f"step-{step:05d}{'-' * bool(kind)}{kind}.png")
        if self.sink is not None:
            self.sink.picture(kind or "picture", sheet, step)

    def _scale(self, maps: Float[Tensor, "b h w"]) -> float:
        """Top of the colour scale, one for the whole run: fixed by the first map, brought to the gradients usual until then.

        The step of the first map may have drawn an unusual t; the median of the norms so far has not. The figures until this step
        are in the file, as they were given to the writer before.
        """
        path = self.folder / "images" / "gradient-scale.json"
        if path.exists():
            return json.loads(path.read_text())["top"]
        lines = read_metrics(self.folder / "metrics.jsonl")
        norms = torch.tensor([line["gradient"] or 0.0 for line in lines], dtype=torch.float64)
        few = maps.double().flatten()[:: max(1, maps.numel() // 1_000_000)]  # quantile refuses more than 16 million
        high = few.quantile(0.99) / norms[-1].clamp_min(1e-30) * norms.median()
        top = float(f"{high.item():.2g}") or 1.0
        write_text(path, json.dumps({"top": top, "colours": "viridis"}) + "\n")
        return top
