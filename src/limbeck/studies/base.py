"""A study: a question, the runs that answer it, one picture of them side by side; ``studies/`` has the choices."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.config.yaml import slug
from limbeck.diffusion.model_options import Precision
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.methods.base import Method
from limbeck.priors.loading import load
from limbeck.representations.latents import Latents
from limbeck.runs.images import grid, save_picture
from limbeck.runs.recorder import record
from limbeck.runs.report import pages as report
from limbeck.runs.sample_recorder import sample_to_folder
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam

LABEL = 150  #: width of the text at the left of a row, in pixels
PROMPTS = ("a striped red mug", "a yellow duck on grass", "a purple mushroom in the snow")
SHOWN = (
    "object",
    "colour",
    "saturation",
    "diversity",
)  #: figures under a label, where a run has them


@dataclass(frozen=True)
class Study(abc.ABC):
    """Runs that differ in one thing.

    prompts: for every run. particles: of each prompt. steps: of every run. rate: peak learning rate, which falls to zero over the
    second half. model: as in a run. seed: of every run. precision: of the frozen weights.
    """

    prompts: tuple[str, ...] = field(
        default=("a striped red mug", "a yellow duck on grass", "a purple mushroom in the snow"),
        kw_only=True,
    )
    particles: int = field(default=2, kw_only=True)
    steps: int = field(default=400, kw_only=True)
    rate: float = field(default=0.1, kw_only=True)
    model: str = field(default="world", kw_only=True)
    seed: int = field(default=0, kw_only=True)
    precision: Precision = field(default="auto", kw_only=True)

    @abc.abstractmethod
    def rows(self) -> Mapping[str, Experiment | Sampling]:
        """What is run, by label, in the order of the picture."""

    def run(self, out: Path, device: str = "auto") -> Path:
        """Run what has not been run yet below ``out``; returns the picture. A stopped study goes on with the same command."""
        prior, folders = load(self.model, device, self.precision), {}
        for label, what in self.rows().items():
            folders[label] = out / slug(label)
            print(f"{label}:", flush=True)
            self.perform(what, prior, folders[label])
        report.write(list(folders.values()), out / "report.html")
        picture = out / "study.png"
        self.draw(folders, picture)
        return picture

    def perform(self, what: Experiment | Sampling, prior: Prior, folder: Path) -> None:
        """Run or sample into a folder, unless it is done."""
        if isinstance(what, Experiment):
            record(what, prior, folder, command=f"limbeck study {component_name(type(self))}")
        elif not (folder / "cost.json").exists():
            sample_to_folder(what, prior, folder)

    def draw(self, folders: Mapping[str, Path], path: Path) -> None:
        """One row of final pictures per run, its label and its figures at the left."""
        rows = {}
        for label, folder in folders.items():
            means = json.loads((folder / "scores.json").read_text())["mean"]
            told = "\n".join(f"{name} {means[name]:.2f}" for name in SHOWN if name in means)
            rows[label] = (
                told,
                [Image.open(p).convert("RGB") for p in sorted((folder / "final").glob("*.png"))],
            )
        save_picture(sheet(rows), path)

    def distil(self, method: Method, **other: object) -> Experiment:
        """An experiment of this study."""
        usual: dict = {
            "timesteps": TwoStageTimesteps(),
            "representation": Latents(self.rate),
            "optimizer": Adam(fall=0.5),
        }
        shared: dict = {
            "model": self.model,
            "particles": self.particles,
            "steps": self.steps,
            "seed": self.seed,
        }
        return Experiment(
            self.prompts, method=method, precision=self.precision, **(usual | shared | other)
        )

    def sampling(self, guidance: float) -> Sampling:
        """Plain samples of the same prompts."""
        return Sampling(
            self.prompts,
            model=self.model,
            guidance=guidance,
            count=self.particles,
            seed=self.seed,
            precision=self.precision,
        )


def sheet(rows: Mapping[str, tuple[str, list[Image.Image]]], least: int = 64) -> Image.Image:
    """Labelled rows of pictures of one size, on white. Small pictures are enlarged to ``least`` pixels at least."""
    strips = {label: _strip(pictures, least) for label, (_, pictures) in rows.items()}
    height = max(max(strip.height for strip in strips.values()), 60)
    out = Image.new(
        "RGB",
        (LABEL + max(s.width for s in strips.values()), len(rows) * (height + 4) - 4),
        "white",
    )
    draw, bold, plain = ImageDraw.Draw(out), ImageFont.load_default(12), ImageFont.load_default(9)
    for i, (label, (told, _)) in enumerate(rows.items()):
        top = i * (height + 4)
        draw.text((2, top + 1), label, fill="black", font=bold)
        draw.multiline_text((2, top + 17), told, fill="#555555", font=plain, spacing=1)
        out.paste(strips[label], (LABEL, top))
    return out


def _strip(pictures: list[Image.Image], least: int) -> Image.Image:
    factor = max(1, -(-least // pictures[0].height))
    width = sum(p.width * factor + 2 for p in pictures) - 2
    strip = Image.new("RGB", (width, pictures[0].height * factor), "white")
    left = 0
    for p in pictures:
        strip.paste(
            p.resize((p.width * factor, p.height * factor), Image.Resampling.NEAREST), (left, 0)
        )
        left += p.width * factor + 2
    return strip


def as_pictures(images: Float[Tensor, "n 3 h w"]) -> list[Image.Image]:
    """Images in [0, 1] one by one."""
    return [grid(image[None], 1) for image in torch.as_tensor(images)]
