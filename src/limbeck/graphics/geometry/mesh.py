"""Triangle meshes: edges, connected components, normals and smoothness terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows


@dataclass(frozen=True)
class MeshTopology:
    """Connectivity of a triangle mesh, without positions.

    Attributes:
        faces: ``[F, 3]`` vertex indices, counter-clockwise seen from outside.
        num_vertices: number of vertices.
    """

    faces: Int[Tensor, "f 3"]
    num_vertices: int

    @cached_property
    def _unique_edges(self) -> tuple[Tensor, Tensor]:
        """Edges ``[E, 2]`` and the edge index of each side of each face ``[F, 3]``."""
        a, b = self.faces.flatten(), self.faces.roll(-1, 1).flatten()
        key = a.minimum(b) * self.num_vertices + a.maximum(b)
        key, index = torch.unique(key, return_inverse=True)
        edges = torch.stack([key // self.num_vertices, key % self.num_vertices], 1)
        return edges, index.reshape(-1, 3)

    @property
    def edges(self) -> Int[Tensor, "e 2"]:
        """Vertex indices of each edge, the lower one first."""
        return self._unique_edges[0]

    @property
    def face_edges(self) -> Int[Tensor, "f 3"]:
        """Edge indices of each face, starting with the edge from its first to its second vertex."""
        return self._unique_edges[1]

    @property
    def edge_orientations(self) -> Int[Tensor, "f 3"]:
        """1 where a face passes through an edge from the lower to the higher vertex, else -1."""
        return torch.where(self.faces < self.faces.roll(-1, 1), 1, -1)

    @cached_property
    def adjacent_faces(self) -> Int[Tensor, "e 2"]:
        """The two faces of each edge that has exactly two faces."""
        order = self.face_edges.flatten().argsort(stable=True)
        edge, face = self.face_edges.flatten()[order], order // 3
        num_faces = torch.bincount(edge, minlength=len(self.edges))
        first = (num_faces.cumsum(0) - num_faces)[num_faces == 2]
        return torch.stack([face[first], face[first + 1]], 1)


def concat_topologies(meshes: Sequence[MeshTopology]) -> MeshTopology:
    """Concatenate meshes in order; the edges are taken over instead of being computed again."""
    if len(meshes) == 1:
        return meshes[0]
    faces, edges, face_edges = [], [], []
    num_vertices = num_edges = 0
    for mesh in meshes:
        faces.append(mesh.faces + num_vertices)
        edges.append(mesh.edges + num_vertices)
        face_edges.append(mesh.face_edges + num_edges)
        num_vertices += mesh.num_vertices
        num_edges += len(mesh.edges)
    result = MeshTopology(torch.cat(faces), num_vertices)
    result.__dict__["_unique_edges"] = (torch.cat(edges), torch.cat(face_edges))
    return result


def connected_components(mesh: MeshTopology) -> Int[Tensor, "v"]:
    """Component of each vertex, labeled by the component's lowest vertex index."""
    a, b = mesh.edges.unbind(1)
    label = torch.arange(mesh.num_vertices, device=mesh.faces.device)
    while True:
        lower = label[a].minimum(label[b])
        new = label.scatter_reduce(0, a, lower, "amin").scatter_reduce(0, b, lower, "amin")
        new = new[new]  # pointer jumping halves the length of chains
        if torch.equal(new, label):
            return label
        label = new


def remove_small_components(
    vertices: Float[Tensor, "v 3"], mesh: MeshTopology, min_fraction: float
) -> tuple[Float[Tensor, "u 3"], MeshTopology]:
    """Remove connected components with too few faces, and vertices without a face.

    The largest component always stays, so that many small ones do not all vanish.

    Args:
        vertices: positions.
        mesh: connectivity.
        min_fraction: components with fewer than this fraction of all faces are removed.
    """
    component = connected_components(mesh)[mesh.faces[:, 0]]
    size = torch.bincount(component, minlength=mesh.num_vertices)[component]
    largest = size.max() if len(size) else 0
    faces = mesh.faces[(size >= min_fraction * len(mesh.faces)) | (size == largest)]
    used, faces = torch.unique(faces, return_inverse=True)
    return vertices[used], MeshTopology(faces, len(used))


def face_normals(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, "f 3"]:
    """Outward normals of the faces; their length is twice the area of the face."""
    a, b, c = gather_rows(vertices, mesh.faces).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def safe_normalize(vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Unit vectors with a finite gradient; vectors shorter than about 1e-12 stay shorter than 1."""
    return vectors / (vectors.square().sum(-1, keepdim=True) + 1e-24).sqrt()


def summed_face_normals(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, "v 3"]:
    """Sum of the area-weighted normals of the faces around each vertex, not normalized."""
    normals = face_normals(vertices, mesh).repeat_interleave(3, 0)
    return torch.zeros_like(vertices).index_add(0, mesh.faces.flatten(), normals)


def vertex_normals(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, "v 3"]:
    """Unit normals of the vertices: the area-weighted mean of the faces around."""
    return safe_normalize(summed_face_normals(vertices, mesh))


def laplacian_smoothing(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, ""]:
    """Mean distance of the vertices from the mean of their neighbors, in units of world space."""
    a, b = mesh.edges.unbind(1)
    center, neighbor = torch.cat([a, b]), torch.cat([b, a])
    total = torch.zeros_like(vertices).index_add(0, center, gather_rows(vertices, neighbor))
    valence = torch.bincount(center, minlength=len(vertices))
    delta = (total / valence.clamp_min(1)[:, None] - vertices)[valence > 0]
    return (delta.square().sum(1) + 1e-24).sqrt().sum() / max(len(delta), 1)


def smooth_displacements(
    displacements: Float[Tensor, "v c"], mesh: MeshTopology, rounds: int
) -> Float[Tensor, "v c"]:
    """Blend vectors at the vertices with the mean of those of their neighbors, half and half.

    Args:
        displacements: vectors.
        mesh: connectivity.
        rounds: number of rounds.
    """
    a, b = mesh.edges.unbind(1)
    center, neighbor = torch.cat([a, b]), torch.cat([b, a])
    valence = torch.bincount(center, minlength=len(displacements)).clamp_min(1)[:, None]
    for _ in range(rounds):
        total = torch.zeros_like(displacements)
        total = total.index_add(0, center, gather_rows(displacements, neighbor))
        displacements = (displacements + total / valence) / 2
    return displacements


def smooth_taubin(
    vertices: Float[Tensor, "v 3"], mesh: MeshTopology, rounds: int
) -> Float[Tensor, "v 3"]:
    """Smooth a mesh without shrinking it: each round moves to the neighbors' mean, then away.

    Args:
        vertices: positions.
        mesh: connectivity.
        rounds: number of rounds.

    References:
        Taubin, A Signal Processing Approach to Fair Surface Design, SIGGRAPH 1995.
    """
    a, b = mesh.edges.unbind(1)
    center, neighbor = torch.cat([a, b]), torch.cat([b, a])
    valence = torch.bincount(center, minlength=len(vertices)).clamp_min(1)[:, None]
    for _ in range(rounds):
        for step in (0.5, -0.53):
            total = torch.zeros_like(vertices).index_add_(0, center, vertices[neighbor])
            vertices = vertices + step * (total / valence - vertices)
    return vertices


def normal_consistency(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, ""]:
    """Mean over the edges of 1 - cos of the angle between the normals of their two faces."""
    normals = gather_rows(safe_normalize(face_normals(vertices, mesh)), mesh.adjacent_faces)
    return (1 - (normals[:, 0] * normals[:, 1]).sum(1)).sum() / max(len(normals), 1)


def mesh_volume(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, ""]:
    """Volume of a closed mesh by the divergence theorem; positive if faces point outwards."""
    a, b, c = gather_rows(vertices, mesh.faces).unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6
