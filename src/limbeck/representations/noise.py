"""The noise of given pictures as free parameters, for methods that look for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.latents import LatentParticles, Latents, latent_shape


class NoiseMapParticles(LatentParticles):
    """Particles that are noise, and the pictures they belong to."""

    source_latents: Tensor

    def __init__(self, start: Tensor, source: Tensor, rate: float):
        super().__init__(start, rate)
        self.register_buffer("source_latents", source, persistent=False)

    def render_source(self, view: RenderRequest) -> Render:
        return Render(self.source_latents[to_device(view.particle, self.source_latents.device)], "latent")


@dataclass(frozen=True)
class NoiseMap(RepresentationConfig):
    """Standard normal noise in the place of x0, one tensor per particle, beside the pictures that ``images`` names (iRFDS).

    rate: peak learning rate.
    """

    lr: float = 0.003

    contents = "noise"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"rate must be positive, not {self.lr}")

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        if not self.images:
            raise ValueError("noises belong to pictures: name them with --representation.images")
        pictures = Latents(init_std=0.0, size=self.size, images=self.images).build(
            prior, particles, seed
        )
        with torch.no_grad():
            source = pictures.render(RenderRequest(torch.arange(particles))).image
        rng = torch.Generator().manual_seed(seed)
        start = torch.randn(particles, *latent_shape(prior, self.canvas_size(prior)), generator=rng)
        return NoiseMapParticles(start, source, self.lr).to(prior.device)
