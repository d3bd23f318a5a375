"""Base classes of score distillation methods."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import EditSource, SetupContext, StepInputs
from limbeck.distillation.state import State, Stateless

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class LatentAndImageGradient:
    """A direction in x0 space and, beside it, one in the space of the rendered image, which no encoder stands before."""

    x0: Float[Tensor, "b ..."]
    image: Float[Tensor, "b 3 h w"]


@dataclass(frozen=True)
class Method(abc.ABC, Generic[S]):
    """A method of score distillation. Subclasses are final frozen dataclasses, their fields the options; one paper, one file."""

    bibtex = ""  #: the paper, for the report
    optimizes = (
        "pictures"  #: what its direction is to move, as a representation says what it ``holds``
    )
    passes = ""  #: network passes per particle and step, as in the table of methods
    backward = ""  #: what is differentiated besides the representation and a critic, if anything

    @abc.abstractmethod
    def init(self, prior: Prior, start: SetupContext) -> S:
        """The state before the first step."""

    @abc.abstractmethod
    def __call__(
        self, prior: Prior, sample: StepInputs, state: S
    ) -> Float[Tensor, "b ..."] | LatentAndImageGradient:
        """The unweighted direction to descend in x0 space; called without a graph."""

    def fit(self, prior: Prior, sample: StepInputs, state: S) -> dict[str, Tensor]:
        """The critic's own step, after the particles'. Changes ``state`` in place; returns figures to record."""
        return {}

    def critic_prior(self, prior: Prior, state: S) -> Prior | None:
        """The learned denoiser of the particles, where there is one; for pictures of its x0 and for sampling from it."""
        return None

    def save_critic(self, prior: Prior, state: S, folder: Path) -> None:
        """Write the critic's weights for use elsewhere, where there is one."""


@dataclass(frozen=True)
class StatelessMethod(Method[Stateless]):
    """A method whose every step stands alone."""

    def init(self, prior: Prior, start: SetupContext) -> Stateless:
        return Stateless()


NO_SOURCE = "this method edits: say what the pictures show with --source-prompt, and begin with --representation.images"


def edit_source(sample: StepInputs) -> EditSource:
    """What the sample is an edit of; ValueError where it is none."""
    if sample.source is None:
        raise ValueError(NO_SOURCE)
    return sample.source


@dataclass(frozen=True)
class EditMethod(StatelessMethod):
    """A method that leads pictures from what their source text says to what their prompt says.

    guidance: s of the predictions for the picture and for its source.
    """

    guidance: float = 7.5

    def init(self, prior: Prior, start: SetupContext) -> Stateless:
        """Nothing to remember; ValueError where there is no source text, before anything runs."""
        if not start.source_prompts:
            raise ValueError(NO_SOURCE)
        return Stateless()

    def gap(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        """eps_hat_s of the picture under its prompt minus that of the source under its text, of one eps and one t: one call."""
        source = edit_source(sample)
        xt = torch.cat([sample.xt, sample.schedule.add_noise(source.x0, sample.eps, sample.t)])
        said = guided_prediction(
            prior,
            xt,
            sample.t.repeat(2),
            sample.conditions.concat(source.conditions),
            self.guidance,
        )
        target, origin = said.eps.chunk(2)
        return target - origin


class CriticMethod(Method[Critic]):
    """A method whose only state is its critic. Subclasses have the option ``critic``."""

    critic: CriticConfig

    def init(self, prior: Prior, start: SetupContext) -> Critic:
        return self.critic.build(prior, start)

    def fit(self, prior: Prior, sample: StepInputs, state: Critic) -> dict[str, Tensor]:
        return state.fit(sample)

    def critic_prior(self, prior: Prior, state: Critic) -> Prior:
        return state.prior()

    def save_critic(self, prior: Prior, state: Critic, folder: Path) -> None:
        state.save(folder)
