"""Latents of the prior as parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig, latent_shape
from limbeck.representations.particle_tensor import ParticleTensor
from limbeck.system.random import RowRandom


class LatentParticles(Representation):
    """Latents or noise of N particles.

    Args:
        initial: initial latents of N particles.
        lr: peak learning rate.
    """

    def __init__(self, initial: Float[Tensor, "n ..."], lr: float):
        super().__init__()
        self.particles = ParticleTensor(initial)
        self.lr = lr

    def render(self, request: RenderRequest) -> Render:
        return Render(self.particles.gather(request.particle), "latent")

    def param_groups(self) -> list[dict]:
        return [{"params": list(self.particles.parameters()), "lr": self.lr}]

    def separate_particles(self) -> None:
        self.particles.separate()


@dataclass(frozen=True)
class Latents(RepresentationConfig):
    """Latents of the prior: no encoder in the loop, the cheapest representation.

    Attributes:
        lr: peak learning rate.
        init_std: standard deviation of the initial normal noise, added to the encoded ``images`` if
            there are any. None: 1 without images, 0 with.
    """

    lr: float = 0.1
    init_std: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.init_std is not None and self.init_std < 0:
            raise ValueError(f"init_std must not be negative, not {self.init_std}")

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        shape = latent_shape(prior, self.canvas_size(prior))
        std = self.init_std if self.init_std is not None else float(not self.images)
        initial = std * RowRandom.initial(seed, particles).normal("latents", *shape)
        images = self.initial_images(prior, particles)
        if images is not None:
            with torch.no_grad():
                chunks = images.split(8)
                initial += torch.cat([prior.encode(x.to(prior.device)).cpu() for x in chunks])
        return LatentParticles(initial, self.lr).to(prior.device)
