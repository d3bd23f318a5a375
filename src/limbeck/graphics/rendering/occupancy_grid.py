"""Where to sample along rays: an occupancy grid, and importance sampling by coarse weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class OccupancyGrid(nn.Module):
    """Which cells of the box [-bound, bound]^3 may be dense (Instant-NGP, appendix C).

    All cells are occupied at first. The buffers ``densities`` and ``occupied`` are indexed z, y, x.
    In every update ``densities`` decays and is raised to the density that was just sampled; a cell
    is occupied if its value, or that of a neighbor, is above the threshold.

    Args:
        resolution: cells along a side.
        bound: half the side of the box.
        threshold: density above which a cell is occupied, per unit of length.
        decay: factor of the stored densities in every update, in [0, 1).

    References:
        Müller et al. 2022, Instant-NGP, arXiv 2201.05989, appendix C.
    """

    densities: Float[Tensor, "c c c"]
    occupied: Bool[Tensor, "c c c"]

    def __init__(self, resolution: int, bound: float, threshold: float = 0.01, decay: float = 0.95):
        super().__init__()
        if resolution < 2 or bound <= 0 or threshold < 0 or not 0 <= decay < 1:
            raise ValueError(
                "an occupancy grid takes resolution of at least 2, bound above 0, threshold of at "
                "least 0 and decay in [0, 1), "
                f"not {resolution}, {bound}, {threshold} and {decay}"
            )
        self.bound, self.threshold, self.decay = bound, threshold, decay
        shape = (resolution, resolution, resolution)
        self.register_buffer("densities", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self._dilation: tuple[Tensor, tuple[int, float], Tensor] | None = None

    @property
    def occupied_fraction(self) -> float:
        """Fraction of the cells that are occupied."""
        return float(self.occupied.float().mean())

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
        rng: torch.Generator,
        chunk_size: int = 1 << 18,
    ) -> None:
        """Sample the density at one random point of every cell.

        Args:
            density: function from points ``[N, 3]`` to density ``[N]``.
            rng: source of the points.
            chunk_size: points per call of ``density``.
        """
        resolution = len(self.densities)
        line = torch.arange(resolution)
        corner = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], -1).view(-1, 3)
        unit = (corner + torch.rand(corner.shape, generator=rng)) * (2 / resolution) - 1
        chunks = (unit * self.bound).to(self.densities).split(chunk_size)
        sampled = torch.cat([density(chunk) for chunk in chunks]).to(self.densities)
        sampled = sampled.view_as(self.densities)
        self.densities.copy_(torch.maximum(self.densities * self.decay, sampled))
        neighborhood = F.max_pool3d(self.densities[None, None], 3, 1, 1)[0, 0]
        self.occupied.copy_(neighborhood > self.threshold)

    def cell_indices(self, points: Float[Tensor, "n 3"]) -> Int[Tensor, "n"]:
        """Index in the flattened grid of each point's cell; outside the box, of the nearest one."""
        resolution = len(self.densities)
        position = (points / self.bound + 1) * (resolution / 2)
        x, y, z = position.int().clamp_(0, resolution - 1).unbind(1)
        return (z * resolution + y) * resolution + x

    def contains(self, points: Float[Tensor, "n 3"], within: float = 0.0) -> Bool[Tensor, "n"]:
        """Which points lie in occupied cells, or may lie within a distance of one.

        Args:
            points: points in world space.
            within: distance. If it is not 0, some points farther away are included too.
        """
        occupied = self._dilated(within) if within else self.occupied
        return occupied.flatten().index_select(0, self.cell_indices(points))

    def _dilated(self, distance: float) -> Bool[Tensor, "c c c"]:
        """Cells with an occupied cell within a distance along every axis; cached."""
        key, cached = (self.occupied._version, distance), self._dilation
        if cached is None or cached[0] is not self.occupied or cached[1] != key:
            cells = math.floor(distance * len(self.densities) / (2 * self.bound)) + 1
            grown = self.occupied[None, None].float()
            for axis in range(3):
                kernel, padding = [1, 1, 1], [0, 0, 0]
                kernel[axis], padding[axis] = 2 * cells + 1, cells
                grown = F.max_pool3d(grown, kernel, 1, padding)
            cached = self._dilation = (self.occupied, key, grown[0, 0] > 0)
        return cached[2]


def stratified_uniform(rays: int, count: int, rng: torch.Generator | None) -> Float[Tensor, "r m"]:
    """Ascending numbers in [0, 1), one in each of ``count`` equal parts (NeRF eq. 2).

    Args:
        rays: number of rows.
        count: numbers per row.
        rng: source of the position within each part. None: the middle of the part.

    References:
        Mildenhall et al. 2020, NeRF, arXiv 2003.08934.
    """
    if rng is None:
        offset = torch.full((rays, count), 0.5)
    else:
        offset = torch.rand(rays, count, generator=rng)
    return ((torch.arange(count) + offset) / count).clamp_max(1 - 2**-24)


def sample_pdf(
    edges: Float[Tensor, "r s_plus_1"], weights: Float[Tensor, "r s"], u: Float[Tensor, "r m"]
) -> Float[Tensor, "r m"]:
    """Inverse-transform sampling of a piecewise constant density, without a gradient.

    Args:
        edges: ascending bin edges of every ray.
        weights: weights of the bins, normalized per ray (NeRF eq. 5). The density of a bin is its
            weight over its length; rays whose weights are all zero get a uniform density.
        u: values of the distribution function in [0, 1).

    Returns:
        The positions at which the distribution function reaches ``u``; ascending where ``u`` is.
    """
    weights = weights.detach()
    total = weights.sum(1, keepdim=True)
    uniform = edges.diff(dim=1) / (edges[:, -1:] - edges[:, :1])
    pdf = torch.where(total > 0, weights / torch.where(total > 0, total, 1), uniform)
    cdf = torch.cat([torch.zeros_like(total), pdf.cumsum(1)], 1)
    cdf = cdf / cdf[:, -1:]  # exactly 1 from the last bin with a weight on
    index = torch.searchsorted(cdf, u.contiguous(), right=True) - 1
    index = index.clamp(0, weights.shape[1] - 1)
    low, high = cdf.gather(1, index), cdf.gather(1, index + 1)
    fraction = ((u - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return torch.lerp(edges.gather(1, index), edges.gather(1, index + 1), fraction)


def refine_samples(
    distances: Float[Tensor, "r s"],
    weights: Float[Tensor, "r s"],
    count: int,
    rng: torch.Generator | None,
) -> Float[Tensor, "r t"]:
    """Add importance samples to coarse samples (NeRF, section 5.2).

    The bins between the midpoints of neighboring samples carry the weights of the samples within;
    the first and the last sample carry none.

    Args:
        distances: ascending coarse samples of every ray.
        weights: weights of the coarse samples.
        count: samples to add per ray.
        rng: source of the samples. None: deterministic ones.

    Returns:
        Coarse and new samples, ascending.
    """
    midpoints = (distances[:, 1:] + distances[:, :-1]) / 2
    u = stratified_uniform(len(distances), count, rng).to(distances)
    new = sample_pdf(midpoints, weights[:, 1:-1], u)
    return torch.cat([distances, new], 1).sort(1).values
