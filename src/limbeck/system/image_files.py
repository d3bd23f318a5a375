"""Image files: the one reader of images, masks and data sets.

Values are scaled by bit depth, the orientation of EXIF is honored, and transparent pixels are
composited over white.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from limbeck.system.files import one_line
from limbeck.system.notices import notify

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_IMAGE_PIXELS = 1 << 27  #: larger images are refused before they are decoded
_WHITE_16 = 65535
_16_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_LABEL_MODES = ("L", "I", *_16_BIT_MODES)  #: modes whose pixels can be labels 0 and 1


def check_image_exists(path: Path) -> None:
    """Check that there is such a file, which is not read.

    Raises:
        ValueError: if there is none.
    """
    if not path.is_file():
        raise ValueError(f"no image file {path}")


def open_image(path: Path) -> Image.Image:
    """Read an image file as it is, after the orientation of its metadata.

    Raises:
        ValueError: if it cannot be read whole, or has too many pixels.
    """
    check_image_exists(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes checked here
            with Image.open(path) as image:
                width, height = image.size
                if width * height <= MAX_IMAGE_PIXELS:
                    image.load()
                    ImageOps.exif_transpose(image, in_place=True)  # a copy has no format
                    return image
    # Pillow's decoders raise whatever they meet in a damaged file: OSError, SyntaxError,
    # struct.error, zlib.error, ValueError, OverflowError, DecompressionBombError ...
    except Exception as error:
        reason = one_line(error).replace(f" {str(path)!r}", "")
        raise ValueError(f"{path} is not an image that can be read: {reason}") from error
    raise ValueError(
        f"{path} has {width} x {height} pixels; at most {MAX_IMAGE_PIXELS:,} in all are "
        "read: shrink it"
    )


def image_file_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels, after the orientation of its metadata.

    Raises:
        ValueError: if the file cannot be read.
    """
    return open_image(path).size


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
    return _fit(_displayable(open_image(path), path), size).expand(3, -1, -1).clone()


def read_whole_image(path: Path) -> Float[Tensor, "3 h w"]:
    """Read an image in its own size, in [0, 1].

    Raises:
        ValueError: if the file cannot be read.
    """
    image = _displayable(open_image(path), path)
    return _fit(image, (image.height, image.width)).expand(3, -1, -1).clone()


def read_mask(path: Path, size: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    """Read a mask, scaled to cover a size and cropped around its center.

    Args:
        path: image file. Gray is read as it is; a file whose pixels are 0 and 1 of 255, as masks
            of labels are stored, is black and white.
        size: height and width in pixels.

    Returns:
        The mask in [0, 1].

    Raises:
        ValueError: if the file cannot be read.
    """
    image = open_image(path)
    if image.mode in _LABEL_MODES and "transparency" not in image.info:
        labels = np.asarray(image)
        if labels.max(initial=0) == 1 and labels.min(initial=0) == 0:
            image = Image.fromarray((labels * 255).astype(np.uint8))
    return _fit(_displayable(image, path), size).mean(0, keepdim=True)


def gray_of_16_bits(image: Image.Image) -> Image.Image | None:
    """The image in mode F with values in [0, 1]; None if it is no gray image of 16 bits.

    Pillow cuts these off at 255 where they are converted to RGB.
    """
    if image.mode in _16_BIT_MODES or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray(np.asarray(image).astype(np.float32) / _WHITE_16)
    return None


def _displayable(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode RGB, or in mode F with values in [0, 1] if it has more than 8 bits."""
    if (gray := gray_of_16_bits(image)) is not None:
        return gray
    if image.mode == "I":
        raise ValueError(
            f"{path} has pixels of 32-bit integers, whose white is not known: save it with 8 or 16 "
            "bits"
        )
    if image.mode == "F":
        return _checked_floats(image, path)
    try:
        return _opaque(image)
    except ValueError as error:
        raise ValueError(f"{path} has colors {image.mode}, which cannot be converted") from error


def _opaque(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            notify("transparent pixels of images are composited over white")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _checked_floats(image: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError(f"{path} has pixels that are not finite (NaN or infinity)")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"{path} has pixels from {low:g} to {high:g}; those of a floating-point image must lie "
            "in [0, 1]"
        )
    return image


def _fit(image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "c h w"]:
    fitted = np.asarray(ImageOps.fit(image, size[::-1], method=Image.Resampling.LANCZOS))
    if image.mode == "F":  # Lanczos overshoots at edges
        return torch.from_numpy(fitted.copy())[None].clamp(0, 1)
    return torch.from_numpy(fitted.copy()).permute(2, 0, 1).float() / 255
