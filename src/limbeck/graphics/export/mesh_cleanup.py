"""Preparation of meshes for export: validation, components, decimation, normals and colors.

Connected components are computed here rather than by trimesh, which needs SciPy or networkx for
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.export.decimation import collapse_edges
from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    connected_components,
    summed_face_normals,
)

_MAX_QUERY_POINTS = 65536  #: points per call of a surface's color


@dataclass(frozen=True)
class TexturedMesh:
    """What a mesh file holds, on the CPU; colors are display-referred sRGB in [0, 1].

    Attributes:
        vertices: ``[V, 3]`` positions.
        normals: ``[V, 3]`` unit normals.
        faces: ``[F, 3]`` vertex indices.
        colors: ``[V, 3]`` vertex colors. None: the mesh has a texture.
        uv: ``[V, 2]`` texture coordinates from the top left corner, u right and v down (as glTF).
        texture: ``[3, H, W]`` texture.
        name: name of the material.
    """

    vertices: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"] | None = None
    uv: Float[Tensor, "v 2"] | None = None
    texture: Float[Tensor, "3 y x"] | None = None
    name: str = "surface"


def validate_surface(surface: Surface) -> Surface:
    """Detach a surface and convert it to float32.

    Raises:
        ValueError: if the surface is empty or has vertices that are not finite.
    """
    if not len(surface.faces):
        raise ValueError(
            "the surface is empty: this particle has no faces to write; did its run end with an "
            "empty scene?"
        )
    if not bool(surface.vertices.isfinite().all()):
        raise ValueError("the surface has vertices that are not finite")
    return Surface(surface.vertices.detach().float(), surface.faces.long(), surface.color)


def check_finite_asset(what: str, *values: Tensor) -> None:
    """Refuse what no file should hold.

    Args:
        what: what the values are, for the message.
        values: the values.

    Raises:
        ValueError: if one is NaN or infinite.
    """
    if not all(bool(value.isfinite().all()) for value in values):
        raise ValueError(f"the asset has {what} that are not finite: export an earlier checkpoint")


def count_charts(mesh: TexturedMesh) -> int:
    """Number of parts that are connected in the texture.

    Args:
        mesh: a mesh with a texture.
    """
    components = connected_components(MeshTopology(mesh.faces, len(mesh.vertices)))
    return len(components[mesh.faces[:, 0]].unique())


def is_closed_surface(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> bool:
    """Whether every edge has two faces, if vertices in the same place are one.

    Args:
        vertices: positions.
        faces: vertex indices.
    """
    place = vertices.unique(dim=0, return_inverse=True)[1]
    mesh = MeshTopology(place[faces], int(place.max()) + 1)
    return bool((torch.bincount(mesh.face_edges.flatten()) == 2).all())


def query_colors(surface: Surface, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Colors of surface points, computed on the surface's device and returned on the CPU."""
    with torch.no_grad():
        chunks = [
            surface.color(chunk.to(surface.vertices)).float().cpu()
            for chunk in points.split(_MAX_QUERY_POINTS)
        ]
    return torch.cat(chunks).clamp(0, 1)


def unit_vertex_normals(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "v 3"]:
    """Unit vertex normals, area-weighted over the faces around; up where these cancel."""
    mesh = MeshTopology(faces, len(vertices))
    total = summed_face_normals(vertices, mesh)
    length = total.norm(dim=1, keepdim=True)
    a, b, c = vertices[faces].unbind(1)
    mean_area = torch.linalg.cross(b - a, c - a).norm(dim=1).mean().clamp_min(1e-30)
    up = torch.tensor([0.0, 1.0, 0.0]).to(total)
    return torch.where(length > 1e-6 * mean_area, total / length.clamp_min(1e-30), up)


def drop_small_components(surface: Surface, min_fraction: float) -> tuple[Surface, int]:
    """Drop connected components with few faces; the largest always stays.

    Args:
        surface: the surface.
        min_fraction: components with fewer than this fraction of all faces are dropped.

    Returns:
        The remaining surface, and the number of components that were dropped.
    """
    mesh = MeshTopology(surface.faces, len(surface.vertices))
    label = connected_components(mesh)[surface.faces[:, 0]]
    _, component, size = label.unique(return_inverse=True, return_counts=True)
    keep = (size >= min_fraction * len(label)) | (size == size.max())
    return _select_faces(surface, keep[component]), int((~keep).sum())


def _select_faces(surface: Surface, mask: Bool[Tensor, "f"]) -> Surface:
    """Some faces, and the vertices they use."""
    used, faces = surface.faces[mask].unique(return_inverse=True)
    return Surface(surface.vertices[used], faces, surface.color)


def decimate(surface: Surface, max_faces: int) -> Surface:
    """Reduce a surface to at most ``max_faces`` faces; a closed surface stays closed.

    Raises:
        ValueError: if the surface cannot be reduced so far.
    """
    if len(surface.faces) <= max_faces:
        return surface
    vertices, faces = collapse_edges(surface.vertices, surface.faces, max_faces)
    if len(faces) > max_faces:
        raise ValueError(
            f"max_faces {max_faces} is too few for this surface of {len(surface.faces)} faces: "
            f"at least {len(faces)} are needed to keep its shape"
        )
    return Surface(vertices, faces, surface.color)
