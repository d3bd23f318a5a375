"""Vendi score: the effective number of different images."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def vendi_score(features: Float[Tensor, "n d"], order: float = 1.0) -> float:
    """Exponential of the Renyi entropy of the eigenvalues of K / n, K the cosine similarities.

    Range: 1 (all features point in the same direction) to n (all are orthogonal). Sample size: it
    grows with n, so compare only sets of one size. Features with a large common part, such as
    those of CLIP, use a small part of the range.

    Args:
        features: features of the images.
        order: order q of the entropy; 1 is Shannon's, inf counts the largest eigenvalue only.

    Raises:
        ValueError: without images, or if the order is negative.

    References:
        Friedman and Dieng, "The Vendi Score", 2023, arXiv 2210.02410; orders: Pasarkar and
        Dieng 2024, arXiv 2310.12952.
    """
    if len(features) < 1:
        raise ValueError("the Vendi score needs at least one image")
    if not order >= 0:
        raise ValueError(f"order must be at least 0, not {order}")
    x = torch.nn.functional.normalize(features.double(), dim=1)
    # X X^T and X^T X have the same eigenvalues besides 0
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    p = torch.linalg.eigvalsh(gram / len(x))
    p = p[p > 1e-12]
    if order == 1:
        return (-(p * p.log()).sum()).exp().item()
    if order == float("inf"):
        return (1 / p.max()).item()
    return (p**order).sum().pow(1 / (1 - order)).item()
