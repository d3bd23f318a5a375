"""Files of meshes of one's own: their vertices, faces and texture coordinates are kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.graphics.export.uv_atlas import (
    chart_padding,
    dilate_texture,
    rasterize_uv,
    unwrap_uv,
)
from limbeck.graphics.geometry.assets import MappedMesh, MappedPart

_MAX_COLOR_POINTS = 65536  #: points per call of a part's color
_MIN_SNAPSHOT_FACES = 20_000  #: faces of a snapshot, so that vertex colors show a texture


def bake_part(part: MappedPart, size: int) -> TexturedMesh:
    """Bake the colors of a part into a texture.

    Args:
        part: the part; its texture coordinates are kept if it has any.
        size: texels along a side of the texture.
    """
    if part.uv is not None:
        mesh = _SplitVertices(part, part.faces)
        uv = part.uv[mesh.origin]
    else:
        used, welded = part.welded.unique(return_inverse=True)
        origin, keys, new_uv = unwrap_uv(part.vertices[used], welded, size)
        if not torch.equal(origin[keys], welded):
            raise ValueError(
                f"the faces of {part.name} cannot be unwrapped: remove those without area"
            )
        mesh = _SplitVertices(part, keys)
        uv = new_uv[mesh.key]
    face, weights = rasterize_uv(uv, mesh.faces, size)
    covered = face >= 0
    texture = torch.zeros(3, size, size)
    texture[:, covered] = _colors(part, face[covered], weights[covered]).T
    texture = dilate_texture(texture, covered, chart_padding(size))
    return TexturedMesh(
        part.vertices[mesh.origin], mesh.normals, mesh.faces, None, uv, texture, part.name
    )


def color_vertices(mesh: MappedMesh) -> TexturedMesh:
    """Return all parts as one mesh with vertex colors, in the coordinates of the file.

    Args:
        mesh: the mesh.
    """
    chunks, start = [], 0
    for part in mesh.parts:
        split = _SplitVertices(part, part.faces)
        corner = torch.zeros(len(split.origin), dtype=torch.long)
        corner[split.faces.flatten()] = torch.arange(split.faces.numel())
        colors = _colors(part, corner // 3, torch.eye(3)[corner % 3])
        vertices = part.vertices[split.origin]
        chunks.append(TexturedMesh(vertices, split.normals, split.faces + start, colors))
        start += len(vertices)
    return _joined(chunks)


def world_snapshot(mesh: MappedMesh) -> TexturedMesh:
    """Return all parts as one mesh with vertex colors, in world space.

    Faces are divided evenly, so that a texture on few faces can be seen.

    Args:
        mesh: the mesh.
    """
    total = sum(len(part.faces) for part in mesh.parts)
    weights, small = _divided_triangle(max(1, round((_MIN_SNAPSHOT_FACES / total) ** 0.5)))
    matrix, chunks, start = mesh.world.float(), [], 0
    rotation = matrix[:3, :3] / matrix[:3, :3].norm(dim=1, keepdim=True)
    for part in mesh.parts:
        count = len(part.faces)
        corners = part.vertices[part.faces] @ matrix[:3, :3].T + matrix[:3, 3]
        vertices = torch.einsum("gc,fcx->fgx", weights, corners).flatten(0, 1)
        normals = torch.einsum("gc,fcx->fgx", weights, part.normals @ rotation.T).flatten(0, 1)
        normals = torch.nn.functional.normalize(normals, dim=1)
        face = torch.arange(count).repeat_interleave(len(weights))
        colors = _colors(part, face, weights.repeat(count, 1))
        faces = small + len(weights) * torch.arange(count)[:, None, None]
        chunks.append(TexturedMesh(vertices, normals, faces.flatten(0, 1) + start, colors))
        start += len(vertices)
    return _joined(chunks)


def _divided_triangle(n: int) -> tuple[Float[Tensor, "g 3"], Int[Tensor, "m 3"]]:
    """Barycentric weights of the points of a triangle with n^2 small ones, and their corners."""
    grid = [(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]
    index = {point: k for k, point in enumerate(grid)}
    small = []
    for i, j, k in grid:
        if i:
            small.append([index[i, j, k], index[i - 1, j + 1, k], index[i - 1, j, k + 1]])
        if i and j:
            small.append([index[i, j, k], index[i - 1, j, k + 1], index[i, j - 1, k + 1]])
    return torch.tensor(grid) / n, torch.tensor(small)


def _joined(parts: list[TexturedMesh]) -> TexturedMesh:
    """Meshes with vertex colors as one; their faces are numbered through already."""
    colors = [part.colors for part in parts if part.colors is not None]
    return replace(
        parts[0],
        vertices=torch.cat([part.vertices for part in parts]),
        normals=torch.cat([part.normals for part in parts]),
        faces=torch.cat([part.faces for part in parts]),
        colors=torch.cat(colors),
    )


def _colors(
    part: MappedPart, face: Int[Tensor, "n"], weights: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Colors of points, a chunk at a time."""
    chunks = zip(face.split(_MAX_COLOR_POINTS), weights.split(_MAX_COLOR_POINTS), strict=True)
    return torch.cat([part.color(*chunk) for chunk in chunks]).clamp(0, 1)


class _SplitVertices:
    """Vertices such that each has one normal, in the order of ``keys``.

    Args:
        part: the part.
        keys: ``[F, 3]`` vertices, which are divided where their corners have several normals.

    Attributes:
        faces: ``[F, 3]`` indices of the divided vertices.
        key: vertex in ``keys`` of each.
        origin: vertex of the part of each.
        normals: normal of each.
    """

    def __init__(self, part: MappedPart, keys: Int[Tensor, "f 3"]):
        code = keys.flatten() * (int(part.shading.max()) + 1) + part.shading.flatten()
        _, inverse = code.unique(return_inverse=True)
        self.faces = inverse.reshape(-1, 3)
        corner = torch.zeros(int(inverse.max()) + 1, dtype=torch.long)
        corner[inverse.flip(0)] = torch.arange(len(inverse) - 1, -1, -1)
        self.key = keys.flatten()[corner]
        self.origin = part.faces.flatten()[corner]
        self.normals = part.normals.flatten(0, 1)[corner]
