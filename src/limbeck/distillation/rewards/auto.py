"""The default score: density where it is known, agreement where the world's evaluator can judge."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.rewards.agreement import AgreementReward
from limbeck.distillation.rewards.base import Reward, RewardFunction
from limbeck.distillation.rewards.density import DensityPrior, DensityReward


@dataclass(frozen=True)
class AutoReward(Reward):
    """``density`` on an exact prior, ``agreement`` elsewhere, so that one command runs on every model."""

    def build(self, prior: Prior, start: SetupContext) -> RewardFunction:
        return (DensityReward() if isinstance(prior, DensityPrior) else AgreementReward()).build(
            prior, start
        )
