"""What a thing with sides is made of, for files and viewers: a coloured surface, or a cloud of Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """A mesh in world space (y up, front towards +z), counter-clockwise faces seen from outside.

    vertices ``[V, 3]``; faces ``[F, 3]``; colour answers RGB in [0, 1] ``[n, 3]`` of points on the surface ``[n, 3]``.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colour: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


@dataclass(frozen=True)
class Splats:
    """3D Gaussians in world space.

    mean ``[N, 3]``; scale ``[N, 3]`` standard deviations; turn ``[N, 4]`` unit quaternions (w, x, y, z); opacity ``[N]`` and colour
    ``[N, 3]`` in [0, 1].
    """

    mean: Float[Tensor, "n 3"]
    scale: Float[Tensor, "n 3"]
    turn: Float[Tensor, "n 4"]
    opacity: Float[Tensor, "n"]
    colour: Float[Tensor, "n 3"]
