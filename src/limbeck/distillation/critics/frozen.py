"""Another frozen model as critic: what the particles are is said by a model that was not made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import SetupContext, StepInputs


@dataclass(frozen=True)
class FrozenCritic(CriticConfig):
    """A second frozen model, told the same texts in its own way; nothing is trained.

    model: as in ``--model``; of the same latents and the same noise schedule. With the model itself for critic VSD is
    (s - 1) (eps_y - eps_null).
    """

    model: str = "world"

    def build(self, prior: Prior, start: SetupContext) -> Critic:
        return _FrozenCriticModel(self.model, prior, load_compatible_prior(self.model, prior, start), start)


def load_compatible_prior(model: str, prior: Prior, start: SetupContext) -> Prior:
    """Another model of the latents and the noise schedule of ``prior``, for pictures of its size; ValueError where it is none."""
    other = start.load(model)
    sized = other.size_multiple > 0 and all(side % other.size_multiple == 0 for side in prior.image_size)
    alike = (
        other.shape[0] == prior.shape[0]
        and other.image_size[0] * prior.shape[-1] == prior.image_size[0] * other.shape[-1]
    )
    if other.shape != prior.shape and not (sized and alike):
        shapes = f"x0 of {list(other.shape)}, the model of {list(prior.shape)}"
        raise ValueError(f"critic {model} has {shapes}: choose one that shares it")
    if other.schedule != prior.schedule:
        raise ValueError(
            f"critic {model} has another noise schedule than the model: choose one that shares it"
        )
    return other


class ConditionTranslator:
    """What another model hears of a row: its text is looked up by what the first model hears of it."""

    def __init__(self, prior: Prior, other: Prior, start: SetupContext):
        texts = list(
            dict.fromkeys(
                [
                    *start.prompts,
                    *start.view_prompts,
                    *start.source_prompts,
                    start.negative_prompt,
                    "",
                ]
            )
        )
        self._heard, self._own = prior.condition(texts).data.flatten(1), other.condition(texts)

    def __call__(self, told: Condition) -> Condition:
        same = (told.data.flatten(1)[:, None] == self._heard[None]).all(-1)
        own = self._own[same.float().argmax(1)]
        # what this critic was never told of becomes no number, and stops the run
        known = same.any(1).view(-1, *[1] * (own.data.ndim - 1))
        return replace(
            own,
            data=torch.where(known, own.data, torch.full_like(own.data, torch.nan)),
            pose=told.pose,
        )


class _TranslatedPrior(PriorWrapper):
    """The other model, asked in the first one's terms."""

    def __init__(self, prior: Prior, other: Prior, start: SetupContext):
        super().__init__(prior)
        self._other, self.call_counter, self._translated = (
            other,
            other.call_counter,
            ConditionTranslator(prior, other, start),
        )

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        return self._other(xt, t, *map(self._translated, conditions))


class _FrozenCriticModel(Critic):
    def __init__(self, model: str, prior: Prior, other: Prior, start: SetupContext):
        self._model, self._prior = model, _TranslatedPrior(prior, other, start)

    def prior(self) -> Prior:
        return self._prior

    def standalone(self) -> Prior:
        """None: it is a model like any other."""
        raise ValueError(
            f"the critic is a frozen model: sample it with --model {self._model} and no --critic"
        )

    def observe(self, sample: StepInputs) -> None:
        pass

    def fit(self, sample: StepInputs) -> dict[str, Tensor]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            raise ValueError(
                f"a frozen critic keeps no state, but the checkpoint holds {sorted(tensors)[:3]}"
            )

    def save(self, folder: Path) -> None:
        """Nothing: the weights are where the model is."""
