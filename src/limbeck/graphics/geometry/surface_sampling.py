"""Points to begin with where a density has its surface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

CANDIDATES_PER_POINT = 32  #: points drawn for each that is wanted
TET_DIRECTIONS = (
    (1, 1, 1),
    (1, -1, -1),
    (-1, 1, -1),
    (-1, -1, 1),
)  #: of a tetrahedron, whose directions a surface cannot all avoid
QUERY_CHUNK = 1 << 18  #: points asked at a time


def sample_surface_points(density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]], count: int, bound: float, rng: torch.Generator,
                   device: str | torch.device = "cpu") -> Float[Tensor, "n 3"]:  # fmt: skip
    """``count`` points of the ball of radius ``bound`` where a density passes from dense to empty, without a gradient.

    Of many uniform points those are kept, in proportion to a(p) (1 - min_i a(p + h_i)), where a(p) is above a half: a = 1 -
    exp(-density h) is the opacity of a length h, and h_i go towards the corners of a tetrahedron, as far as points on the sphere of
    that radius would be apart. ValueError where too few lie near a surface.
    """
    drawn = torch.randn(CANDIDATES_PER_POINT * count, 3, generator=rng)
    radius = bound * torch.rand(CANDIDATES_PER_POINT * count, 1, generator=rng) ** (1 / 3)
    points = (torch.nn.functional.normalize(drawn, dim=1) * radius).to(device)
    apart = bound * (12.6 / count) ** 0.5
    offsets = torch.tensor([(0, 0, 0), *TET_DIRECTIONS]).to(points) * (apart / 3**0.5)
    kept = []
    for part in points.split(QUERY_CHUNK // len(offsets)):
        with torch.no_grad():
            dense = density((part + offsets[:, None]).flatten(0, 1)).view(len(offsets), -1)
        opaque = -torch.expm1(-dense * apart)
        kept.append(torch.where(opaque[0] > 0.5, opaque[0] * (1 - opaque[1:].amin(0)), 0))
    weight = torch.cat(kept).double().cpu()
    there = int((weight > 1e-3).sum())
    if there < count:
        raise ValueError(
            f"only {there} of {len(weight)} points lie near a surface, and {count} are wanted: begin with another run"
        )
    return points[torch.multinomial(weight, count, generator=rng).to(device)]


def mean_neighbor_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Mean distance of each point to its three nearest, or as many as there are, which is how 3D Gaussian splatting begins."""
    near = min(3, len(points) - 1)
    if near < 1:
        raise ValueError("one point has no neighbours: take a count of 2 or more")
    parts = [
        torch.cdist(part, points).topk(near + 1, largest=False).values[:, 1:].mean(1)
        for part in points.split(1024)
    ]
    return torch.cat(parts).clamp_min(1e-6)
