"""Brush strokes: cubic Bezier curves with a width, a colour and an opacity, painted over one another; saved as SVG."""

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
from limbeck.graphics.rendering.tiles import AlphaComposite, MAX_BATCH_ELEMENTS, TILE_SIZE, TileBatch, TileGrid
from limbeck.representations.base import ParticleParameters, Render, Representation, RepresentationConfig, fit_to_images

DENSEST = 0.99  #: the greatest opacity, so that nothing behind is without a gradient
SOFT = 1.0  #: width of an edge in pixels: that of a pixel


@dataclass(frozen=True)
class PixelStrokes:
    """Strokes of some images in pixels: control points, widths, colours and opacities, front first."""

    points: Float[Tensor, "b n 4 2"]
    widths: Float[Tensor, "b n"]
    colors: Float[Tensor, "b n 3"]
    opacities: Float[Tensor, "b n"]
    background: Float[Tensor, "b 3"]


def bernstein_basis(pieces: int) -> Float[Tensor, "s 4"]:
    """What each control point counts for at pieces + 1 places of a cubic Bezier curve, even in its parameter."""
    u = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    return torch.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], -1)


def stroke_coverage(distance: Float[Tensor, "*n"], width: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Share of a pixel that a straight stroke covers whose middle passes at a distance: the overlap of [d - s/2, d + s/2] with
    [-w/2, w/2], over s, the pixel's side."""
    half, soft = width / 2, SOFT / 2
    return (torch.minimum(distance + soft, half) - torch.maximum(distance - soft, -half)).clamp_min(
        0
    ) / SOFT


def nearest_on_polyline(
    line: Float[Tensor, "*n s 2"], pixels: Float[Tensor, "p 2"]
) -> tuple[Float[Tensor, "*n p"], Int[Tensor, "*n p"], Float[Tensor, "*n p"]]:
    """Square distance of pixels from a polyline, the piece that is nearest, and the share of it at which the foot lies."""
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


def render_strokes(painting: PixelStrokes, height: int, width: int, pieces: int) -> Float[Tensor, "b 3 h w"]:
    """The images of a painting: colours of strokes over one another, alpha = opacity times the covered share of the pixel.

    The distance is that of the pixel's centre from the polyline of ``pieces`` pieces, so ends and bends are round.
    """
    b, n = painting.widths.shape
    canvas = TileGrid(b, height, width)
    line = (bernstein_basis(pieces).to(painting.points) @ painting.points).flatten(0, 1)
    with torch.no_grad():
        reach = (painting.widths.flatten() + SOFT) / 2
        image = torch.arange(b, device=line.device).repeat_interleave(n)

        def touches(stroke: Tensor, tile: Tensor) -> Tensor:
            centre = canvas.tile_centers(tile, line)
            square, _, _ = nearest_on_polyline(line[stroke] - centre[:, None], centre.new_zeros(1, 2))
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
    """Which point of the line is nearest is found without a gradient: to first order the distance does not depend on it."""
    local = gather_rows(line, group.primitive) - canvas.tile_centers(group.tile, line)[:, None, None]
    rows = gather_rows(table, group.primitive)
    with torch.no_grad():
        _, piece, share = nearest_on_polyline(local, pixels)
    x, y = local.unbind(-1)
    gap_x = x.gather(-1, piece).lerp(x.gather(-1, piece + 1), share) - pixels[:, 0]
    gap_y = y.gather(-1, piece).lerp(y.gather(-1, piece + 1), share) - pixels[:, 1]
    distance = (gap_x.square() + gap_y.square() + 1e-12).sqrt()
    alpha = rows[..., 1:2] * stroke_coverage(distance, rows[..., :1]) * group.valid[..., None]
    colour, left = AlphaComposite.apply(alpha, rows[..., 2:5])
    behind = gather_rows(background, group.tile // (canvas.num_rows * canvas.num_columns))
    return colour + left[..., None] * behind[:, None]


def strokes_to_svg(painting: PixelStrokes, row: int, height: int, width: int) -> str:
    """One image of a painting as a document of its own; browsers paint the last path on top."""
    tint = lambda rgb: "#" + "".join(f"{round(255 * c):02x}" for c in rgb)  # noqa: E731
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="{tint(painting.background[row].tolist())}"/>',
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
    ]
    kinds = (painting.points, painting.widths, painting.colors, painting.opacities)
    for points, wide, colour, opacity in reversed(
        list(zip(*(kind[row].tolist() for kind in kinds), strict=True))
    ):
        a, b, c, d = (f"{x:.3f} {y:.3f}" for x, y in points)
        out.append(
            f'<path d="M{a} C{b} {c} {d}" stroke="{tint(colour)}" stroke-width="{wide:.3f}" stroke-opacity="{opacity:.3f}"/>'
        )
    return "\n".join([*out, "</g>", "</svg>", ""])


class StrokeParticles(ParticleParameters):
    """Points and widths are in units of the short side, from the middle, so that a painting has any resolution."""

    def __init__(
        self,
        start: dict[str, Tensor],
        rates: dict[str, float],
        size: tuple[int, int],
        pieces: int,
        widest: float,
    ):
        super().__init__(start, rates)
        self.size, self.pieces, self.widest = size, pieces, widest

    def pixel_strokes(self, view: Int[Tensor, "b"], height: int, width: int) -> PixelStrokes:
        """The strokes of particles in pixels of an image of a height and width."""
        part = {name: self.gather(name, view) for name in self.params}
        unit = min(height, width)
        points = part["points"] * unit + part["points"].new_tensor([width / 2, height / 2])
        wide = self.widest * unit * part["width"].sigmoid()
        opacity = DENSEST * part["opacity"].sigmoid()
        return PixelStrokes(
            points, wide, part["colour"].sigmoid(), opacity, part["background"].sigmoid()
        )

    def render_at(self, view: Int[Tensor, "b"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
        """The particles drawn at another resolution."""
        return render_strokes(self.pixel_strokes(view, height, width), height, width, self.pieces)

    def render(self, view: RenderRequest) -> Render:
        return Render(self.render_at(view.particle, *self.size), "image")

    @torch.no_grad()
    def save(self, folder: Path, names: Sequence[str]) -> None:
        """One SVG per particle, which is the result itself: it renders the same in a browser, at any size."""
        painting = self.pixel_strokes(torch.arange(len(names)), *self.size)
        for row, name in enumerate(names):
            (folder / f"{name}.svg").write_text(strokes_to_svg(painting, row, *self.size))


@dataclass(frozen=True)
class Strokes(RepresentationConfig):
    """Cubic Bezier curves over one another, the first in front, on a background of one colour; final/*.svg holds them as SVG.

    The start scatters strokes evenly over the canvas. count: strokes per particle. length: of a stroke at the start in units of
    the short side. width: the same of its width. widest: limit of a width, in the same units. opacity: at the start, below 0.99.
    spread: deviation of the colour logits at the start. pieces: straight pieces a curve is drawn with. fit: steps that fit the
    start to ``images``. rate_points: peak rate of the control points in units of the short side. rate_width: peak rate of the
    logits of the share of ``widest``. rate_colour: peak rate of the colour logits. rate_opacity: peak rate of the opacity logits.
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
        if min(self.num_strokes, self.num_segments) < 1 or self.init_length <= 0 or min(self.init_color_std, self.init_steps) < 0:
            raise ValueError(
                f"count and pieces must be at least 1, length positive, spread and fit not negative: {self}"
            )
        if not 0 < self.init_opacity < DENSEST or not 0 < self.init_width < self.max_width:
            raise ValueError(
                f"opacity must be in (0, {DENSEST}) and width in (0, widest), not {self.init_opacity}, {self.init_width}"
            )
        if min(self._lrs().values()) <= 0:
            raise ValueError(f"every rate must be positive: {self}")

    def _lrs(self) -> dict[str, float]:
        return {
            "points": self.points_lr, "width": self.widths_lr, "colour": self.colors_lr, "opacity": self.opacities_lr,
            "background": self.colors_lr,
        }  # fmt: skip

    def _initial_params(self, particles: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        """Each curve bends a little about a straight line of ``length`` through its even place."""
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
            "width": torch.tensor(self.init_width / self.max_width).logit().expand(particles, n).clone(),
            "colour": self.init_color_std * torch.randn(particles, n, 3, generator=rng),
            "opacity": torch.tensor(self.init_opacity / DENSEST).logit().expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        start = self._initial_params(particles if images is None else len(images), size, seed)
        if (
            images is not None
        ):  # each stroke takes the colour of the pixel under its middle, the background the mean
            place = start["points"].mean(2) * (2 * min(size) / torch.tensor([size[1], size[0]]))
            seen = F.grid_sample(
                images, place[:, None], align_corners=False, padding_mode="border"
            )[:, :, 0].transpose(1, 2)
            start["colour"] = seen.clamp(0.02, 0.98).logit()
            start["background"] = images.mean((2, 3)).clamp(0.02, 0.98).logit()
        made = StrokeParticles(start, self._lrs(), size, self.num_segments, self.max_width)
        return fit_to_images(made.to(prior.device), images, particles, self.init_steps)
