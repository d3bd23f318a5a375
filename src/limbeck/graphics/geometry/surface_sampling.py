"""Initial points for Gaussian splats, sampled near the surface of a density."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_CANDIDATES_PER_POINT = 32  #: uniform candidates per returned point
_QUERY_CHUNK = 1 << 18  #: points per call of the density

#: Corners of a tetrahedron: a surface cannot avoid all four directions.
_TET_DIRECTIONS = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))


def sample_surface_points(
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
    count: int,
    bound: float,
    rng: torch.Generator,
    device: str | torch.device = "cpu",
) -> Float[Tensor, "n 3"]:
    """Sample points where a density passes from dense to empty, without a gradient.

    Uniform candidates p are kept in proportion to a(p) (1 - min_i a(p + h_i)) where a(p) > 1/2.
    a = 1 - exp(-density h) is the opacity of a length h, the distance between ``count`` points
    spread over the sphere of radius ``bound``; h_i has that length and points to the corners of a
    tetrahedron.

    Args:
        density: function from points ``[N, 3]`` to density ``[N]`` per unit of length.
        count: number of points.
        bound: radius of the ball that is sampled.
        rng: source of the samples.
        device: where the density is evaluated.

    Raises:
        ValueError: if fewer than ``count`` candidates lie near a surface.
    """
    candidates = _CANDIDATES_PER_POINT * count
    normal = torch.randn(candidates, 3, generator=rng)
    radius = bound * torch.rand(candidates, 1, generator=rng) ** (1 / 3)
    points = (torch.nn.functional.normalize(normal, dim=1) * radius).to(device)
    spacing = bound * (12.6 / count) ** 0.5
    offsets = torch.tensor([(0, 0, 0), *_TET_DIRECTIONS]).to(points) * (spacing / 3**0.5)
    chunks = []
    for chunk in points.split(_QUERY_CHUNK // len(offsets)):
        with torch.no_grad():
            values = density((chunk + offsets[:, None]).flatten(0, 1)).view(len(offsets), -1)
        alpha = -torch.expm1(-values * spacing)
        chunks.append(torch.where(alpha[0] > 0.5, alpha[0] * (1 - alpha[1:].amin(0)), 0))
    weight = torch.cat(chunks).double().cpu()
    num_near = int((weight > 1e-3).sum())
    if num_near < count:
        raise ValueError(
            f"only {num_near} of {len(weight)} candidates lie near a surface, but {count} points "
            "are needed: initialize from another run, or train that one for longer"
        )
    return points[torch.multinomial(weight, count, generator=rng).to(device)]


def mean_neighbor_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Mean distance of each point to its three nearest neighbors, as 3D Gaussian splatting starts.

    With fewer than four points, all other points count.

    Raises:
        ValueError: if there is only one point.
    """
    num_neighbors = min(3, len(points) - 1)
    if num_neighbors < 1:
        raise ValueError("one point has no neighbors: use 2 or more Gaussians")
    distances = [
        torch.cdist(chunk, points).topk(num_neighbors + 1, largest=False).values[:, 1:].mean(1)
        for chunk in points.split(1024)
    ]
    return torch.cat(distances).clamp_min(1e-6)
