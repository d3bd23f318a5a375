"""Latents of the prior as free parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig, latent_shape


class LatentParticles(Representation):
    """One tensor per particle, so that a particle which is not drawn keeps its optimiser state as it is."""

    def __init__(self, start: Tensor, rate: float):
        super().__init__()
        self.particles = nn.ParameterList(start.unbind(0))
        self.lr = rate

    def render(self, view: RenderRequest) -> Render:
        return Render(torch.stack([self.particles[i] for i in view.particle.tolist()]), "latent")

    def param_groups(self) -> list[dict]:
        return [{"params": list(self.particles), "lr": self.lr}]


@dataclass(frozen=True)
class Latents(RepresentationConfig):
    """rate: peak learning rate. spread: deviation of the normal noise at the start; left out it is 1, and 0 with images."""

    lr: float = 0.03
    init_std: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0 or (self.init_std or 0) < 0:
            raise ValueError(
                f"rate must be positive and spread not negative, not rate {self.lr}, spread {self.init_std}"
            )

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        rng = torch.Generator().manual_seed(seed)
        spread = self.init_std if self.init_std is not None else float(not self.images)
        start = spread * torch.randn(
            particles, *latent_shape(prior, self.canvas_size(prior)), generator=rng
        )
        images = self.initial_images(prior, particles)
        if images is not None:
            with torch.no_grad():
                start += torch.cat(
                    [prior.encode(part.to(prior.device)).cpu() for part in images.split(8)]
                )
        return LatentParticles(start, self.lr).to(prior.device)
