"""Sliced Wasserstein distance of two samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def sliced_wasserstein(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], num_projections: int = 256, seed: int = 0
) -> float:
    """Root of the mean over random directions of the squared Wasserstein-2 distance along them.

    Along a direction the optimal transport joins the sorted projections. Range [0, inf), in units
    of the points; a shift by m has the value |m| / sqrt(d) in the mean over all directions. Sample
    size: biased upwards for few points, so compare only sets of one size.

    Args:
        a: one sample.
        b: the other, of the same size.
        num_projections: number of directions, uniform on the sphere.
        seed: seed of the directions.

    Raises:
        ValueError: if the samples differ in shape, or are empty.

    References:
        Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015.
    """
    if a.shape != b.shape or not len(a):
        raise ValueError(
            f"two samples of one size are needed, not {list(a.shape)} and {list(b.shape)}"
        )
    rng = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], num_projections, generator=rng, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    x, y = ((points.double() @ directions).sort(0).values for points in (a, b))
    return (x - y).square().mean().sqrt().item()
