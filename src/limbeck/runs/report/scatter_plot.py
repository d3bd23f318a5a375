"""Particles without images as points of a plane."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

_COLUMNS = 6  #: panels side by side
_DPI = 90


def draw_scatter(particles: Mapping[str, Float[Tensor, "n ..."]], dpi: int = _DPI) -> Image.Image:
    """Draw the first two numbers of each particle, a panel per group, on the axes of the first.

    Args:
        particles: particles by the title of their panel.
        dpi: resolution; a panel is 1.75 inches wide.
    """
    points = {name: _two_numbers(own) for name, own in particles.items()}
    columns = min(_COLUMNS, len(points))
    lines = -(-len(points) // columns)
    figure = Figure(figsize=(1.75 * columns, 1.95 * lines), dpi=dpi, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    first = next(iter(points.values()))
    low, high = first.amin(0), first.amax(0)
    margin = 0.25 * (high - low).clamp_min(1e-3)
    ends = torch.stack([low - margin, high + margin]).T.tolist()
    for panel, (name, own) in zip(panels, points.items(), strict=False):
        panel.plot(*own.T.tolist(), ".", markersize=2, alpha=0.5)
        panel.set(xlim=ends[0], ylim=ends[1])
        panel.locator_params(nbins=3)
        panel.tick_params(labelsize=7, length=2, pad=2)
        panel.label_outer()
        panel.set_title(name, fontsize=9, parse_math=False)
    for panel in panels[len(points) :]:
        panel.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)


def _two_numbers(particles: Float[Tensor, "n ..."]) -> Float[Tensor, "n 2"]:
    flat = particles.flatten(1)[:, :2]
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))  # a line has one
