"""A frozen model as the critic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import NovelViewPrior, Prior, PriorWrapper
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import SetupContext, StepInputs


@dataclass(frozen=True)
class FrozenCritic(CriticConfig):
    """A second frozen model, conditioned on the same prompts; nothing is trained.

    With the prior itself as the critic, VSD is (s - 1) (eps_y - eps_null).

    Attributes:
        model: the critic's model, as in --model. It must have the latents and the noise schedule of
            the prior.
    """

    path_options: ClassVar = ("model",)

    model: str = "world"

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        other = load_compatible_prior(self.model, prior, setup)
        return _FrozenCriticModel(self.model, prior, other, setup)


def load_compatible_prior(model: str, prior: Prior, setup: SetupContext) -> Prior:
    """Load another model that works on x0 of ``prior``.

    Args:
        model: name of the other model, as in ``--model``.
        prior: the prior of the run.
        setup: context of the run, whose ``load`` is used.

    Raises:
        ValueError: if the latents, the noise schedule or the image sizes do not match, or one of
            the two reads no text.
    """
    if isinstance(prior, NovelViewPrior):
        raise ValueError(
            f"critic {model} reads the prompts, but this model reads no text: use a critic that "
            "shares its network, such as --method.critic lora"
        )
    other = setup.load_prior(model)
    if isinstance(other, NovelViewPrior):
        raise ValueError(f"critic {model} reads an image, not the prompts: choose another")
    takes_size = other.size_multiple > 0 and all(
        length % other.size_multiple == 0 for length in prior.image_size
    )
    same_channels = other.shape[0] == prior.shape[0]
    same_scale = other.image_size[0] * prior.shape[-1] == prior.image_size[0] * other.shape[-1]
    if other.shape != prior.shape and not (takes_size and same_channels and same_scale):
        raise ValueError(
            f"critic {model} has x0 of {list(other.shape)}, the model of {list(prior.shape)}: "
            "choose a critic with the model's latents"
        )
    if other.schedule != prior.schedule:
        raise ValueError(
            f"critic {model} has another noise schedule than the model: choose one with the same"
        )
    return other


class ConditionTranslator:
    """Maps conditions of one prior to those of another for the same text.

    The text of a row is found by comparing its embedding with those of all texts of the run.

    Args:
        prior: the prior whose conditions are translated.
        other: the prior to translate to.
        setup: context of the run, which has the texts.

    Raises:
        ValueError: if rows have other prompts than the particles, or mixtures of prompts.
    """

    def __init__(self, prior: Prior, other: Prior, setup: SetupContext):
        setup.require_prompts_of_particles("this critic translates")
        if setup.interpolates_prompts:
            raise ValueError(
                "this critic translates the prompt of each view, but the cameras interpolate "
                "between them: leave out --cameras.blend-prompts and --cameras.perp-neg-rule"
            )
        prompts = [*setup.prompts, *setup.view_prompts, *setup.source_prompts]
        texts = list(dict.fromkeys([*prompts, setup.negative_prompt, ""]))
        self._keys, self._conditions = (
            prior.condition(texts).data.flatten(1),
            other.condition(texts),
        )

    def __call__(self, condition: Condition) -> Condition:
        same = (condition.data.flatten(1)[:, None] == self._keys[None]).all(-1)
        translated = self._conditions[same.float().argmax(1)]
        # a condition of no known text becomes NaN, which stops the run
        known = same.any(1).view(-1, *[1] * (translated.data.ndim - 1))
        data = torch.where(known, translated.data, torch.full_like(translated.data, torch.nan))
        return replace(translated.of_renders(condition), data=data, pose=condition.pose)


class _TranslatedPrior(PriorWrapper):
    """Another prior, called with conditions of the first one."""

    def __init__(self, prior: Prior, other: Prior, setup: SetupContext):
        super().__init__(prior)
        self._other, self.call_counter = other, other.call_counter
        self._translate = ConditionTranslator(prior, other, setup)

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        return self._other(xt, t, *map(self._translate, conditions))


class _FrozenCriticModel(Critic):
    def __init__(self, model: str, prior: Prior, other: Prior, setup: SetupContext):
        self._model, self._prior = model, _TranslatedPrior(prior, other, setup)

    def prior(self) -> Prior:
        return self._prior

    def standalone(self) -> Prior:
        """Refused: the model can be sampled by its name."""
        raise ValueError(
            f"the critic is a frozen model: sample it with --model {self._model} and no --critic"
        )

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            raise ValueError(
                f"a frozen critic has no state, but the checkpoint holds {sorted(tensors)[:3]}"
            )

    def save(self, folder: Path) -> None:
        """Write nothing: the weights are those of the model."""
