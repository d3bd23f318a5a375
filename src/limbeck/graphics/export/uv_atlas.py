"""Texture baking: charts by xatlas, colors of the texels, and padding around the charts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.export.mesh_cleanup import TexturedMesh, query_colors, unit_vertex_normals
from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.mesh import MeshTopology, smooth_taubin

MAX_TEXEL_PAIRS = 1 << 22  #: (face, texel) pairs tested at a time
MIN_SMOOTHED_FACES = 2_000  #: coarser meshes have no noise, and would lose their shape
SMOOTHING_ROUNDS = 20  #: rounds of smoothing before charts are found
MAX_CHART_COST = 8.0  #: cost at which charts stop to grow; xatlas's own 2 makes twice as many
MAX_CHARTS = 300  #: if there are more, charts may cost more and the mesh is smoothed more
_MAX_TRIES = 4  #: times that charts are looked for
MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE = 16, 8192  #: texels along a side


def bake_texture(surface: Surface, size: int) -> TexturedMesh:
    """Bake the colors of a surface into a texture.

    Vertices are duplicated along the borders of the charts.

    Args:
        surface: the surface.
        size: texels along a side of the texture.
    """
    vertices, faces = surface.vertices.float().cpu(), surface.faces.cpu()
    origin, new_faces, uv = unwrap_uv(vertices, faces, size)
    face, barycentrics = rasterize_uv(uv, new_faces, size)
    covered = face >= 0
    corners = vertices[origin[new_faces[face[covered]]]]
    points = (corners * barycentrics[covered][..., None]).sum(1)
    texture = torch.zeros(3, size, size)
    texture[:, covered] = query_colors(surface, points).T
    texture = dilate_texture(texture, covered, chart_padding(size))
    normals = unit_vertex_normals(vertices, faces)[origin]
    return TexturedMesh(vertices[origin], normals, new_faces, uv=uv, texture=texture)


def chart_padding(size: int) -> int:
    """Texels between neighboring charts in a texture of this size."""
    return max(2, size // 256)


def unwrap_uv(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], size: int
) -> tuple[Int[Tensor, "w"], Int[Tensor, "f 3"], Float[Tensor, "w 2"]]:
    """Unwrap a mesh into charts with xatlas.

    The charts of a fine mesh are found on a smoothed copy: the noise of an extracted surface would
    cut it into thousands of pieces of one or two faces. If there are more than ``MAX_CHARTS``, they
    are looked for again with larger limits.

    Args:
        vertices: positions.
        faces: vertex indices.
        size: texels along a side of the texture.

    Returns:
        The old vertex of each new vertex, the faces between new vertices, and texture coordinates
        in [0, 1].
    """
    mesh, attempts = MeshTopology(faces, len(vertices)), []
    for number in range(_MAX_TRIES):
        if len(faces) >= MIN_SMOOTHED_FACES:
            vertices = smooth_taubin(vertices, mesh, SMOOTHING_ROUNDS * 2**number)
        attempts.append(_find_charts(vertices, faces, size, MAX_CHART_COST * 4**number))
        if attempts[-1][0] <= MAX_CHARTS:
            break
    _, origin, new_faces, uv = min(attempts, key=lambda attempt: attempt[0])
    return origin, new_faces, uv


def _find_charts(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], size: int, max_cost: float
) -> tuple[int, Int[Tensor, "w"], Int[Tensor, "f 3"], Float[Tensor, "w 2"]]:
    """Number of charts, and the return values of ``unwrap_uv``."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.numpy(), faces.numpy().astype(np.uint32))
    pack_options = xatlas.PackOptions()
    pack_options.resolution = size
    pack_options.padding = chart_padding(size)
    pack_options.bilinear = True
    chart_options = xatlas.ChartOptions()
    chart_options.max_cost = max_cost
    atlas.generate(chart_options, pack_options)
    origin, new_faces, uv = atlas.get_mesh(0)
    return (
        atlas.chart_count,
        torch.from_numpy(origin.astype(np.int64)),
        torch.from_numpy(new_faces.astype(np.int64)),
        torch.from_numpy(uv),
    )


def rasterize_uv(
    uv: Float[Tensor, "w 2"], faces: Int[Tensor, "f 3"], size: int
) -> tuple[Int[Tensor, "y x"], Float[Tensor, "y x 3"]]:
    """Find the face that covers the center of each texel.

    Args:
        uv: texture coordinates in [0, 1].
        faces: vertex indices.
        size: texels along a side of the texture.

    Returns:
        The face of each texel, -1 for none, and its barycentric weights.
    """
    texel_face = torch.full((size, size), -1)
    texel_weight = torch.zeros(size, size, 3)
    for face, row, column, weight in texel_hits(uv, faces, size):
        texel_face[row, column] = face
        texel_weight[row, column] = weight.float()
    return texel_face, texel_weight


def texel_hits(
    uv: Float[Tensor, "w 2"], faces: Int[Tensor, "f 3"], size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Find every texel center that each face covers, in chunks of faces.

    Args:
        uv: texture coordinates in [0, 1].
        faces: vertex indices.
        size: texels along a side of the texture.

    Returns:
        Faces, rows, columns and barycentric weights.
    """
    corners = uv.double()[faces] * size
    low = (corners.amin(1) - 0.5).ceil().long().clamp(0, size)
    extent = ((corners.amax(1) - 0.5).floor().long() + 1).clamp(0, size) - low
    count = extent.clamp_min(0).prod(1)
    chunk = count.cumsum(0) // MAX_TEXEL_PAIRS
    lengths = chunk.unique_consecutive(return_counts=True)[1].tolist()
    for rows in torch.arange(len(faces)).split(lengths):
        face = rows.repeat_interleave(count[rows])
        start = count[rows].cumsum(0) - count[rows]
        k = torch.arange(len(face)) - start.repeat_interleave(count[rows])
        column, row = low[face, 0] + k % extent[face, 0], low[face, 1] + k // extent[face, 0]
        weight = _barycentric(torch.stack([column, row], 1) + 0.5, corners[face])
        inside = (weight >= -1e-6).all(1)
        yield face[inside], row[inside], column[inside], weight[inside]


def _cross_2d(p: Float[Tensor, "n 2"], q: Float[Tensor, "n 2"]) -> Float[Tensor, "n"]:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]


def _barycentric(
    point: Float[Tensor, "n 2"], corners: Float[Tensor, "n 3 2"]
) -> Float[Tensor, "n 3"]:
    """Barycentric weights; negative outside, and everywhere for a face without area."""
    a, b, c = corners.unbind(1)
    area = _cross_2d(b - a, c - a)
    parts = [
        _cross_2d(c - b, point - b),
        _cross_2d(a - c, point - c),
        _cross_2d(b - a, point - a),
    ]
    weights = torch.stack(parts, 1)
    valid = (area.abs() > 1e-12)[:, None]
    return torch.where(valid, weights / area[:, None], torch.full_like(weights, -1.0))


def _sum_3x3(planes: Float[Tensor, "c y x"]) -> Float[Tensor, "c y x"]:
    """Sum over the 3 x 3 neighborhood of each texel."""
    kernel = torch.ones(1, 1, 3, 3).to(planes)
    return torch.nn.functional.conv2d(planes[:, None], kernel, padding=1)[:, 0]


def dilate_texture(
    texture: Float[Tensor, "c y x"], covered: Bool[Tensor, "y x"], rings: int
) -> Float[Tensor, "c y x"]:
    """Fill the texels outside of the charts, for bilinear and mipmapped look-ups.

    Args:
        texture: the texture.
        covered: texels inside charts.
        rings: texels around the charts that are filled with the mean of their neighbors; the others
            are filled from ever coarser versions of the texture.
    """
    texture, mask = texture * covered, covered[None].to(texture)
    for _ in range(rings):
        count = _sum_3x3(mask)
        ring = (mask == 0) & (count > 0)
        texture = torch.where(ring, _sum_3x3(texture) / count.clamp_min(1), texture)
        mask = (count > 0).to(texture)
    return _fill_from_coarser(texture, mask)


def _halve(planes: Float[Tensor, "c y x"]) -> Float[Tensor, "c u v"]:
    return torch.nn.functional.avg_pool2d(planes[None], 2, ceil_mode=True)[0]


def _fill_from_coarser(
    texture: Float[Tensor, "c y x"], mask: Float[Tensor, "1 y x"]
) -> Float[Tensor, "c y x"]:
    """Fill holes with the mean of what is known around, from the texture at half its size."""
    if bool(mask.all()) or not bool(mask.any()):
        return texture
    known = _halve(mask)
    mean = _halve(texture * mask) / known.clamp_min(1e-9)
    coarse = _fill_from_coarser(mean, (known > 0).to(texture))
    fine = torch.nn.functional.interpolate(coarse[None], texture.shape[1:], mode="nearest")[0]
    return torch.where(mask > 0, texture, fine)
