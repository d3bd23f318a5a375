"""Does VSD improve with more particles?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class ParticlesStudy(Study):
    """VSD of one prompt with 1, 2, 4 and 8 particles that share a critic.

    Attributes:
        particle_counts: number of particles of each run.
        critic_lr: learning rate of the critic.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particle_counts: tuple[int, ...] = (1, 2, 4, 8)
    critic_lr: float = 0.003
    particles: int = field(default=0, init=False)  # see particle_counts

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        vsd = VSD(critic=LoRACritic(training=CriticTraining(lr=self.critic_lr)))
        return {
            f"{n} particle{'s' if n > 1 else ''}": self.distill(vsd, particles=n)
            for n in self.particle_counts
        }
