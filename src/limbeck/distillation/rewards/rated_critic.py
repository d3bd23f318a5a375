"""A critic together with a reward, as the state of a method that needs both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.rewards.base import Reward


class RatedCritic(Critic):
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
        self.critic, self.camera = critic, critic.camera
        self.reward_fn = reward.build_checked(prior, setup)

    def prior(self) -> Prior:
        return self.critic.prior()

    def predict_both(
        self,
        prior: Prior,
        inputs: StepInputs,
        prior_conditions: Sequence[Condition],
        critic_conditions: Sequence[Condition],
    ) -> tuple[list[Prediction], list[Prediction]]:
        return self.critic.predict_both(prior, inputs, prior_conditions, critic_conditions)

    def standalone(self) -> Prior:
        return self.critic.standalone()

    def observe(self, inputs: StepInputs) -> None:
        self.critic.observe(inputs)

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return self.critic.fit(inputs)

    def tensors(self) -> dict[str, Tensor]:
        return self.critic.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.critic.load(tensors)

    def save(self, folder: Path) -> None:
        self.critic.save(folder)
