"""PDS, posterior distillation sampling: Koo et al. 2023 (arXiv 2311.13831), eq. 11."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source


@dataclass(frozen=True)
class PDS(EditMethod):
    """The gap of the stochastic latents z = (x_t' - mu(x_t, x0_hat)) / sigma~ of picture and source, t' = t - stride, of one eps_t
    and one eps_t': chi(t) times DDS + psi(t) (x - x_source). eps_t' is the same on both sides and cancels.

    guidance: s of both predictions. stride: t - t'. coefficients: consistent takes mu and sigma~ of the step from t' to t as it is,
    and psi is 0; published takes the beta of half the stride, as the code's two ticks with the beta of one, and psi pulls to the
    source.
    """

    guidance: float = 100.0
    stride: float = 0.002
    coefficients: Literal["published", "consistent"] = "published"

    bibtex = """@inproceedings{koo2024posterior, title={Posterior Distillation Sampling}, author={Koo, Juil and Park, Chanho and
  Sung, Minhyuk}, booktitle={CVPR}, year={2024}}"""
    passes = "4 in one call (2 at guidance 1)"

    def __post_init__(self) -> None:
        if not 0 < self.stride < 1:
            raise ValueError(f"stride lies between 0 and 1, not {self.stride}")

    def init(self, prior: Prior, start: SetupContext) -> Stateless:
        chi, _ = self.shares(prior.schedule, torch.tensor([0.5], dtype=torch.float64))
        if not bool(chi > 0):
            raise ValueError(
                f"stride {self.stride} is too short for this model's ticks: t' and t are one tick; give a longer one"
            )
        return super().init(prior, start)

    def shares(
        self, schedule: NoiseSchedule, t: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """chi and psi, float64, from q(x_t' | x_t, x0) of any Gaussian process (eq. 4 where alpha^2 + sigma^2 = 1)."""
        near = schedule.snap((t.double() - self.stride).clamp_min(0))
        step = (
            near
            if self.coefficients == "consistent"
            else schedule.snap((t.double() - self.stride / 2).clamp_min(0))
        )
        alpha, sigma, alpha_near, sigma_near = (
            schedule.alpha(t),
            schedule.sigma(t),
            schedule.alpha(near),
            schedule.sigma(near),
        )
        a = alpha / schedule.alpha(step)
        beta = sigma**2 - (a * schedule.sigma(step)) ** 2
        gamma, delta = (
            alpha_near * beta / sigma**2,
            a * sigma_near**2 / sigma**2,
        )  # mu = gamma x0_hat + delta x_t
        deviation = sigma_near * beta.sqrt() / sigma
        return gamma * sigma / (alpha * deviation), (alpha_near - gamma - delta * alpha) / deviation

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        chi, psi = self.shares(sample.schedule, sample.t)
        apart = sample.x0.detach() - edit_source(sample).x0
        return expand(chi, apart) * self.gap(prior, sample) + expand(psi, apart) * apart
