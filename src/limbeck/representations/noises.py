"""The noise of given pictures as free parameters, for methods that look for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.camera import View
from limbeck.prior import Prior
from limbeck.representation import Render, Representation, Spec
from limbeck.representations.latents import LatentParticles, Latents, latent_shape
from limbeck.schedule import sent


class NoiseParticles(LatentParticles):
    """Particles that are noise, and the pictures they belong to."""

    source: Tensor

    def __init__(self, start: Tensor, source: Tensor, rate: float):
        super().__init__(start, rate)
        self.register_buffer("source", source, persistent=False)

    def before(self, view: View) -> Render:
        return Render(self.source[sent(view.particle, self.source.device)], "latent")


@dataclass(frozen=True)
class Noises(Spec):
    """Standard normal noise in the place of x0, one tensor per particle, beside the pictures that ``images`` names (iRFDS).

    rate: peak learning rate.
    """

    rate: float = 0.003

    holds = "noise"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, not {self.rate}")

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        if not self.images:
            raise ValueError("noises belong to pictures: name them with --representation.images")
        pictures = Latents(spread=0.0, size=self.size, images=self.images).build(prior, particles, seed)
        with torch.no_grad():
            source = pictures.render(View(torch.arange(particles))).image
        rng = torch.Generator().manual_seed(seed)
        start = torch.randn(particles, *latent_shape(prior, self.canvas(prior)), generator=rng)
        return NoiseParticles(start, source, self.rate).to(prior.device)
