"""Colours of a surface as one picture: charts by xatlas, texels coloured where they lie in space, and padding around the charts."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.export.mesh_cleanup import TexturedMesh, query_colors, unit_vertex_normals
from limbeck.graphics.geometry.assets import Surface

MAX_TEXEL_PAIRS = 1 << 22  #: of a face and a texel, looked at together
MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE = 16, 8192  #: sides of a texture


def bake_texture(surface: Surface, side: int) -> TexturedMesh:
    """The surface with a texture of ``side`` x ``side`` texels; vertices are doubled along the borders of charts."""
    vertices, faces = surface.vertices.float().cpu(), surface.faces.cpu()
    origin, corners, uv = unwrap_uv(vertices, faces, side)
    owner, weight = rasterize_uv(uv, corners, side)
    covered = owner >= 0
    points = (vertices[origin[corners[owner[covered]]]] * weight[covered][..., None]).sum(1)
    picture = torch.zeros(3, side, side)
    picture[:, covered] = query_colors(surface, points).T
    picture = dilate_texture(picture, covered, chart_padding(side))
    return TexturedMesh(
        vertices[origin], unit_vertex_normals(vertices, faces)[origin], corners, uv=uv, texture=picture
    )


def chart_padding(side: int) -> int:
    """Texels between a chart and the next."""
    return max(2, side // 256)


def unwrap_uv(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], side: int
) -> tuple[Int[Tensor, "w"], Int[Tensor, "f 3"], Float[Tensor, "w 2"]]:
    """Of new vertices the old one each came from, the faces between them, and their places in the texture in [0, 1]."""
    import xatlas

    atlas, charts, pack = xatlas.Atlas(), xatlas.ChartOptions(), xatlas.PackOptions()
    atlas.add_mesh(vertices.numpy(), faces.numpy().astype(np.uint32))
    pack.resolution, pack.padding, pack.bilinear = side, chart_padding(side), True
    atlas.generate(charts, pack)
    origin, corners, uv = atlas.get_mesh(0)
    return tuple(
        torch.from_numpy(part) for part in (origin.astype(np.int64), corners.astype(np.int64), uv)
    )  # type: ignore[return-value]


def rasterize_uv(
    uv: Float[Tensor, "w 2"], faces: Int[Tensor, "f 3"], side: int
) -> tuple[Int[Tensor, "y x"], Float[Tensor, "y x 3"]]:
    """The face that covers the middle of each texel, -1 for none, and its barycentric weights there."""
    corners = uv.double()[faces] * side
    low = (corners.amin(1) - 0.5).ceil().long().clamp(0, side)
    size = ((corners.amax(1) - 0.5).floor().long() + 1).clamp(0, side) - low
    many = size.clamp_min(0).prod(1)
    owner = torch.full((side, side), -1)
    weight = torch.zeros(side, side, 3)
    group = many.cumsum(0) // MAX_TEXEL_PAIRS
    for rows in torch.arange(len(faces)).split(
        group.unique_consecutive(return_counts=True)[1].tolist()
    ):
        face = rows.repeat_interleave(many[rows])
        nth = torch.arange(len(face)) - (many[rows].cumsum(0) - many[rows]).repeat_interleave(
            many[rows]
        )
        column, row = low[face, 0] + nth % size[face, 0], low[face, 1] + nth // size[face, 0]
        share = _barycentric(torch.stack([column, row], 1) + 0.5, corners[face])
        inside = (share >= -1e-6).all(1)
        owner[row[inside], column[inside]] = face[inside]
        weight[row[inside], column[inside]] = share[inside].float()
    return owner, weight


def _barycentric(
    point: Float[Tensor, "n 2"], corners: Float[Tensor, "n 3 2"]
) -> Float[Tensor, "n 3"]:
    """Weights of corners; below zero outside, and everywhere in a face without area."""
    cross = lambda p, q: p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]  # noqa: E731
    a, b, c = corners.unbind(1)
    area = cross(b - a, c - a)
    parts = torch.stack(
        [cross(c - b, point - b), cross(a - c, point - c), cross(b - a, point - a)], 1
    )
    return torch.where(
        (area.abs() > 1e-12)[:, None], parts / area[:, None], torch.full_like(parts, -1.0)
    )


def dilate_texture(
    picture: Float[Tensor, "c y x"], covered: Bool[Tensor, "y x"], rings: int
) -> Float[Tensor, "c y x"]:
    """The picture with every texel filled: ``rings`` of the mean of neighbours around what is covered, then from ever coarser
    pictures, so that neither a bilinear nor a mipmapped look-up meets what is nobody's."""
    picture, mask = picture * covered, covered[None].to(picture)
    kernel = torch.ones(1, 1, 3, 3).to(picture)
    around = lambda planes: torch.nn.functional.conv2d(planes[:, None], kernel, padding=1)[:, 0]  # noqa: E731
    for _ in range(rings):
        count = around(mask)
        fresh = (mask == 0) & (count > 0)
        picture = torch.where(fresh, around(picture) / count.clamp_min(1), picture)
        mask = (count > 0).to(picture)
    return _filled(picture, mask)


def _filled(
    picture: Float[Tensor, "c y x"], mask: Float[Tensor, "1 y x"]
) -> Float[Tensor, "c y x"]:
    """Holes filled with the mean of what is known around, from the picture at half its size."""
    if bool(mask.all()) or not bool(mask.any()):
        return picture
    pool = lambda planes: torch.nn.functional.avg_pool2d(planes[None], 2, ceil_mode=True)[0]  # noqa: E731
    share = pool(mask)
    coarse = _filled(pool(picture * mask) / share.clamp_min(1e-9), (share > 0).to(picture))
    fine = torch.nn.functional.interpolate(coarse[None], picture.shape[1:], mode="nearest")[0]
    return torch.where(mask > 0, picture, fine)
