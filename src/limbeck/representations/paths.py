"""Closed filled paths with contours of cubic Bezier curves, in layers; saved as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.config.ranges import check_minimums, check_positive
from limbeck.diffusion.prior import Prior
from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.rendering.polylines import (
    bernstein_basis,
    distance_to_polyline,
    nearest_on_polyline,
)
from limbeck.graphics.rendering.tiles import (
    MAX_BATCH_ELEMENTS,
    TILE_SIZE,
    AlphaComposite,
    TileBatch,
    TileGrid,
)
from limbeck.representations.base import Representation, RepresentationConfig
from limbeck.representations.image_init import (
    check_image_options,
    color_logits,
    color_logits_at,
    fit_to_images,
    initial_rows,
    sobol_positions,
)
from limbeck.representations.primitives import PrimitiveParticles
from limbeck.representations.svg import hex_color, svg_document
from limbeck.system.files import write_text
from limbeck.system.random import RowRandom

_MAX_OPACITY = 0.99  #: Below 1, so that paths behind still get a gradient.


@dataclass(frozen=True)
class PixelPaths:
    """Paths of a batch of images in pixel units, front first.

    Attributes:
        points: control points of the contours, x then y; three per curve, as each curve begins
            where the one before it ends and the last one ends at the first point.
        colors: RGB in [0, 1].
        opacities: opacities in [0, 1).
        background: RGB in [0, 1].
    """

    points: Float[Tensor, "b n c 2"]
    colors: Float[Tensor, "b n 3"]
    opacities: Float[Tensor, "b n"]
    background: Float[Tensor, "b 3"]


def flatten_contours(points: Float[Tensor, "*n c 2"], num_segments: int) -> Float[Tensor, "*n s 2"]:
    """Return closed polylines along contours, whose last vertex is their first.

    Args:
        points: control points, three per curve.
        num_segments: line segments of each curve.
    """
    curves = points.unflatten(-2, (-1, 3))
    curves = torch.cat([curves, curves.roll(-1, -3)[..., :1, :]], -2)
    vertices = (bernstein_basis(num_segments)[:-1].to(points) @ curves).flatten(-3, -2)
    return torch.cat([vertices, vertices[..., :1, :]], -2)


def winds_around(
    line: Float[Tensor, "*n s 2"], pixels: Float[Tensor, "p 2"]
) -> Bool[Tensor, "*n p"]:
    """Return whether closed polylines wind around points, by the nonzero rule of SVG.

    Args:
        line: vertices of the polylines; the last one is the first one.
        pixels: points.
    """
    a, b = line[..., :-1, None, :], line[..., 1:, None, :]
    x, y = pixels.unbind(-1)
    above_a, above_b = a[..., 1] <= y, b[..., 1] <= y
    # the side of the line through a and b, upwards positive
    side = (b[..., 0] - a[..., 0]) * (y - a[..., 1]) - (x - a[..., 0]) * (b[..., 1] - a[..., 1])
    up, down = above_a & ~above_b & (side > 0), ~above_a & above_b & (side < 0)
    return (up.int() - down.int()).sum(-2) != 0


def render_paths(
    paths: PixelPaths, height: int, width: int, num_segments: int
) -> Float[Tensor, "b 3 h w"]:
    """Composite filled paths front to back; alpha is opacity times the covered part of the pixel.

    A pixel whose center is at the signed distance d from the contour, positive inside, is covered
    to the fraction d + 1/2, clamped to [0, 1]. This is exact where the pixel contains one straight
    edge along the grid. Two parts of the contour within a pixel are not told apart. A shape of
    thickness h < 1 covers too much where pixel centers are inside: by up to (1 - h) / 2 per pixel
    of its length, by ((1 - h) / 2)^2 in the mean over its place. Where a contour crosses itself, a
    part with the inside on both sides shows as a seam of coverage 1/2.

    Args:
        paths: the paths in pixel units.
        height: height of the images in pixels.
        width: width of the images in pixels.
        num_segments: line segments of each curve.
    """
    grid = TileGrid(len(paths.opacities), height, width)
    line = flatten_contours(paths.points, num_segments).flatten(0, 1)
    batches = _batch_tiles(grid, line, paths.opacities.shape[1])
    table = torch.cat([paths.opacities[..., None], paths.colors], -1).flatten(0, 1)
    pixels = grid.pixel_offsets.to(line)
    tiles = [_render_tiles(grid, batch, line, table, pixels, paths.background) for batch in batches]
    return grid.assemble(batches, tiles)


@torch.no_grad()
def _batch_tiles(
    grid: TileGrid, line: Float[Tensor, "m s 2"], paths_per_image: int
) -> list[TileBatch]:
    """Return the paths over each tile."""
    image = torch.arange(len(line) // paths_per_image, device=line.device)
    image = image.repeat_interleave(paths_per_image)
    reach = 0.5 + TILE_SIZE / math.sqrt(2)

    def touches(path: Tensor, tile: Tensor) -> Tensor:
        center = grid.tile_centers(tile, line)
        local, origin = line[path] - center[:, None], center.new_zeros(1, 2)
        squared_distance, _, _ = nearest_on_polyline(local, origin)
        return (squared_distance[:, 0] < reach**2) | winds_around(local, origin)[:, 0]

    low, high = line.amin(1) - 0.5, line.amax(1) + 0.5
    return grid.make_batches(image, low, high, touches, MAX_BATCH_ELEMENTS // 8)


def _render_tiles(
    grid: TileGrid,
    batch: TileBatch,
    line: Float[Tensor, "m s 2"],
    table: Float[Tensor, "m 4"],
    pixels: Float[Tensor, "p 2"],
    background: Float[Tensor, "b 3"],
) -> Float[Tensor, "t p 3"]:
    """Return the colors of the pixels of a batch of tiles."""
    centers = grid.tile_centers(batch.tile, line)[:, None, None]
    local = gather_rows(line, batch.primitive) - centers
    rows = gather_rows(table, batch.primitive)
    with torch.no_grad():
        sign = torch.where(winds_around(local, pixels), 1.0, -1.0).to(local)
    distance = distance_to_polyline(local, pixels)
    coverage = (0.5 + sign * distance).clamp(0, 1)
    alpha = rows[..., :1] * coverage * batch.valid[..., None]
    color, transmittance = AlphaComposite.apply(alpha, rows[..., 1:4])
    behind = gather_rows(background, batch.tile // (grid.num_rows * grid.num_columns))
    return color + transmittance[..., None] * behind[:, None]


def paths_to_svg(paths: PixelPaths, row: int, height: int, width: int) -> str:
    """Return one image as an SVG document, back to front as browsers paint.

    Args:
        paths: the paths in pixel units.
        row: index of the image.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    values = (paths.points, paths.colors, paths.opacities)
    rows = list(zip(*(value[row].tolist() for value in values), strict=True))
    shapes = []
    for points, color, opacity in reversed(rows):
        start, *others = (f"{x:.3f} {y:.3f}" for x, y in [*points, points[0]])
        curves = " ".join(f"C{' '.join(others[i : i + 3])}" for i in range(0, len(others), 3))
        style = f'fill="{hex_color(color)}" fill-opacity="{opacity:.3f}"'
        shapes.append(f'<path d="M{start} {curves} Z" {style}/>')
    return svg_document(shapes, paths.background[row].tolist(), height, width)


class PathParticles(PrimitiveParticles):
    """Particles of K paths each, on a background of one color.

    Points are in units of the short side, from the center of the canvas, so that a particle can be
    rendered at any resolution.

    Args:
        initial: initial ``points`` ``[N, K, 3 S, 2]``, ``colors`` ``[N, K, 3]``, ``opacities``
            ``[N, K]`` and ``background`` ``[N, 3]`` (logits).
        lrs: their peak learning rates.
        size: height and width of a render in pixels.
        num_segments: line segments that approximate a curve.
    """

    primitives = "paths"

    def __init__(
        self,
        initial: dict[str, Tensor],
        lrs: dict[str, float],
        size: tuple[int, int],
        num_segments: int,
    ):
        super().__init__(initial, lrs, size)
        self.num_segments = num_segments

    def pixel_paths(self, particle: Int[Tensor, "b"], height: int, width: int) -> PixelPaths:
        """Return the paths in pixel units.

        Args:
            particle: particle of each row.
            height: height of the image in pixels.
            width: width of the image in pixels.
        """
        params = {name: self.gather(name, particle) for name in self.params}
        center = params["points"].new_tensor([width / 2, height / 2])
        return PixelPaths(
            params["points"] * min(height, width) + center,
            params["colors"].sigmoid(),
            _MAX_OPACITY * params["opacities"].sigmoid(),
            params["background"].sigmoid(),
        )

    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        paths = self.pixel_paths(particle, height, width)
        return render_paths(paths, height, width, self.num_segments)

    @torch.no_grad()
    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write one SVG per particle, for any size.

        In a browser it differs along thin shapes and crossings, see ``render_paths``.
        """
        paths = self.pixel_paths(torch.arange(len(names)), *self.size)
        for row, name in enumerate(names):
            write_text(folder / f"{name}.svg", paths_to_svg(paths, row, *self.size))


@dataclass(frozen=True)
class Paths(RepresentationConfig):
    """Closed filled paths of cubic Bezier curves on one color, exported as final/*.svg.

    Initially, discs cover the canvas evenly in layers: large ones behind, small ones in front.

    Attributes:
        num_paths: paths per particle; the first is in front.
        num_curves: curves of a contour.
        init_radius: initial radius of the path in front and of the one at the back, in short sides;
            those between are in geometric progression.
        init_opacity: initial opacity, in (0, 0.99).
        init_color_std: standard deviation of the initial color logits; refused with ``images``.
        num_segments: line segments that approximate a curve.
        init_steps: steps that fit the paths to ``images``.
        points_lr: peak learning rate of the control points, in short sides.
        colors_lr: peak learning rate of the color logits, also of the background.
        opacities_lr: peak learning rate of the opacity logits.
    """

    num_paths: int = 64
    num_curves: int = 4
    init_radius: tuple[float, float] = (0.03, 0.2)
    init_opacity: float = 0.8
    init_color_std: float = 0.1
    num_segments: int = 12
    init_steps: int = 200
    points_lr: float = 0.004
    colors_lr: float = 0.1
    opacities_lr: float = 0.02

    def __post_init__(self) -> None:
        check_minimums(
            self, num_paths=1, num_curves=2, num_segments=1, init_color_std=0, init_steps=0
        )
        check_positive(self, "points_lr", "colors_lr", "opacities_lr")
        if not 0 < self.init_radius[0] <= self.init_radius[1]:
            raise ValueError(
                f"init_radius must be positive and grow to the back, not {self.init_radius}"
            )
        if not 0 < self.init_opacity < _MAX_OPACITY:
            raise ValueError(
                f"init_opacity must be in (0, {_MAX_OPACITY}), not {self.init_opacity}"
            )
        check_image_options(self, "init_color_std")

    def _lrs(self) -> dict[str, float]:
        return {
            "points": self.points_lr,
            "colors": self.colors_lr,
            "opacities": self.opacities_lr,
            "background": self.colors_lr,
        }

    def _initial_params(self, rng: RowRandom, size: tuple[int, int]) -> dict[str, Tensor]:
        """Discs at evenly distributed positions, which grow from front to back."""
        particles, n, curves = len(rng), self.num_paths, self.num_curves
        centers = sobol_positions(rng, n, size)
        front, back = (math.log(radius) for radius in self.init_radius)
        radius = torch.linspace(front, back, n).exp()[:, None, None]
        # handles of a circle of S arcs have the length 4/3 tan(pi / (2 S))
        handle = 4 / 3 * math.tan(math.pi / (2 * curves))
        turn = 2 * math.pi * (torch.arange(curves) / curves + rng.uniform("turns", n, 1))
        on = torch.stack([turn.cos(), turn.sin()], -1)
        across = handle * torch.stack([-turn.sin(), turn.cos()], -1)
        following, across_following = on.roll(-1, -2), across.roll(-1, -2)
        contour = torch.stack([on, on + across, following - across_following], -2)
        opacity = torch.tensor(self.init_opacity / _MAX_OPACITY)
        return {
            "points": centers[:, :, None] + radius * contour.flatten(-3, -2),
            "colors": self.init_color_std * rng.normal("colors", n, 3),
            "opacities": opacity.logit().expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        initial = self._initial_params(initial_rows(self, particles, seed), size)
        if images is not None:
            # the color of the pixel at the center of the path; background: the mean color
            initial["colors"] = color_logits_at(images, initial["points"].mean(2))
            initial["background"] = color_logits(images.mean((2, 3)))
        paths = PathParticles(initial, self._lrs(), size, self.num_segments)
        return fit_to_images(paths.to(prior.device), images, particles, self.init_steps)
