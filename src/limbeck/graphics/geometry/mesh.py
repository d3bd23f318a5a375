"""Triangle meshes: which edges there are, which way faces look, and how smooth they are."""

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
    """How ``count`` vertices are joined to faces ``[F, 3]``, counter-clockwise seen from outside."""

    faces: Int[Tensor, "f 3"]
    count: int

    @cached_property
    def _welded(self) -> tuple[Tensor, Tensor]:
        a, b = self.faces.flatten(), self.faces.roll(-1, 1).flatten()
        key, side = torch.unique(a.minimum(b) * self.count + a.maximum(b), return_inverse=True)
        return torch.stack([key // self.count, key % self.count], 1), side.reshape(-1, 3)

    @property
    def edges(self) -> Int[Tensor, "e 2"]:
        """Each edge once, the lower vertex first."""
        return self._welded[0]

    @property
    def sides(self) -> Int[Tensor, "f 3"]:
        """The edges of each face, that from its first to its second vertex first."""
        return self._welded[1]

    @property
    def along(self) -> Int[Tensor, "f 3"]:
        """1 where a face runs through a side from the lower to the higher vertex, else -1."""
        return torch.where(self.faces < self.faces.roll(-1, 1), 1, -1)

    @cached_property
    def pairs(self) -> Int[Tensor, "e 2"]:
        """Faces that share an edge, for edges of exactly two faces."""
        order = self.sides.flatten().argsort(stable=True)
        edge, face = self.sides.flatten()[order], order // 3
        faces_of = torch.bincount(edge, minlength=len(self.edges))
        first = (faces_of.cumsum(0) - faces_of)[faces_of == 2]
        return torch.stack([face[first], face[first + 1]], 1)


def concat_topologies(meshes: Sequence[MeshTopology]) -> MeshTopology:
    """Several meshes as one of many pieces, in order; what is known of their edges is kept."""
    if len(meshes) == 1:
        return meshes[0]
    faces, edges, sides, vertices, welded = [], [], [], 0, 0
    for mesh in meshes:
        faces.append(mesh.faces + vertices)
        edges.append(mesh.edges + vertices)
        sides.append(mesh.sides + welded)
        vertices, welded = vertices + mesh.count, welded + len(mesh.edges)
    whole = MeshTopology(torch.cat(faces), vertices)
    whole.__dict__["_welded"] = (torch.cat(edges), torch.cat(sides))
    return whole


def connected_components(mesh: MeshTopology) -> Int[Tensor, "v"]:
    """The lowest vertex of the connected piece each vertex belongs to."""
    a, b = mesh.edges.unbind(1)
    lowest = torch.arange(mesh.count, device=mesh.faces.device)
    while True:
        least = lowest[a].minimum(lowest[b])
        after = lowest.scatter_reduce(0, a, least, "amin").scatter_reduce(0, b, least, "amin")
        after = after[after]  # the lowest of the lowest: long ways are halved
        if torch.equal(after, lowest):
            return lowest
        lowest = after


def remove_small_components(
    vertices: Float[Tensor, "v 3"], mesh: MeshTopology, share: float
) -> tuple[Float[Tensor, "u 3"], MeshTopology]:
    """The mesh without pieces of fewer than a share of its faces, and without vertices that no face needs."""
    piece = connected_components(mesh)[mesh.faces[:, 0]]
    faces = mesh.faces[
        torch.bincount(piece, minlength=mesh.count)[piece] >= share * len(mesh.faces)
    ]
    kept, faces = torch.unique(faces, return_inverse=True)
    return vertices[kept], MeshTopology(faces, len(kept))


def face_normals(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, "f 3"]:
    """Outward normals, as long as twice the area of the face."""
    a, b, c = gather_rows(vertices, mesh.faces).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def safe_normalize(vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Of length one; what is shorter than 1e-12 keeps its direction and is shorter than one, with a finite gradient."""
    return vectors / (vectors.square().sum(-1, keepdim=True) + 1e-24).sqrt()


def vertex_normals(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, "v 3"]:
    """Unit normals: the mean over the faces around a vertex, weighed by their areas."""
    looks = face_normals(vertices, mesh).repeat_interleave(3, 0)
    return safe_normalize(torch.zeros_like(vertices).index_add(0, mesh.faces.flatten(), looks))


def laplacian_smoothing(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, ""]:
    """Mean over the vertices of the distance to the middle of their neighbours, in units of space."""
    a, b = mesh.edges.unbind(1)
    ends, others = torch.cat([a, b]), torch.cat([b, a])
    middle = torch.zeros_like(vertices).index_add(0, ends, gather_rows(vertices, others))
    count = torch.bincount(ends, minlength=len(vertices)).clamp_min(1)[:, None]
    gap = (middle / count - vertices)[torch.bincount(ends, minlength=len(vertices)) > 0]
    return (gap.square().sum(1) + 1e-24).sqrt().sum() / max(len(gap), 1)


def normal_consistency(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, ""]:
    """Mean over the edges of 1 - cos of the angle between the normals of their two faces; 0 for a plane."""
    looks = gather_rows(safe_normalize(face_normals(vertices, mesh)), mesh.pairs)
    return (1 - (looks[:, 0] * looks[:, 1]).sum(1)).sum() / max(len(looks), 1)


def mesh_volume(vertices: Float[Tensor, "v 3"], mesh: MeshTopology) -> Float[Tensor, ""]:
    """Enclosed by a closed mesh, positive where faces look outwards (the divergence theorem)."""
    a, b, c = gather_rows(vertices, mesh.faces).unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6
