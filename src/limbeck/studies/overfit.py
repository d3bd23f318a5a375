"""Does the critic of VSD overfit to the particles it is trained on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class OverfitStudy(Study):
    """Samples of the critic of a VSD run, with its particles and samples of the prior.

    Attributes:
        critic_lr: learning rate of the critic.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 4
    critic_lr: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        vsd = VSD(critic=LoRACritic(training=CriticTraining(lr=self.critic_lr)))
        critic = replace(self.sampling(1.0), critic=Path("particles-of-vsd"))
        return {
            "particles of VSD": self.distill(vsd),
            "its critic, s = 1": critic,
            "the prior, s = 1": self.sampling(1.0),
        }

    def run_row(self, row: Experiment | Sampling, prior: Prior, folder: Path) -> None:
        if isinstance(row, Sampling) and row.critic is not None:
            row = replace(row, critic=folder.parent / row.critic)
        super().run_row(row, prior, folder)
