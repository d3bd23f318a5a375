"""How likely a picture is under an exact prior."""

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
    """A prior whose density is known."""

    def log_density(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b"]: ...


@dataclass(frozen=True)
class DensityReward(Reward):
    """log p_0(x0 | y) of an exact prior, at the first time of its schedule."""

    def build(self, prior: Prior, start: SetupContext) -> RewardFunction:
        if not isinstance(prior, DensityPrior):
            raise ValueError(
                "this model does not know its density: score with agreement, saturation or contrast, or your own file"
            )
        dense = prior

        def score(
            x0: Float[Tensor, "n ..."], told: Conditions, view: Int[Tensor, "n"]
        ) -> Float[Tensor, "n"]:
            return dense.log_density(
                x0, torch.zeros(len(x0), dtype=torch.float64, device=x0.device), told.pos
            )

        return score
