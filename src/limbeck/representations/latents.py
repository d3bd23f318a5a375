"""Latents of the prior as free parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.prior import Prior
from limbeck.representation import Render, Representation, Spec


class LatentParticles(Representation):
    """One tensor per particle, so that a particle which is not drawn keeps its optimiser state as it is."""

    def __init__(self, start: Tensor, rate: float):
        super().__init__()
        self.particles = nn.ParameterList(start.unbind(0))
        self.rate = rate

    def render(self, view: Int[Tensor, "b"]) -> Render:
        return Render(torch.stack([self.particles[i] for i in view.tolist()]), "latent")

    def groups(self) -> list[dict]:
        return [{"params": list(self.particles), "lr": self.rate}]


@dataclass(frozen=True)
class Latents(Spec):
    """rate: peak learning rate. spread: deviation of the normal start, 0 for zeros."""

    rate: float = 0.03
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.spread < 0:
            raise ValueError(f"rate must be positive and spread not negative, not rate {self.rate}, spread {self.spread}")

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        rng = torch.Generator().manual_seed(seed)
        return LatentParticles(self.spread * torch.randn(particles, *prior.shape, generator=rng), self.rate).to(prior.device)
