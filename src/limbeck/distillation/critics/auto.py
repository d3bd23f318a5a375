"""The default critic: the kind that is known to work on the prior."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from limbeck.config.discovery import component_name
from limbeck.config.ranges import refuse_given
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.priors.lora_adapters import NetworkPrior

#: Networks with fewer parameters get a small U-Net. It is nearly as large as they are, and low-rank
#: adapters cannot follow the texture of the particles on the embedded model (docs/methods/vsd.md).
_SMALL_NETWORK = 50_000_000


@dataclass(frozen=True)
class AutoCritic(CriticConfig):
    """The critic that suits the prior.

    ``ExactCritic`` on an exact prior; ``SmallUNetCritic`` on a network of fewer than 50 million
    parameters, such as the embedded model; ``LoRACritic`` on other networks.

    Attributes:
        rank: rank of the LoRA adapters, at least 1.
        training: how the critic is trained.
    """

    rank: int = 8
    training: CriticTraining = field(default_factory=CriticTraining)

    def __post_init__(self) -> None:
        LoRACritic(self.rank, self.training)  # checks the same bounds

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        critic = self.choose(prior)
        if not isinstance(critic, LoRACritic):
            cause = f"on this model, whose critic is {component_name(type(critic))}"
            refuse_given(self, f"{cause}: give --method.critic lora, or leave it out", "rank")
            if isinstance(critic, ExactCritic):
                # methods bring a probability of their own, such as ESD
                names = {option.name for option in fields(CriticTraining)} - {"unconditional_prob"}
                default = CriticTraining(unconditional_prob=self.training.unconditional_prob)
                given = sorted(n for n in names if vars(self.training)[n] != vars(default)[n])
                if given:
                    raise ValueError(
                        f"method.critic.training.{given[0]} has no effect {cause}: leave it out"
                    )
        return critic.build(prior, setup)

    def choose(self, prior: Prior) -> CriticConfig:
        """Return the critic that suits a prior."""
        if not isinstance(prior, NetworkPrior):
            return ExactCritic()
        if sum(p.numel() for p in prior.network.parameters()) < _SMALL_NETWORK:
            return SmallUNetCritic(training=self.training)
        return LoRACritic(self.rank, self.training)
