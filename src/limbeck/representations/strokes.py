"""Brush strokes: cubic Bezier curves with a width, a color and an opacity; saved as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
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

_MAX_OPACITY = 0.99  #: Below 1, so that strokes behind still get a gradient.
_EDGE_WIDTH = 1.0  #: Width of an antialiased edge in pixels.


@dataclass(frozen=True)
class PixelStrokes:
    """Strokes of a batch of images in pixel units, front first.

    Attributes:
        points: control points, x then y.
        widths: widths of the strokes.
        colors: RGB in [0, 1].
        opacities: opacities in [0, 1).
        background: RGB in [0, 1].
    """

    points: Float[Tensor, "b n 4 2"]
    widths: Float[Tensor, "b n"]
    colors: Float[Tensor, "b n 3"]
    opacities: Float[Tensor, "b n"]
    background: Float[Tensor, "b 3"]


def stroke_coverage(
    distance: Float[Tensor, "*n"], width: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Return the fraction of a pixel that a straight stroke covers.

    It is the overlap of [d - s/2, d + s/2] with [-w/2, w/2], divided by the pixel size s.

    Args:
        distance: distance d of the pixel from the center line.
        width: width w of the stroke.
    """
    half, edge = width / 2, _EDGE_WIDTH / 2
    overlap = torch.minimum(distance + edge, half) - torch.maximum(distance - edge, -half)
    return overlap.clamp_min(0) / _EDGE_WIDTH


def render_strokes(
    strokes: PixelStrokes, height: int, width: int, num_segments: int
) -> Float[Tensor, "b 3 h w"]:
    """Composite strokes front to back; alpha is opacity times the covered fraction of the pixel.

    Distances are from pixel centers to polylines, so that ends and bends are round.

    Args:
        strokes: the strokes in pixel units.
        height: height of the images in pixels.
        width: width of the images in pixels.
        num_segments: line segments of each curve.
    """
    grid = TileGrid(len(strokes.widths), height, width)
    line = (bernstein_basis(num_segments).to(strokes.points) @ strokes.points).flatten(0, 1)
    batches = _batch_tiles(grid, line, strokes.widths)
    table = torch.cat(
        [strokes.widths[..., None], strokes.opacities[..., None], strokes.colors], -1
    ).flatten(0, 1)
    pixels = grid.pixel_offsets.to(line)
    tiles = [
        _render_tiles(grid, batch, line, table, pixels, strokes.background) for batch in batches
    ]
    return grid.assemble(batches, tiles)


@torch.no_grad()
def _batch_tiles(
    grid: TileGrid, line: Float[Tensor, "m s 2"], widths: Float[Tensor, "b n"]
) -> list[TileBatch]:
    """Return the strokes over each tile; line holds the polylines of all b n strokes."""
    b, n = widths.shape
    reach = (widths.flatten() + _EDGE_WIDTH) / 2
    image = torch.arange(b, device=line.device).repeat_interleave(n)

    def touches(stroke: Tensor, tile: Tensor) -> Tensor:
        center = grid.tile_centers(tile, line)
        local = line[stroke] - center[:, None]
        squared_distance, _, _ = nearest_on_polyline(local, center.new_zeros(1, 2))
        return squared_distance[:, 0] < (reach[stroke] + TILE_SIZE / math.sqrt(2)) ** 2

    low, high = line.amin(1) - reach[:, None], line.amax(1) + reach[:, None]
    return grid.make_batches(image, low, high, touches, MAX_BATCH_ELEMENTS // 4)


def _render_tiles(
    grid: TileGrid,
    batch: TileBatch,
    line: Float[Tensor, "m s 2"],
    table: Float[Tensor, "m 5"],
    pixels: Float[Tensor, "p 2"],
    background: Float[Tensor, "b 3"],
) -> Float[Tensor, "t p 3"]:
    """Return the colors of the pixels of a batch of tiles."""
    centers = grid.tile_centers(batch.tile, line)[:, None, None]
    local = gather_rows(line, batch.primitive) - centers
    rows = gather_rows(table, batch.primitive)
    distance = distance_to_polyline(local, pixels)
    alpha = rows[..., 1:2] * stroke_coverage(distance, rows[..., :1]) * batch.valid[..., None]
    color, transmittance = AlphaComposite.apply(alpha, rows[..., 2:5])
    behind = gather_rows(background, batch.tile // (grid.num_rows * grid.num_columns))
    return color + transmittance[..., None] * behind[:, None]


def strokes_to_svg(strokes: PixelStrokes, row: int, height: int, width: int) -> str:
    """Return one image as an SVG document, back to front as browsers paint.

    Args:
        strokes: the strokes in pixel units.
        row: index of the image.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    values = (strokes.points, strokes.widths, strokes.colors, strokes.opacities)
    paths = list(zip(*(value[row].tolist() for value in values), strict=True))
    shapes = []
    for points, stroke_width, color, opacity in reversed(paths):
        a, b, c, d = (f"{x:.3f} {y:.3f}" for x, y in points)
        style = f'stroke-width="{stroke_width:.3f}" stroke-opacity="{opacity:.3f}"'
        shapes.append(f'<path d="M{a} C{b} {c} {d}" stroke="{hex_color(color)}" {style}/>')
    group = '<g fill="none" stroke-linecap="round" stroke-linejoin="round">'
    return svg_document([group, *shapes, "</g>"], strokes.background[row].tolist(), height, width)


class StrokeParticles(PrimitiveParticles):
    """Particles of K strokes each, on a background of one color.

    Points and widths are in units of the short side, from the center of the canvas, so that a
    particle can be rendered at any resolution.

    Args:
        initial: initial ``points`` ``[N, K, 4, 2]``, ``widths`` ``[N, K]`` (logits of the fraction
            of ``max_width``), ``colors`` ``[N, K, 3]``, ``opacities`` ``[N, K]`` and ``background``
            ``[N, 3]`` (logits).
        lrs: their peak learning rates.
        size: height and width of a render in pixels.
        num_segments: line segments that approximate a curve.
        max_width: largest width.
    """

    primitives = "strokes"

    def __init__(
        self,
        initial: dict[str, Tensor],
        lrs: dict[str, float],
        size: tuple[int, int],
        num_segments: int,
        max_width: float,
    ):
        super().__init__(initial, lrs, size)
        self.num_segments, self.max_width = num_segments, max_width

    def pixel_strokes(self, particle: Int[Tensor, "b"], height: int, width: int) -> PixelStrokes:
        """Return the strokes in pixel units.

        Args:
            particle: particle of each row.
            height: height of the image in pixels.
            width: width of the image in pixels.
        """
        params = {name: self.gather(name, particle) for name in self.params}
        unit = min(height, width)
        center = params["points"].new_tensor([width / 2, height / 2])
        return PixelStrokes(
            params["points"] * unit + center,
            self.max_width * unit * params["widths"].sigmoid(),
            params["colors"].sigmoid(),
            _MAX_OPACITY * params["opacities"].sigmoid(),
            params["background"].sigmoid(),
        )

    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        strokes = self.pixel_strokes(particle, height, width)
        return render_strokes(strokes, height, width, self.num_segments)

    @torch.no_grad()
    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write one SVG per particle, for any size; browsers differ in antialiasing."""
        strokes = self.pixel_strokes(torch.arange(len(names)), *self.size)
        for row, name in enumerate(names):
            write_text(folder / f"{name}.svg", strokes_to_svg(strokes, row, *self.size))


@dataclass(frozen=True)
class Strokes(RepresentationConfig):
    """Cubic Bezier strokes on a background of one color, exported as final/*.svg.

    Initially, slightly bent strokes cover the canvas evenly; the first stroke is in front.

    Attributes:
        num_strokes: strokes per particle.
        init_length: initial length of a stroke in short sides.
        init_width: initial width of a stroke in short sides, less than ``max_width``.
        max_width: largest width in short sides.
        init_opacity: initial opacity, in (0, 0.99).
        init_color_std: standard deviation of the initial color logits; refused with ``images``.
        num_segments: line segments that approximate a curve.
        init_steps: steps that fit the strokes to ``images``.
        points_lr: peak learning rate of the control points, in short sides.
        widths_lr: peak learning rate of the logits of the fraction of ``max_width``.
        colors_lr: peak learning rate of the color logits, also of the background.
        opacities_lr: peak learning rate of the opacity logits.
    """

    num_strokes: int = 128
    init_length: float = 0.2
    init_width: float = 0.06
    max_width: float = 0.3
    init_opacity: float = 0.7
    init_color_std: float = 0.1
    num_segments: int = 12
    init_steps: int = 200
    points_lr: float = 0.004
    widths_lr: float = 0.02
    colors_lr: float = 0.1
    opacities_lr: float = 0.02

    def __post_init__(self) -> None:
        check_minimums(self, num_strokes=1, num_segments=1, init_color_std=0, init_steps=0)
        check_positive(self, "init_length", "points_lr", "widths_lr", "colors_lr", "opacities_lr")
        maximums = {"init_opacity": _MAX_OPACITY, "init_width": self.max_width}
        for name, maximum in maximums.items():
            if not 0 < getattr(self, name) < maximum:
                raise ValueError(f"{name} must be in (0, {maximum}), not {getattr(self, name)}")
        check_image_options(self, "init_color_std")

    def _lrs(self) -> dict[str, float]:
        return {
            "points": self.points_lr,
            "widths": self.widths_lr,
            "colors": self.colors_lr,
            "opacities": self.opacities_lr,
            "background": self.colors_lr,
        }

    def _initial_params(self, rng: RowRandom, size: tuple[int, int]) -> dict[str, Tensor]:
        """Slightly bent curves of ``init_length`` at evenly distributed positions."""
        particles, n = len(rng), self.num_strokes
        centers = sobol_positions(rng, n, size)
        angle = 2 * math.pi * rng.uniform("angles", n, 1)
        direction = self.init_length * torch.cat([angle.cos(), angle.sin()], -1)[:, :, None]
        points = centers[:, :, None] + direction * torch.linspace(-0.5, 0.5, 4)[:, None]
        bend = self.init_length / 8 * rng.normal("bends", n, 4, 2)
        width = torch.tensor(self.init_width / self.max_width)
        opacity = torch.tensor(self.init_opacity / _MAX_OPACITY)
        return {
            "points": points + bend,
            "widths": width.logit().expand(particles, n).clone(),
            "colors": self.init_color_std * rng.normal("colors", n, 3),
            "opacities": opacity.logit().expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        initial = self._initial_params(initial_rows(self, particles, seed), size)
        if images is not None:
            # the color of the pixel at the center of the stroke; background: the mean color
            initial["colors"] = color_logits_at(images, initial["points"].mean(2))
            initial["background"] = color_logits(images.mean((2, 3)))
        strokes = StrokeParticles(initial, self._lrs(), size, self.num_segments, self.max_width)
        return fit_to_images(strokes.to(prior.device), images, particles, self.init_steps)
