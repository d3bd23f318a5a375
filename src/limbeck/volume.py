"""Volume rendering: where rays pass a box, what is left of light along them, and what they gather (NeRF, Mildenhall et al. 2020,
arXiv 2003.08934)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.occupancy import Occupancy


def through_box(eye: Float[Tensor, "b 3"], ahead: Float[Tensor, "b h w 3"], half: float
                ) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:  # fmt: skip
    """Where each ray enters and leaves the box [-half, half]^3, never behind the eye; one that misses leaves before it enters."""
    safe = torch.where(ahead.abs() < 1e-9, 1e-9, ahead)
    eye = eye[:, None, None]
    a, b = (-half - eye) / safe, (half - eye) / safe
    return torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)


@dataclass(frozen=True)
class Marched:
    """Samples of R rays, the same distance ``step`` apart on all of them, S at most; N are kept.

    at ``[N]`` is the place of each in the ``R x S`` table, ray by ray from near to far; depth ``[N]`` its distance from the eye;
    points ``[N, 3]``.
    """

    at: Int[Tensor, "n"]
    depth: Float[Tensor, "n"]
    points: Float[Tensor, "n 3"]
    rays: int
    samples: int
    step: float

    @property
    def ray(self) -> Int[Tensor, "n"]:
        """The ray of each sample."""
        return self.at // self.samples

    def kept(self, rows: Bool[Tensor, "n"]) -> Marched:
        """Some of the samples."""
        return Marched(self.at[rows], self.depth[rows], self.points[rows], self.rays, self.samples, self.step)

    def weights(self, density: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """w_i = T_i (1 - exp(-sigma_i delta)) with T_i = exp(-sum_{j < i} sigma_j delta): NeRF eq. 3."""
        table = density.new_zeros(self.rays * self.samples).index_copy(0, self.at, density * self.step)
        passed = table.view(self.rays, self.samples).cumsum(1).view(-1)[self.at]
        own = density * self.step
        return torch.exp(own - passed) * -torch.expm1(-own)

    def gathered(self, weights: Float[Tensor, "n"], values: Float[Tensor, "n c"]) -> Float[Tensor, "r c"]:
        """sum_i w_i value_i along every ray."""
        return values.new_zeros(self.rays, values.shape[1]).index_add(0, self.ray, weights[:, None] * values)


def stride(half: float, samples: int) -> float:
    """From one sample of a ray to the next: so many to the diagonal of the box [-half, half]^3."""
    return 2 * half * 3**0.5 / samples


def march(eye: Float[Tensor, "b 3"], ahead: Float[Tensor, "b h w 3"], half: float, samples: int, jitter: Float[Tensor, "b h w"],
          occupancy: Occupancy) -> Marched:  # fmt: skip
    """Samples where rays pass the box, ``samples`` to its diagonal, in cells that may hold something. jitter in [0, 1) shifts the
    samples of a ray by a part of their distance: .5 for a look that repeats."""
    step = stride(half, samples)
    near, far = through_box(eye, ahead, half)
    depth = near[..., None] + (torch.arange(samples, device=near.device) + jitter[..., None]) * step
    at = (depth < far[..., None]).flatten().nonzero().squeeze(1)
    along, ray = depth.flatten()[at], at // samples
    points = eye[ray // (ahead.shape[1] * ahead.shape[2])] + along[:, None] * ahead.reshape(-1, 3)[ray]
    return Marched(at, along, points, near.numel(), samples, step).kept(occupancy.holds(points))
