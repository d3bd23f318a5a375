"""Means of x0 over patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.features.base import Features


@dataclass(frozen=True)
class PooledFeatures(Features):
    """Means of x0 over a grid of patches, which ignore fine texture.

    Attributes:
        grid_size: patches per axis, at least 1.
    """

    grid_size: int = 4

    def __post_init__(self) -> None:
        if self.grid_size < 1:
            raise ValueError(f"grid_size must be at least 1, not {self.grid_size}")

    def __call__(self, prior: Prior, x0: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        if x0.ndim != 4:
            raise ValueError(
                f"pooled features need x0 of shape [C, H, W], not {list(x0.shape[1:])}: "
                "use --method.features identity"
            )
        return F.adaptive_avg_pool2d(x0, self.grid_size).flatten(1)
