"""Meshes of files in world space: orientation, size, welded vertices and normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    face_normals,
    safe_normalize,
    vertex_normals,
)
from limbeck.graphics.geometry.mesh_file import MeshPart

Axis = Literal["+x", "-x", "+y", "-y", "+z", "-z"]
_WELD_DISTANCE = 1e-6  #: of the size of the mesh, within which vertices are one
_CREASE_COSINE = 0.77  #: 40 degrees: faces that meet at more are divided by an edge
_MAX_VALENCE = 256  #: faces around a vertex that are compared with each other
_MAX_PAIRS = 1 << 21  #: pairs of faces compared at a time


@dataclass(frozen=True)
class FittedMesh:
    """A mesh in world space.

    Attributes:
        parts: its faces by material, in the coordinates of the file.
        matrix: ``[4, 4]`` from the coordinates of the file to world space, in float64.
        points: ``[P, 3]`` places of vertices.
        faces: ``[F, 3]`` indices of points, of the parts in order.
        welded: ``[P]`` first vertex at each place, of all parts in order.
        normals: ``[F, 3, 3]`` unit normals of the corners.
        shading_point: ``[G]`` point of each normal.
        shading: ``[F, 3]`` number of the normal of each corner.
    """

    parts: tuple[MeshPart, ...]
    matrix: Float[Tensor, "4 4"]
    points: Float[Tensor, "p 3"]
    faces: Int[Tensor, "f 3"]
    welded: Int[Tensor, "p"]
    normals: Float[Tensor, "f 3 3"]
    shading_point: Int[Tensor, "g"]
    shading: Int[Tensor, "f 3"]


def axis_vector(axis: Axis) -> Float[Tensor, "3"]:
    """Unit vector of an axis such as ``-z``, in float64."""
    vector = torch.zeros(3, dtype=torch.float64)
    vector["xyz".index(axis[1])] = 1.0 if axis[0] == "+" else -1.0
    return vector


def fit_mesh(parts: Sequence[MeshPart], half_size: float, up: Axis, front: Axis) -> FittedMesh:
    """Turn a mesh upright, center its bounding box, and scale it.

    Args:
        parts: the mesh.
        half_size: half the longest side of the bounding box in world space.
        up: axis of the file that points up.
        front: axis of the file that points to the front; orthogonal to ``up``.
    """
    vertices = torch.cat([part.vertices for part in parts])
    low, high = vertices.aminmax(dim=0)
    scale = half_size / float((high - low).max() / 2)
    z, y = axis_vector(front), axis_vector(up)
    rotation = torch.stack([torch.linalg.cross(y, z), y, z])
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = -scale * rotation @ ((low + high) / 2)
    world = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    key = (world / (_WELD_DISTANCE * half_size)).round()
    _, place = key.unique(dim=0, return_inverse=True)
    count = int(place.max()) + 1
    first = torch.full((count,), len(world)).scatter_reduce(
        0, place, torch.arange(len(world)), "amin"
    )
    starts = torch.tensor([0] + [len(part.vertices) for part in parts]).cumsum(0)
    faces = torch.cat(
        [place[part.faces + start] for part, start in zip(parts, starts, strict=False)]
    )
    points = world[first].float()
    normals = _own_normals(parts, rotation.float(), crease_normals(points, faces))
    code = torch.cat([faces.flatten()[:, None], (normals.flatten(0, 1) * 1e3).round().long()], 1)
    groups, shading = code.unique(dim=0, return_inverse=True)
    return FittedMesh(
        tuple(parts), matrix, points, faces, first, normals, groups[:, 0], shading.reshape(-1, 3)
    )


def crease_normals(
    points: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "f 3 3"]:
    """Return unit normals of the corners: smooth, except across edges of more than 40 degrees.

    Args:
        points: positions.
        faces: vertex indices.
    """
    mesh = MeshTopology(faces, len(points))
    area = face_normals(points, mesh)
    flat = safe_normalize(area)
    vertex, corner = faces.flatten().sort(stable=True)
    face = corner // 3
    valence = torch.bincount(vertex, minlength=len(points))
    start = (valence.cumsum(0) - valence)[vertex]
    count = torch.where(valence <= _MAX_VALENCE, valence, 0)[vertex]
    total = torch.zeros(len(vertex), 3)
    chunk = count.cumsum(0) // _MAX_PAIRS
    lengths = chunk.unique_consecutive(return_counts=True)[1].tolist()
    for rows in torch.arange(len(vertex)).split(lengths):
        times = count[rows]
        row = rows.repeat_interleave(times)
        k = torch.arange(len(row)) - (times.cumsum(0) - times).repeat_interleave(times)
        other = face[start[row] + k]
        near = (flat[face[row]] * flat[other]).sum(1) > _CREASE_COSINE
        total.index_add_(0, row[near], area[other[near]])
    alone = total.norm(dim=1, keepdim=True) < 1e-12  # of large fans or of faces without area
    normals = torch.where(alone, vertex_normals(points, mesh)[vertex], safe_normalize(total))
    return torch.zeros(len(vertex), 3).index_copy(0, corner, normals).reshape(-1, 3, 3)


def _own_normals(
    parts: Sequence[MeshPart], rotation: Float[Tensor, "3 3"], computed: Float[Tensor, "f 3 3"]
) -> Float[Tensor, "f 3 3"]:
    """Normals of the file where it has any, else the computed ones."""
    start, chunks = 0, []
    for part in parts:
        stop = start + len(part.faces)
        chunks.append(computed[start:stop])
        if part.normals is not None:
            own = (part.normals @ rotation.T)[part.faces]
            is_unit = own.norm(dim=2, keepdim=True) > 0.5
            chunks[-1] = torch.where(is_unit, safe_normalize(own), chunks[-1])
        start = stop
    return torch.cat(chunks)
