"""Where do SDS and VSD want to change a picture?"""

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
from limbeck.runs.images import save_picture
from limbeck.studies.base import Study, sheet
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class GradientsStudy(Study):
    """Gradient maps of SDS and VSD over a run, each on one colour scale, above the particle they change.

    critic_rate: of VSD's critic.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 1
    critic_rate: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        vsd = VSD(critic=LoRACritic(learning=CriticTraining(rate=self.critic_rate)))
        return {
            "SDS, s = 100": self.distil(SDS(100.0)),
            "SDS, s = 7.5": self.distil(SDS(7.5)),
            "VSD, s = 7.5": self.distil(vsd),
        }

    def draw(self, folders: Mapping[str, Path], path: Path) -> None:
        rows = {}
        for label, folder in folders.items():
            maps = sorted((folder / "images").glob("step-*-gradient.png"))
            shown = [
                Image.open(p.with_name(p.name.replace("-gradient", ""))).convert("RGB")
                for p in maps
            ]
            rows[label] = (
                "particle",
                [p.resize((96, 96), Image.Resampling.NEAREST) for p in shown],
            )
            heat = [Image.open(p).convert("RGB") for p in maps]
            rows[label + " "] = (
                "gradient map",
                [p.crop((0, 0, p.height, p.height)).resize((96, 96)) for p in heat],
            )
        save_picture(sheet(rows), path)
