"""The noise of given images as parameters, for methods that optimize noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig, latent_shape
from limbeck.representations.latents import LatentParticles, Latents
from limbeck.system.random import RowRandom


class NoiseMapParticles(LatentParticles):
    """Particles that are noise, with the latents of the images that they belong to.

    Args:
        initial: initial noise of N particles.
        source_latents: latents of their images.
        lr: peak learning rate.
    """

    source_latents: Tensor

    def __init__(
        self, initial: Float[Tensor, "n ..."], source_latents: Float[Tensor, "n ..."], lr: float
    ):
        super().__init__(initial, lr)
        self.register_buffer("source_latents", source_latents, persistent=False)

    def render_source(self, request: RenderRequest) -> Render:
        rows = to_device(request.particle, self.source_latents.device)
        return Render(self.source_latents[rows], "latent")


@dataclass(frozen=True)
class NoiseMap(RepresentationConfig):
    """Noise in place of x0, initialized as standard normal, for the images to invert (iRFDS).

    Attributes:
        lr: peak learning rate.
    """

    lr: float = 0.003

    contents = "noise"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        if not self.images:
            raise ValueError("a noise map belongs to images: set --representation.images")
        config = Latents(init_std=0.0, size=self.size, images=self.images)
        latents = config.build(prior, particles, seed)
        with torch.no_grad():
            source_latents = latents.render(RenderRequest(torch.arange(particles))).image
        shape = latent_shape(prior, self.canvas_size(prior))
        initial = RowRandom.initial(seed, particles).normal("noise", *shape)
        return NoiseMapParticles(initial, source_latents, self.lr).to(prior.device)
