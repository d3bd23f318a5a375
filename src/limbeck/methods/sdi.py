"""SDI, score distillation via inversion: Lukoianov et al. 2024, Score Distillation via Reparametrized DDIM (arXiv 2405.15891)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.cached_targets import CachedTargets
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.methods.base import Method


@dataclass(frozen=True)
class SDI(Method[CachedTargets]):
    """(x - x0_hat) / lambda_t, x0_hat predicted from alpha_t x + sigma_t kappa, kappa the noise that the prior sees in x.

    guidance: s of the prediction. kappa: inverted, by guided DDIM inversion of x; or cached, the last prediction's own noise, and
    the drawn one at first. inversion: s of the inversion. strides: into which the inversion divides the whole schedule. eta:
    fresh noise added by the inversion. renoise_jitter: let the inversion end up to a stride later and be taken for t, as the code
    does. every: steps for which x0_hat is kept.
    """

    guidance: float = 8.5
    kappa: Literal["inverted", "cached"] = "inverted"
    inversion_guidance: float = -6.5
    inversion_steps: int = 10
    inversion_eta: float = 0.3
    renoise_jitter: bool = False
    refresh_every: int = 1

    bibtex = """@inproceedings{lukoianov2024sdi, title={Score Distillation via Reparametrized DDIM}, author={Lukoianov, Artem and
  S{\\'a}ez de Oc{\\'a}riz Borde, Haitz and Greenewald, Kristjan and Guizilini, Vitor and Bagautdinov, Timur and Sitzmann, Vincent
  and Solomon, Justin}, booktitle={NeurIPS}, year={2024}}"""
    passes = "2 per stride up to t (at most 10) and 2 at t; cached: 2 at t; none between the steps that look anew"

    def __post_init__(self) -> None:
        if self.inversion_steps < 1 or self.refresh_every < 1 or not self.inversion_eta >= 0:
            raise ValueError(
                f"strides and every must be at least 1 and eta must not be negative: {self}"
            )

    def init(self, prior: Prior, start: SetupContext) -> CachedTargets:
        return CachedTargets(start)

    def noisy(
        self, prior: Prior, sample: StepInputs, kappa: Tensor, first: Tensor
    ) -> Float[Tensor, "b ..."]:
        """x_t of the prediction; ``first`` is 1 where a row has no kappa yet, else 0."""
        x, t, schedule = sample.x0.detach(), sample.t_cpu, sample.schedule
        if self.kappa == "cached":
            return schedule.add_noise(x, torch.where(expand(first, x) > 0, sample.eps, kappa), t)
        if self.renoise_jitter:
            t = schedule.snap(
                (t + torch.rand(len(t), generator=sample.rng).to(t) / self.inversion_steps).clamp_max(1)
            )
        return run_ddim(
            prior,
            x,
            sample.conditions,
            ddim_times(schedule, t, 0, self.inversion_steps),
            self.inversion_guidance,
            self.inversion_eta,
            sample.rng,
        )

    def __call__(
        self, prior: Prior, sample: StepInputs, state: CachedTargets
    ) -> Float[Tensor, "b ..."]:
        turn, view = sample.step // self.refresh_every, sample.particle.cpu()
        due = (state.last_update[view] != turn).nonzero().flatten()
        if len(due):
            part, whose = sample.select(due), view[due]
            at = to_device(whose, sample.x0.device)
            xt = self.noisy(prior, part, state.kappa[at], (state.last_update[whose] < 0).double())
            said = guided_prediction(prior, xt, part.t, part.conditions, self.guidance)
            state.target[at], state.kappa[at], state.last_update[whose] = said.x0, said.eps, turn
        target = state.target[to_device(view, sample.x0.device)]
        return expand(sample.schedule.alpha(sample.t) / sample.schedule.sigma(sample.t), target) * (
            sample.x0.detach() - target
        )
