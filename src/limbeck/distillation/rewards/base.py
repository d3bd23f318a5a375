"""Base class of rewards, and the weights of candidates by their rewards."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.own_results import check_own_object
from limbeck.distillation.state import Stateless

#: Maps x0 ``[n, ...]``, the conditions of each row and its particle index ``[n]`` to rewards
#: ``[n]``. It is called without gradients.
RewardFunction = Callable[
    [Float[Tensor, "n ..."], Conditions, Int[Tensor, "n"]], Float[Tensor, "n"]
]


@dataclass(frozen=True)
class Reward(abc.ABC):
    """Options of a reward. Higher is better; only differences matter."""

    @abc.abstractmethod
    def build(self, prior: Prior, setup: SetupContext) -> RewardFunction:
        """Build the reward function for x0 of a prior.

        Args:
            prior: the frozen prior of the run.
            setup: particles, prompts and seed of the run.

        Raises:
            ValueError: if it cannot rate x0 of this prior, or these prompts.
        """

    def build_checked(self, prior: Prior, setup: SetupContext) -> RewardFunction:
        """Build the reward function, as ``build``; one of your own must be callable."""
        reward_fn = self.build(prior, setup)
        check_own_object(self, ".build", reward_fn, ("__call__",))
        return reward_fn


class RewardState(Stateless):
    """State of a method with a reward: the reward function, which does not change."""

    def __init__(self, reward_fn: RewardFunction):
        self.reward_fn = reward_fn


WeightingScheme = Literal["minmax", "bestworst", "best", "softmax"]
#: How many of the best share which weight, and how many of the worst share which.
_RANK_WEIGHTS = {
    "minmax": (2, 0.9, 2, -0.1),
    "bestworst": (1, 0.9, 1, -0.1),
    "best": (1, 1.0, 0, 0.0),
}


def check_reward_options(
    scheme: WeightingScheme, num_noises: int, reward_steps: int, reward_end: float = 1.0
) -> None:
    """Check how many candidates there are, how they are denoised, and until when.

    Args:
        scheme: how they are weighted.
        num_noises: number of candidates.
        reward_steps: DDIM steps to the image that is rated.
        reward_end: fraction of the run after which nothing is rated.

    Raises:
        ValueError: if there are too few candidates or steps, or the end is not in [0, 1].
    """
    needed = min_candidates(scheme)
    if num_noises < needed:
        raise ValueError(
            f"num_noises must be at least {needed} for weighting_scheme {scheme}, not {num_noises}"
        )
    if reward_steps < 1:
        raise ValueError(f"reward_steps must be at least 1, not {reward_steps}")
    if not 0 <= reward_end <= 1:
        raise ValueError(f"reward_end must be in [0, 1], not {reward_end}")


def min_candidates(scheme: WeightingScheme) -> int:
    """Return the least number of candidates that a scheme can weight."""
    return 1 if scheme == "softmax" else _RANK_WEIGHTS[scheme][0] + _RANK_WEIGHTS[scheme][2]


def candidate_weights(
    scheme: WeightingScheme, rewards: Float[Tensor, "n b"]
) -> Float[Tensor, "n b"]:
    """Return the weight of each of n candidates by its reward, column by column.

    A column with a NaN among its rewards is NaN.

    Args:
        scheme: softmax: exp(reward), normalized. The others share fixed weights among the best and
            the worst.
        rewards: rewards of n candidates for each of b rows.
    """
    if scheme == "softmax":
        return rewards.softmax(0)
    num_best, best_share, num_worst, worst_share = _RANK_WEIGHTS[scheme]
    by_rank = [0.0] * len(rewards)
    by_rank[:num_best] = [best_share / num_best] * num_best
    if num_worst:
        by_rank[-num_worst:] = [worst_share / num_worst] * num_worst
    ranked = to_device(torch.tensor(by_rank, dtype=rewards.dtype), rewards.device)
    order = rewards.argsort(stable=True, dim=0, descending=True)
    weights = torch.zeros_like(rewards).scatter_(0, order, ranked[:, None].expand_as(rewards))
    return torch.where(rewards.isnan().any(0), rewards.sum(0), weights)
