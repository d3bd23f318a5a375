"""A figure of particles on an exact prior: images, or points of a plane."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck.leaderboard.report.image_grid import draw_grid
from limbeck.metrics.true_law import ExactPrior
from limbeck.runs.report.scatter_plot import draw_scatter

_SHOWN = 10  #: particles of an image prior


def draw_particles(
    prior: ExactPrior, particles: Mapping[str, Float[Tensor, "n ..."]]
) -> Image.Image:
    """The first particles of every row as images; of a law without images, all in a plane.

    Args:
        prior: the exact prior.
        particles: particles by row, true draws first.
    """
    if len(prior.shape) != 3:
        return draw_scatter(particles)
    rows = [prior.decode(own[:_SHOWN]).float() for own in particles.values()]
    titles = [str(i) for i in range(1, len(rows[0]) + 1)]
    return draw_grid(torch.stack(rows), list(particles), titles)
