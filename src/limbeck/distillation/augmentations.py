"""Random changes of rendered images before the encoder: what a drawing is to stand."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from limbeck.diffusion.tensors import to_device
from limbeck.system.random import RowRandom

#: Corners of the unit square, in order around it, x then y.
_CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Augmentation(abc.ABC):
    """Random change of the rendered images of a step, which the model sees in their place."""

    @abc.abstractmethod
    def __call__(self, image: Float[Tensor, "b 3 h w"], rng: RowRandom) -> Float[Tensor, "b 3 h w"]:
        """Return the changed images, differentiably.

        Args:
            image: rendered images in [0, 1].
            rng: random numbers of the rows.
        """

    @property
    def changes_images(self) -> bool:
        """Whether it changes anything."""
        return True


@dataclass(frozen=True)
class NoAugmentation(Augmentation):
    """The rendered images as they are."""

    name = "none"

    def __call__(self, image: Float[Tensor, "b 3 h w"], rng: RowRandom) -> Float[Tensor, "b 3 h w"]:
        return image

    @property
    def changes_images(self) -> bool:
        return False


@dataclass(frozen=True)
class PerspectiveCrop(Augmentation):
    """Random perspective, then a random crop that is enlarged to the size of the image (CLIPDraw).

    Every row has a draw of its own. Both are one projective map, sampled bilinearly once. With
    distortion (or its probability) and crop of 0 the image stays as it is.

    Attributes:
        distortion: d; every corner moves inwards by up to d / 2 of width and height, in [0, 0.6].
        perspective_prob: probability that a row gets a perspective, in [0, 1].
        crop: share of width and height that is cut off, in [0, 1).
        fill: value of the pixels outside the image, in [0, 1]; 0 is black, 1 is white.

    References:
        Frans et al. 2021, arXiv 2106.14843 (CLIPDraw). Jain et al. 2022, arXiv 2211.11319
        (VectorFusion); the defaults are those of PyTorch-SVGRender, which crops 512 of 600 pixels.
    """

    distortion: float = field(default=0.5, metadata={"minimum": 0, "maximum": 0.6})
    perspective_prob: float = field(default=0.7, metadata={"minimum": 0, "maximum": 1})
    crop: float = 1 - 512 / 600
    fill: float = field(default=0.0, metadata={"minimum": 0, "maximum": 1})

    def __post_init__(self) -> None:
        if not 0 <= self.crop < 1:
            raise ValueError(f"crop must be in [0, 1), not {self.crop}")

    @property
    def changes_images(self) -> bool:
        return self.distortion * self.perspective_prob > 0 or self.crop > 0

    def __call__(self, image: Float[Tensor, "b 3 h w"], rng: RowRandom) -> Float[Tensor, "b 3 h w"]:
        if not self.changes_images:
            return image
        maps = to_device(self.draw_maps(rng), image.device).to(image)
        height, width = image.shape[2:]
        x = (torch.arange(width, device=image.device) + 0.5) / width
        y = (torch.arange(height, device=image.device) + 0.5) / height
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).to(image)
        # far outside is outside; coordinates on the horizon are infinite
        grid = (2 * project(maps, centers) - 1).clamp(-9, 9)
        # what is outside is 0 in grid_sample
        return grid_sample(image - self.fill, grid, align_corners=False) + self.fill

    def draw_maps(self, rng: RowRandom) -> Float[Tensor, "b 3 3"]:
        """Draw the projective map from the changed to the rendered image, in units of their size.

        Args:
            rng: random numbers of the rows.
        """
        inwards = self.distortion / 2 * rng.uniform("perspective", 4, 2).double()
        is_drawn = rng.uniform("perspective or not") < self.perspective_prob
        corners = _CORNERS + (1 - 2 * _CORNERS) * inwards * is_drawn[:, None, None]
        perspective = projective_map(corners, _CORNERS.expand_as(corners))
        window = torch.eye(3, dtype=torch.float64).repeat(len(rng), 1, 1)
        window[:, :2, :2] *= 1 - self.crop
        window[:, :2, 2] = self.crop * rng.uniform("crop", 2).double()
        return perspective @ window


def projective_map(
    source: Float[Tensor, "b 4 2"], target: Float[Tensor, "b 4 2"]
) -> Float[Tensor, "b 3 3"]:
    """Return the projective map that takes four points to four others.

    Args:
        source: points, no three on a line.
        target: their images, no three on a line.
    """
    one = torch.ones_like(source[..., :1])
    point = torch.cat([source, one], -1)  # x, y, 1
    none = torch.zeros_like(point)
    rows = torch.cat(
        [
            torch.cat([point, none, -target[..., :1] * source], -1),
            torch.cat([none, point, -target[..., 1:] * source], -1),
        ],
        1,
    )
    values = torch.cat([target[..., 0], target[..., 1]], 1)
    solved = torch.linalg.solve(rows, values)
    return torch.cat([solved, one[:, 0]], 1).unflatten(1, (3, 3))


def project(
    maps: Float[Tensor, "b 3 3"], points: Float[Tensor, "h w 2"]
) -> Float[Tensor, "b h w 2"]:
    """Apply the projective map of each row to the same points.

    Args:
        maps: the map of each row.
        points: x and y of the points.
    """
    x, y = points[..., :1], points[..., 1:]
    # no matrix product, so that no row depends on how many there are
    by_x, by_y, shift = maps[:, None, None].unbind(-1)
    mapped = by_x * x + by_y * y + shift
    return mapped[..., :2] / mapped[..., 2:]
