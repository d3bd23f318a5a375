"""How does distillation compare with sampling at low and high guidance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class SamplingStudy(Study):
    """SDS, VSD and plain sampling at low and high guidance, as in the ProlificDreamer paper.

    Attributes:
        guidance_scales: guidance scales to compare.
        critic_lr: learning rate of VSD's critic.
    """

    guidance_scales: tuple[float, ...] = (7.5, 100.0)
    critic_lr: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        critic = LoRACritic(training=CriticTraining(lr=self.critic_lr))
        rows: dict[str, Experiment | Sampling] = {}
        for s in self.guidance_scales:
            rows[f"sampling, s = {s:g}"] = self.sampling(s)
            rows[f"SDS, s = {s:g}"] = self.distill(SDS(s))
            rows[f"VSD, s = {s:g}"] = self.distill(VSD(s, critic=critic))
        return rows
