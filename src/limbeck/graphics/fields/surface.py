"""The colored surface that a radiance field shows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid
from limbeck.graphics.geometry.mesh import remove_small_components
from limbeck.graphics.geometry.opacity_field import density_to_sdf

#: function from points ``[N, 3]`` to densities per unit of length and RGB in [0, 1]
FieldQuery = Callable[[Float[Tensor, "n 3"]], tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]]

_MESH_RESOLUTION = 96  #: cells per side of the grid that surfaces are extracted from
_MIN_COMPONENT_SHARE = 0.01  #: components with a smaller share of the faces are left out
_POINTS = 1 << 18  #: points that are looked up at once
_DEPTHS = (-1.0, 11.0)  #: in cells, from outside to inside: where a color is gathered
_SAMPLES = 24  #: of a color, half a cell apart


@torch.no_grad()
def field_to_surface(
    query: FieldQuery, bound: float, device: torch.device, resolution: int = _MESH_RESOLUTION
) -> Surface:
    """Extract the surface of a field by marching tetrahedra, without small components.

    Its silhouette is that of the half-opaque pixels, and its colors are those of the pixels that
    look at it frontally: of a fog, they come from some depth.

    Args:
        query: the field.
        bound: half the side of its box.
        device: device of the field.
        resolution: cells along a side of the grid.

    Raises:
        ValueError: if the field is nowhere half opaque.
    """
    grid = TetGrid(resolution, bound)
    points = grid.vertices(device)
    density = torch.cat([query(chunk)[0] for chunk in points.split(_POINTS)])
    density[grid.boundary_mask().to(device)] = 0
    sdf = density_to_sdf(density, grid)
    vertices, mesh = remove_small_components(
        *grid.extract_surface(sdf, points), _MIN_COMPONENT_SHARE
    )
    n = grid.vertices_per_side
    outward = torch.stack(torch.gradient(sdf.view(n, n, n), spacing=grid.cell_size))

    @torch.no_grad()
    def color(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        where = (points / bound).flip(-1)[None, :, None, None]
        normals = F.grid_sample(outward[None], where, align_corners=True)[0, :, :, 0, 0].T
        return _frontal_color(query, points, F.normalize(normals, dim=1), grid.cell_size)

    return Surface(vertices, mesh.faces, color)


def _frontal_color(
    query: FieldQuery,
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    cell_size: float,
) -> Float[Tensor, "n 3"]:
    """Colors of rays against the normals, of their opaque part alone."""
    first, last = (depth * cell_size for depth in _DEPTHS)
    step = (last - first) / _SAMPLES
    light = torch.ones_like(points[:, 0])
    total, opacity = torch.zeros_like(points), torch.zeros_like(light)
    for i in range(_SAMPLES):
        density, albedo = query(points - (first + (i + 0.5) * step) * normals)
        alpha = -(-density * step).expm1()
        total += (light * alpha)[:, None] * albedo
        opacity += light * alpha
        light = light * (1 - alpha)
    # where next to nothing is in the way, the color of the point itself
    return torch.where(
        (opacity > 1e-3)[:, None], total / opacity.clamp_min(1e-3)[:, None], query(points)[1]
    )
