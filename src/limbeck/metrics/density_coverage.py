"""Density and coverage: precision and recall that are robust to outliers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.precision_recall import NEIGHBORS, neighbor_radii

_CHUNK = 1024


def density(
    images: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], k: int = NEIGHBORS
) -> float:
    """Mean number of reference balls around an image, divided by k.

    Range [0, inf), about 1 for equal laws (0.95 to 1.01 from 16 to 1024 images of 64 dimensions).
    Sample size: standard deviation 0.2 at 64 images, 0.06 at 1024.

    Args:
        images: features of the images.
        reference: features of the reference.
        k: the neighbor that sets the radius of a ball.

    Raises:
        ValueError: with at most k reference images.

    References:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
        arXiv 2002.09797, eq. 3.
    """
    radii, centers = neighbor_radii(reference, k), reference.double()
    chunks = images.double().split(_CHUNK)
    hits = sum((torch.cdist(rows, centers) < radii).sum().item() for rows in chunks)
    return hits / (k * len(images))


def coverage(
    images: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], k: int = NEIGHBORS
) -> float:
    """Share of reference images whose ball holds at least one image.

    Range [0, 1]; for equal laws of equal sizes about 1 - 2^-k, 0.97 for k = 5. Sample size:
    standard deviation 0.02 from 64 images on.

    Args:
        images: features of the images.
        reference: features of the reference.
        k: the neighbor that sets the radius of a ball.

    Raises:
        ValueError: with at most k reference images.

    References:
        Naeem et al. 2020, arXiv 2002.09797, eq. 4.
    """
    radii, points = neighbor_radii(reference, k), images.double()
    chunks = [torch.cdist(rows, points).amin(1) for rows in reference.double().split(_CHUNK)]
    return (torch.cat(chunks) < radii).double().mean().item()
