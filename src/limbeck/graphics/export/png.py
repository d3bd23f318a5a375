"""Images as 8-bit arrays and PNG files."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> np.ndarray:
    """Convert images in [0, 1] to uint8 ``[N, H, W, 3]``, rounded to nearest."""
    scaled = images.detach().float().clamp(0, 1) * 255
    return scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def encode_png(image: Float[Tensor, "3 h w"]) -> bytes:
    """Encode an sRGB image in [0, 1] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image[None])[0]).save(buffer, "PNG")
    return buffer.getvalue()
