"""A critic to which something is added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.inputs import StepInputs


class WrappedCritic(Critic):
    """A critic in every respect; a subclass has something beside it.

    Args:
        critic: the critic.
    """

    def __init__(self, critic: Critic):
        self.critic, self.camera = critic, critic.camera

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
