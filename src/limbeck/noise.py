"""Which noise: how eps of each row is drawn. Frozen dataclasses: their fields are their options."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Noise(abc.ABC):
    """Standard normal noise for every row."""

    @abc.abstractmethod
    def __call__(self, view: Int[Tensor, "b"], shape: tuple[int, ...], seed: int, rng: torch.Generator) -> Float[Tensor, "b ..."]:
        """Noise of one x0 ``shape`` per row of ``view`` (particle indices), float32 on the CPU."""


@dataclass(frozen=True)
class Fresh(Noise):
    """Independent at every step."""

    def __call__(self, view: Int[Tensor, "b"], shape: tuple[int, ...], seed: int, rng: torch.Generator) -> Float[Tensor, "b ..."]:
        return torch.randn(len(view), *shape, generator=rng)


@dataclass(frozen=True)
class FixedPerParticle(Noise):
    """Each particle keeps its own noise for the whole run (CFD, FSD in 2D)."""

    def __call__(self, view: Int[Tensor, "b"], shape: tuple[int, ...], seed: int, rng: torch.Generator) -> Float[Tensor, "b ..."]:
        own = [torch.Generator().manual_seed(seed * 100_003 + int(i) + 250_007) for i in view]
        return torch.stack([torch.randn(shape, generator=g) for g in own])
