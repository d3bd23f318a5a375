"""Preparation of meshes for export: validation, components, decimation, normals and colors.

Connected components and decimation are computed here rather than by trimesh, whose versions need
SciPy or networkx, and fast-simplification; ``decimate`` also keeps sharp edges and closed surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    connected_components,
    summed_face_normals,
)

_MAX_QUERY_POINTS = 65536  #: points per call of a surface's color
_MAX_GRID_CELLS = 4096  #: cells along the longest side when a mesh is decimated


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
    """

    vertices: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"] | None = None
    uv: Float[Tensor, "v 2"] | None = None
    texture: Float[Tensor, "3 y x"] | None = None


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
    """Reduce a surface to at most ``max_faces`` faces by vertex clustering.

    The vertices in one cell of a regular grid become one vertex, at the point that fits the planes
    of the faces around best (eq. 7 of the reference). The finest grid that is coarse enough is
    used.

    Raises:
        ValueError: if no face would be left.

    References:
        Lindstrom, Out-of-core simplification of large polygonal models, 2000.
    """
    if len(surface.faces) <= max_faces:
        return surface
    low, high = 1, _MAX_GRID_CELLS
    while high - low > 1:
        middle = (low + high) // 2
        if len(_cluster(surface, middle)[1]) <= max_faces:
            low = middle
        else:
            high = middle
    cluster, faces = _cluster(surface, low)
    if not len(faces):
        raise ValueError(
            f"max_faces {max_faces} is too few for this surface of {len(surface.faces)} faces: "
            "none would be left"
        )
    clustered = Surface(_cluster_vertices(surface, cluster, low), faces, surface.color)
    return _select_faces(clustered, torch.ones_like(faces[:, 0], dtype=torch.bool))


def _cell_size(surface: Surface, cells: int) -> Float[Tensor, ""]:
    low, high = surface.vertices.aminmax(dim=0)
    return (high - low).max().clamp_min(1e-12) / cells


def _cluster(surface: Surface, cells: int) -> tuple[Int[Tensor, "v"], Int[Tensor, "g 3"]]:
    """Cluster of each vertex, and the faces between clusters that still have three corners."""
    position = (surface.vertices - surface.vertices.amin(0)) / _cell_size(surface, cells)
    cell = position.long().clamp_max(cells - 1)
    _, cluster = cell.unique(dim=0, return_inverse=True)
    faces = cluster[surface.faces]
    a, b, c = faces.unbind(1)
    faces = faces[(a != b) & (b != c) & (c != a)]
    if not len(faces):
        return cluster, faces
    # rotate each face to start at its lowest corner, so that equal faces compare equal
    rotation = faces.argmin(1, keepdim=True) + torch.arange(3, device=faces.device)
    faces = faces.gather(1, rotation % 3)
    unique, index = faces.sort(1).values.unique(dim=0, return_inverse=True)
    sign = torch.where(faces[:, 1] < faces[:, 2], 1, -1)
    net = torch.zeros(len(unique), dtype=torch.long, device=faces.device)
    net = net.index_add_(0, index, sign)
    oriented = torch.where(net[:, None] > 0, unique, unique[:, [0, 2, 1]])
    return cluster, oriented[net != 0]  # the two layers of a fold cancel


def _cluster_vertices(
    surface: Surface, cluster: Int[Tensor, "v"], cells: int
) -> Float[Tensor, "k 3"]:
    """Position of each cluster: least squares of the distances to the planes of its faces.

    Where these do not determine it, the mean of the cluster's vertices.
    """
    points, count = surface.vertices.double(), int(cluster.max()) + 1

    def cluster_sums(values: Tensor, rows: Tensor) -> Tensor:
        return values.new_zeros(count, *values.shape[1:]).index_add_(0, rows, values)

    ones = torch.ones(len(cluster), dtype=torch.float64, device=cluster.device)
    mean = cluster_sums(points, cluster) / cluster_sums(ones, cluster)[:, None]
    a, b, c = points[surface.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)  # its length weighs a plane by the area squared
    rows, normal = cluster[surface.faces].flatten(), normal.repeat_interleave(3, 0)
    offset = (normal * (a.repeat_interleave(3, 0) - mean[rows])).sum(1)
    matrix = cluster_sums(normal[:, :, None] * normal[:, None], rows)
    right = cluster_sums(normal * offset[:, None], rows)
    eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
    determined = eigenvalues > 1e-3 * eigenvalues[:, 2:].clamp_min(1e-300)
    inverse = torch.where(
        determined, 1 / eigenvalues.clamp_min(1e-300), torch.zeros_like(eigenvalues)
    )
    step = torch.einsum("kij,kj,klj,kl->ki", eigenvectors, inverse, eigenvectors, right)
    limit = _cell_size(surface, cells).double()
    return (mean + step.clamp(-limit, limit)).to(surface.vertices)
