"""Plain looks of a picture, which need no model: how saturated it is, how much contrast it has."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.rewards.base import Reward, RewardFunction


@dataclass(frozen=True)
class ImageStatisticReward(Reward):
    """Minus the distance of a figure of the decoded picture from what it should be."""

    target: float

    @abc.abstractmethod
    def statistic(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """One number per picture."""

    def build(self, prior: Prior, start: SetupContext) -> RewardFunction:
        if len(prior.shape) != 3:
            raise ValueError(
                f"looks are of pictures, and this model's x0 is {list(prior.shape)}: score with density"
            )

        def score(
            x0: Float[Tensor, "n ..."], told: Conditions, view: Int[Tensor, "n"]
        ) -> Float[Tensor, "n"]:
            images = torch.cat([prior.decode(part) for part in x0.split(8)]).float()
            return -(self.statistic(images) - self.target).abs()

        return score


@dataclass(frozen=True)
class SaturationReward(ImageStatisticReward):
    """Nearness of the mean saturation (of hue, saturation, value) to a target.

    target: in [0, 1]; the embedded world's own pictures have about .5.
    """

    target: float = 0.5

    def statistic(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        high, low = images.amax(1), images.amin(1)
        return torch.where(high > 0, (high - low) / high.clamp_min(1e-12), 0.0).mean((1, 2))


@dataclass(frozen=True)
class ContrastReward(ImageStatisticReward):
    """Nearness of the deviation of the grey values (the mean of the channels) to a target.

    target: in [0, .5].
    """

    target: float = 0.25

    def statistic(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        return images.mean(1).flatten(1).std(1, correction=0)
