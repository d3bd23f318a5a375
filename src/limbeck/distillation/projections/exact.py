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
    """E over eps of x0_hat(alpha x + sigma eps, t) where the null text names one Gaussian N(m, c I): m + alpha^2 c / (alpha^2 c +
    sigma^2) (x - m).

    Of a mixture that mean has no closed form, nor of any other prior: these are refused, and ``sampled`` takes them.
    """

    def build(self, prior: Prior, start: SetupContext) -> Projector:
        if not isinstance(prior, GaussianMixture):
            raise ValueError(
                f"the exact projection is of a Gaussian prior, not of {type(prior).__name__}: choose sampled or learned"
            )
        return _OfGaussian(prior)


class _OfGaussian(Projector):
    def __init__(self, prior: GaussianMixture):
        self._prior = prior

    def __call__(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        x, alpha, sigma = (
            sample.x0.detach(),
            sample.schedule.alpha(sample.t),
            sample.schedule.sigma(sample.t),
        )
        named = sample.conditions.null.data.isfinite()
        if bool((named.sum(1) != 1).any()):
            most = int(named.sum(1).max())
            raise ValueError(
                f"the exact projection is of one Gaussian, and the null text names {most} at once: choose sampled"
            )
        k = named.int().argmax(1)
        mean, c = self._prior.means[k].to(x), self._prior.stds[k] ** 2
        gain = alpha**2 * c / (alpha**2 * c + sigma**2)
        return mean + expand(torch.as_tensor(gain), x) * (x - mean)
