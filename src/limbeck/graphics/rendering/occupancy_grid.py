"""Where samples are worth taking: cells of space that are not empty, and the parts of a ray that coarse weights point at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class OccupancyGrid(nn.Module):
    """Which of cells^3 cells of the box [-reach, reach]^3 may hold something (Instant-NGP, Mueller et al. 2022, arXiv 2201.05989,
    appendix C). All may at the start. Indices are z, y, x.

    ``mean`` decays by ``decay`` in every update and is at least the density just seen; a cell is ``occupied`` where that, or a
    neighbour's, is above ``threshold``. Both are buffers, so that a resumed run goes on as it was.
    """

    mean: Float[Tensor, "c c c"]
    occupied: Bool[Tensor, "c c c"]

    def __init__(self, cells: int, reach: float, threshold: float = 0.01, decay: float = 0.95):
        super().__init__()
        if cells < 2 or reach <= 0 or threshold < 0 or not 0 <= decay < 1:
            raise ValueError(
                "an occupancy grid takes cells of at least 2, reach above 0, threshold of at least 0 and decay in [0, 1), "
                f"not {cells}, {reach}, {threshold} and {decay}"
            )
        self.reach, self.threshold, self.decay = reach, threshold, decay
        self.register_buffer("mean", torch.zeros(cells, cells, cells))
        self.register_buffer("occupied", torch.ones(cells, cells, cells, dtype=torch.bool))

    @property
    def share(self) -> float:
        """Of the cells that are occupied."""
        return float(self.occupied.float().mean())

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
        rng: torch.Generator,
        chunk: int = 1 << 18,
    ) -> None:
        """Look at one place of every cell, drawn by the generator, ``chunk`` of them at a time; density: of points ``[n, 3]``."""
        cells = len(self.mean)
        line = torch.arange(cells)
        corner = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], -1).view(-1, 3)
        places = ((corner + torch.rand(corner.shape, generator=rng)) * (2 / cells) - 1) * self.reach
        seen = (
            torch.cat([density(part) for part in places.to(self.mean).split(chunk)])
            .to(self.mean)
            .view_as(self.mean)
        )
        self.mean.copy_(torch.maximum(self.mean * self.decay, seen))
        self.occupied.copy_(F.max_pool3d(self.mean[None, None], 3, 1, 1)[0, 0] > self.threshold)

    def cell(self, points: Float[Tensor, "n 3"]) -> Int[Tensor, "n 3"]:
        """Index of the cell of each point, z, y, x; of the nearest one for points outside."""
        cells = len(self.mean)
        return ((points.flip(1) / self.reach + 1) * (cells / 2)).long().clamp(0, cells - 1)

    def holds(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Which points lie in occupied cells: the mask by which samples are packed."""
        z, y, x = self.cell(points).unbind(1)
        return self.occupied[z, y, x]


def stratified_uniform(rays: int, count: int, rng: torch.Generator | None) -> Float[Tensor, "r m"]:
    """Numbers in [0, 1), one in each of ``count`` equal parts (NeRF, Mildenhall et al. 2020, arXiv 2003.08934, eq. 2): drawn, or
    the middle without a generator. Ascending along a ray."""
    part = torch.full((rays, count), 0.5) if rng is None else torch.rand(rays, count, generator=rng)
    return ((torch.arange(count) + part) / count).clamp_max(1 - 2**-24)


def sample_pdf(
    edges: Float[Tensor, "r s_plus_1"], weights: Float[Tensor, "r s"], u: Float[Tensor, "r m"]
) -> Float[Tensor, "r m"]:
    """Places at which the distribution function of a density that is constant between ``edges`` reaches u in [0, 1).

    The density of a part is its weight over its length, all weights of a ray divided by their sum (NeRF eq. 5). Rays whose weights
    are all zero have a uniform one. Ascending where u is; without a gradient.
    """
    weights = weights.detach()
    total = weights.sum(1, keepdim=True)
    uniform = edges.diff(dim=1) / (edges[:, -1:] - edges[:, :1])
    share = torch.where(total > 0, weights / torch.where(total > 0, total, 1), uniform)
    below = torch.cat([torch.zeros_like(total), share.cumsum(1)], 1)
    below = below / below[:, -1:]  # exactly 1 from the last part with a weight on
    part = (torch.searchsorted(below, u.contiguous(), right=True) - 1).clamp(
        0, weights.shape[1] - 1
    )
    take = lambda table, at: table.gather(1, at)  # noqa: E731
    low, high = take(below, part), take(below, part + 1)
    along = ((u - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return torch.lerp(take(edges, part), take(edges, part + 1), along)


def refine_samples(places: Float[Tensor, "r s"], weights: Float[Tensor, "r s"], count: int, rng: torch.Generator | None
          ) -> Float[Tensor, "r t"]:  # fmt: skip
    """Ascending coarse places and ``count`` more where their weights are, all in order (NeRF, section 5.2).

    The parts between the middles of neighbours carry the weights of the places within; the first and last place carry none.
    """
    middles = (places[:, 1:] + places[:, :-1]) / 2
    more = sample_pdf(middles, weights[:, 1:-1], stratified_uniform(len(places), count, rng).to(places))
    return torch.cat([places, more], 1).sort(1).values
