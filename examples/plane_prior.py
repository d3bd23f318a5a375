"""Three Gaussians in the plane, whose scores are exact, for many particles.

limbeck run all --model examples/plane_prior.py:Plane --method vsd --method.critic exact
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule, stable_diffusion_schedule
from limbeck.priors.exact import GaussianMixture


@dataclass
class Plane(GaussianMixture):
    """Modes of weight .5, .3 and .2 and of width .5, .35 and .35; every prompt means all."""

    means: Tensor = field(
        init=False, default_factory=lambda: torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
    )
    stds: Tensor = field(init=False, default_factory=lambda: torch.tensor([0.5, 0.35, 0.35]))
    weights: Tensor | None = field(
        init=False, default_factory=lambda: torch.tensor([0.5, 0.3, 0.2])
    )
    labels: tuple[str, ...] = field(init=False, default=())
    schedule: NoiseSchedule = field(init=False, default_factory=stable_diffusion_schedule)
    device: str = field(init=False, default="cpu")
