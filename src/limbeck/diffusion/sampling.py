"""Plain sampling, DDIM and ancestral, from any prior: the reference every method is compared with, and a look into a saved
critic."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.model_options import ModelOverrides, Precision, RuntimeOptions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand


@dataclass(frozen=True)
class Sampling:
    """What is sampled.

    prompts: one or more texts. negative: what guidance leads away from. model: as in a run. parts: as in a run.
    running: as in a run. seed: of the noise.     precision: of the frozen weights, as in a run. steps: network
    calls per picture. guidance: 1 is none. sampler: ddim (deterministic) or ancestral.
    count: pictures per prompt. critic: a run folder whose critic is sampled instead of the prior. camera: azimuth and elevation in
    degrees and distance of the view that a critic which is told cameras is sampled for; left out, it is told none, as a share of
    its rows was in training.
    """

    prompts: tuple[str, ...]
    negative_prompt: str = ""
    model: str = "world"
    parts: ModelOverrides = field(default_factory=ModelOverrides)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    steps: int = 50
    guidance: float = 5.0
    sampler: Literal["ddim", "ancestral"] = "ddim"
    count: int = 4
    seed: int = 0
    critic: Path | None = None
    camera: tuple[float, ...] = ()
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        if len(self.camera) not in (0, 3) or (self.camera and self.critic is None):
            raise ValueError(
                f"camera takes an azimuth, an elevation and a distance, beside a critic, not {self.camera}"
            )
        for name in ("steps", "count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@torch.no_grad()
def sample(prior: Prior, told: Conditions, start: Float[Tensor, "b ..."], steps: int, guidance: float, eta: float = 0.0,
           rng: torch.Generator | None = None) -> Float[Tensor, "b ..."]:  # fmt: skip
    """From noise at the schedule's last time down to x0 in ``steps`` network calls.

    eta 0 is DDIM (Song et al. 2020, eq. 12), 1 ancestral sampling; what lies between scales its noise, eq. 16.
    """
    times = prior.schedule.sampling_times(steps).to(start.device)
    xt = start
    for i, t in enumerate(times):
        now = t.expand(len(xt))
        said = guided_prediction(prior, xt, now, told, guidance)
        if i + 1 == len(times):
            return said.x0
        later = times[i + 1].expand(len(xt))
        a, s = prior.schedule.alpha(now), prior.schedule.sigma(now)
        b, r = prior.schedule.alpha(later), prior.schedule.sigma(later)
        fresh = eta * (r / s) * (1 - (a / b) ** 2).clamp_min(0).sqrt()
        kept = (r**2 - fresh**2).clamp_min(0).sqrt()
        xt = expand(b, xt) * said.x0 + expand(kept, xt) * said.eps
        if eta > 0:
            xt = xt + expand(fresh, xt) * torch.randn(xt.shape, generator=rng).to(xt)
    raise ValueError(f"steps must be at least 1, not {steps}")
