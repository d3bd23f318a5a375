"""Figures of feature vectors, whatever network they come from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def feature_diversity(images: Float[Tensor, "n 3 h w"], features: Callable[[Tensor], Float[Tensor, "n d"]]) -> float | None:
    """Mean over pairs of pictures of 1 - cosine of their features; give it the particles of one prompt.

    Range [0, 2], no unit; 0 means that the network sees the same in all. None with fewer than two pictures.
    """
    if len(images) < 2:
        return None
    f = torch.nn.functional.normalize(features(images).double(), dim=1)
    rows, columns = torch.triu_indices(len(f), len(f), 1)
    return (1 - (f[rows] * f[columns]).sum(1)).mean().item()


def _root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance of the two normal distributions with the sets' means and covariances (Dowson & Landau 1982; FID, Heusel 2017).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), covariances with n - 1, in float64. Range [0, inf), in squared units of
    the features. Biased upwards by few rows: compare only sets of the same sizes.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"a covariance needs at least 2 rows, not {len(a)} and {len(b)}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared")
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    # A^1/2 B A^1/2 is symmetric and has the eigenvalues of AB, so no root of a matrix that is not symmetric is needed
    root = _root(first)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return max((apart + first.trace() + second.trace() - 2 * cross).item(), 0.0)
