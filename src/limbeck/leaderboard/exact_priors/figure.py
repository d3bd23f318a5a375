"""A figure of particles on an exact prior: images, or points of a plane."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from limbeck.leaderboard.report.image_grid import draw_grid
from limbeck.metrics.true_law import ExactPrior

_SHOWN = 10  #: particles of an image prior
_COLUMNS = 6  #: panels side by side
_DPI = 90


def draw_particles(
    prior: ExactPrior, particles: Mapping[str, Float[Tensor, "n ..."]]
) -> Image.Image:
    """The first particles of every row as images; of a law without images, all in a plane.

    Args:
        prior: the exact prior.
        particles: particles by row, true draws first.
    """
    if len(prior.shape) != 3:
        return _scatter(particles)
    rows = [prior.decode(own[:_SHOWN]).float() for own in particles.values()]
    titles = [str(i) for i in range(1, len(rows[0]) + 1)]
    return draw_grid(torch.stack(rows), list(particles), titles)


def _scatter(particles: Mapping[str, Float[Tensor, "n ..."]]) -> Image.Image:
    """The first two numbers of each particle, on the axes of the true draws."""
    points = {name: _two_numbers(own) for name, own in particles.items()}
    lines = -(-len(points) // _COLUMNS)
    figure = Figure(figsize=(1.75 * _COLUMNS, 1.95 * lines), dpi=_DPI, layout="constrained")
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).flatten()
    first = next(iter(points.values()))
    low, high = first.amin(0), first.amax(0)
    margin = 0.25 * (high - low).clamp_min(1e-3)
    ends = torch.stack([low - margin, high + margin]).T.tolist()
    for panel, (name, own) in zip(panels, points.items(), strict=False):
        panel.plot(*own.T.tolist(), ".", markersize=2, alpha=0.5)
        panel.set(xlim=ends[0], ylim=ends[1], xticks=[], yticks=[])
        panel.set_title(name, fontsize=9)
    for panel in panels[len(points) :]:
        panel.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)


def _two_numbers(particles: Float[Tensor, "n ..."]) -> Float[Tensor, "n 2"]:
    flat = particles.flatten(1)[:, :2]
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))  # a line has one
