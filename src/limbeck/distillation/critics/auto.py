"""The default critic: LoRA adapters if the prior has a network, else the exact critic."""

from __future__ import annotations

from dataclasses import dataclass, field

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.inputs import SetupContext
from limbeck.priors.lora_adapters import NetworkPrior


@dataclass(frozen=True)
class AutoCritic(CriticConfig):
    """``LoRACritic`` on a prior with a network, ``ExactCritic`` on an exact prior.

    So that one command runs on every model.

    Attributes:
        rank: rank of the LoRA adapters, at least 1.
        training: how the LoRA adapters are trained.
    """

    rank: int = 8
    training: CriticTraining = field(default_factory=CriticTraining)

    def __post_init__(self) -> None:
        LoRACritic(self.rank, self.training)  # checks the same bounds

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        if isinstance(prior, NetworkPrior):
            return LoRACritic(self.rank, self.training).build(prior, setup)
        return ExactCritic().build(prior, setup)
