"""Distillation against sampling, at low and at high guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling as Sampled
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class SamplingStudy(Study):
    """SDS, VSD and plain sampling, each at low and at high guidance: the figure of the ProlificDreamer paper.

    scales: the guidance of the two columns of runs. critic_rate: of VSD's critic.
    """

    scales: tuple[float, ...] = (7.5, 100.0)
    critic_rate: float = 0.003

    def rows(self) -> Mapping[str, Experiment | Sampled]:
        critic = LoRACritic(learning=CriticTraining(rate=self.critic_rate))
        out: dict[str, Experiment | Sampled] = {}
        for s in self.scales:
            out[f"sampling, s = {s:g}"] = self.sampling(s)
            out[f"SDS, s = {s:g}"] = self.distil(SDS(s))
            out[f"VSD, s = {s:g}"] = self.distil(VSD(s, critic=critic))
        return out
