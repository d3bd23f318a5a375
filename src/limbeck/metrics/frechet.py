"""Fréchet distance between two sets of features of any network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _sqrtm(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared Fréchet distance of the normal distributions with the moments of two sets.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), with covariances over n - 1, in
    float64. Range [0, inf), in squared units of the features. Sample size: biased upwards by about
    d^2 / 2n for n rows of d dimensions, so compare only equal sizes, with the floor beside it; by
    custom 10,000 images and more.

    Raises:
        ValueError: with fewer than two rows, or features of different dimensions.

    References:
        Dowson and Landau 1982; FID: Heusel et al. 2017, arXiv 1706.08500.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"a covariance needs at least 2 rows, not {len(a)} and {len(b)}")
    dim = a.shape[1]
    if dim != b.shape[1]:
        raise ValueError(f"features of {dim} and of {b.shape[1]} dimensions cannot be compared")
    a, b = a.double(), b.double()
    cov_a, cov_b = (torch.cov(features.T).reshape(dim, -1) for features in (a, b))
    # A^1/2 B A^1/2 is symmetric with the eigenvalues of AB: no root of an asymmetric matrix
    root = _sqrtm(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    mean_distance = (a.mean(0) - b.mean(0)).square().sum()
    return max((mean_distance + cov_a.trace() + cov_b.trace() - 2 * cross).item(), 0.0)
