"""Where are the gradients of SDS and VSD in the image?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.runs.images import recorded_images, save_png
from limbeck.studies.base import Study, labeled_rows, read_rgb
from limbeck.training.experiment import Experiment

_SIZE = (96, 96)  #: of the images in the figure


@dataclass(frozen=True)
class GradientsStudy(Study):
    """Gradient maps of SDS and VSD over a run, below the particle; one color scale per run.

    Attributes:
        critic_lr: learning rate of VSD's critic.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 1
    critic_lr: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        vsd = VSD(critic=LoRACritic(training=CriticTraining(lr=self.critic_lr)))
        return {
            "SDS, s = 100": self.distill(SDS(100.0)),
            "SDS, s = 7.5": self.distill(SDS(7.5)),
            "VSD, s = 7.5": self.distill(vsd),
        }

    def draw(self, folders: Mapping[str, Path], path: Path) -> None:
        rows = {}
        for label, folder in folders.items():
            images = recorded_images(folder)
            files = images.get("gradient", {})
            particles = [read_rgb(images[""][step]) for step in files]
            maps = [read_rgb(file) for file in files.values()]
            nearest = Image.Resampling.NEAREST
            rows[label] = "particle", [image.resize(_SIZE, nearest) for image in particles]
            cropped = [image.crop((0, 0, image.height, image.height)) for image in maps]
            rows[f"{label} "] = "gradient map", [image.resize(_SIZE) for image in cropped]
        save_png(labeled_rows(rows), path)
