"""The surface of Gaussian splats: depth maps from all around, fused to signed distances.

References:
    Curless and Levoy, A Volumetric Method for Building Complex Models from Range Images,
    SIGGRAPH 1996.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.cameras.camera import Camera, orbit_cameras, spiral_angles
from limbeck.graphics.geometry.assets import Splats, Surface
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid, gaussian_blur_matrix
from limbeck.graphics.rendering.gaussian_compositing import median_depths
from limbeck.graphics.rendering.gaussian_projection import (
    GaussianBatch,
    depth_to_normals,
    project_gaussians,
    render_gaussians,
)

_CAMERAS = 48  #: cameras of the depth maps, spread evenly over a sphere
_PIXELS_PER_CELL = 2  #: pixels along a side of a depth map for each cell of the grid
_TRUNCATION = 4.0  #: largest signed distance, in cells
_BLUR = 1.0  #: standard deviation of a blur of the signed distances, in cells
_DISTANCE = 4.0  #: of the cameras from the origin, in radii of the splats
_MIN_OPACITY = 0.1  #: fainter splats do not enlarge the grid
_EXTENT = 3.0  #: of a splat, in standard deviations
_MIN_VIEWS = 6  #: points that fewer cameras see are inside: a gap between splats is no hole
_OPAQUE = 0.5  #: pixels with a smaller alpha show what is behind the object
_MIN_COSINE = 0.05  #: weight of a color that is seen at a grazing angle
_POINTS = 1 << 17  #: points that are looked up at once


@dataclass(frozen=True)
class _DepthMap:
    """What one camera sees of the splats.

    Attributes:
        camera: the camera.
        values: ``[1, 6, S, S]``: RGB, depth along the viewing direction, alpha, and the cosine
            between the surface and the viewing ray.
    """

    camera: Camera
    values: Float[Tensor, "1 6 s s"]

    def look_up(
        self, points: Float[Tensor, "n 3"], mode: str
    ) -> tuple[Float[Tensor, "6 n"], Float[Tensor, "n"]]:
        """Values where points are seen, 0 outside of the image, and the depths of the points."""
        size = self.values.shape[-1]
        column, row, depth = self.camera.project(points, size, size)[0].unbind(-1)
        grid = torch.stack([column, row], -1)[None, None] * (2 / size) - 1
        values = F.grid_sample(self.values, grid, mode, "zeros", align_corners=False)
        return values[0, :, 0], depth

    def signed_distances(
        self, points: Float[Tensor, "n 3"], limit: float
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """Distances along the viewing direction, at most ``limit``, negative behind the surface.

        Args:
            points: world points.
            limit: truncation.

        Returns:
            The distances, and which of them are known: not those far behind the surface.
        """
        values, depth = self.look_up(points, "nearest")
        smooth, _ = self.look_up(points, "bilinear")
        # bilinear depths are those of no surface where an outline is among the four pixels
        near = (smooth[3] - values[3]).abs() < limit
        seen = torch.where(near, smooth[3], values[3])
        distance = torch.where(values[4] > _OPAQUE, seen - depth, limit)
        return distance.clamp_max(limit), distance > -limit

    def colors(
        self, points: Float[Tensor, "n 3"], tolerance: float
    ) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "n"]]:
        """Colors of points, and their weights: 0 where something else is seen.

        Args:
            points: world points on the surface.
            tolerance: largest difference between the depth of a point and what is seen there.
        """
        values, depth = self.look_up(points, "nearest")
        visible = (values[4] > _OPAQUE) & ((values[3] - depth).abs() < tolerance)
        return values[:3], visible * values[5].clamp_min(_MIN_COSINE).square()


def splats_to_surface(splats: Splats, resolution: int = 96) -> Surface:
    """Extract the surface that splats show, seen from all around, as a closed mesh.

    Signed distances to the depth maps of many cameras are averaged on a grid. What no camera looks
    into is inside. A point has the mean color of the pixels that show it, weighted by how
    frontally it is seen.

    Args:
        splats: the splats.
        resolution: cells along a side of the grid.

    Raises:
        ValueError: if there are no Gaussians, or nothing is opaque.
    """
    if not len(splats.means):
        raise ValueError("this particle has no Gaussians to make a surface of")
    bound = _half_side(splats)
    grid = TetGrid(resolution, bound)
    limit = _TRUNCATION * grid.cell_size
    maps = list(_render_maps(splats, bound * math.sqrt(3), _PIXELS_PER_CELL * resolution))
    if not any(bool((view.values[:, 4] > _OPAQUE).any()) for view in maps):
        raise ValueError("the splats are nowhere opaque: the run ended with fog or nothing")
    points = grid.vertices(splats.means.device)
    sdf = torch.cat([_fuse(chunk, maps, limit) for chunk in points.split(_POINTS)])
    sdf = _blur(sdf, grid)
    sdf[grid.boundary_mask().to(sdf.device)] = limit  # closes the surface
    # vertices of edges that meet in a grid point would coincide if it lay on the surface
    gap = 1e-3 * grid.cell_size
    sdf = torch.where(sdf < 0, sdf.clamp_max(-gap), sdf.clamp_min(gap))
    vertices, mesh = grid.extract_surface(sdf, points)

    def color(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return torch.cat([_blend(part, maps, splats, limit) for part in points.split(_POINTS)])

    return Surface(vertices, mesh.faces, color)


def _half_side(splats: Splats) -> float:
    """Half the side of a cube around the origin that holds all splats that are not faint."""
    reach = splats.means.abs().amax(1) + _EXTENT * splats.scales.amax(1)
    solid = splats.opacities >= _MIN_OPACITY
    return float((reach[solid] if bool(solid.any()) else reach).max())


def _render_maps(splats: Splats, radius: float, size: int) -> Iterator[_DepthMap]:
    """Depth maps of cameras on a spiral around the origin, which see a ball of this radius."""
    azimuth, elevation = spiral_angles(_CAMERAS)
    fov = math.degrees(2 * math.asin(1 / _DISTANCE))
    cameras = orbit_cameras(azimuth, elevation, _DISTANCE * radius, fov).to(splats.means.device)
    columns = (splats.means, splats.scales, splats.quats, splats.opacities, splats.colors)
    gaussians = GaussianBatch(*(column[None].float() for column in columns))
    for i in range(_CAMERAS):
        camera = cameras[i : i + 1]
        projected = project_gaussians(gaussians, camera, size, size)
        depth = median_depths(projected, size, size)
        with torch.no_grad():
            out = render_gaussians(gaussians, camera, size, size)
        normals = depth_to_normals(out.depth, out.alpha, camera)
        rays = camera.directions(size, size).movedim(-1, 1).to(normals)
        cosine = -(normals * rays).sum(1, keepdim=True)
        color = out.color / out.alpha.clamp_min(1e-6)
        yield _DepthMap(camera, torch.cat([color, depth, out.alpha, cosine], 1))


def _fuse(points: Float[Tensor, "n 3"], maps: list[_DepthMap], limit: float) -> Float[Tensor, "n"]:
    """Mean signed distance of points to the surface of each depth map that knows them."""
    total, count = torch.zeros(len(points)).to(points), torch.zeros(len(points)).to(points)
    for view in maps:
        distance, known = view.signed_distances(points, limit)
        total += torch.where(known, distance, 0)
        count += known
    return torch.where(count >= _MIN_VIEWS, total / count.clamp_min(1), -limit)


def _blur(values: Float[Tensor, "v"], grid: TetGrid) -> Float[Tensor, "v"]:
    """Values at the vertices of a grid, averaged over neighbors: splats are grains of a surface."""
    n = grid.vertices_per_side
    blur = gaussian_blur_matrix(n, _BLUR).to(values)
    cube = values.view(n, n, n)
    for _ in range(3):  # along the last axis, which becomes the first
        cube = (cube @ blur).permute(2, 0, 1)
    return cube.flatten()


def _blend(
    points: Float[Tensor, "n 3"], maps: list[_DepthMap], splats: Splats, tolerance: float
) -> Float[Tensor, "n 3"]:
    """Colors of surface points; those that no camera sees get that of the nearest splat."""
    total, weights = torch.zeros(3, len(points)).to(points), torch.zeros(len(points)).to(points)
    for view in maps:
        color, weight = view.colors(points, tolerance)
        total += weight * color
        weights += weight
    colors = (total / weights.clamp_min(1e-12)).T
    hidden = (weights == 0).nonzero().squeeze(1)
    for rows in hidden.split(4096):
        nearest = torch.cdist(points[rows], splats.means.to(points)).argmin(1)
        colors[rows] = splats.colors.to(points)[nearest]
    return colors
