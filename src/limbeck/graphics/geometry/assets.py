"""3D assets, for files and viewers: a colored surface, or a set of 3D Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in world space (y up, front towards +z) with a color function.

    Attributes:
        vertices: ``[V, 3]`` positions.
        faces: ``[F, 3]`` vertex indices, counter-clockwise seen from outside.
        color: function from surface points ``[N, 3]`` to RGB ``[N, 3]`` in [0, 1].
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    color: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


@dataclass(frozen=True)
class Splats:
    """3D Gaussians in world space.

    Attributes:
        means: ``[N, 3]`` centers.
        scales: ``[N, 3]`` standard deviations along the Gaussian's axes.
        quats: ``[N, 4]`` unit quaternions (w, x, y, z).
        opacities: ``[N]`` in [0, 1].
        colors: ``[N, 3]`` RGB in [0, 1].
    """

    means: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    opacities: Float[Tensor, "n"]
    colors: Float[Tensor, "n 3"]
