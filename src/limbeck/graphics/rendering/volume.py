"""Volume rendering: ray sampling, transmittance weights and accumulation along rays.

References:
    Mildenhall et al. 2020, NeRF, arXiv 2003.08934.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid, refine_samples


def ray_aabb_intersect(
    eye: Float[Tensor, "b 3"], directions: Float[Tensor, "b h w 3"], bound: float
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Distances at which rays enter and leave the box [-bound, bound]^3.

    Args:
        eye: ray origins, one per view.
        directions: unit directions.
        bound: half the side of the box.

    Returns:
        Near distances, at least 0, and far distances; far < near for rays that miss the box.
    """
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    eye = eye[:, None, None]
    a, b = (-bound - eye) / safe, (bound - eye) / safe
    return torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)


@dataclass(frozen=True)
class RaySamples:
    """Samples of R rays with up to S samples each, of which N are kept.

    Attributes:
        flat_index: ``[N]`` index of each kept sample in the flattened ``[R, S]`` table, ordered by
            ray and from near to far.
        distances: ``[N]`` distances from the ray origin.
        points: ``[N, 3]`` positions.
        all_distances: ``[R, S]`` distances of all samples, kept or not.
        deltas: ``[N]`` lengths of the ray segments of the samples; a number if all are equal.
    """

    flat_index: Int[Tensor, "n"]
    distances: Float[Tensor, "n"]
    points: Float[Tensor, "n 3"]
    all_distances: Float[Tensor, "r s"]
    deltas: Float[Tensor, "n"] | float

    @property
    def num_rays(self) -> int:
        """Number of rays R."""
        return self.all_distances.shape[0]

    @property
    def samples_per_ray(self) -> int:
        """Samples per ray S before any were dropped."""
        return self.all_distances.shape[1]

    @property
    def ray_index(self) -> Int[Tensor, "n"]:
        """Ray of each kept sample."""
        return self.flat_index // self.samples_per_ray

    def select(self, mask: Bool[Tensor, "n"]) -> RaySamples:
        """Keep only the samples of a mask."""
        deltas = self.deltas[mask] if isinstance(self.deltas, Tensor) else self.deltas
        return RaySamples(
            self.flat_index[mask],
            self.distances[mask],
            self.points[mask],
            self.all_distances,
            deltas,
        )

    def render_weights(self, density: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """w_i = T_i (1 - exp(-sigma_i delta)), T_i = exp(-sum_{j<i} sigma_j delta): NeRF eq. 3."""
        optical_depth = density * self.deltas
        table = density.new_zeros(self.num_rays * self.samples_per_ray)
        table = table.index_copy(0, self.flat_index, optical_depth)
        cumulative = table.view(self.num_rays, self.samples_per_ray).cumsum(1).view(-1)
        before = optical_depth - cumulative[self.flat_index]
        return torch.exp(before) * -torch.expm1(-optical_depth)

    def accumulate(
        self, weights: Float[Tensor, "n"], values: Float[Tensor, "n c"]
    ) -> Float[Tensor, "r c"]:
        """sum_i w_i value_i along every ray."""
        zeros = values.new_zeros(self.num_rays, values.shape[1])
        return zeros.index_add(0, self.ray_index, weights[:, None] * values)


def step_size(bound: float, samples: int) -> float:
    """Distance between samples when ``samples`` of them span the diagonal of [-bound, bound]^3."""
    return 2 * bound * 3**0.5 / samples


def ray_march(
    eye: Float[Tensor, "b 3"],
    directions: Float[Tensor, "b h w 3"],
    bound: float,
    samples: int,
    jitter: Float[Tensor, "b h w"],
    occupancy: OccupancyGrid,
) -> RaySamples:
    """Sample rays evenly inside the box, in occupied cells only.

    Args:
        eye: ray origins, one per view.
        directions: unit directions.
        bound: half the side of the box.
        samples: samples along the diagonal of the box.
        jitter: offset of a ray's samples in [0, 1), as a fraction of their spacing; 0.5 for
            evaluation renders.
        occupancy: samples in cells that are not occupied are dropped.
    """
    near, far = ray_aabb_intersect(eye, directions, bound)
    spacing = step_size(bound, samples)
    offset = (torch.arange(samples, device=near.device) + jitter[..., None]) * spacing
    distances = (near[..., None] + offset).flatten(0, 2)
    return _pack_samples(eye, directions, distances, far, occupancy, spacing)


def importance_resample(
    eye: Float[Tensor, "b 3"],
    directions: Float[Tensor, "b h w 3"],
    bound: float,
    coarse: RaySamples,
    density: Float[Tensor, "n"],
    count: int,
    occupancy: OccupancyGrid,
    rng: torch.Generator | None,
) -> RaySamples:
    """Add importance samples to coarse samples (NeRF, section 5.2).

    New samples are drawn where a coarse sample or one of its neighbors has weight (mip-NeRF, Barron
    et al. 2021, arXiv 2103.13415, eq. 18), since an edge lies between two samples. Each sample then
    stands for the part of the ray that is nearest to it.

    Args:
        eye: ray origins, one per view.
        directions: unit directions.
        bound: half the side of the box.
        coarse: samples of ``ray_march``.
        density: density at the coarse samples.
        count: samples to add per ray.
        occupancy: samples in cells that are not occupied are dropped.
        rng: source of the samples. None: deterministic ones.
    """
    assert isinstance(coarse.deltas, float)
    table = density.new_zeros(coarse.num_rays * coarse.samples_per_ray)
    weights = table.index_copy(0, coarse.flat_index, coarse.render_weights(density.detach()))
    blurred = F.max_pool1d(weights.view(coarse.num_rays, 1, -1), 2, 1, 1)[:, 0]
    blurred = (blurred[:, :-1] + blurred[:, 1:]) / 2
    distances = refine_samples(coarse.all_distances, blurred, count, rng)
    midpoints = (distances[:, 1:] + distances[:, :-1]) / 2
    start = distances[:, :1] - coarse.deltas / 2
    end = distances[:, -1:] + coarse.deltas / 2
    deltas = torch.cat([start, midpoints, end], 1).diff(dim=1)
    far = ray_aabb_intersect(eye, directions, bound)[1]
    return _pack_samples(eye, directions, distances, far, occupancy, deltas)


def _pack_samples(
    eye: Float[Tensor, "b 3"],
    directions: Float[Tensor, "b h w 3"],
    all_distances: Float[Tensor, "r s"],
    far: Float[Tensor, "b h w"],
    occupancy: OccupancyGrid,
    deltas: Float[Tensor, "r s"] | float,
) -> RaySamples:
    """Keep the samples that lie in the box and in occupied cells."""
    index = (all_distances < far.view(-1, 1)).flatten().nonzero().squeeze(1)
    distances, ray = all_distances.flatten()[index], index // all_distances.shape[1]
    view = ray // (directions.shape[1] * directions.shape[2])
    points = eye[view] + distances[:, None] * directions.reshape(-1, 3)[ray]
    kept_deltas = deltas.flatten()[index] if isinstance(deltas, Tensor) else deltas
    samples = RaySamples(index, distances, points, all_distances, kept_deltas)
    return samples.select(occupancy.contains(points))
