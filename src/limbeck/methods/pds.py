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
from limbeck.distillation.earlier_times import earlier_times
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source

_ADAM = {"steps": 60, "lr": 0.05, "optimizer": {"name": "adam", "decay_start": 1.0}}


@dataclass(frozen=True)
class PDS(EditMethod):
    """Posterior distillation sampling: z_t of the image minus z_t of its source.

    z_t = (x_t' - mu(x_t, x0_hat)) / sigma_t is the stochastic latent of the DDPM step from t to
    t' = t - stride. With the same eps_t and eps_t' for both, the difference is
    psi(t) (x - x_source) + chi(t) (eps_hat - eps_hat_source).

    Attributes:
        guidance: guidance scale s of both predictions.
        stride: t - t', between 0 and 1.
        coefficients: consistent: mu and sigma_t of the step from t to t', for which psi is 0.
            published: with the beta_t of half the stride, as the authors' code takes steps of two
            ticks with the beta of one; then psi pulls to the source.
    """

    guidance: float = 100.0
    stride: float = 0.002
    coefficients: Literal["published", "consistent"] = "published"

    bibtex = """@inproceedings{koo2024posterior,
  title={Posterior Distillation Sampling},
  author={Koo, Juil and Park, Chanho and Sung, Minhyuk},
  booktitle={CVPR},
  year={2024}
}"""
    passes = "4 in one call (2 at guidance 1)"
    edit_recipes = {
        "diffusion": {"method": {"guidance": 7.5}, **_ADAM},
        "flux": {"method": {"guidance": 1.0}, **_ADAM},
    }

    def __post_init__(self) -> None:
        if not 0 < self.stride < 1:
            raise ValueError(f"stride must be between 0 and 1, not {self.stride}")

    def init(self, prior: Prior, setup: SetupContext) -> Stateless:
        t = prior.schedule.snap(torch.tensor([0.5], dtype=torch.float64))
        prev, half = earlier_times(prior.schedule, t, self.stride)
        is_published = self.coefficients == "published"  # with half of the stride
        if bool(prev == t) or (is_published and bool((half == prev) | (half == t))):
            least = "two ticks" if is_published else "a tick"
            text = f"stride {self.stride} is less than {least} of this model's schedule"
            raise ValueError(f"{text}: use a longer stride")
        return super().init(prior, setup)

    def chi_and_psi(
        self, schedule: NoiseSchedule, t: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """chi(t) and psi(t), float64, of any Gaussian process (eq. 4 if alpha^2 + sigma^2 = 1)."""
        prev, half = earlier_times(schedule, t, self.stride)
        beta_from = prev if self.coefficients == "consistent" else half
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        alpha_prev, sigma_prev = schedule.alpha(prev), schedule.sigma(prev)
        # one step of the process: x_t = a x_t' + sqrt(beta_t) n
        a = alpha / schedule.alpha(beta_from)
        beta = sigma**2 - (a * schedule.sigma(beta_from)) ** 2
        # its posterior: x_t' ~ N(mu, sigma_t^2), mu = gamma_t x0_hat + delta_t x_t
        gamma = alpha_prev * beta / sigma**2
        delta = a * sigma_prev**2 / sigma**2
        std = sigma_prev * beta.sqrt() / sigma
        # in z_t = (alpha' x + sigma' eps' - mu) / sigma_t, x0_hat = x - lambda_t (eps_hat - eps)
        return gamma * sigma / (alpha * std), (alpha_prev - gamma - delta * alpha) / std

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        chi, psi = self.chi_and_psi(inputs.schedule, inputs.t)
        x, x_source = inputs.x0.detach(), edit_source(inputs).x0
        eps_hat, eps_hat_source = self.predict_target_and_source(prior, inputs)
        return expand(chi, x) * (eps_hat - eps_hat_source) + expand(psi, x) * (x - x_source)
