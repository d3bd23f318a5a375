"""The default critic: adapters where the prior has a network, the exact critic where it has none."""

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
    """``LowRank`` on a network, ``Exact`` on an exact prior, so that one command runs on every model.

    rank: of the adapters. learning: how they are trained.
    """

    rank: int = 8
    training: CriticTraining = field(default_factory=CriticTraining)

    def __post_init__(self) -> None:
        LoRACritic(self.rank, self.training)  # the same bounds

    def build(self, prior: Prior, start: SetupContext) -> Critic:
        spec = (
            LoRACritic(self.rank, self.training) if isinstance(prior, NetworkPrior) else ExactCritic()
        )
        return spec.build(prior, start)
