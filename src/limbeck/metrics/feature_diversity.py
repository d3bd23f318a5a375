"""Diversity of images in the features of a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def feature_diversity(
    images: Float[Tensor, "n 3 h w"], features: Callable[[Tensor], Float[Tensor, "n d"]]
) -> float | None:
    """Mean cosine distance (1 - cosine) of the features over pairs of images.

    Range [0, 2]; 0 if the features of all images point in the same direction. Sample size: two or
    more images of a prompt; its expectation does not depend on how many. Values in the features of
    different networks are not comparable. Our own measure.

    Args:
        images: one image per particle of one prompt.
        features: network that maps images to feature vectors.

    Returns:
        The mean. None with fewer than two images.
    """
    if len(images) < 2:
        return None
    normalized = torch.nn.functional.normalize(features(images).double(), dim=1)
    # the square of the sum holds every pair twice: memory does not grow with their number
    twice_cosines = normalized.sum(0).square().sum() - normalized.square().sum()
    mean_cosine = twice_cosines.item() / (len(images) * (len(images) - 1))
    return max(1 - mean_cosine, 0.0)


def feature_diversity_between(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Mean cosine distance over pairs of a row of ``a`` and one of ``b``. Range [0, 2]."""
    a, b = (torch.nn.functional.normalize(features.double(), dim=1) for features in (a, b))
    return (1 - a @ b.T).mean().item()
