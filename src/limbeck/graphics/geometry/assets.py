"""3D assets, for files and viewers: a colored surface, a mesh of one's own, or 3D Gaussians."""

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
class MappedPart:
    """The faces of one material of a mesh of one's own, which keeps its vertices and faces.

    Attributes:
        name: name of the material.
        vertices: ``[V, 3]`` positions in the coordinates of the file.
        faces: ``[F, 3]`` vertex indices.
        welded: ``[F, 3]`` the same with one vertex for all that lie in one place.
        normals: ``[F, 3, 3]`` unit normals of the corners.
        shading: ``[F, 3]`` number of the normal of each corner.
        uv: ``[V, 2]`` texture coordinates to keep, as of ``TexturedMesh``; None: make new ones.
        color: function from faces ``[N]`` and barycentric weights ``[N, 3]`` to RGB ``[N, 3]``.
    """

    name: str
    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    welded: Int[Tensor, "f 3"]
    normals: Float[Tensor, "f 3 3"]
    shading: Int[Tensor, "f 3"]
    uv: Float[Tensor, "v 2"] | None
    color: Callable[[Int[Tensor, "n"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


@dataclass(frozen=True)
class MappedMesh:
    """A mesh of one's own.

    Attributes:
        parts: one per material.
        world: rows of a 4 x 4 matrix from the coordinates of the file to world space.
    """

    parts: tuple[MappedPart, ...]
    world: Float[Tensor, "4 4"]


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
