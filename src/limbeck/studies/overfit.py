"""Does VSD's critic know more than the particles it was trained on?"""

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
    """Samples of the critic that a VSD run left behind, beside its particles and samples of the prior.

    critic_rate: of the critic.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 4
    critic_rate: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        vsd = VSD(critic=LoRACritic(learning=CriticTraining(rate=self.critic_rate)))
        critic = replace(self.sampling(1.0), critic=Path("particles-of-vsd"))
        return {
            "particles of VSD": self.distil(vsd),
            "its critic, s = 1": critic,
            "the prior, s = 1": self.sampling(1.0),
        }

    def perform(self, what: Experiment | Sampling, prior: Prior, folder: Path) -> None:
        if (
            isinstance(what, Sampling) and what.critic is not None
        ):  # the run lies beside the samples
            what = replace(what, critic=folder.parent / what.critic)
        super().perform(what, prior, folder)
