"""Differentiable rasterisation in plain PyTorch: what is seen, where on its face, and edges that know how far they cover a pixel.

@article{laine2020modular,
  title={Modular Primitives for High-Performance Differentiable Rendering},
  author={Laine, Samuli and Hellsten, Janne and Karras, Tero and Seol, Yeongho and Lehtinen, Jaakko and Aila, Timo},
  journal={ACM Transactions on Graphics}, volume={39}, number={6}, year={2020}}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.geometry.mesh import MeshTopology

MAX_PIXEL_PAIRS = 1 << 21  #: pairs of a face and a pixel that are looked at together
BOX_MARGIN = 1e-3  #: pixels by which the box of a face is widened, against rounding


def project_homogeneous(
    camera: Camera, points: Float[Tensor, "b n 3"], height: int, width: int
) -> Float[Tensor, "b n 3"]:
    """(column d, row d, d) with d the depth along the line of sight: ``Camera.projected`` before its division, also behind it."""
    own = camera.to_camera_space(points)
    depth = -own[..., 2]
    focal = (height / 2 / (camera.fov / 2).tan())[:, None]
    return torch.stack(
        [width / 2 * depth + focal * own[..., 0], height / 2 * depth - focal * own[..., 1], depth],
        -1,
    )


@dataclass(frozen=True)
class ProjectedMesh:
    """Meshes before cameras. points ``[N, 3]``: homogeneous, of all images; mesh: their faces; image ``[F]``: that a face is in."""

    points: Float[Tensor, "n 3"]
    mesh: MeshTopology
    image: Int[Tensor, "f"]
    images: int
    height: int
    width: int
    near: float = 1e-2

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width


@dataclass(frozen=True)
class Fragments:
    """What each pixel that is not empty shows: its place ``pixel`` in the flat batch of images, ascending; the face; where on it.

    weight ``[P, 3]``: perspective-correct barycentrics; depth ``[P]``. Both carry gradients to the points.
    """

    scene: ProjectedMesh
    pixel: Int[Tensor, "p"]
    face: Int[Tensor, "p"]
    weight: Float[Tensor, "p 3"]
    depth: Float[Tensor, "p"]

    def of(self, attribute: Float[Tensor, "n c"]) -> Float[Tensor, "p c"]:
        """What belongs to vertices, at the pixels."""
        return (
            gather_rows(attribute, gather_rows(self.scene.mesh.faces, self.face))
            * self.weight[..., None]
        ).sum(1)

    def image(self, values: Float[Tensor, "p c"], empty: float = 0.0) -> Float[Tensor, "b c h w"]:
        """Values at the pixels as images, ``empty`` where nothing is seen."""
        s = self.scene
        flat = values.new_full((s.pixels, values.shape[1]), empty).index_copy(0, self.pixel, values)
        return flat.reshape(s.images, s.height, s.width, -1).permute(0, 3, 1, 2)


def _local(
    corners: Float[Tensor, "m 3 3"], column: Float[Tensor, "m"], row: Float[Tensor, "m"]
) -> Float[Tensor, "m 3"]:
    """Barycentrics over the depth, times the determinant of the corners (2D homogeneous rasterisation, Olano and Greer 1997).

    Corners are taken relative to the pixel first, so that two faces get exactly opposite numbers on their common edge: no cracks.
    """
    x = corners[..., 0] - column[:, None] * corners[..., 2]
    y = corners[..., 1] - row[:, None] * corners[..., 2]
    return torch.stack(
        [x[:, i] * y[:, j] - x[:, j] * y[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], 1
    )


@torch.no_grad()
def _boxes(
    scene: ProjectedMesh, corners: Float[Tensor, "f 3 3"]
) -> tuple[Int[Tensor, "f 2"], Int[Tensor, "f 2"]]:
    """First pixel and number of pixels, across and down, whose middles a face may cover; a face that reaches behind the near plane
    may be anywhere."""
    ahead = corners[..., 2] > scene.near
    flat = corners[..., :2] / torch.where(ahead, corners[..., 2], 1)[..., None]
    ends = torch.tensor([scene.width, scene.height], device=corners.device)
    whole, some = ahead.all(1)[:, None], ahead.any(1)[:, None]
    a, b, c = flat.unbind(1)  # a minimum over an axis of three is slow
    low, high = a.minimum(b).minimum(c), a.maximum(b).maximum(c)
    # bounds are cut before they become whole numbers, which a far point may not fit into
    first = torch.where(whole, low, 0).clamp(-1, 1e6).sub(0.5 + BOX_MARGIN).ceil().long().clamp_min(0)
    last = torch.where(whole, high, 1e6).clamp(-1, 1e6).sub(0.5 - BOX_MARGIN).floor().long()
    size = (torch.minimum(last, ends - 1) - first + 1).clamp_min(0)
    return first, torch.where(some & (size > 0).all(1, keepdim=True), size, 0)


@torch.no_grad()
def _pairs(
    scene: ProjectedMesh, corners: Tensor, face: Tensor, first: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel, face and depth of what some of the faces cover before the near plane."""
    wide, count = size[face, 0], size[face].prod(1)
    start = count.cumsum(0) - count
    row = torch.arange(len(face), device=face.device).repeat_interleave(count)
    k = torch.arange(len(row), device=face.device) - start[row]
    down = torch.div(k, wide[row], rounding_mode="floor")
    face = face[row]
    y, x = first[face, 1] + down, first[face, 0] + k - down * wide[row]
    local = gather_rows(corners, face)
    b = _local(local, x + 0.5, y + 0.5)
    total = b.sum(1)
    depth = (b * local[..., 2]).sum(1) / total
    hit = (
        (((b >= 0).all(1) | (b <= 0).all(1)) & (total != 0) & (depth >= scene.near))
        .nonzero()
        .squeeze(1)
    )
    return (
        (scene.image[face[hit]] * scene.height + y[hit]) * scene.width + x[hit],
        face[hit],
        depth[hit],
    )


@torch.no_grad()
def visible_faces(scene: ProjectedMesh) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"]]:
    """Pixels that are not empty, ascending, and the nearest face of each; of equally near ones that of the lowest number.

    Every face is tried on the pixels of its box, in parts of about ``MOST`` tries, and a z-buffer keeps the nearest.
    """
    corners = gather_rows(scene.points, scene.mesh.faces)
    first, size = _boxes(scene, corners)
    tries = size.prod(1)
    some = tries.nonzero().squeeze(1)
    part = torch.div(tries[some].cumsum(0), MAX_PIXEL_PAIRS, rounding_mode="floor")
    lengths = torch.unique_consecutive(part, return_counts=True)[1].tolist()
    found = [_pairs(scene, corners, few, first, size) for few in some.split(lengths)]
    if not found:
        return some, some
    pixel, face, depth = (torch.cat(values) for values in zip(*found, strict=True))
    nearest = depth.new_full((scene.pixels,), torch.inf).scatter_reduce(0, pixel, depth, "amin")
    front = depth == nearest[pixel]
    none = len(corners)
    chosen = face.new_full((scene.pixels,), none).scatter_reduce(
        0, pixel[front], face[front], "amin"
    )
    shown = (chosen < none).nonzero().squeeze(1)
    return shown, chosen[shown]


def rasterize(scene: ProjectedMesh) -> Fragments:
    """What the pixels show. Which face is found without a graph; where on it is computed again with one."""
    pixel, face = visible_faces(scene)
    place = pixel % (scene.height * scene.width)
    row = torch.div(place, scene.width, rounding_mode="floor")
    corners = gather_rows(scene.points, gather_rows(scene.mesh.faces, face))
    b = _local(corners, (place - row * scene.width) + 0.5, row + 0.5)
    weight = b / b.sum(1, keepdim=True)
    return Fragments(scene, pixel, face, weight, (weight * corners[..., 2]).sum(1))


@torch.no_grad()
def silhouette_edges(
    scene: ProjectedMesh,
) -> tuple[Int[Tensor, "s 2"], Int[Tensor, "s"], Int[Tensor, "s"]]:
    """Edges whose faces all lie on one side in the picture, the image they are in, and the side: 1 where a third corner c has
    (b - a) x (c - a) > 0 in pixels, x to the right and y down. Edges that reach behind the near plane are left out."""
    mesh = scene.mesh
    a, b, c = gather_rows(scene.points, mesh.faces).unbind(1)
    turn = (a * torch.linalg.cross(b, c)).sum(1).sign().long()
    side = (turn[:, None] * mesh.along).flatten()
    zero = side.new_zeros(len(mesh.edges))
    sum_, count = (zero.index_add(0, mesh.sides.flatten(), value) for value in (side, side.abs()))
    image = zero.index_copy(0, mesh.sides.flatten(), scene.image.repeat_interleave(3))
    ahead = (scene.points[:, 2] > scene.near)[mesh.edges].all(1)
    chosen = ((sum_.abs() == count) & (count > 0) & ahead).nonzero().squeeze(1)
    return mesh.edges[chosen], image[chosen], sum_[chosen].sign()


def antialias(seen: Fragments, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images with antialiased edges (Laine et al. 2020, analytic antialiasing), so that outlines have gradients.

    Where a silhouette edge crosses the line between the middles of two neighbouring pixels, at a share s of the way from the one
    that shows the nearer surface, the pixel whose middle lies within half a pixel of the crossing is blended: the farther one takes
    s - 1/2 of the nearer one's colour, or the nearer one 1/2 - s of the farther one's. Edges nearer to the vertical count between
    pixels of a row, the others between pixels of a column.

    Two things are done otherwise than in the paper. Crossings are looked for along all silhouette edges, not only along those of
    the face that a pixel shows, for faces of this project's meshes may be smaller than its pixels; of several in one place the
    outermost counts. And rows are blended before columns, so that a pixel never gives away more than it has.
    """
    s = seen.scene
    edges, image, side = silhouette_edges(s)
    ends = gather_rows(s.points, edges)
    flat = ends[..., :2] / ends[..., 2:]
    near = seen.depth.detach()
    depth = seen.image(near[:, None], torch.inf)[:, 0]
    steep = (lambda d: d[:, 1].abs() >= d[:, 0].abs())((flat[:, 1] - flat[:, 0]).detach())
    for chosen, turned in ((steep, False), (~steep, True)):
        at = chosen.nonzero().squeeze(1)
        # a picture of columns is one of rows with x and y exchanged, in which the sides change too
        line = gather_rows(flat, at).flip(-1) if turned else gather_rows(flat, at)
        sign = -side[at] if turned else side[at]
        swap = lambda values: values.transpose(-1, -2) if turned else values  # noqa: E731, B023
        images = swap(
            _blended(
                swap(images),
                swap(depth),
                line,
                gather_rows(ends[..., 2], at).detach(),
                image[at],
                sign,
            )
        )
    return images


def _crossings(line: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Every (edge, row) whose middle the edge passes, the upper end counting and the lower one not."""
    low, high = line[..., 1].aminmax(dim=1)
    first = (low.clamp(-1, 1e6) - 0.5).ceil().long().clamp_min(0)
    count = ((high.clamp(-1, 1e6) - 0.5).ceil().long().clamp_max(height) - first).clamp_min(0)
    edge = torch.arange(len(line), device=line.device).repeat_interleave(count)
    return edge, first[edge] + torch.arange(len(edge), device=line.device) - (
        count.cumsum(0) - count
    )[edge]


def _blended(
    images: Tensor, depth: Tensor, line: Tensor, far: Tensor, image: Tensor, side: Tensor
) -> Tensor:
    """One pass over the pixels of rows. line ``[S, 2, 2]``: ends in pixels; far ``[S, 2]``: their depths; side: see silhouettes."""
    batch, _, height, width = images.shape
    with torch.no_grad():
        edge, row = _crossings(line, height)
        ab = line[edge]
        share = (row + 0.5 - ab[:, 0, 1]) / (ab[:, 1, 1] - ab[:, 0, 1])
        x = ab[:, 0, 0] + share * (ab[:, 1, 0] - ab[:, 0, 0])
        left = (x.clamp(-1, 1e6) - 0.5).floor().long()
        within = (left >= 0) & (left < width - 1)
        edge, row, share, left = edge[within], row[within], share[within], left[within]
        rightward = (
            side[edge] * (line[edge, 1, 1] - line[edge, 0, 1]) < 0
        )  # the face lies to the right
        pair = (image[edge] * height + row) * (width - 1) + left
        flat = (image[edge] * height + row) * width + left
        one, two = depth.reshape(-1)[flat], depth.reshape(-1)[flat + 1]
        own, other = torch.where(rightward, two, one), torch.where(rightward, one, two)
        here = 1 / torch.lerp(1 / far[edge, 0], 1 / far[edge, 1], share)
        keep = ((own < other) & (here < other)).nonzero().squeeze(1)
        edge, row, left, rightward, pair = (
            edge[keep],
            row[keep],
            left[keep],
            rightward[keep],
            pair[keep],
        )
    ab = gather_rows(line, edge)
    share = (row + 0.5 - ab[:, 0, 1]) / (ab[:, 1, 1] - ab[:, 0, 1])
    reach = torch.lerp(ab[:, 0, 0], ab[:, 1, 0], share) - (left + 0.5)
    reach = torch.where(rightward, 1 - reach, reach)
    best = _outermost(pair, reach.detach(), batch * height * (width - 1))
    weight, rightward = reach[best] - 0.5, rightward[best]
    # the share of the left one's colour that the right one takes, and the other way round
    gives = torch.where(rightward == (weight > 0), 0, weight.abs())
    takes = torch.where(rightward == (weight > 0), weight.abs(), 0)
    zero = images.new_zeros(batch * height * (width - 1))
    gives, takes = (
        zero.index_copy(0, pair[best], v).reshape(batch, 1, height, width - 1)
        for v in (gives, takes)
    )
    step = images[..., 1:] - images[..., :-1]
    return (
        images
        - torch.nn.functional.pad(gives * step, (1, 0))
        + torch.nn.functional.pad(takes * step, (0, 1))
    )


def _outermost(pair: Int[Tensor, "k"], reach: Float[Tensor, "k"], pairs: int) -> Int[Tensor, "m"]:
    """One crossing of each pair of pixels: that of the greatest reach, of equal ones the first."""
    most = reach.new_full((pairs,), -torch.inf).scatter_reduce(0, pair, reach, "amax")
    top = (reach == most[pair]).nonzero().squeeze(1)
    first = top.new_full((pairs,), len(pair)).scatter_reduce(0, pair[top], top, "amin")
    return first[first < len(pair)]
