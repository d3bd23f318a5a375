"""Structural similarity of two images over some of their pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_SIGMA, _RADIUS = 1.5, 5  #: Gaussian window of 11 x 11 pixels
_C1, _C2 = 0.01**2, 0.03**2  #: constants of the paper, for images in [0, 1]


def ssim(
    images: Float[Tensor, "n 3 h w"],
    others: Float[Tensor, "n 3 h w"],
    keep: Bool[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n"]:
    """Structural similarity, mean over the kept pixels and the channels.

    The means, variances and the covariance of a window are over its kept pixels only, so that what
    happens in the edited part has no influence. PIE-Bench sets that part to zero in both images
    and averages over all of the image, which raises its value.

    Range -1 to 1; 1 for equal images. Sample size: a value per pair of images; a mean of any
    number.

    Args:
        images: images in [0, 1].
        others: images of the same size.
        keep: pixels that count. None: all.

    Returns:
        One value per image; NaN where no pixel counts.

    References:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
        structural similarity", 2004.
    """
    x, y = images.double(), others.double()
    weights = torch.ones_like(x[:, :1]) if keep is None else keep.to(x)
    total = _window_sum(weights)

    def local_mean(values: Tensor) -> Tensor:
        return _window_sum(values * weights) / total.clamp_min(1e-12)

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x.square()
    variance_y = local_mean(y * y) - mean_y.square()
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    similarity = (luminance * structure).mean(1, keepdim=True)
    return (similarity * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))


def _window_sum(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Sum over the Gaussian window around each pixel, of the pixels inside the image."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=values.dtype)
    window = (-offsets.square() / (2 * _SIGMA**2)).exp()
    window = (window / window.sum()).to(values.device)
    channels = values.shape[1]
    row = window.expand(channels, 1, 1, -1)
    blurred = F.conv2d(values, row, padding=(0, _RADIUS), groups=channels)
    return F.conv2d(blurred, row.mT, padding=(_RADIUS, 0), groups=channels)
