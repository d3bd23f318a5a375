"""Volume rendering: ray sampling, transmittance weights and accumulation along rays.

References:
    Mildenhall et al. 2020, NeRF, arXiv 2003.08934.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid, refine_samples

_GROUP_SIZE = 4  #: neighboring samples of a ray that are tested for occupancy at once


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
        ray_index: ``[N]`` ray of each kept sample, ascending; the samples of a ray are ordered from
            near to far.
        column: ``[N]`` which of the S samples of its ray each kept one is.
        distances: ``[N]`` distances from the ray origin.
        points: ``[N, 3]`` positions.
        deltas: ``[N]`` lengths of the ray segments of the samples; a number if all are equal.
        num_rays: number of rays R.
        samples_per_ray: samples per ray S before any were dropped.
    """

    ray_index: Int[Tensor, "n"]
    column: Int[Tensor, "n"]
    distances: Float[Tensor, "n"]
    points: Float[Tensor, "n 3"]
    deltas: Float[Tensor, "n"] | float
    num_rays: int
    samples_per_ray: int

    def select(self, mask: Bool[Tensor, "n"]) -> RaySamples:
        """Keep only the samples of a mask."""
        deltas = self.deltas[mask] if isinstance(self.deltas, Tensor) else self.deltas
        return replace(
            self,
            ray_index=self.ray_index[mask],
            column=self.column[mask],
            distances=self.distances[mask],
            points=self.points[mask],
            deltas=deltas,
        )

    def render_weights(self, density: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """w_i = T_i (1 - exp(-sigma_i delta)), T_i = exp(-sum_{j<i} sigma_j delta): NeRF eq. 3."""
        return _RenderWeights.apply(density * self.deltas, self.ray_index, self.num_rays)

    def accumulate(
        self, weights: Float[Tensor, "n"], values: Float[Tensor, "n c"]
    ) -> Float[Tensor, "r c"]:
        """sum_i w_i value_i along every ray."""
        zeros = values.new_zeros(self.num_rays, values.shape[1])
        return zeros.index_add(0, self.ray_index, weights[:, None] * values)


class _RenderWeights(torch.autograd.Function):
    """Weights of packed samples from their optical depths, and the gradient in closed form.

    Sums along a ray are differences of one running sum over all samples, in float64, so that rays
    without samples cost nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, depth: Float[Tensor, "n"], ray: Int[Tensor, "n"], num_rays: int
    ) -> Float[Tensor, "n"]:
        # not bincount, which waits for the device
        counts = ray.new_zeros(num_rays).index_add_(0, ray, torch.ones_like(ray))
        last = counts.cumsum(0)
        running = _running_sum(depth)  # entry i: sum of the first i depths
        before = (running[:-1] - running.index_select(0, (last - counts).index_select(0, ray))).to(
            depth
        )
        transmittance = torch.exp(-before)
        weights = transmittance * -torch.expm1(-depth)
        ctx.save_for_backward(weights, transmittance, ray, last)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "n"]) -> tuple[Tensor, None, None]:
        weights, transmittance, ray, last = ctx.saved_tensors
        running = _running_sum(grad * weights)
        behind = (running.index_select(0, last.index_select(0, ray)) - running[1:]).to(grad)
        return grad * (transmittance - weights) - behind, None, None


def _running_sum(values: Float[Tensor, "n"]) -> Float[Tensor, "n_plus_1"]:
    """Sums of the first 0, 1, ... n values, in float64 where the device has it."""
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    total = torch.zeros(len(values) + 1, dtype=dtype, device=values.device)
    torch.cumsum(values, 0, dtype=dtype, out=total[1:])
    return total


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

    Samples are first tested in groups of neighbors, so that most of empty space costs one test per
    group.

    Args:
        eye: ray origins, one per view.
        directions: unit directions.
        bound: half the side of the box.
        samples: samples along the diagonal of the box.
        jitter: offset of a ray's samples in [0, 1), as a fraction of their spacing; 0.5 for
            evaluation renders.
        occupancy: samples in cells that are not occupied are dropped.
    """
    near, far = (side.flatten() for side in ray_aabb_intersect(eye, directions, bound))
    spacing, start = step_size(bound, samples), jitter.flatten()
    first_column = torch.arange(0, samples, _GROUP_SIZE, device=near.device)
    in_box = near[:, None] + (first_column + start[:, None]) * spacing < far[:, None]
    counts = in_box.sum(1)
    ray = torch.arange(len(near), device=near.device).repeat_interleave(counts)
    position = torch.arange(len(ray), device=near.device) - (counts.cumsum(0) - counts)[ray]
    column = position * _GROUP_SIZE

    origin = eye.repeat_interleave(len(near) // len(eye), 0).t().contiguous()
    rays = torch.stack([near, start, *origin, *directions.reshape(-1, 3).unbind(1)])
    near_g, start_g, *line = rays.index_select(1, ray)
    reach = (_GROUP_SIZE - 1) / 2
    middle = near_g + (column + reach + start_g) * spacing
    occupied = occupancy.contains(_along(line, middle).t(), within=reach * spacing)
    group = occupied.nonzero().squeeze(1)

    ray, column = ray.index_select(0, group), column.index_select(0, group)
    near_g, start_g, *line = rays.index_select(1, ray)
    member = torch.arange(_GROUP_SIZE, device=near.device)[:, None]
    distances = near_g + (column + member + start_g) * spacing
    points = _along([side[None] for side in line], distances)
    kept = (distances < far.index_select(0, ray)) & (column + member < samples)
    kept &= occupancy.contains(points.flatten(1).t()).view(kept.shape)
    index = kept.t().flatten().nonzero().squeeze(1)  # by ray, from near to far
    group, member = index // _GROUP_SIZE, index % _GROUP_SIZE
    index = member * len(ray) + group
    return RaySamples(
        ray.index_select(0, group),
        column.index_select(0, group) + member,
        distances.flatten().index_select(0, index),
        points.flatten(1).index_select(1, index).t().contiguous(),
        spacing,
        len(near),
        samples,
    )


def _along(
    line: Sequence[Float[Tensor, "*n"]], distances: Float[Tensor, "*m"]
) -> Float[Tensor, "3 *m"]:
    """Points at distances along lines given by the coordinates of their origin and direction."""
    return torch.stack([line[axis] + distances * line[3 + axis] for axis in range(3)])


def importance_resample(
    eye: Float[Tensor, "b 3"],
    directions: Float[Tensor, "b h w 3"],
    bound: float,
    coarse: RaySamples,
    density: Float[Tensor, "n"],
    count: int,
    occupancy: OccupancyGrid,
    jitter: Float[Tensor, "b h w"],
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
        jitter: the offsets that ``ray_march`` was called with.
        rng: source of the samples. None: deterministic ones.
    """
    assert isinstance(coarse.deltas, float)
    near, far = (side.view(-1, 1) for side in ray_aabb_intersect(eye, directions, bound))
    column = torch.arange(coarse.samples_per_ray, device=near.device)
    all_distances = near + (column + jitter.view(-1, 1)) * coarse.deltas
    weights = torch.zeros_like(all_distances)
    weights[coarse.ray_index, coarse.column] = coarse.render_weights(density.detach())
    blurred = F.max_pool1d(weights[:, None], 2, 1, 1)[:, 0]
    blurred = (blurred[:, :-1] + blurred[:, 1:]) / 2
    distances = refine_samples(all_distances, blurred, count, rng)
    midpoints = (distances[:, 1:] + distances[:, :-1]) / 2
    start = distances[:, :1] - coarse.deltas / 2
    end = distances[:, -1:] + coarse.deltas / 2
    deltas = torch.cat([start, midpoints, end], 1).diff(dim=1)
    ray, column = (distances < far).nonzero(as_tuple=True)
    view = ray // (directions.shape[1] * directions.shape[2])
    kept = distances[ray, column]
    points = eye[view] + kept[:, None] * directions.reshape(-1, 3)[ray]
    packed = RaySamples(ray, column, kept, points, deltas[ray, column], *distances.shape)
    return packed.select(occupancy.contains(points))
