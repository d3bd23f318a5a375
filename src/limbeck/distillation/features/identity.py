"""x0 as its own features."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.features.base import Features


@dataclass(frozen=True)
class IdentityFeatures(Features):
    """x0 flattened to a vector."""

    def __call__(self, prior: Prior, x0: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        return x0.flatten(1)
