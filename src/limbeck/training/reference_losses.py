"""Losses between a render and the reference image of its object, one value per row.

References:
    RealFusion (Melas-Kyriazi et al. 2023, arXiv 2302.10663); Magic123 (Qian et al. 2023, arXiv
    2306.17843).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-8


def color_loss(
    image: Float[Tensor, "b 3 h w"],
    background: Float[Tensor, "b 3 h w"],
    color: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
) -> Float[Tensor, "b"]:
    """Mean square error of the image to the object in front of the render's own background.

    Args:
        image: renders.
        background: their backgrounds, to which no gradient flows.
        color: colors of the object times ``mask``.
        mask: where the object is.
    """
    target = color + (1 - mask) * background.detach()
    return (image - target).square().flatten(1).mean(1)


def mask_loss(alpha: Float[Tensor, "b 1 h w"], mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "b"]:
    """Mean square error of the opacity.

    Args:
        alpha: opacities of the renders.
        mask: where the object is.
    """
    return (alpha - mask).square().flatten(1).mean(1)


def scale_shift_loss(
    value: Float[Tensor, "b 1 h w"],
    target: Float[Tensor, "1 h w"],
    weight: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b"]:
    """Mean square error to the target after the scale and the shift of it that fit best.

    The scale is not negative: a target that runs against the render would otherwise be fitted
    inside out. No gradient flows through the fit.

    Args:
        value: depths of the renders.
        target: depth in other units.
        weight: weight of each pixel.
    """
    moments = _Moments(value, target, weight)
    with torch.no_grad():
        scale = (moments.covariance / moments.target_variance.clamp_min(_EPS)).clamp_min(0)
    residual = moments.value - scale[:, None] * moments.target
    return (moments.weight * residual.square()).sum(1)


def correlation_loss(
    value: Float[Tensor, "b 1 h w"],
    target: Float[Tensor, "1 h w"],
    weight: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b"]:
    """1 - Pearson correlation with the target.

    Args:
        value: depths of the renders.
        target: depth in other units.
        weight: weight of each pixel.
    """
    moments = _Moments(value, target, weight)
    product = moments.value_variance * moments.target_variance
    return 1 - moments.covariance / product.clamp_min(_EPS**2).sqrt()


def normal_loss(
    normal: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "3 h w"],
    weight: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b"]:
    """Mean of 1 - cosine of the angle between normals.

    Args:
        normal: normals of the renders, in the space of ``target``.
        target: normals of the reference, of any length.
        weight: weight of each pixel.
    """
    cosine = F.cosine_similarity(normal, target[None], dim=1, eps=_EPS)[:, None]
    return (_normalized(weight) * (1 - cosine).flatten(1)).sum(1)


def _normalized(weight: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b n"]:
    """Weights that sum to 1 in each row; zeros where all are zero."""
    flat = weight.detach().flatten(1)
    return flat / flat.sum(1, keepdim=True).clamp_min(_EPS)


class _Moments:
    """Two images without their weighted means, and their moments in each row."""

    def __init__(self, value: Tensor, target: Tensor, weight: Tensor):
        self.weight = _normalized(weight)
        flat = value.flatten(1)
        # pixels without weight may hold anything, also infinite values
        flat = torch.where(self.weight > 0, flat, 0.0)
        wide = target.flatten(1).expand_as(flat)
        self.value = flat - (self.weight * flat).sum(1, keepdim=True)
        self.target = wide - (self.weight * wide).sum(1, keepdim=True)
        self.covariance = (self.weight * self.value * self.target).sum(1)
        self.value_variance = (self.weight * self.value.square()).sum(1)
        self.target_variance = (self.weight * self.target.square()).sum(1)
