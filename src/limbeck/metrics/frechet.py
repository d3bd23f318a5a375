"""The distance between two sets of features, whatever network they come from."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance of normal distributions with the sets' moments (Dowson & Landau 1982; FID: Heusel et al. 2017).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), covariances with n - 1, in float64. Range [0, inf), in squared units of
    the features. Biased upwards by few rows: compare only sets of the same sizes.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"a covariance needs at least 2 rows, not {len(a)} and {len(b)}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared"
        )
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    # A^1/2 B A^1/2 is symmetric and has the eigenvalues of AB, so no root of a matrix that is not symmetric is needed
    root = _root(first)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return max((apart + first.trace() + second.trace() - 2 * cross).item(), 0.0)
