"""A critic whose only trainable thing is a text: the prior's own network, told something learned."""

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
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTrainer, CriticTraining, load_trained
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.system.optimizer_state import optimizer_tensors


@dataclass(frozen=True)
class NullTextCritic(CriticConfig):
    """A learned embedding, heard by the frozen network in the place of the text, whatever it is asked about; so a critic guidance
    other than 1 changes nothing.

    start: null, where all rows hear one embedding that begins as the empty text; or prompt, where each row hears its own text
    plus one learned change that begins at zero. learning: how it is trained.
    """

    init_from: Literal["null", "prompt"] = "null"
    training: CriticTraining = field(default_factory=CriticTraining)

    def build(self, prior: Prior, start: SetupContext) -> Critic:
        self.training.check_prior(prior)
        return _NullTextCriticModel(self, prior)


class _LearnedTextPrior(PriorWrapper, nn.Module):
    """The prior, told the learned text."""

    def __init__(self, prior: Prior, start: Literal["null", "prompt"]):
        nn.Module.__init__(self)
        PriorWrapper.__init__(self, prior)
        self._prior, self._adds, self.call_counter = prior, start == "prompt", prior.call_counter
        self._empty = prior.condition([""])
        empty = self._empty.data.detach().clone()
        self.text = nn.Parameter(torch.zeros_like(empty) if self._adds else empty)

    def said(self, told: Condition) -> Condition:
        """What is heard in the place of ``told``."""
        if self._adds:
            return replace(told, data=told.data + self.text)
        return replace(self._empty, data=self.text)[
            torch.zeros(len(told), dtype=torch.long, device=self.text.device)
        ]

    def forward(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        return self._prior(xt, t, *map(self.said, conditions))


class _NullTextCriticModel(Critic):
    def __init__(self, spec: NullTextCritic, prior: Prior):
        self._told = _LearnedTextPrior(prior, spec.init_from)
        self._trainer = CriticTrainer([self._told.text], spec.training, prior.prediction_type)

    def prior(self) -> Prior:
        return self._told

    def predict_both(self, prior: Prior, sample: StepInputs, frozen: Sequence[Condition], own: Sequence[Condition]
               ) -> tuple[list[Prediction], list[Prediction]]:  # fmt: skip
        said = prior(sample.xt, sample.t, *frozen, *map(self._told.said, own))
        return said[: len(frozen)], said[len(frozen) :]

    def observe(self, sample: StepInputs) -> None:
        pass

    def fit(self, sample: StepInputs) -> dict[str, Tensor]:
        return self._trainer.fit(self._told, sample)

    def tensors(self) -> dict[str, Tensor]:
        memory = {
            f"optimizer.{k}": v for k, v in optimizer_tensors(self._trainer.optimizer).items()
        }
        return {"text.text": self._told.text.detach(), **memory}

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_trained(self._told, self._trainer, tensors, "text.")

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"text": self._told.text.detach().cpu().contiguous()}, folder / "text.safetensors"
        )
