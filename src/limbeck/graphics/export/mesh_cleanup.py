"""Meshes as files want them: parts worth keeping, as many faces as asked for, smooth normals, colours of points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.assets import Surface

MAX_QUERY_POINTS = 65536  #: asked for their colour at a time
MAX_GRID_CELLS = 4096  #: cells along the longest side when faces are made fewer


@dataclass(frozen=True)
class TexturedMesh:
    """What a file holds, on the CPU: ``vertices`` and unit ``normals`` ``[V, 3]``, ``faces`` ``[F, 3]`` and either ``colours``
    ``[V, 3]`` or ``uv`` ``[V, 2]`` with ``texture`` ``[3, y, x]``. Colours are display-referred sRGB in [0, 1]; u goes right and v
    down from the top left corner of the texture, as in glTF.
    """

    vertices: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colours: Float[Tensor, "v 3"] | None = None
    uv: Float[Tensor, "v 2"] | None = None
    texture: Float[Tensor, "3 y x"] | None = None


def validate_surface(surface: Surface) -> Surface:
    """The surface without gradients, in float32; ValueError where there is nothing or not all of it can be a place."""
    if not len(surface.faces):
        raise ValueError(
            "the surface is empty: this particle has no face to write; did its run end with an empty scene?"
        )
    if not bool(surface.vertices.isfinite().all()):
        raise ValueError("the surface has vertices that are not finite")
    return Surface(surface.vertices.detach().float(), surface.faces.long(), surface.colour)


def query_colors(surface: Surface, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Colours of points in [0, 1] on the CPU, asked where the surface lives, in parts."""
    with torch.no_grad():
        parts = [
            surface.colour(part.to(surface.vertices)).float().cpu() for part in points.split(MAX_QUERY_POINTS)
        ]
    return torch.cat(parts).clamp(0, 1)


def unit_vertex_normals(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "v 3"]:
    """Unit normals of vertices: those of the faces around, weighed by area; up where they cancel."""
    a, b, c = vertices[faces].unbind(1)
    twice = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add_(0, faces.flatten(), twice.repeat_interleave(3, 0))
    length = total.norm(dim=1, keepdim=True)
    scale = twice.norm(dim=1).mean().clamp_min(1e-30)
    return torch.where(
        length > 1e-6 * scale,
        total / length.clamp_min(1e-30),
        torch.tensor([0.0, 1.0, 0.0]).to(total),
    )


def parts_of(count: int, faces: Int[Tensor, "f 3"]) -> Int[Tensor, "f"]:
    """The connected part of each face, named by its lowest vertex."""
    label = torch.arange(count, device=faces.device)
    while True:
        lowest = label[faces].min(1).values
        new = label.clone().scatter_reduce_(0, faces.flatten(), lowest.repeat_interleave(3), "amin")
        new = new[new]  # a path halves
        if bool((new == label).all()):
            return label[faces[:, 0]]
        label = new


def drop_small_components(surface: Surface, share: float) -> tuple[Surface, int]:
    """The surface without connected parts that have less than ``share`` of all faces, and how many parts that were. The largest
    part always stays, and so no face is lost at 0."""
    part = parts_of(len(surface.vertices), surface.faces)
    _, of, count = part.unique(return_inverse=True, return_counts=True)
    stays = (count >= share * len(part)) | (count == count.max())
    return _chosen(surface, stays[of]), int((~stays).sum())


def _chosen(surface: Surface, rows: Bool[Tensor, "f"]) -> Surface:
    """Some faces and the vertices they use."""
    used, faces = surface.faces[rows].unique(return_inverse=True)
    return Surface(surface.vertices[used], faces, surface.colour)


def decimate(surface: Surface, most: int) -> Surface:
    """At most ``most`` faces: vertices in one cell of a regular grid become one, placed where the planes of the faces around meet
    best (Lindstrom 2000, "Out-of-core simplification of large polygonal models", eq. 7); the finest grid that is coarse enough.
    """
    if len(surface.faces) <= most:
        return surface
    low, high = 1, MAX_GRID_CELLS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(_clustered(surface, middle)[1]) <= most else (low, middle)
    cell, faces = _clustered(surface, low)
    if not len(faces):
        raise ValueError(
            f"faces {most} is too few for this surface of {len(surface.faces)}: nothing would be left of it"
        )
    return _chosen(
        Surface(_meeting(surface, cell, low), faces, surface.colour),
        torch.ones_like(faces[:, 0], dtype=torch.bool),
    )


def _side(surface: Surface, cells: int) -> Float[Tensor, ""]:
    low, high = surface.vertices.aminmax(dim=0)
    return (high - low).max().clamp_min(1e-12) / cells


def _clustered(surface: Surface, cells: int) -> tuple[Int[Tensor, "v"], Int[Tensor, "g 3"]]:
    """The cell of each vertex, numbered, and the faces that still have three corners."""
    place = (
        ((surface.vertices - surface.vertices.amin(0)) / _side(surface, cells))
        .long()
        .clamp_max(cells - 1)
    )
    _, cell = place.unique(dim=0, return_inverse=True)
    faces = cell[surface.faces]
    a, b, c = faces.unbind(1)
    faces = faces[(a != b) & (b != c) & (c != a)]
    if not len(faces):
        return cell, faces
    turn = faces.argmin(1, keepdim=True) + torch.arange(3, device=faces.device)
    faces = faces.gather(1, turn % 3)  # from its lowest corner, so that equal faces look equal
    ordered, same = faces.sort(1).values.unique(dim=0, return_inverse=True)
    sign = torch.where(faces[:, 1] < faces[:, 2], 1, -1)
    net = torch.zeros(len(ordered), dtype=torch.long, device=faces.device).index_add_(0, same, sign)
    return cell, torch.where(net[:, None] > 0, ordered, ordered[:, [0, 2, 1]])[
        net != 0
    ]  # the two sides of a fold cancel


def _meeting(surface: Surface, cell: Int[Tensor, "v"], cells: int) -> Float[Tensor, "k 3"]:
    """One point for each cell: the least squares of distances to the planes of its faces; the mean where those do not tell."""
    points, count = surface.vertices.double(), int(cell.max()) + 1
    one = torch.ones(len(cell), dtype=torch.float64, device=cell.device)
    sums = lambda values, rows: values.new_zeros(count, *values.shape[1:]).index_add_(
        0, rows, values
    )  # noqa: E731
    mean = sums(points, cell) / sums(one, cell)[:, None]
    a, b, c = points[surface.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)  # its length weighs a plane by the area squared
    rows, normal = cell[surface.faces].flatten(), normal.repeat_interleave(3, 0)
    offset = (normal * (a.repeat_interleave(3, 0) - mean[rows])).sum(1)
    matrix, right = (
        sums(normal[:, :, None] * normal[:, None], rows),
        sums(normal * offset[:, None], rows),
    )
    value, vector = torch.linalg.eigh(matrix)
    told = value > 1e-3 * value[:, 2:].clamp_min(1e-300)
    inverse = torch.where(told, 1 / value.clamp_min(1e-300), torch.zeros_like(value))
    step = torch.einsum("kij,kj,klj,kl->ki", vector, inverse, vector, right)
    side = _side(surface, cells).double()
    return (mean + step.clamp(-side, side)).to(surface.vertices)
