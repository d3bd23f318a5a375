"""What do more particles do for VSD?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class ParticlesStudy(Study):
    """VSD of one prompt with 1, 2, 4 and 8 particles that share a critic.

    counts: particles of each run. critic_rate: of the critic.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    counts: tuple[int, ...] = (1, 2, 4, 8)
    critic_rate: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        method = VSD(critic=LoRACritic(learning=CriticTraining(rate=self.critic_rate)))
        return {
            f"{n} particle{'s' * (n > 1)}": self.distil(method, particles=n) for n in self.counts
        }
