"""The default reward: log-density if it is known, else prompt agreement."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.rewards.agreement import AgreementReward
from limbeck.distillation.rewards.base import Reward, RewardFunction
from limbeck.distillation.rewards.density import DensityPrior, DensityReward


@dataclass(frozen=True)
class AutoReward(Reward):
    """``DensityReward`` on an exact prior, ``AgreementReward`` on any other.

    So that one command runs on every model.
    """

    def build(self, prior: Prior, setup: SetupContext) -> RewardFunction:
        reward = DensityReward() if isinstance(prior, DensityPrior) else AgreementReward()
        return reward.build(prior, setup)
