"""Image files: reading and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor


def _open_rgb(path: Path) -> Image.Image:
    if not path.is_file():
        raise ValueError(f"no image file {path}")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not an image that can be read") from error


def image_file_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels, after the orientation of its metadata.

    Raises:
        ValueError: if the file cannot be read.
    """
    return _open_rgb(path).size


def read_image(path: Path, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Read an image, scaled to cover a size and cropped around its center.

    Args:
        path: image file.
        size: height and width in pixels.

    Returns:
        The image in [0, 1].

    Raises:
        ValueError: if the file cannot be read.
    """
    image = ImageOps.fit(_open_rgb(path), size[::-1], method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
