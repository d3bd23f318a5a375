"""A critic that is a whole network: a copy of the prior's (Diff-Instruct, DMD)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import (
    Critic,
    CriticConfig,
    CriticTraining,
)
from limbeck.distillation.critics.trained import (
    CriticTrainer,
    TrainedCritic,
    critic_tensors,
    load_critic_tensors,
)
from limbeck.distillation.inputs import SetupContext
from limbeck.priors.lora_adapters import NetworkPrior
from limbeck.priors.trainable_network import copy_network


@dataclass(frozen=True)
class NetworkCritic(CriticConfig):
    """A copy of the prior's whole network, which starts as the prior; an MLP on exact priors.

    Attributes:
        training: how it is trained; its default learning rate is 3e-4, and 1e-3 for an MLP.
        width: width of the MLP.
        depth: hidden layers of the MLP. 0: an affine map.
    """

    training: CriticTraining = field(default_factory=CriticTraining)
    width: int = field(default=128, metadata={"minimum": 1})
    depth: int = field(default=3, metadata={"minimum": 0})

    def __post_init__(self) -> None:
        self.training.check_camera(False)

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        self.training.check_prior(prior)
        return _NetworkCriticModel(self, prior, setup.seed)


class _NetworkCriticModel(TrainedCritic):
    def __init__(self, config: NetworkCritic, prior: Prior, seed: int):
        self._network = copy_network(prior, config.width, config.depth, seed)
        self._trainer = CriticTrainer(
            list(self._network.module.parameters()),
            config.training,
            self._network.prediction_type,
            default_lr=3e-4 if isinstance(prior, NetworkPrior) else 1e-3,
        )

    def prior(self) -> Prior:
        return self._network

    def tensors(self) -> dict[str, Tensor]:
        return critic_tensors(self._network.module, self._trainer, "network.")

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_critic_tensors(self._network.module, self._trainer, tensors, "network.")

    def save(self, folder: Path) -> None:
        self._network.save(folder)
