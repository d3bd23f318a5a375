"""The projection of one Gaussian, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector
from limbeck.priors.exact import GaussianMixture


@dataclass(frozen=True)
class ExactProjection(Projection):
    """Closed form for a null prompt that names one Gaussian N(m, c I).

    E over eps of x0_hat(alpha x + sigma eps, t) = m + alpha^2 c / (alpha^2 c + sigma^2) (x - m).
    For a mixture or any other prior there is no closed form; they are refused, use ``sampled``.
    """

    def build(self, prior: Prior, setup: SetupContext) -> Projector:
        if not isinstance(prior, GaussianMixture):
            raise ValueError(
                "the exact projection needs a Gaussian mixture as the prior, "
                f"not {type(prior).__name__}: use sampled or learned"
            )
        return _GaussianProjector(prior)


class _GaussianProjector(Projector):
    def __init__(self, prior: GaussianMixture):
        self._prior = prior

    def __call__(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        x = inputs.x0.detach()
        alpha, sigma = inputs.schedule.alpha(inputs.t), inputs.schedule.sigma(inputs.t)
        components = inputs.conditions.unconditional.data.isfinite()
        if bool((components.sum(1) != 1).any()):
            raise ValueError(
                "the exact projection needs a null prompt that names one Gaussian, "
                f"not {int(components.sum(1).max())}: use sampled"
            )
        k = components.int().argmax(1)
        mean, variance = self._prior.means[k].to(x), self._prior.stds[k] ** 2
        gain = alpha**2 * variance / (alpha**2 * variance + sigma**2)
        return mean + expand(torch.as_tensor(gain), x) * (x - mean)
