"""JSD: score distillation by a Jensen-Shannon divergence (arXiv 2503.10660), as its code has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.config.ranges import check_minimums, check_not_negative
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class JSD(StatelessMethod):
    """Jensen-Shannon distillation: ((x - x0_hi) + k (x - x0_lo)) / lambda_t.

    x0_hi is predicted at x_t by DDIM inversion of x, as in SDI; x0_lo at x_t of x0_hi with fresh
    noise at the same t.

    Attributes:
        guidance: guidance scale s of both predictions.
        k: weight of the second term. 0: SDI.
        inversion_guidance: guidance scale of the inversion.
        inversion_steps: steps of an inversion of the whole schedule, at least 1.
        inversion_eta: scale of the fresh noise added by the inversion. 0: none.
    """

    name = "jsd"

    guidance: float = 13.5
    k: float = 1.0
    inversion_guidance: float = -13.5
    inversion_steps: int = 10
    inversion_eta: float = 0.3

    bibtex = """@article{do2025jsd,
  title={Text-to-3D Generation using Jensen-Shannon Score Distillation},
  author={Do, Khoi and Hua, Binh-Son},
  journal={arXiv:2503.10660},
  year={2025}
}"""
    passes = "2 per step up to t (at most 10), 2 at t, 2 at t again"

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """Times and weight of the authors' code."""
        return {"timesteps": "linear", "weight": "lambda"}

    def __post_init__(self) -> None:
        check_minimums(self, inversion_steps=1)
        check_not_negative(self, "k", "inversion_eta")

    def unused_options(self) -> dict[str, str]:
        return {} if self.k > 0 else {"noise": "leave it out, or use --method.k above 0"}

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.inversion_guidance)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        x, t, y, schedule = inputs.x0.detach(), inputs.t, inputs.conditions, inputs.schedule
        times = ddim_times(schedule, inputs.t_cpu, 0, self.inversion_steps)
        scale, eta = self.inversion_guidance, self.inversion_eta
        xt_hi = run_ddim(prior, x, y, times, scale, eta, inputs.rng)
        x0_hi = guided_prediction(prior, xt_hi, t, y, self.guidance).x0
        shift = x - x0_hi
        if self.k > 0:
            xt_lo = schedule.add_noise(x0_hi, inputs.eps, t)
            x0_lo = guided_prediction(prior, xt_lo, t, y, self.guidance).x0
            shift = shift + self.k * (x - x0_lo)
        return expand(schedule.alpha(t) / schedule.sigma(t), x) * shift
