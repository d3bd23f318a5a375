"""Metrics of images in [0, 1] that need neither a model nor a reference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: Measurements by name. They are no shares of right images, even between 0 and 1: equal ones of
#: all prompts have an interval of width zero.
IMAGE_STATISTICS = ("saturation", "clipped", "total_variation", "diversity", "high_frequency")


def saturation(images: Float[Tensor, "n 3 h w"]) -> float:
    """Mean saturation S of HSV (Smith 1978): (max - min) / max of the channels, 0 for black.

    Range [0, 1]. SDS at high guidance is known for values near 1. Sample size: any.

    References:
        Smith, "Color gamut transform pairs", SIGGRAPH 1978.
    """
    high, low = images.amax(1), images.amin(1)
    return torch.where(high > 0, (high - low) / high.clamp_min(1e-12), 0.0).mean().item()


def clipped(images: Float[Tensor, "n 3 h w"]) -> float:
    """Fraction of channel values that are 0 or 255 in 8 bits. Range [0, 1]. Sample size: any."""
    stored = (images * 255).round()
    return ((stored <= 0) | (stored >= 255)).float().mean().item()


def total_variation(images: Float[Tensor, "n 3 h w"]) -> float:
    """Anisotropic total variation per pair: mean absolute difference of neighbors in x and y.

    Range [0, 1], in units of the image range per pixel. Compare only images of one size. Sample
    size: any.

    References:
        Rudin, Osher and Fatemi 1992.
    """
    dx, dy = images.diff(dim=-1).abs(), images.diff(dim=-2).abs()
    return ((dx.sum() + dy.sum()) / max(dx.numel() + dy.numel(), 1)).item()


def diversity(images: Float[Tensor, "n 3 h w"]) -> float | None:
    """Mean over pairs of images of their root-mean-square pixel difference.

    Range [0, 1]; 0 if all images are equal. Sample size: two or more images of a prompt; its
    expectation does not depend on how many.

    Args:
        images: one image per particle of one prompt, values in [0, 1].

    Returns:
        The mean. None with fewer than two images.
    """
    if len(images) < 2:
        return None
    flat = images.flatten(1).double()
    # pdist computes |a - b| without an [N, N, D] tensor
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item()


def diversity_between(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "m 3 h w"]) -> float:
    """Mean root-mean-square difference over pairs of an image of ``a`` and an image of ``b``.

    Range [0, 1], in units of the image range. Sample size: any.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    # the matrix product, the shorter formula, loses half of the digits of similar images
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return (distances / a.shape[1] ** 0.5).mean().item()
