"""Alpha compositing of 2D Gaussians on the screen: the image model of 3D Gaussian splatting."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.rendering.tiles import AlphaComposite, TileBatch, TileGrid

#: Smaller alphas count as 0, which bounds the extent of a Gaussian; gsplat's kernels do the same.
MIN_ALPHA = 1 / 255
#: Largest opacity of a Gaussian, so that everything behind it keeps a gradient.
MAX_OPACITY = 0.99
#: Variance in square pixels added to every Gaussian, as in 3D Gaussian splatting, so that none
#: falls between the pixels.
LOW_PASS_VARIANCE = 0.3

_GSPLAT_TILE_SIZE = 16
_COLORS = slice(6, None)  #: columns of the colors in a table of Gaussians


@dataclass(frozen=True)
class ProjectedGaussians:
    """2D Gaussians of a batch of images, in pixels.

    Attributes:
        means: ``[B, N, 2]`` centers, x then y.
        conics: ``[B, N, 3]`` inverse covariances (xx, xy, yy).
        stds: ``[B, N, 2]`` standard deviations along x and y.
        colors: ``[B, N, C]`` channels that are composited: RGB, and others such as depth.
        opacities: ``[B, N]`` up to ``MAX_OPACITY``.
        depths: ``[B, N]``; Gaussians of smaller depth lie in front. None: in the order given.
    """

    means: Float[Tensor, "b n 2"]
    conics: Float[Tensor, "b n 3"]
    stds: Float[Tensor, "b n 2"]
    colors: Float[Tensor, "b n c"]
    opacities: Float[Tensor, "b n"]
    depths: Float[Tensor, "b n"] | None = None

    def alpha_extent(self) -> Float[Tensor, "b n 2"]:
        """Half-width in x and y of the box where alpha is at least 1/255; 0 if it never is."""
        num_stds = (2 * (self.opacities / MIN_ALPHA).clamp_min(1).log()).sqrt()
        return num_stds[..., None] * self.stds


@cache
def gsplat_available() -> bool:
    """Whether gsplat is installed, to render on CUDA; ``limbeck doctor`` reports it."""
    return importlib.util.find_spec("gsplat") is not None


def composite_gaussians(
    gaussians: ProjectedGaussians, height: int, width: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """Composite Gaussians front to back, by gsplat on CUDA and in plain PyTorch elsewhere.

    The alpha of Gaussian i at pixel p is o_i exp(-(p - m_i)^T S_i^-1 (p - m_i) / 2), or 0 where
    that is below 1/255.

    Args:
        gaussians: Gaussians of every image.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        The colors sum_i c_i a_i prod_{j < i} (1 - a_j), and the transmittance prod_i (1 - a_i).
    """
    means = gaussians.means
    fast = means.is_cuda and means.dtype == torch.float32 and gsplat_available()
    return (composite_gsplat if fast else composite_torch)(gaussians, height, width)


def composite_torch(
    gaussians: ProjectedGaussians, height: int, width: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """``composite_gaussians`` in plain PyTorch."""
    grid = TileGrid(len(gaussians.means), height, width)
    tables = _tile_tables(gaussians, grid)
    if not tables:  # every pixel is empty
        b, channels = len(gaussians.means), gaussians.colors.shape[-1]
        colors = (gaussians.colors.sum() * 0).expand(b, channels, height, width)
        return colors, gaussians.means.new_ones(b, 1, height, width)
    tiles = []
    for batch, rows in tables:
        alpha = _alphas(grid, batch, rows)
        colors, transmittance = AlphaComposite.apply(alpha, rows[..., _COLORS])
        tiles.append(torch.cat([colors, transmittance[..., None]], -1))
    image = grid.assemble([batch for batch, _ in tables], tiles)
    return image[:, :-1], image[:, -1:]


@torch.no_grad()
def median_depths(
    gaussians: ProjectedGaussians, height: int, width: int
) -> Float[Tensor, "b 1 h w"]:
    """Depth of the Gaussian behind which less than half of the light comes from.

    Unlike the mean depth it is that of a surface where a little of what is behind shows through.

    Args:
        gaussians: Gaussians of every image, with depths.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        The depths; 0 where the Gaussians are less than half opaque.
    """
    if gaussians.depths is None:
        raise ValueError("these Gaussians have no depths")
    grid = TileGrid(len(gaussians.means), height, width)
    tables = _tile_tables(replace(gaussians, colors=gaussians.depths[..., None]), grid)
    tiles = []
    for batch, rows in tables:
        is_behind = (1 - _alphas(grid, batch, rows)).cumprod(1) < 0.5
        first = is_behind.byte().argmax(1)  # of the first maximum
        depth = rows[..., _COLORS][..., 0].gather(1, first)
        tiles.append((depth * is_behind.any(1))[..., None])
    if not tiles:
        return gaussians.means.new_zeros(len(gaussians.means), 1, height, width)
    return grid.assemble([batch for batch, _ in tables], tiles)


def _tile_tables(
    gaussians: ProjectedGaussians, grid: TileGrid
) -> list[tuple[TileBatch, Float[Tensor, "t k r"]]]:
    """The Gaussians of each tile, front to back, as rows of what compositing reads.

    Empty if there are no visible Gaussians.
    """
    n = gaussians.opacities.shape[1]
    with torch.no_grad():
        order = _front_to_back(gaussians)
        extent = gaussians.alpha_extent().flatten(0, 1)[order]
        means = gaussians.means.flatten(0, 1)[order]
        batches = grid.make_batches(order // n, means - extent, means + extent)
    if not len(order):
        return []
    log_opacities = gaussians.opacities.clamp_min(1e-12).log()[..., None]
    columns = [gaussians.means, gaussians.conics, log_opacities, gaussians.colors]
    table = torch.cat(columns, -1).flatten(0, 1)
    index = order[torch.cat([batch.primitive.flatten() for batch in batches])]
    rows = gather_rows(table, index).split([batch.primitive.numel() for batch in batches])
    return [
        (batch, values.view(*batch.primitive.shape, -1))
        for batch, values in zip(batches, rows, strict=True)
    ]


def _front_to_back(gaussians: ProjectedGaussians) -> Int[Tensor, "m"]:
    """Flat indices of the visible Gaussians of all images, front first.

    Reads their number from the device.
    """
    visible = (gaussians.opacities > MIN_ALPHA).flatten().nonzero().squeeze(1)
    if gaussians.depths is None:
        return visible
    return visible[gaussians.depths.flatten()[visible].argsort(stable=True)]


def _alphas(
    grid: TileGrid, batch: TileBatch, rows: Float[Tensor, "t k r"]
) -> Float[Tensor, "t k p"]:
    """Alpha of each Gaussian at each pixel of a batch of tiles.

    The exponent is a quadratic polynomial of the pixel's position in its tile, so that one matrix
    product evaluates it.
    """
    x, y = grid.pixel_offsets.to(rows).unbind(-1)
    basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
    center = grid.tile_centers(batch.tile, rows)[:, None]
    dx, dy = (center - rows[..., :2]).unbind(-1)
    xx, xy, yy, log_opacity = rows[..., 2:6].unbind(-1)
    ex, ey = xx * dx + xy * dy, xy * dx + yy * dy
    constant = log_opacity - (dx * ex + dy * ey) / 2
    coefficients = torch.stack([constant, -ex, -ey, -xx / 2, -xy, -yy / 2], -1)
    # padding is far away, where its polynomial could overflow: exp of a constant instead
    padding = coefficients.new_tensor([-1e4, 0.0, 0.0, 0.0, 0.0, 0.0])
    coefficients = torch.where(batch.valid[..., None], coefficients, padding)
    return F.threshold((coefficients @ basis).exp(), MIN_ALPHA, 0.0)


def composite_gsplat(
    gaussians: ProjectedGaussians, height: int, width: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """``composite_gaussians`` by gsplat 1.5 on CUDA, which stops at a transmittance of 1e-4."""
    from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels

    size = _GSPLAT_TILE_SIZE
    columns, rows = -(-width // size), -(-height // size)
    b, n = gaussians.opacities.shape
    with torch.no_grad():
        extent = gaussians.alpha_extent()
        order = torch.arange(1, n + 1, device=extent.device, dtype=torch.float32).expand(b, n)
        depths = order if gaussians.depths is None else gaussians.depths
        radii = torch.where(extent > 0, extent.ceil(), 0).int()  # gsplat skips a radius of 0
        _, pairs, flat = isect_tiles(gaussians.means, radii, depths, size, columns, rows)
        offsets = isect_offset_encode(pairs, b, columns, rows)
    image, alpha = rasterize_to_pixels(
        gaussians.means,
        gaussians.conics,
        gaussians.colors,
        gaussians.opacities,
        width,
        height,
        size,
        offsets,
        flat,
    )
    return image.permute(0, 3, 1, 2), 1 - alpha.permute(0, 3, 1, 2)
