"""Energy distance of two samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def energy_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|, without the pairs of a row with itself.

    Range: 0 for equal laws in the mean, negative values are noise, unbounded above, in units of
    the points. Sample size: unbiased from 2 points on.

    Raises:
        ValueError: with fewer than two rows.

    References:
        Szekely and Rizzo, "Energy statistics: A class of statistics based on distances", 2013.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"pairs need at least 2 rows, not {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    return float(2 * torch.cdist(a, b).mean() - _mean_distance(a) - _mean_distance(b))


def _mean_distance(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean distance of two different points of a sample."""
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
