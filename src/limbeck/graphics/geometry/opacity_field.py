"""The surface of a density: where every view has lost some of its light.

A level set of the density itself has holes where a fog is thin and deep, and a hollow inside that
no view shows. The optical depth that light must pass to reach a point has neither.

References:
    Yu et al., Gaussian Opacity Fields: Efficient Adaptive Surface Reconstruction in Unbounded
    Scenes, 2024, arXiv 2404.10772: the opacity of a point is the least over all views. Here the
    views are parallel rays in directions all around, and the level is chosen by the silhouettes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.cameras.camera import spiral_angles, unit_direction
from limbeck.graphics.geometry.marching_tetrahedra import (
    TetGrid,
    gaussian_blur_matrix,
    level_set_to_sdf,
)

_DIRECTIONS = 32  #: from which light comes
_EMPTY = 1e-3  #: of the largest density: less does not enlarge what rays pass through
_HALF_OPAQUE = math.log(2)  #: optical depth of opacity 1/2
_RANGE = 100.0  #: optical depths count up to this factor above and below that of the surface
_BLUR = 1.0  #: standard deviation of a blur of the logarithm of optical depths, in cells
_MAX_CELLS = 4.0  #: largest signed distance


def density_to_sdf(density: Float[Tensor, "v"], grid: TetGrid) -> Float[Tensor, "v"]:
    """Signed distances to the surface that a density shows, negative inside; it has no holes.

    The surface is where the least optical depth over all directions has the level whose silhouettes
    along the three axes are as large as those of opacity above 1/2.

    Args:
        density: density at the grid's vertices, per unit of length.
        grid: the grid.

    Raises:
        ValueError: if no view along an axis is half opaque anywhere.
    """
    depth = least_optical_depth(density, grid)
    level = max(_silhouette_level(depth, density, grid), 1e-6)
    log_ratio = (depth / level).clamp(1 / _RANGE, _RANGE).log()
    n = grid.vertices_per_side
    blur, cube = gaussian_blur_matrix(n, _BLUR).to(depth), log_ratio.view(n, n, n)
    for _ in range(3):  # along the last axis, which becomes the first
        cube = (cube @ blur).permute(2, 0, 1)
    smooth = cube.flatten()
    sdf = level_set_to_sdf(_silhouette_level(smooth, density, grid) - smooth, grid, _MAX_CELLS)
    sdf[grid.boundary_mask().to(sdf.device)] = _MAX_CELLS * grid.cell_size  # closes the surface
    # vertices of edges that meet in a grid point would coincide if it lay on the surface
    gap = 1e-3 * grid.cell_size
    return torch.where(sdf < 0, sdf.clamp_max(-gap), sdf.clamp_min(gap))


def least_optical_depth(
    density: Float[Tensor, "v"], grid: TetGrid, num_directions: int = _DIRECTIONS
) -> Float[Tensor, "v"]:
    """Optical depth between a vertex and the outside, in the direction in which it is least.

    Args:
        density: density at the grid's vertices, per unit of length.
        grid: the grid.
        num_directions: directions that are tried, in opposite pairs spread evenly over a sphere.
    """
    n = grid.vertices_per_side
    volume, points = density.view(1, 1, n, n, n), grid.vertices(density.device) / grid.bound
    occupied = points[density > _EMPTY * density.max()]
    # rays pass through a cube that holds the occupied part of the box, whichever way it is turned
    radius = float(occupied.norm(dim=1).max()) + 2 / n if len(occupied) else math.sqrt(3)
    num_samples = max(round(n * min(radius, 1)), 2)
    line = torch.linspace(-radius, radius, num_samples, device=density.device)
    step = 2 * radius / (num_samples - 1) * grid.bound
    local = torch.cartesian_prod(line, line, line)
    within = (points.norm(dim=1) <= radius).nonzero().squeeze(1)
    least = torch.full_like(density[within], torch.inf)
    # of every two opposite directions, one half of the sphere
    for direction in unit_direction(*spiral_angles(num_directions // 2, lowest=0)).to(density):
        axes = _axes_along(direction)
        along = _look_up(volume, local @ axes).view((num_samples,) * 3)
        passed = along.cumsum(2)
        both_ways = torch.stack([passed - along / 2, passed[..., -1:] - passed + along / 2])
        seen = _look_up((both_ways * step)[None], points[within] @ axes.T / radius)
        least = least.minimum(seen.amin(0))
    return torch.zeros_like(density).index_put((within,), least)


def _axes_along(direction: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Rows of a rotation: two axes across a direction, and the direction."""
    across = torch.zeros_like(direction)
    across[direction.abs().argmin()] = 1
    first = F.normalize(torch.linalg.cross(across, direction), dim=0)
    return torch.stack([first, torch.linalg.cross(direction, first), direction])


def _look_up(
    volume: Float[Tensor, "1 c n n n"], points: Float[Tensor, "m 3"]
) -> Float[Tensor, "c m"]:
    """Values at points in [-1, 1]^3, 0 outside of it; the first axis of the volume is x."""
    where = points.flip(-1)[None, :, None, None]
    return F.grid_sample(volume, where, align_corners=True)[0, :, :, 0, 0]


def _silhouette_level(
    values: Float[Tensor, "v"], density: Float[Tensor, "v"], grid: TetGrid
) -> float:
    """Level that as many columns of the grid exceed, along three axes, as are half opaque."""
    cube = density.reshape((grid.vertices_per_side,) * 3)
    num_opaque = sum(
        int((cube.sum(axis) * grid.cell_size > _HALF_OPAQUE).sum()) for axis in range(3)
    )
    if not num_opaque:
        raise ValueError(
            "the density is nowhere half opaque: train the source run for longer, or set the "
            "density level of the surface"
        )
    maxima = torch.cat([values.view_as(cube).amax(axis).flatten() for axis in range(3)])
    return float(maxima.sort(descending=True).values[num_opaque - 1])
