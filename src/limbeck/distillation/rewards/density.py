"""The log-density of x0 under an exact prior as the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.rewards.base import Reward, RewardFunction


@runtime_checkable
class DensityPrior(Prior, Protocol):
    """A prior with a known density."""

    def log_density(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b"]:
        """Return log p_t(x_t | condition).

        Args:
            xt: noised x0.
            t: time of each row.
            condition: condition of each row.
        """
        ...


@dataclass(frozen=True)
class DensityReward(Reward):
    """log p_0(x0 | y) of an exact prior, at the first time of its schedule."""

    def build(self, prior: Prior, setup: SetupContext) -> RewardFunction:
        if not isinstance(prior, DensityPrior):
            raise ValueError(
                "the density of this model is not known: use the reward agreement, saturation or "
                "contrast, or FILE.py:Class"
            )
        exact = prior

        def log_density(
            x0: Float[Tensor, "n ..."], conditions: Conditions, particle: Int[Tensor, "n"]
        ) -> Float[Tensor, "n"]:
            t = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
            return exact.log_density(x0, t, conditions.pos)

        return log_density
