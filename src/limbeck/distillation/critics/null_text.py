"""A critic whose only trainable parameter is a text embedding of the prior's own network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.distillation.critics.base import (
    Critic,
    CriticConfig,
    CriticTraining,
)
from limbeck.distillation.critics.trained import (
    CriticTrainer,
    TrainedCritic,
    critic_tensors,
    load_critic_tensors,
)
from limbeck.distillation.inputs import SetupContext, StepInputs


@dataclass(frozen=True)
class NullTextCritic(CriticConfig):
    """A learned text embedding for the frozen network, which replaces every condition.

    A critic guidance other than 1 therefore changes nothing with ``init_from null``.

    Attributes:
        init_from: null: one embedding for all rows, initialized with that of the empty text.
            prompt: each row's own embedding plus one learned offset, initialized with zero.
        training: how the embedding is trained.
    """

    init_from: Literal["null", "prompt"] = "null"
    training: CriticTraining = field(default_factory=CriticTraining)

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        self.training.check_prior(prior)
        return _NullTextCriticModel(self, prior)


class _LearnedTextPrior(PriorWrapper, nn.Module):
    """The prior, conditioned on the learned embedding."""

    def __init__(self, prior: Prior, init_from: Literal["null", "prompt"]):
        nn.Module.__init__(self)
        PriorWrapper.__init__(self, prior)
        self._prior, self.call_counter = prior, prior.call_counter
        self._is_offset = init_from == "prompt"
        self._empty = prior.condition([""])
        empty = self._empty.data.detach().clone()
        self.text = nn.Parameter(torch.zeros_like(empty) if self._is_offset else empty)

    def learned_condition(self, condition: Condition) -> Condition:
        """The learned condition in place of ``condition``, as many rows."""
        if self._is_offset:
            return replace(condition, data=condition.data + self.text)
        first = torch.zeros(len(condition), dtype=torch.long, device=self.text.device)
        return replace(self._empty, data=self.text)[first].of_renders(condition)

    def forward(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        return self._prior(xt, t, *map(self.learned_condition, conditions))


class _NullTextCriticModel(TrainedCritic):
    def __init__(self, config: NullTextCritic, prior: Prior):
        self._prior = _LearnedTextPrior(prior, config.init_from)
        self._trainer = CriticTrainer([self._prior.text], config.training, prior.prediction_type)

    def prior(self) -> Prior:
        return self._prior

    def predict_both(
        self,
        prior: Prior,
        inputs: StepInputs,
        prior_conditions: Sequence[Condition],
        critic_conditions: Sequence[Condition],
    ) -> tuple[list[Prediction], list[Prediction]]:
        learned = map(self._prior.learned_condition, critic_conditions)
        predictions = prior(inputs.xt, inputs.t, *prior_conditions, *learned)
        return predictions[: len(prior_conditions)], predictions[len(prior_conditions) :]

    def tensors(self) -> dict[str, Tensor]:
        return critic_tensors(self._prior, self._trainer, "text.")

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_critic_tensors(self._prior, self._trainer, tensors, "text.")

    def save(self, folder: Path) -> None:
        """Write ``text.safetensors``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        text = self._prior.text.detach().cpu().contiguous()
        save_file({"text": text}, folder / "text.safetensors")
