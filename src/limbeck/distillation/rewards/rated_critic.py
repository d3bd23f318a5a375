"""A critic together with a reward, as the state of a method that needs both."""

from __future__ import annotations

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.critics.wrapped import WrappedCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.rewards.base import Reward


class RatedCritic(WrappedCritic):
    """A critic in every respect, with a reward function beside it.

    Args:
        critic: the critic.
        reward: options of the reward.
        prior: the frozen prior of the run.
        setup: particles, prompts and seed of the run.

    Attributes:
        reward_fn: the reward function.
    """

    def __init__(self, critic: Critic, reward: Reward, prior: Prior, setup: SetupContext):
        super().__init__(critic)
        self.reward_fn = reward.build_checked(prior, setup)
