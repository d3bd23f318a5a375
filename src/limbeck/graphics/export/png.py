"""Images as 8-bit arrays and PNG files."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor


class NonFiniteImageError(ValueError):
    """Images that hold NaN or infinite values, which have no color.

    Args:
        bad: number of these images.
        total: number of images.
    """

    def __init__(self, bad: int, total: int):
        which = "the image holds" if total == 1 else f"{bad} of {total} images hold"
        super().__init__(
            f"{which} NaN or infinite values; if the model runs in half precision, use "
            "--precision float32 or bfloat16, or another autoencoder with --model.vae"
        )


def check_image_values(images: Float[Tensor, "n ..."]) -> None:
    """Check that images are finite; waits for their device.

    Raises:
        NonFiniteImageError: if one is not.
    """
    finite = images.isfinite().flatten(1).all(1)
    bad = len(finite) - int(finite.sum())
    if bad:
        raise NonFiniteImageError(bad, len(finite))


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> np.ndarray:
    """Convert images in [0, 1] to uint8 ``[N, H, W, 3]``, rounded to nearest.

    Raises:
        NonFiniteImageError: if a value is NaN or infinite; as a byte it would be black.
    """
    check_image_values(images)
    scaled = images.detach().float().clamp(0, 1) * 255
    return scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def encode_png(image: Float[Tensor, "3 h w"]) -> bytes:
    """Encode an sRGB image in [0, 1] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image[None])[0]).save(buffer, "PNG")
    return buffer.getvalue()
