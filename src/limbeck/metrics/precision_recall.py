"""Precision and recall of a set of images, by balls around nearest neighbors."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEIGHBORS = 5  #: k of the reference implementation of these metrics
_CHUNK = 1024


def neighbor_radii(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n"]:
    """Distance of every row to its k-th nearest other row, in float64.

    Raises:
        ValueError: with at most k rows.
    """
    if len(x) <= k:
        raise ValueError(f"{k} nearest neighbors need more than {k} images, not {len(x)}")
    x = x.double()
    chunks = [torch.cdist(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(_CHUNK)]
    return torch.cat(chunks)  # the first neighbor of a row is itself


def precision(
    images: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], k: int = NEIGHBORS
) -> float:
    """Share of images inside the ball of any reference image up to its k-th nearest neighbor.

    Range [0, 1]. Sample size: not 1 for equal laws, but about 0.9 / 0.8 / 0.75 at 16 / 256 / 1024
    images of 64 dimensions: compare only equal sizes, with the floor beside it.

    Args:
        images: features of the images.
        reference: features of the reference.
        k: the neighbor that sets the radius.

    Raises:
        ValueError: with at most k reference images.

    References:
        Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative
        Models", 2019, arXiv 1904.06991.
    """
    return _inside(images, reference, neighbor_radii(reference, k)).double().mean().item()


def recall(
    images: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], k: int = NEIGHBORS
) -> float:
    """Share of reference images inside the ball of any image: ``precision`` with swapped sets.

    Range [0, 1]. Sample size: as for ``precision``, compare only equal sizes.

    Args:
        images: features of the images.
        reference: features of the reference.
        k: the neighbor that sets the radius.

    Raises:
        ValueError: with at most k images.

    References:
        Kynkaanniemi et al. 2019, arXiv 1904.06991.
    """
    return precision(reference, images, k)


def _inside(
    points: Float[Tensor, "n d"], centers: Float[Tensor, "m d"], radii: Float[Tensor, "m"]
) -> Bool[Tensor, "n"]:
    """Whether each point lies in any of the balls."""
    centers = centers.double()
    chunks = points.double().split(_CHUNK)
    return torch.cat([(torch.cdist(rows, centers) <= radii).any(1) for rows in chunks])
