"""Images of any shape as squares of one size, as networks take them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def center_square(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 s s"]:
    """The largest square in the center of an image."""
    height, width = image.shape[-2:]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return image[:, top : top + size, left : left + size]


def pad_square(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 s s"]:
    """The smallest square around an image, black beside it."""
    height, width = image.shape[-2:]
    size = max(height, width)
    top, left = (size - height) // 2, (size - width) // 2
    sides = (left, size - width - left, top, size - height - top)
    return torch.nn.functional.pad(image, sides)


def fit_squares(
    images: Iterable[Float[Tensor, "3 h w"]], size: int, pads: bool = False
) -> Float[Tensor, "n 3 s s"]:
    """Make images square and resize them bicubically.

    Args:
        images: images in [0, 1] of any sizes.
        size: height and width of the result.
        pads: pad them with black instead of taking the central square.
    """
    squares = []
    for image in images:
        square = (pad_square(image) if pads else center_square(image))[None]
        if square.shape[-1] != size:
            resize = torch.nn.functional.interpolate
            square = resize(square, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        squares.append(square)
    return torch.cat(squares)
