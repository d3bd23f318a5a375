"""DSD, diverse score distillation: Xu et al. 2024 (arXiv 2412.06780)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.noise import FixedPerParticleNoise
from limbeck.distillation.state import Stateless
from limbeck.methods.base import Method


class Seeds(Stateless):
    """The noise that each particle's own sample begins with; made anew from the seed, so nothing is remembered."""

    def __init__(self, start: SetupContext):
        everyone, shape = torch.arange(start.particles), tuple(start.x0.shape[1:])
        self.noise = FixedPerParticleNoise()(everyone, shape, 0, start.seed, torch.Generator()).to(
            start.x0
        )


@dataclass(frozen=True)
class DSD(Method[Seeds]):
    """eps_hat_s(alpha_t x + sigma_t kappa, t, y) - eps_hat(alpha_t' x + sigma_t' kappa, t', y), t' = t + U[0, share (t - t_min)];
    kappa = eps_hat_s(z_t', t', y) of the sample z that DDIM makes of the particle's own noise, whatever x is.

    guidance: s of the first prediction, of kappa and of DDIM. own: s of the second prediction. strides: into which DDIM divides
    the whole schedule. share: greatest share of t - t_min that t' lies later. t_min: time of no shift.
    """

    guidance: float = 7.5
    later_guidance: float = 1.0
    ddim_steps: int = 10
    plus_ratio: float = 0.1
    t_min: float = 0.32

    bibtex = """@article{xu2024dsd, title={Diverse Score Distillation}, author={Xu, Yanbo and Srinivasa, Jayanth and Liu, Gaowen and
  Tulsiani, Shubham}, journal={arXiv:2412.06780}, year={2024}}"""
    passes = "2 per stride from 1 down to t' (at most 10), 2 and 1 at t', 2 at t"

    def __post_init__(self) -> None:
        if self.ddim_steps < 1 or not (self.plus_ratio >= 0 and 0 <= self.t_min <= 1):
            raise ValueError(
                f"strides must be at least 1, share not negative and t_min in [0, 1]: {self}"
            )

    def init(self, prior: Prior, start: SetupContext) -> Seeds:
        return Seeds(start)

    def __call__(self, prior: Prior, sample: StepInputs, state: Seeds) -> Float[Tensor, "b ..."]:
        x, told, schedule = sample.x0.detach(), sample.conditions, sample.schedule
        clock = sample.random_later_t(self.plus_ratio, self.t_min)
        later, z = to_device(clock, x.device), state.noise[to_device(sample.particle, x.device)]
        z = run_ddim(
            prior, z, told, ddim_times(schedule, clock, 1, self.ddim_steps), self.guidance
        )
        kappa = guided_prediction(prior, z, later, told, self.guidance).eps
        phi = guided_prediction(
            prior, schedule.add_noise(x, kappa, later), later, told, self.later_guidance
        ).eps
        return (
            guided_prediction(
                prior, schedule.add_noise(x, kappa, sample.t), sample.t, told, self.guidance
            ).eps
            - phi
        )
