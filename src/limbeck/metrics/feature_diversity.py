"""How far apart a network sees pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def feature_diversity(
    images: Float[Tensor, "n 3 h w"], features: Callable[[Tensor], Float[Tensor, "n d"]]
) -> float | None:
    """Mean over pairs of pictures of 1 - cosine of their features; give it the particles of one prompt.

    Range [0, 2], no unit; 0 means that the network sees the same in all. None with fewer than two pictures.
    """
    if len(images) < 2:
        return None
    f = torch.nn.functional.normalize(features(images).double(), dim=1)
    rows, columns = torch.triu_indices(len(f), len(f), 1)
    return (1 - (f[rows] * f[columns]).sum(1)).mean().item()


def feature_difference(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Mean over pairs of one row of ``a`` and one of ``b`` of 1 - cosine: ``feature_diversity`` between two sets of features.

    Range [0, 2], no unit.
    """
    one, other = (torch.nn.functional.normalize(features.double(), dim=1) for features in (a, b))
    return (1 - one @ other.T).mean().item()
