"""Smoothness of rendered maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def normal_smoothness(
    normal: Float[Tensor, "b 3 h w"], alpha: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """Mean square difference of neighbors in an image of the normals, (n + 1) / 2 times opacity.

    Args:
        normal: unit normals.
        alpha: opacities.

    Returns:
        Sum of the means over vertical and over horizontal neighbors.
    """
    image = (normal + 1) / 2 * alpha
    vertical, horizontal = image.diff(dim=2), image.diff(dim=3)
    return vertical.square().mean() + horizontal.square().mean()
