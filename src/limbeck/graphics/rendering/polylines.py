"""Polylines along cubic Bezier curves, and how far pixels are from them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def bernstein_basis(num_segments: int) -> Float[Tensor, "s 4"]:
    """Return the weights of the control points at num_segments + 1 uniform curve parameters."""
    u = torch.linspace(0, 1, num_segments + 1, dtype=torch.float64)
    return torch.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], -1)


def nearest_on_polyline(
    line: Float[Tensor, "*n s 2"], pixels: Float[Tensor, "p 2"]
) -> tuple[Float[Tensor, "*n p"], Int[Tensor, "*n p"], Float[Tensor, "*n p"]]:
    """Return the nearest points of polylines.

    Args:
        line: vertices of the polylines.
        pixels: points to measure from.

    Returns:
        Squared distance, index of the nearest segment, and position on that segment in [0, 1].
    """
    a, ab = line[..., :-1, :], line.diff(dim=-2)
    squared_length = ab.square().sum(-1, keepdim=True).clamp_min(1e-12)
    projection = ab @ pixels.T - (a * ab).sum(-1, keepdim=True)  # (p - a) . ab
    fraction = (projection / squared_length).clamp(0, 1)
    squared_distance = (
        a.square().sum(-1, keepdim=True)
        - 2 * a @ pixels.T
        + pixels.square().sum(-1)
        + fraction * (fraction * squared_length - 2 * projection)
    )
    nearest, segment = squared_distance.min(-2)
    return nearest, segment, fraction.gather(-2, segment[..., None, :])[..., 0, :]


def distance_to_polyline(
    line: Float[Tensor, "*n s 2"], pixels: Float[Tensor, "p 2"]
) -> Float[Tensor, "*n p"]:
    """Return the distances of points from polylines, differentiable in the vertices.

    The nearest point needs no gradient: to first order the distance does not depend on it.

    Args:
        line: vertices of the polylines.
        pixels: points to measure from.
    """
    with torch.no_grad():
        _, segment, fraction = nearest_on_polyline(line, pixels)
    x, y = line.unbind(-1)
    dx = x.gather(-1, segment).lerp(x.gather(-1, segment + 1), fraction) - pixels[:, 0]
    dy = y.gather(-1, segment).lerp(y.gather(-1, segment + 1), fraction) - pixels[:, 1]
    return (dx.square() + dy.square() + 1e-12).sqrt()
