"""Gaussians on a screen, one over another: the image model of 3D Gaussian splatting, however they came to lie there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.rendering.tiles import AlphaComposite, TileBatch, TileGrid

MIN_ALPHA = (
    1 / 255
)  #: a smaller alpha counts as none, which gives every Gaussian an edge; gsplat's kernels do the same
MAX_OPACITY = 0.99  #: the greatest opacity, so that nothing behind is without a gradient
LOW_PASS_VARIANCE = 0.3  #: variance in square pixels added to every Gaussian, as in 3D Gaussian splatting, so that none falls between pixels


@dataclass(frozen=True)
class ProjectedGaussians:
    """Gaussians of some images in pixels: means, the inverse covariance (xx, xy, yy), what each shows (a colour, and whatever else
    is laid over one another), opacities up to ``DENSEST``. Those of smaller depth lie in front; without depths, the first."""

    mean: Float[Tensor, "b n 2"]
    inverse: Float[Tensor, "b n 3"]
    spread: Float[Tensor, "b n 2"]  #: deviations along x and y
    colour: Float[Tensor, "b n c"]
    opacity: Float[Tensor, "b n"]
    depth: Float[Tensor, "b n"] | None = None

    def reach(self) -> Float[Tensor, "b n 2"]:
        """How far along x and y alpha is 1/255 at least; 0 for the faintest."""
        return (2 * (self.opacity / MIN_ALPHA).clamp_min(1).log()).sqrt()[..., None] * self.spread


@cache
def gsplat_available() -> bool:
    """Whether gsplat is there to draw on CUDA; ``limbeck doctor`` says so too."""
    return importlib.util.find_spec("gsplat") is not None


def composite_gaussians(
    cloud: ProjectedGaussians, height: int, width: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """What a cloud shows, sum_i c_i a_i prod_{j < i} (1 - a_j), and the share of light from behind that is left, prod_i (1 - a_i).

    a_i(p) = o_i exp(-(p - m_i)^T S_i^-1 (p - m_i) / 2) where that is at least 1/255, else 0. By gsplat where it can be, in plain
    PyTorch everywhere else.
    """
    fast = cloud.mean.is_cuda and cloud.mean.dtype == torch.float32 and gsplat_available()
    return (composite_gsplat if fast else composite_torch)(cloud, height, width)


def composite_torch(
    cloud: ProjectedGaussians, height: int, width: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """``layers`` in plain PyTorch."""
    b, n = cloud.opacity.shape
    canvas = TileGrid(b, height, width)
    with torch.no_grad():
        order = _order(cloud)
        reach, mean = cloud.reach().flatten(0, 1)[order], cloud.mean.flatten(0, 1)[order]
        groups = canvas.groups(order // n, mean - reach, mean + reach)
        listed = (
            order[torch.cat([group.shape.flatten() for group in groups])] if len(order) else None
        )
    channels = cloud.colour.shape[-1]
    if listed is None:  # nothing is anywhere
        return (cloud.colour.sum() * 0).expand(b, channels, height, width), cloud.mean.new_ones(
            b, 1, height, width
        )
    table = torch.cat(
        [cloud.mean, cloud.inverse, cloud.opacity.clamp_min(1e-12).log()[..., None], cloud.colour],
        -1,
    ).flatten(0, 1)
    parts = gather_rows(table, listed).split([group.shape.numel() for group in groups])
    x, y = canvas.pixels.to(cloud.mean).unbind(-1)
    basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
    shown = [_tiles(canvas, group, rows, basis) for group, rows in zip(groups, parts, strict=True)]
    both = canvas.assemble(groups, shown)
    return both[:, :-1], both[:, -1:]


def _order(cloud: ProjectedGaussians) -> Int[Tensor, "m"]:
    """The shapes of all images as one list, front first, those that show nothing left out. Reads their number from the device."""
    some = (cloud.opacity > MIN_ALPHA).flatten().nonzero().squeeze(1)
    return some if cloud.depth is None else some[cloud.depth.flatten()[some].argsort(stable=True)]


def _tiles(
    canvas: TileGrid, group: TileBatch, rows: Float[Tensor, "m r"], basis: Float[Tensor, "6 p"]
) -> Float[Tensor, "t p c"]:
    """The exponent is a quadratic in the pixel's place in its tile, so that a matrix product evaluates it. Last: what is left."""
    rows = rows.view(*group.shape.shape, -1)
    centre = canvas.centres(group.tile, rows)[:, None]
    dx, dy = (centre - rows[..., :2]).unbind(-1)
    xx, xy, yy, log_opacity = rows[..., 2:6].unbind(-1)
    ex, ey = xx * dx + xy * dy, xy * dx + yy * dy
    height = log_opacity - (dx * ex + dy * ey) / 2
    parts = torch.stack(
        [height.masked_fill(~group.real, -1e4), -ex, -ey, -xx / 2, -xy, -yy / 2], -1
    )
    alpha = F.threshold((parts @ basis).exp(), MIN_ALPHA, 0.0)
    colour, left = AlphaComposite.apply(alpha, rows[..., 6:])
    return torch.cat([colour, left[..., None]], -1)


def composite_gsplat(
    cloud: ProjectedGaussians, height: int, width: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """``layers`` by gsplat 1.5's CUDA kernels, which stop at a transmittance of 1e-4."""
    from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels

    side = 16
    across, down = -(-width // side), -(-height // side)
    b, n = cloud.opacity.shape
    with torch.no_grad():
        reach = cloud.reach()
        order = torch.arange(1, n + 1, device=reach.device, dtype=torch.float32).expand(b, n)
        depth = order if cloud.depth is None else cloud.depth
        radii = torch.where(reach > 0, reach.ceil(), 0).int()  # a radius of 0 leaves a Gaussian out
        _, pairs, flat = isect_tiles(cloud.mean, radii, depth, side, across, down)
        offsets = isect_offset_encode(pairs, b, across, down)
    image, alpha = rasterize_to_pixels(
        cloud.mean, cloud.inverse, cloud.colour, cloud.opacity, width, height, side, offsets, flat
    )
    return image.permute(0, 3, 1, 2), 1 - alpha.permute(0, 3, 1, 2)
