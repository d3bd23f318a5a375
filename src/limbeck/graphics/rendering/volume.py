"""Volume rendering: where rays pass a box, what is left of light along them, and what they gather (NeRF, Mildenhall et al. 2020,
arXiv 2003.08934)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid, refine_samples


def ray_aabb_intersect(eye: Float[Tensor, "b 3"], ahead: Float[Tensor, "b h w 3"], half: float
                ) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:  # fmt: skip
    """Where each ray enters and leaves the box [-half, half]^3, never behind the eye; one that misses leaves before it enters."""
    safe = torch.where(ahead.abs() < 1e-9, 1e-9, ahead)
    eye = eye[:, None, None]
    a, b = (-half - eye) / safe, (half - eye) / safe
    return torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)


@dataclass(frozen=True)
class RaySamples:
    """Samples of R rays, S at most on each; N are kept.

    at ``[N]`` is the place of each in the ``R x S`` table, ray by ray from near to far; depth ``[N]`` its distance from the eye;
    points ``[N, 3]``; places ``[R, S]``: the distances of all, kept or not; length ``[N]`` of the part of the ray that a sample
    stands for, one number where all are alike.
    """

    at: Int[Tensor, "n"]
    depth: Float[Tensor, "n"]
    points: Float[Tensor, "n 3"]
    places: Float[Tensor, "r s"]
    length: Float[Tensor, "n"] | float

    @property
    def rays(self) -> int:
        """R."""
        return self.places.shape[0]

    @property
    def samples(self) -> int:
        """S."""
        return self.places.shape[1]

    @property
    def ray(self) -> Int[Tensor, "n"]:
        """The ray of each sample."""
        return self.at // self.samples

    def kept(self, rows: Bool[Tensor, "n"]) -> RaySamples:
        """Some of the samples."""
        length = self.length[rows] if isinstance(self.length, Tensor) else self.length
        return RaySamples(self.at[rows], self.depth[rows], self.points[rows], self.places, length)

    def weights(self, density: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """w_i = T_i (1 - exp(-sigma_i delta)) with T_i = exp(-sum_{j < i} sigma_j delta): NeRF eq. 3."""
        own = density * self.length
        table = density.new_zeros(self.rays * self.samples).index_copy(0, self.at, own)
        passed = table.view(self.rays, self.samples).cumsum(1).view(-1)[self.at]
        return torch.exp(own - passed) * -torch.expm1(-own)

    def gathered(
        self, weights: Float[Tensor, "n"], values: Float[Tensor, "n c"]
    ) -> Float[Tensor, "r c"]:
        """sum_i w_i value_i along every ray."""
        return values.new_zeros(self.rays, values.shape[1]).index_add(
            0, self.ray, weights[:, None] * values
        )


def step_size(half: float, samples: int) -> float:
    """From one sample of a ray to the next: so many to the diagonal of the box [-half, half]^3."""
    return 2 * half * 3**0.5 / samples


def ray_march(eye: Float[Tensor, "b 3"], ahead: Float[Tensor, "b h w 3"], half: float, samples: int, jitter: Float[Tensor, "b h w"],
          occupancy: OccupancyGrid) -> RaySamples:  # fmt: skip
    """Samples where rays pass the box, ``samples`` to its diagonal, in cells that may hold something. jitter in [0, 1) shifts the
    samples of a ray by a part of their distance: .5 for a look that repeats."""
    near, far = ray_aabb_intersect(eye, ahead, half)
    depth = near[..., None] + (
        torch.arange(samples, device=near.device) + jitter[..., None]
    ) * step_size(half, samples)
    return _packed(eye, ahead, depth.flatten(0, 2), far, occupancy, step_size(half, samples))


def importance_resample(eye: Float[Tensor, "b 3"], ahead: Float[Tensor, "b h w 3"], half: float, coarse: RaySamples,
                density: Float[Tensor, "n"], count: int, occupancy: OccupancyGrid, rng: torch.Generator | None) -> RaySamples:  # fmt: skip
    """The samples of ``coarse`` and ``count`` more on every ray where those of this density have weight (NeRF, section 5.2), or a
    neighbour has (mip-NeRF, Barron et al. 2021, arXiv 2103.13415, eq. 18), as an edge lies between two samples; each stands for
    what is nearest to it. rng: draws them; None for a look that repeats."""
    assert isinstance(coarse.length, float)
    weights = density.new_zeros(coarse.rays * coarse.samples).index_copy(
        0, coarse.at, coarse.weights(density.detach())
    )
    nearest = F.max_pool1d(weights.view(coarse.rays, 1, -1), 2, 1, 1)
    places = refine_samples(coarse.places, (nearest[:, 0, :-1] + nearest[:, 0, 1:]) / 2, count, rng)
    middles = (places[:, 1:] + places[:, :-1]) / 2
    edges = torch.cat(
        [places[:, :1] - coarse.length / 2, middles, places[:, -1:] + coarse.length / 2], 1
    )
    return _packed(
        eye, ahead, places, ray_aabb_intersect(eye, ahead, half)[1], occupancy, edges.diff(dim=1)
    )


def _packed(eye: Float[Tensor, "b 3"], ahead: Float[Tensor, "b h w 3"], places: Float[Tensor, "r s"], far: Float[Tensor, "b h w"],
            occupancy: OccupancyGrid, length: Float[Tensor, "r s"] | float) -> RaySamples:  # fmt: skip
    """Of places along rays, those in the box and in cells that may hold something."""
    at = (places < far.view(-1, 1)).flatten().nonzero().squeeze(1)
    along, ray = places.flatten()[at], at // places.shape[1]
    points = (
        eye[ray // (ahead.shape[1] * ahead.shape[2])] + along[:, None] * ahead.reshape(-1, 3)[ray]
    )
    own = length.flatten()[at] if isinstance(length, Tensor) else length
    return RaySamples(at, along, points, places, own).kept(occupancy.holds(points))
