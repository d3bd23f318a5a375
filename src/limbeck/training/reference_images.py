"""The files of a reference: the object is cut out, framed and scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.system.image_files import open_image, read_whole_image
from limbeck.system.notices import notify

_SIZE = 512  #: height and width in which references are kept
_MAX_SIDE = 1024  #: larger files are scaled down before the object is cut out
_WHITE = 0.94  #: least value of the darkest channel of a white pixel, also after JPEG
_WHITE_BORDER = 0.9  #: least fraction of the border that is white around an object on white


@dataclass(frozen=True)
class ObjectImages:
    """An object in a square frame. Values outside the object are zero.

    Attributes:
        color: colors times ``mask``.
        mask: fraction of a pixel that the object covers.
        depth: depth times ``mask``, in any unit. None: not given.
        normal: normals in the space of the camera, times ``mask``. None: not given.
    """

    color: Float[Tensor, "3 h w"]
    mask: Float[Tensor, "1 h w"]
    depth: Float[Tensor, "1 h w"] | None = None
    normal: Float[Tensor, "3 h w"] | None = None

    def at(self, height: int, width: int) -> ObjectImages:
        """Return the images in another size, of which the frame is the central square.

        Args:
            height: height of the frame.
            width: width to which the frame is padded or cropped.
        """
        return self._map(partial(_resized, height=height, width=width))

    def to(self, device: str) -> ObjectImages:
        """Return the images on a device."""
        return self._map(lambda image: image.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> ObjectImages:
        """Change all images that there are."""
        depth, normal = self.depth, self.normal
        return ObjectImages(
            change(self.color),
            change(self.mask),
            None if depth is None else change(depth),
            None if normal is None else change(normal),
        )

    @property
    def on_white(self) -> Float[Tensor, "3 h w"]:
        """The object on a white background."""
        return self.color + 1 - self.mask


def read_reference_images(
    image: Path, depth: Path | None, normal: Path | None, object_size: float
) -> ObjectImages:
    """Read an object and, if given, its depth and normals.

    Args:
        image: the object, cut out or on white.
        depth: its depth, as an image.
        normal: its normals, as an image.
        object_size: longer side of the object as a fraction of the frame. 0: the framing of the
            file, padded to a square.

    Raises:
        ValueError: if a file cannot be read, no object can be cut out, or depth or normals have
            another shape than the image.
    """
    color, covered = _cut_out(image)
    mask = covered.float()
    layers = [color * mask, mask]
    for path, channels in ((depth, 1), (normal, 3)):
        if path is not None:
            values = _read_beside(path, image, color.shape[1:])[:channels]
            values = values if channels == 1 else F.normalize(2 * values - 1, dim=0, eps=1e-6)
            layers.append(values * mask)
    framed = _frame(torch.cat(layers), covered, object_size)
    parts = list(framed.split([len(layer) for layer in layers]))
    found = ObjectImages(parts.pop(0), parts.pop(0))
    depth_map = parts.pop(0) if depth is not None else None
    normal_map = parts.pop(0) if normal is not None else None
    return ObjectImages(found.color, found.mask, depth_map, normal_map)


def _cut_out(path: Path) -> tuple[Float[Tensor, "3 h w"], Bool[Tensor, "1 h w"]]:
    """Colors of an image, and which pixels are of the object."""
    image = open_image(path)
    if image.has_transparency_data:
        rgba = torch.from_numpy(np.asarray(image.convert("RGBA")).copy()).permute(2, 0, 1)
        if rgba[3].min() < 128:
            values = _limited_rgba(rgba.float() / 255)
            covered = values[3:] > 0.5
            if not covered.any():
                raise ValueError(f"{path} shows nothing: all of its pixels are transparent")
            return values[:3], covered
    color = _limited(read_whole_image(path))
    white = color.min(0).values > _WHITE
    border = torch.cat([white[0], white[-1], white[:, 0], white[:, -1]])
    if border.float().mean() < _WHITE_BORDER:
        raise ValueError(
            f"{path} has neither transparent pixels nor a white background: cut the object out "
            "(a PNG with an alpha channel) or put it on white"
        )
    covered = ~torch.from_numpy(_connected_to_border(white.numpy()))[None]
    if not covered.any():
        raise ValueError(f"{path} shows nothing: all of its pixels are white")
    return color, covered


def _limited(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """An image of at most ``_MAX_SIDE`` pixels per side."""
    height, width = image.shape[1:]
    scale = _MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image[None], size, mode="area")[0]


def _limited_rgba(image: Float[Tensor, "4 h w"]) -> Float[Tensor, "4 h w"]:
    """As ``_limited``; transparent pixels, whose color is hidden, have no weight in the colors."""
    color, alpha = image.split([3, 1])
    limited = _limited(torch.cat([color * alpha, alpha]))
    if limited.shape == image.shape:
        return image
    color, alpha = limited.split([3, 1])
    return torch.cat([color / alpha.clamp_min(1e-6), alpha])


def _read_beside(path: Path, image: Path, size: torch.Size) -> Float[Tensor, "3 h w"]:
    """Read a file of the same framing as an image, in the size in which that was cut out."""
    values = _limited(read_whole_image(path))
    if values.shape[1:] != size:
        found, expected = (f"{w} x {h}" for h, w in (values.shape[1:], size))
        raise ValueError(
            f"{path} does not have the size of {image} ({found} pixels, not {expected}): both must "
            "show the same frame"
        )
    return values


def _connected_to_border(free: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Which free pixels can be reached from the border through free pixels, along rows and columns.

    Each pass extends what is reached to whole runs of free pixels, along rows and then columns.
    """
    reached = np.zeros_like(free)
    for line in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        reached[line] = free[line]
    count = -1
    while count != (count := int(reached.sum())):
        for along_columns in (False, True):
            open_, found = (free.T, reached.T) if along_columns else (free, reached)
            ends = ~np.pad(open_, ((0, 0), (0, 1)))  # a run ends with its row
            run = np.cumsum(ends).reshape(ends.shape)[:, :-1]
            hit = np.bincount(run[found], minlength=int(run.max()) + 1) > 0
            found = open_ & hit[run]
            reached = found.T if along_columns else found
    return reached


def _frame(
    layers: Float[Tensor, "c h w"], covered: Bool[Tensor, "1 h w"], object_size: float
) -> Float[Tensor, "c s s"]:
    """Crop and pad to a square, with the object in the middle if its size is given."""
    height, width = covered.shape[1:]
    rows, columns = (covered[0].any(1).nonzero(), covered[0].any(0).nonzero())
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    if top == 0 or left == 0 or bottom == height or right == width:
        notify("the object of the reference touches the border of its image, where it is cut off")
    side, center = max(height, width), (height / 2, width / 2)
    if object_size:
        side = round(max(bottom - top, right - left) / object_size)
        center = ((top + bottom) / 2, (left + right) / 2)
    first_row, first_column = (round(middle - side / 2) for middle in center)
    pad = (-first_column, first_column + side - width, -first_row, first_row + side - height)
    return _antialiased(F.pad(layers, pad), (_SIZE, _SIZE))


def _resized(image: Float[Tensor, "c s s"], height: int, width: int) -> Float[Tensor, "c h w"]:
    left = (width - height) // 2
    return F.pad(_antialiased(image, (height, height)), (left, width - height - left))


def _antialiased(image: Float[Tensor, "c h w"], size: tuple[int, int]) -> Float[Tensor, "c y x"]:
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
