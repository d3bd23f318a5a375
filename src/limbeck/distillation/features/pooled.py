"""Means over patches: what a picture looks like from afar."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.features.base import Features


@dataclass(frozen=True)
class PooledFeatures(Features):
    """Means of x0 over a grid of patches, so that fine texture tells no particles apart.

    side: patches across and down.
    """

    side: int = 4

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be at least 1, not {self.side}")

    def __call__(self, prior: Prior, x0: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        if x0.ndim != 4:
            raise ValueError(
                f"pooled features need x0 of [C, H, W], not {list(x0.shape[1:])}: use --method.features itself"
            )
        return F.adaptive_avg_pool2d(x0, self.side).flatten(1)
