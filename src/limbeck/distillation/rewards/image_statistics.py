"""Rewards by image statistics, which need no model: saturation and contrast."""

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

DECODE_BATCH_SIZE = 8  #: images decoded at once


@dataclass(frozen=True)
class ImageStatisticReward(Reward):
    """Minus the distance of a statistic of the decoded image to a target.

    Attributes:
        target: the best value of the statistic.
    """

    target: float

    @abc.abstractmethod
    def statistic(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Return the statistic of images in [0, 1]."""

    def build(self, prior: Prior, setup: SetupContext) -> RewardFunction:
        if len(prior.shape) != 3:
            raise ValueError(
                f"image statistics need images, but x0 of this model is {list(prior.shape)}: "
                "use the reward density"
            )

        def reward(
            x0: Float[Tensor, "n ..."], conditions: Conditions, particle: Int[Tensor, "n"]
        ) -> Float[Tensor, "n"]:
            batches = x0.split(DECODE_BATCH_SIZE)
            images = torch.cat([prior.decode(batch) for batch in batches]).float()
            return -(self.statistic(images) - self.target).abs()

        return reward


@dataclass(frozen=True)
class SaturationReward(ImageStatisticReward):
    """Minus the distance of the mean saturation (of HSV) to a target.

    Attributes:
        target: the best saturation, in [0, 1]; images of the embedded world have about 0.5.
    """

    target: float = 0.5

    def statistic(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        high, low = images.amax(1), images.amin(1)
        return torch.where(high > 0, (high - low) / high.clamp_min(1e-12), 0.0).mean((1, 2))


@dataclass(frozen=True)
class ContrastReward(ImageStatisticReward):
    """Minus the distance of the contrast to a target.

    Contrast is the standard deviation of the gray values, which are the means of the channels.

    Attributes:
        target: the best standard deviation, in [0, 0.5].
    """

    target: float = 0.25

    def statistic(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        return images.mean(1).flatten(1).std(1, correction=0)
