"""Images as bytes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor


def to_uint8(images: Float[Tensor, "n 3 h w"]) -> np.ndarray:
    """uint8 ``[N, h, w, 3]`` of images in [0, 1], rounded to nearest."""
    return (
        (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )
