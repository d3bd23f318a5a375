"""Image files: reading, size and fit to a canvas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from limbeck.diffusion.prior import Prior


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


def fitted_size(path: Path, prior: Prior) -> tuple[int, int]:
    """Return the size of the model in the aspect ratio of an image file.

    Args:
        path: image file.
        prior: the model.

    Returns:
        Height and width: the short side is that of the model, the long one a multiple of
        ``prior.size_multiple``. The model's own size if it has no other.

    Raises:
        ValueError: if the file cannot be read.
    """
    multiple = prior.size_multiple
    if multiple == 0:
        return prior.image_size
    width, height = image_file_size(path)
    short = min(prior.image_size)
    long = max(short, round(short * max(width, height) / min(width, height) / multiple) * multiple)
    return (long, short) if height > width else (short, long)


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
