"""Modes and density of samples of a mixture of Gaussians."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def mode_shares(points: Float[Tensor, "n d"], means: Float[Tensor, "k d"]) -> Float[Tensor, "k"]:
    """Share of the points that are nearest to each mean.

    Range [0, 1], sum 1. Sample size: the standard error of a share p of n points is
    sqrt(p (1 - p) / n).

    References:
        Che et al., "Mode Regularized GANs", 2017, arXiv 1612.02136, count modes by the nearest mean
        as well.
    """
    nearest = torch.cdist(points, means).argmin(1)
    return nearest.bincount(minlength=len(means)).double() / len(points)


def mode_error(shares: Float[Tensor, "k"], weights: Float[Tensor, "k"]) -> float:
    """Total variation distance of shares and true weights, sum |share - weight| / 2.

    Range [0, 1]; 1: all points are in modes without weight. Sample size: biased upwards by about
    sqrt(k / (2 pi n)) for k equal modes and n points, so compare only equal sizes.

    Args:
        shares: shares of the modes.
        weights: weights of the modes, on any scale.

    References:
        Levin, Peres and Wilmer, "Markov Chains and Mixing Times", 2009, chapter 4.
    """
    return (shares - weights / weights.sum()).abs().sum().item() / 2


def covered_modes(
    points: Float[Tensor, "n d"],
    means: Float[Tensor, "k d"],
    stds: Float[Tensor, "k"],
    weights: Float[Tensor, "k"],
) -> int:
    """Number of modes that hold at least a quarter of their weight.

    A point is in the mode of the nearest mean, if it is within twice the root mean square distance
    of samples of that component from its mean; points between the modes are in none.

    Range 0 to the number of modes with weight. Sample size: a mode of weight p that should hold
    n p >= 5 of n true samples holds fewer than a quarter of them in less than 1 of 20 sets.

    Args:
        points: the points.
        means: means of the components.
        stds: their standard deviations, above 0.
        weights: their weights on any scale; 0 is no mode.

    References:
        Che et al., "Mode Regularized GANs", 2017, arXiv 1612.02136, count the modes that samples
        miss as well.
    """
    distance, nearest = torch.cdist(points.double(), means.double()).min(1)
    inside = distance <= 2 * points.shape[1] ** 0.5 * stds.double()[nearest]
    shares = nearest[inside].bincount(minlength=len(means)).double() / len(points)
    true = weights / weights.sum()
    return int(((shares >= true / 4) & (true > 0)).sum())


def mode_spread(
    points: Float[Tensor, "n d"], means: Float[Tensor, "k d"], stds: Float[Tensor, "k"]
) -> float:
    """Root mean square distance to the nearest mean, in units of its value for that component.

    Range [0, inf): 1 for true samples of components that lie apart, 0 for points at the means,
    above 1 for points between them. Sample size: unbiased in the square.

    Args:
        points: where.
        means: means of the components.
        stds: their standard deviations, above 0.

    References:
        Bishop, "Pattern Recognition and Machine Learning", 2006, section 2.3.9: E |x - mean|^2 =
        d std^2.
    """
    distance, nearest = torch.cdist(points.double(), means.double()).min(1)
    relative = distance.square() / (points.shape[1] * stds.double()[nearest].square())
    return relative.mean().sqrt().item()


def log_density(
    points: Float[Tensor, "n d"],
    means: Float[Tensor, "k d"],
    stds: Float[Tensor, "k"],
    weights: Float[Tensor, "k"],
) -> Float[Tensor, "n"]:
    """Logarithm of sum_k w_k N(x; mean_k, std_k^2 I), in nats and float64.

    Range: the real numbers. The mean over true samples is minus the entropy; modes, which methods
    like SDS seek, have more. Sample size: a mean over points, unbiased.

    Args:
        points: where.
        means: means of the components.
        stds: their standard deviations, above 0.
        weights: their weights on any scale; 0 leaves one out.

    References:
        Bishop, "Pattern Recognition and Machine Learning", 2006, section 2.3.9.
    """
    points, means, stds = points.double(), means.double(), stds.double()
    squared = (points[:, None] - means).square().sum(-1)
    log = -0.5 * squared / stds**2 - points.shape[1] * (stds.log() + 0.5 * math.log(2 * math.pi))
    return (log + (weights / weights.sum()).double().log()).logsumexp(1)
