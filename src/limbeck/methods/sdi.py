"""SDI, score distillation via inversion: Lukoianov et al. 2024 (arXiv 2405.15891)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, run_ddim
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.batching import cached_x0
from limbeck.distillation.cached_targets import CachedTargets
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.methods.base import Method


@dataclass(frozen=True)
class SDI(Method[CachedTargets]):
    """Score distillation via inversion: (x - x0_hat(alpha_t x + sigma_t kappa, t, y)) / lambda_t.

    The noise kappa of x solves kappa = eps_hat(alpha_t x + sigma_t kappa, t, y).

    Attributes:
        guidance: guidance scale s of x0_hat.
        kappa: inverted: by guided DDIM inversion of x; cached: the noise predicted last for the
            particle, at first the drawn one; not in 3D, where cameras change.
        inversion_guidance: guidance scale of the inversion.
        inversion_steps: steps of an inversion of the whole schedule, at least 1.
        inversion_eta: scale of the fresh noise added by the inversion. 0: none.
        renoise_jitter: let the inversion end up to a step later than t, as in the authors' code.
        refresh_every: steps for which x0_hat is kept, at least 1; in 3D 1.
    """

    guidance: float = 8.5
    kappa: Literal["inverted", "cached"] = "inverted"
    inversion_guidance: float = -6.5
    inversion_steps: int = 10
    inversion_eta: float = 0.3
    renoise_jitter: bool = False
    refresh_every: int = 1

    bibtex = """@inproceedings{lukoianov2024sdi,
  title={Score Distillation via Reparametrized DDIM},
  author={Lukoianov, Artem and S{\\'a}ez de Oc{\\'a}riz Borde, Haitz and Greenewald, Kristjan and
    Guizilini, Vitor and Bagautdinov, Timur and Sitzmann, Vincent and Solomon, Justin},
  booktitle={NeurIPS},
  year={2024}
}"""
    passes = "2 per step up to t (at most 10) and 2 at t; cached: 2 at t; none while x0_hat is kept"

    def __post_init__(self) -> None:
        for name in ("inversion_steps", "refresh_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.inversion_eta >= 0:
            raise ValueError(f"inversion_eta must be at least 0, not {self.inversion_eta}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        scales = (self.guidance, self.inversion_guidance)
        return scales if self.kappa == "inverted" else scales[:1]

    def unused_options(self) -> dict[str, str]:
        own = {"noise": "it inverts x to its noise; leave it out, or use --method.kappa cached"}
        return own if self.kappa == "inverted" else {}

    def init(self, prior: Prior, setup: SetupContext) -> CachedTargets:
        return CachedTargets(setup, lasting=self.kappa == "cached" or self.refresh_every > 1)

    def invert(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """x_t by DDIM inversion of x."""
        t, schedule = inputs.t_cpu, inputs.schedule
        if self.renoise_jitter:
            jitter = inputs.rng.per_group.uniform("jitter").to(t) / self.inversion_steps
            t = schedule.snap((t + jitter).clamp_max(1))
        times = ddim_times(schedule, t, 0, self.inversion_steps)
        scale, eta = self.inversion_guidance, self.inversion_eta
        return run_ddim(prior, inputs.x0.detach(), inputs.conditions, times, scale, eta, inputs.rng)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: CachedTargets
    ) -> Float[Tensor, "b ..."]:
        def predict(rows: StepInputs, last_kappa: Tensor) -> Prediction:
            if self.kappa == "cached":
                xt = rows.schedule.add_noise(rows.x0.detach(), last_kappa, rows.t_cpu)
            else:
                xt = self.invert(prior, rows)
            return guided_prediction(prior, xt, rows.t, rows.conditions, self.guidance)

        x, t, schedule = inputs.x0.detach(), inputs.t, inputs.schedule
        x0_hat = cached_x0(state, inputs, self.refresh_every, predict)
        inverse_lambda = expand(schedule.alpha(t) / schedule.sigma(t), x)
        return inverse_lambda * (x - x0_hat)
