"""Reading of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from limbeck.diffusion.prior import Prior


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        raise ValueError(f"no picture {path}")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a picture that can be read") from error



def image_file_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is looked at. ValueError where it cannot be read."""
    return _opened(path).size



def fitted_size(path: Path, prior: Prior) -> tuple[int, int]:
    """The model's size in the aspect ratio of a picture: the short side is the model's, the long one a multiple of its unit."""
    if prior.size_multiple == 0:
        return prior.image_size
    width, height = image_file_size(path)
    short = min(prior.image_size)
    long = max(
        short, round(short * max(width, height) / min(width, height) / prior.size_multiple) * prior.size_multiple
    )
    return (long, short) if height > width else (short, long)



def read_image(path: Path, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """A picture in [0, 1], scaled to cover ``size`` and cut from the middle. ValueError where it cannot be read."""
    cut = ImageOps.fit(_opened(path), (size[1], size[0]), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1).float() / 255

