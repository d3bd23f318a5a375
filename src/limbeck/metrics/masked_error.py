"""Mean square error and peak signal-to-noise ratio of two images over some of their pixels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: of two images of 8 bits: the mean square of a rounding error that is uniform within a step
_ROUNDING_MSE = 1 / (12 * 255**2)


def masked_mse(
    images: Float[Tensor, "n 3 h w"],
    others: Float[Tensor, "n 3 h w"],
    keep: Bool[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n"]:
    """Mean square error over the kept pixels and all channels.

    Range 0 to 1 for images in [0, 1]. PIE-Bench multiplies both images by the mask and divides by
    the number of all pixels, so that its value shrinks with the edited part; this one does not.
    Sample size: a value per pair of images; a mean of any number.

    Args:
        images: images.
        others: images of the same size.
        keep: pixels that count. None: all.

    Returns:
        One value per image; NaN where no pixel counts.

    References:
        Ju et al., "PnP Inversion", 2023, arXiv 2310.01506, whose benchmark PIE-Bench has it.
    """
    error = (images.double() - others.double()).square().mean(1, keepdim=True)
    if keep is None:
        return error.mean((1, 2, 3))
    weights = keep.double()
    return (error * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))


def masked_psnr(
    images: Float[Tensor, "n 3 h w"],
    others: Float[Tensor, "n 3 h w"],
    keep: Bool[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n"]:
    """Peak signal-to-noise ratio over the kept pixels, in decibels: -10 log10 of the error.

    Range 0 to 58.9 for images in [0, 1]: an error below that of rounding to 8 bits, as that of
    equal images, counts as that of rounding, so that means are finite. PIE-Bench counts the pixels
    that it sets to zero as equal, which inflates its value by -10 log10 of the kept share. Sample
    size: a value per pair of images; a mean of any number.

    Args:
        images: images.
        others: images of the same size.
        keep: pixels that count. None: all.

    Returns:
        One value per image; NaN where no pixel counts.

    References:
        Ju et al., "PnP Inversion", 2023, arXiv 2310.01506, whose benchmark PIE-Bench has it.
    """
    error = masked_mse(images, others, keep)
    return -10 / math.log(10) * torch.where(error.isnan(), error, error.clamp(_ROUNDING_MSE)).log()
