"""Brush strokes: cubic Bezier curves with a width, a color and an opacity; saved as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.rendering.tiles import (
    MAX_BATCH_ELEMENTS,
    TILE_SIZE,
    AlphaComposite,
    TileBatch,
    TileGrid,
)
from limbeck.representations.base import (
    ParticleParameters,
    Render,
    Representation,
    RepresentationConfig,
    fit_to_images,
)

_MAX_OPACITY = 0.99  #: below 1, so that strokes behind still get a gradient
_EDGE_WIDTH = 1.0  #: width of an antialiased edge in pixels


@dataclass(frozen=True)
class PixelStrokes:
    """Strokes of a batch of images in pixel units, front first.

    Attributes:
        points: control points (x, y).
        widths: stroke widths.
        colors: RGB in [0, 1].
        opacities: in [0, 1).
        background: RGB in [0, 1].
    """

    points: Float[Tensor, "b n 4 2"]
    widths: Float[Tensor, "b n"]
    colors: Float[Tensor, "b n 3"]
    opacities: Float[Tensor, "b n"]
    background: Float[Tensor, "b 3"]


def bernstein_basis(pieces: int) -> Float[Tensor, "s 4"]:
    """Bernstein weights of the control points at ``pieces`` + 1 uniform curve parameters."""
    u = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    return torch.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], -1)


def stroke_coverage(
    distance: Float[Tensor, "*n"], width: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Fraction of a pixel covered by a straight stroke of width w at distance d from its center.

    It is the overlap of [d - s/2, d + s/2] with [-w/2, w/2], divided by the pixel size s.
    """
    half, edge = width / 2, _EDGE_WIDTH / 2
    overlap = torch.minimum(distance + edge, half) - torch.maximum(distance - edge, -half)
    return overlap.clamp_min(0) / _EDGE_WIDTH


def nearest_on_polyline(
    line: Float[Tensor, "*n s 2"], pixels: Float[Tensor, "p 2"]
) -> tuple[Float[Tensor, "*n p"], Int[Tensor, "*n p"], Float[Tensor, "*n p"]]:
    """Squared distance of pixels to a polyline, nearest segment, and position on it in [0, 1]."""
    a, ab = line[..., :-1, :], line.diff(dim=-2)
    long = ab.square().sum(-1, keepdim=True).clamp_min(1e-12)
    ahead = ab @ pixels.T - (a * ab).sum(-1, keepdim=True)  # (p - a) . ab
    share = (ahead / long).clamp(0, 1)
    square = (
        a.square().sum(-1, keepdim=True)
        - 2 * a @ pixels.T
        + pixels.square().sum(-1)
        + share * (share * long - 2 * ahead)
    )
    best, piece = square.min(-2)
    return best, piece, share.gather(-2, piece[..., None, :])[..., 0, :]


def render_strokes(
    painting: PixelStrokes, height: int, width: int, pieces: int
) -> Float[Tensor, "b 3 h w"]:
    """Render strokes front to back; alpha is opacity times the covered fraction of the pixel.

    Distances are from pixel centers to polylines, so that ends and bends are round.

    Args:
        painting: the strokes, in pixels.
        height: of the images, in pixels.
        width: of the images, in pixels.
        pieces: segments of the polyline of each curve.
    """
    b, n = painting.widths.shape
    canvas = TileGrid(b, height, width)
    line = (bernstein_basis(pieces).to(painting.points) @ painting.points).flatten(0, 1)
    with torch.no_grad():
        reach = (painting.widths.flatten() + _EDGE_WIDTH) / 2
        image = torch.arange(b, device=line.device).repeat_interleave(n)

        def touches(stroke: Tensor, tile: Tensor) -> Tensor:
            center = canvas.tile_centers(tile, line)
            square, _, _ = nearest_on_polyline(
                line[stroke] - center[:, None], center.new_zeros(1, 2)
            )
            return square[:, 0] < (reach[stroke] + TILE_SIZE / math.sqrt(2)) ** 2

        low, high = line.amin(1) - reach[:, None], line.amax(1) + reach[:, None]
        groups = canvas.make_batches(image, low, high, touches, MAX_BATCH_ELEMENTS // 4)
    table = torch.cat(
        [painting.widths[..., None], painting.opacities[..., None], painting.colors], -1
    ).flatten(0, 1)
    pixels = canvas.pixel_offsets.to(line)
    return canvas.assemble(
        groups,
        [_tiles(canvas, group, line, table, pixels, painting.background) for group in groups],
    )


def _tiles(
    canvas: TileGrid,
    group: TileBatch,
    line: Tensor,
    table: Tensor,
    pixels: Tensor,
    background: Tensor,
) -> Float[Tensor, "t p 3"]:
    """Colors of the pixels of a batch of tiles.

    The nearest point needs no gradient: to first order the distance does not depend on it.
    """
    local = (
        gather_rows(line, group.primitive) - canvas.tile_centers(group.tile, line)[:, None, None]
    )
    rows = gather_rows(table, group.primitive)
    with torch.no_grad():
        _, piece, share = nearest_on_polyline(local, pixels)
    x, y = local.unbind(-1)
    gap_x = x.gather(-1, piece).lerp(x.gather(-1, piece + 1), share) - pixels[:, 0]
    gap_y = y.gather(-1, piece).lerp(y.gather(-1, piece + 1), share) - pixels[:, 1]
    distance = (gap_x.square() + gap_y.square() + 1e-12).sqrt()
    alpha = rows[..., 1:2] * stroke_coverage(distance, rows[..., :1]) * group.valid[..., None]
    color, transmittance = AlphaComposite.apply(alpha, rows[..., 2:5])
    behind = gather_rows(background, group.tile // (canvas.num_rows * canvas.num_columns))
    return color + transmittance[..., None] * behind[:, None]


def _hex_color(rgb: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


def strokes_to_svg(painting: PixelStrokes, row: int, height: int, width: int) -> str:
    """One image as an SVG document, back to front as browsers paint.

    Args:
        painting: the strokes, in pixels.
        row: index of the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    size = f'width="{width}" height="{height}"'
    background = _hex_color(painting.background[row].tolist())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">',
        f'<rect {size} fill="{background}"/>',
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
    ]
    kinds = (painting.points, painting.widths, painting.colors, painting.opacities)
    strokes = list(zip(*(kind[row].tolist() for kind in kinds), strict=True))
    for points, stroke_width, color, opacity in reversed(strokes):
        a, b, c, d = (f"{x:.3f} {y:.3f}" for x, y in points)
        style = f'stroke-width="{stroke_width:.3f}" stroke-opacity="{opacity:.3f}"'
        lines.append(f'<path d="M{a} C{b} {c} {d}" stroke="{_hex_color(color)}" {style}/>')
    return "\n".join([*lines, "</g>", "</svg>", ""])


class StrokeParticles(ParticleParameters):
    """Strokes in units of the short edge, relative to the center, renderable at any resolution."""

    def __init__(
        self,
        initial: dict[str, Tensor],
        lrs: dict[str, float],
        size: tuple[int, int],
        pieces: int,
        max_width: float,
    ):
        super().__init__(initial, lrs)
        self.size, self.pieces, self.max_width = size, pieces, max_width

    def pixel_strokes(self, particle: Int[Tensor, "b"], height: int, width: int) -> PixelStrokes:
        """The strokes of particles in pixels of an image of the given height and width."""
        part = {name: self.gather(name, particle) for name in self.params}
        unit = min(height, width)
        points = part["points"] * unit + part["points"].new_tensor([width / 2, height / 2])
        widths = self.max_width * unit * part["width"].sigmoid()
        opacity = _MAX_OPACITY * part["opacity"].sigmoid()
        return PixelStrokes(
            points, widths, part["color"].sigmoid(), opacity, part["background"].sigmoid()
        )

    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        """Render particles at another resolution, given in pixels."""
        strokes = self.pixel_strokes(particle, height, width)
        return render_strokes(strokes, height, width, self.pieces)

    def render(self, request: RenderRequest) -> Render:
        return Render(self.render_at(request.particle, *self.size), "image")

    @torch.no_grad()
    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write one SVG per particle; it renders the same in a browser, at any size."""
        painting = self.pixel_strokes(torch.arange(len(names)), *self.size)
        for row, name in enumerate(names):
            (folder / f"{name}.svg").write_text(strokes_to_svg(painting, row, *self.size))


@dataclass(frozen=True)
class Strokes(RepresentationConfig):
    """Cubic Bezier strokes over a background of one color, exported as final/*.svg.

    Strokes are initialized evenly over the image; the first stroke is in front.

    Attributes:
        num_strokes: strokes per particle.
        init_length: initial length of a stroke, in units of the short edge.
        init_width: initial width of a stroke, in units of the short edge.
        max_width: upper bound of the width, in units of the short edge.
        init_opacity: initial opacity, below 0.99.
        init_color_std: standard deviation of the initial color logits.
        num_segments: line segments that approximate a curve.
        init_steps: fitting steps to ``images``.
        points_lr: peak learning rate of the control points, in units of the short edge.
        widths_lr: peak learning rate of the logits of width / max_width.
        colors_lr: peak learning rate of the color logits, the background included.
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
        if min(self.num_strokes, self.num_segments) < 1 or self.init_length <= 0:
            raise ValueError(
                "num_strokes and num_segments must be at least 1 and init_length positive, "
                f"not {self.num_strokes}, {self.num_segments} and {self.init_length}"
            )
        if min(self.init_color_std, self.init_steps) < 0:
            raise ValueError(
                "init_color_std and init_steps must be at least 0, "
                f"not {self.init_color_std} and {self.init_steps}"
            )
        if not 0 < self.init_opacity < _MAX_OPACITY or not 0 < self.init_width < self.max_width:
            raise ValueError(
                f"init_opacity must be in (0, {_MAX_OPACITY}) and init_width in (0, max_width), "
                f"not {self.init_opacity} and {self.init_width}"
            )
        if min(self._lrs().values()) <= 0:
            raise ValueError(f"learning rates must be positive, not {self._lrs()}")

    def _lrs(self) -> dict[str, float]:
        return {
            "points": self.points_lr,
            "width": self.widths_lr,
            "color": self.colors_lr,
            "opacity": self.opacities_lr,
            "background": self.colors_lr,
        }

    def _initial_params(
        self, particles: int, size: tuple[int, int], seed: int
    ) -> dict[str, Tensor]:
        """Slightly bent curves of ``init_length`` at evenly distributed positions."""
        rng = torch.Generator().manual_seed(seed)
        n, unit = self.num_strokes, min(size)
        even = [
            torch.quasirandom.SobolEngine(2, scramble=True, seed=seed * 1009 + i).draw(n)
            for i in range(particles)
        ]
        middle = (torch.stack(even) - 0.5) * torch.tensor([size[1] / unit, size[0] / unit])
        angle = 2 * math.pi * torch.rand(particles, n, 1, generator=rng)
        along = self.init_length * torch.cat([angle.cos(), angle.sin()], -1)[:, :, None]
        points = middle[:, :, None] + along * torch.linspace(-0.5, 0.5, 4)[:, None]
        bend = self.init_length / 8 * torch.randn(particles, n, 4, 2, generator=rng)
        return {
            "points": points + bend,
            "width": torch.tensor(self.init_width / self.max_width)
            .logit()
            .expand(particles, n)
            .clone(),
            "color": self.init_color_std * torch.randn(particles, n, 3, generator=rng),
            "opacity": torch.tensor(self.init_opacity / _MAX_OPACITY)
            .logit()
            .expand(particles, n)
            .clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        initial = self._initial_params(particles if images is None else len(images), size, seed)
        if images is not None:
            # strokes take the color of the pixel at their center, the background the mean
            place = initial["points"].mean(2) * (2 * min(size) / torch.tensor([size[1], size[0]]))
            colors = F.grid_sample(
                images, place[:, None], align_corners=False, padding_mode="border"
            )[:, :, 0].transpose(1, 2)
            initial["color"] = colors.clamp(0.02, 0.98).logit()
            initial["background"] = images.mean((2, 3)).clamp(0.02, 0.98).logit()
        strokes = StrokeParticles(initial, self._lrs(), size, self.num_segments, self.max_width)
        return fit_to_images(strokes.to(prior.device), images, particles, self.init_steps)
