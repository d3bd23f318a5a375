"""DSD, diverse score distillation: Xu et al. 2024 (arXiv 2412.06780)."""

from __future__ import annotations

from dataclasses import dataclass

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
from limbeck.system.random import RowRandom


class SeedNoise(Stateless):
    """The starting noise of each particle's ODE. It follows from the seed, so nothing is saved."""

    def __init__(self, setup: SetupContext):
        rng = RowRandom.initial(setup.seed, setup.particles)
        noise = FixedPerParticleNoise()(rng, tuple(setup.x0.shape[1:]))
        self.noise = noise.to(setup.x0)


@dataclass(frozen=True)
class DSD(Method[SeedNoise]):
    """Diverse SD: eps_hat_s(x_t, t, y) - eps_hat(x_t', t', y) of one noise kappa, at a later t'.

    t' = t + U[0, plus_ratio (t - t_min)]. kappa = eps_hat_s(z_t', t', y), where z follows the DDIM
    ODE from the particle's own noise, whatever x is.

    Attributes:
        guidance: guidance scale s of the first prediction, of kappa and of the ODE.
        later_guidance: guidance scale of the prediction at t'.
        ddim_steps: DDIM steps of the whole schedule, at least 1; those above t' are taken.
        plus_ratio: largest shift t' - t, as a fraction of t - t_min.
        t_min: time at which the shift is 0, in [0, 1].
    """

    guidance: float = 7.5
    later_guidance: float = 1.0
    ddim_steps: int = 10
    plus_ratio: float = 0.1
    t_min: float = 0.32

    bibtex = """@article{xu2024dsd,
  title={Diverse Score Distillation},
  author={Xu, Yanbo and Srinivasa, Jayanth and Liu, Gaowen and Tulsiani, Shubham},
  journal={arXiv:2412.06780},
  year={2024}
}"""
    passes = "2 per DDIM step from 1 down to t' (at most 10), 2 and 1 at t', 2 at t"

    def __post_init__(self) -> None:
        if self.ddim_steps < 1:
            raise ValueError(f"ddim_steps must be at least 1, not {self.ddim_steps}")
        if not self.plus_ratio >= 0:
            raise ValueError(f"plus_ratio must be at least 0, not {self.plus_ratio}")
        if not 0 <= self.t_min <= 1:
            raise ValueError(f"t_min must be in [0, 1], not {self.t_min}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.later_guidance)

    def unused_options(self) -> dict[str, str]:
        return {"noise": "each particle has noise of its own; leave it out"}

    def init(self, prior: Prior, setup: SetupContext) -> SeedNoise:
        return SeedNoise(setup)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: SeedNoise
    ) -> Float[Tensor, "b ..."]:
        x, t, y, schedule = inputs.x0.detach(), inputs.t, inputs.conditions, inputs.schedule
        later_t_cpu = inputs.random_later_t(self.plus_ratio, self.t_min)
        later_t = to_device(later_t_cpu, x.device)
        z = state.noise[to_device(inputs.particle, x.device)]
        z = run_ddim(
            prior, z, y, ddim_times(schedule, later_t_cpu, 1, self.ddim_steps), self.guidance
        )
        kappa = guided_prediction(prior, z, later_t, y, self.guidance).eps
        later_xt, xt = schedule.add_noise(x, kappa, later_t), schedule.add_noise(x, kappa, t)
        eps_later = guided_prediction(prior, later_xt, later_t, y, self.later_guidance).eps
        eps_hat = guided_prediction(prior, xt, t, y, self.guidance).eps
        return eps_hat - eps_later
