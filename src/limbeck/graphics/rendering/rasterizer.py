"""Differentiable mesh rasterization and edge antialiasing in plain PyTorch.

@article{laine2020modular,
  title={Modular Primitives for High-Performance Differentiable Rendering},
  author={Laine, Samuli and Hellsten, Janne and Karras, Tero and Seol, Yeongho and Lehtinen, Jaakko
    and Aila, Timo},
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

MAX_PIXEL_PAIRS = 1 << 21  #: (face, pixel) pairs tested at a time
_BOX_MARGIN = 1e-3  #: pixels added to the bounding box of a face, against rounding


def project_homogeneous(
    camera: Camera, points: Float[Tensor, "b n 3"], height: int, width: int
) -> Float[Tensor, "b n 3"]:
    """Homogeneous screen coordinates (column d, row d, d), with d the depth.

    This is ``Camera.project`` before its division; it is also defined behind the camera.

    Args:
        camera: cameras.
        points: world points, one set per camera.
        height: image height in pixels.
        width: image width in pixels.
    """
    local = camera.to_camera_space(points)
    depth = -local[..., 2]
    focal = (height / 2 / (camera.fov / 2).tan())[:, None]
    column = width / 2 * depth + focal * local[..., 0]
    row = height / 2 * depth - focal * local[..., 1]
    return torch.stack([column, row, depth], -1)


@dataclass(frozen=True)
class ProjectedMesh:
    """The meshes of a batch of images, in homogeneous screen coordinates.

    Attributes:
        points: ``[N, 3]`` homogeneous vertices of all images.
        topology: faces of all images.
        face_image: ``[F]`` image of each face.
        num_images: number of images.
        height: image height in pixels.
        width: image width in pixels.
        near: depth of the near plane.
    """

    points: Float[Tensor, "n 3"]
    topology: MeshTopology
    face_image: Int[Tensor, "f"]
    num_images: int
    height: int
    width: int
    near: float = 1e-2

    @property
    def num_pixels(self) -> int:
        """Pixels of all images."""
        return self.num_images * self.height * self.width


@dataclass(frozen=True)
class Fragments:
    """What the pixels covered by a mesh show.

    Attributes:
        projected: the rasterized meshes.
        pixel: ``[P]`` ascending indices into the flattened batch of images.
        face: ``[P]`` visible face.
        barycentrics: ``[P, 3]`` perspective-correct weights of the face's corners, with a gradient.
        depth: ``[P]`` depth, with a gradient.
    """

    projected: ProjectedMesh
    pixel: Int[Tensor, "p"]
    face: Int[Tensor, "p"]
    barycentrics: Float[Tensor, "p 3"]
    depth: Float[Tensor, "p"]

    def interpolate(self, attribute: Float[Tensor, "n c"]) -> Float[Tensor, "p c"]:
        """Vertex attributes at the pixels."""
        corners = gather_rows(self.projected.topology.faces, self.face)
        return (gather_rows(attribute, corners) * self.barycentrics[..., None]).sum(1)

    @torch.no_grad()
    def face_areas(self) -> Float[Tensor, "p"]:
        """Twice the area in pixels of the face that each pixel shows."""
        corners = gather_rows(self.projected.points, self.projected.topology.faces[self.face])
        a, b, c = (corners[..., :2] / corners[..., 2:].clamp_min(self.projected.near)).unbind(1)
        side, other = b - a, c - a
        return (side[:, 0] * other[:, 1] - side[:, 1] * other[:, 0]).abs()

    def to_image(
        self, values: Float[Tensor, "p c"], empty: float = 0.0
    ) -> Float[Tensor, "b c h w"]:
        """Scatter pixel values to images.

        Args:
            values: values of the covered pixels.
            empty: value of the other pixels.
        """
        p = self.projected
        flat = values.new_full((p.num_pixels, values.shape[1]), empty)
        flat = flat.index_copy(0, self.pixel, values)
        return flat.reshape(p.num_images, p.height, p.width, -1).permute(0, 3, 1, 2)


def _edge_functions(
    corners: Float[Tensor, "m 3 3"], column: Float[Tensor, "m"], row: Float[Tensor, "m"]
) -> Float[Tensor, "m 3"]:
    """Barycentrics over the depth, times the determinant of the corners.

    From 2D homogeneous rasterization (Olano and Greer 1997). Corners are taken relative to the
    pixel first, so that two faces get exactly opposite values on their common edge: no cracks.
    """
    x = corners[..., 0] - column[:, None] * corners[..., 2]
    y = corners[..., 1] - row[:, None] * corners[..., 2]
    pairs = ((1, 2), (2, 0), (0, 1))
    return torch.stack([x[:, i] * y[:, j] - x[:, j] * y[:, i] for i, j in pairs], 1)


@torch.no_grad()
def _pixel_boxes(
    projected: ProjectedMesh, corners: Float[Tensor, "f 3 3"]
) -> tuple[Int[Tensor, "f 2"], Int[Tensor, "f 2"]]:
    """First pixel and size (x, y) of the box of pixels that each face may cover.

    The box of a face that reaches behind the near plane is the whole image.
    """
    in_front = corners[..., 2] > projected.near
    screen = corners[..., :2] / torch.where(in_front, corners[..., 2], 1)[..., None]
    limit = torch.tensor([projected.width, projected.height], device=corners.device)
    all_in_front, any_in_front = in_front.all(1)[:, None], in_front.any(1)[:, None]
    a, b, c = screen.unbind(1)  # pairwise minima: amin over an axis of three is slow
    low, high = a.minimum(b).minimum(c), a.maximum(b).maximum(c)
    # clamped before the conversion to integers, which may not hold the coordinates of far points
    low = torch.where(all_in_front, low, 0).clamp(-1, 1e6)
    high = torch.where(all_in_front, high, 1e6).clamp(-1, 1e6)
    first = low.sub(0.5 + _BOX_MARGIN).ceil().long().clamp_min(0)
    last = high.sub(0.5 - _BOX_MARGIN).floor().long()
    size = (torch.minimum(last, limit - 1) - first + 1).clamp_min(0)
    return first, torch.where(any_in_front & (size > 0).all(1, keepdim=True), size, 0)


@torch.no_grad()
def _covered_pixels(
    projected: ProjectedMesh, corners: Tensor, face: Tensor, first: Tensor, size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel, face and depth of everything that some faces cover beyond the near plane."""
    columns, count = size[face, 0], size[face].prod(1)
    start = count.cumsum(0) - count
    owner = torch.arange(len(face), device=face.device).repeat_interleave(count)
    k = torch.arange(len(owner), device=face.device) - start[owner]
    dy = torch.div(k, columns[owner], rounding_mode="floor")
    face = face[owner]
    y, x = first[face, 1] + dy, first[face, 0] + k - dy * columns[owner]
    face_corners = gather_rows(corners, face)
    values = _edge_functions(face_corners, x + 0.5, y + 0.5)
    total = values.sum(1)
    depth = (values * face_corners[..., 2]).sum(1) / total
    inside = (values >= 0).all(1) | (values <= 0).all(1)
    hit = (inside & (total != 0) & (depth >= projected.near)).nonzero().squeeze(1)
    row = projected.face_image[face[hit]] * projected.height + y[hit]
    return row * projected.width + x[hit], face[hit], depth[hit]


@torch.no_grad()
def visible_faces(projected: ProjectedMesh) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"]]:
    """Covered pixels, ascending, and the nearest face of each.

    Every face is tested at the pixels of its bounding box, about ``MAX_PIXEL_PAIRS`` at a time, and
    a z-buffer keeps the nearest. Among faces of equal depth the lowest index wins.
    """
    corners = gather_rows(projected.points, projected.topology.faces)
    first, size = _pixel_boxes(projected, corners)
    num_tests = size.prod(1)
    tested = num_tests.nonzero().squeeze(1)
    chunk = torch.div(num_tests[tested].cumsum(0), MAX_PIXEL_PAIRS, rounding_mode="floor")
    lengths = torch.unique_consecutive(chunk, return_counts=True)[1].tolist()
    hits = [
        _covered_pixels(projected, corners, faces, first, size) for faces in tested.split(lengths)
    ]
    if not hits:
        return tested, tested
    pixel, face, depth = (torch.cat(values) for values in zip(*hits, strict=True))
    z_buffer = depth.new_full((projected.num_pixels,), torch.inf)
    z_buffer = z_buffer.scatter_reduce(0, pixel, depth, "amin")
    front = depth == z_buffer[pixel]
    no_face = len(corners)
    nearest = face.new_full((projected.num_pixels,), no_face)
    nearest = nearest.scatter_reduce(0, pixel[front], face[front], "amin")
    covered = (nearest < no_face).nonzero().squeeze(1)
    return covered, nearest[covered]


def rasterize(projected: ProjectedMesh) -> Fragments:
    """Rasterize meshes.

    Visibility is found without a graph; barycentrics and depth are computed again with one.
    """
    pixel, face = visible_faces(projected)
    index = pixel % (projected.height * projected.width)
    row = torch.div(index, projected.width, rounding_mode="floor")
    column = index - row * projected.width
    corners = gather_rows(projected.points, gather_rows(projected.topology.faces, face))
    values = _edge_functions(corners, column + 0.5, row + 0.5)
    barycentrics = values / values.sum(1, keepdim=True)
    depth = (barycentrics * corners[..., 2]).sum(1)
    return Fragments(projected, pixel, face, barycentrics, depth)


@torch.no_grad()
def silhouette_edges(
    projected: ProjectedMesh,
) -> tuple[Int[Tensor, "s 2"], Int[Tensor, "s"], Int[Tensor, "s"]]:
    """Edges whose faces all lie on one side of them on the screen.

    Edges that reach behind the near plane are left out.

    Returns:
        Vertices a and b of the edges; the image of each edge; and the side of its faces: 1 where a
        third corner c has (b - a) x (c - a) > 0 in pixels, x to the right and y down, else -1.
    """
    mesh = projected.topology
    a, b, c = gather_rows(projected.points, mesh.faces).unbind(1)
    winding = (a * torch.linalg.cross(b, c)).sum(1).sign().long()
    face_side = (winding[:, None] * mesh.edge_orientations).flatten()
    edge = mesh.face_edges.flatten()
    zero = face_side.new_zeros(len(mesh.edges))
    total = zero.index_add(0, edge, face_side)
    count = zero.index_add(0, edge, face_side.abs())
    image = zero.index_copy(0, edge, projected.face_image.repeat_interleave(3))
    in_front = (projected.points[:, 2] > projected.near)[mesh.edges].all(1)
    index = ((total.abs() == count) & (count > 0) & in_front).nonzero().squeeze(1)
    return mesh.edges[index], image[index], total[index].sign()


def antialias(fragments: Fragments, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Antialias silhouette edges analytically (Laine et al. 2020), so that shapes get gradients.

    Where a silhouette edge crosses the line between the centers of two neighboring pixels, at a
    fraction s of the way from the pixel with the nearer surface, one of the two is blended: for
    s > 1/2 the farther pixel takes s - 1/2 of the nearer one's color, otherwise the nearer pixel
    takes 1/2 - s of the farther one's. Edges nearer to the vertical act between pixels of a row,
    the others between pixels of a column.

    There are two differences from the paper. All silhouette edges are tested, not only those of the
    face that a pixel shows, because faces may be smaller than pixels here; of several crossings
    between the same pixels the outermost counts. And rows are blended before columns, so that a
    pixel never gives away more than it has.

    Args:
        fragments: the rasterized meshes.
        images: images of their pixels.
    """
    projected = fragments.projected
    edges, image, side = silhouette_edges(projected)
    ends = gather_rows(projected.points, edges)
    screen = ends[..., :2] / ends[..., 2:]
    depth = fragments.to_image(fragments.depth.detach()[:, None], torch.inf)[:, 0]
    delta = (screen[:, 1] - screen[:, 0]).detach()
    steep = delta[:, 1].abs() >= delta[:, 0].abs()

    index = steep.nonzero().squeeze(1)
    end_depths = gather_rows(ends[..., 2], index).detach()
    line = gather_rows(screen, index)
    images = _blend_rows(images, depth, line, end_depths, image[index], side[index])

    # columns are rows of the transposed images, in which the sides are swapped too
    index = (~steep).nonzero().squeeze(1)
    end_depths = gather_rows(ends[..., 2], index).detach()
    line = gather_rows(screen, index).flip(-1)
    transposed = images.transpose(-1, -2)
    transposed = _blend_rows(
        transposed, depth.transpose(-1, -2), line, end_depths, image[index], -side[index]
    )
    return transposed.transpose(-1, -2)


def _row_crossings(line: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Every (edge, row) such that the edge crosses the row's center line.

    The upper end of an edge counts, the lower one does not.
    """
    low, high = line[..., 1].aminmax(dim=1)
    first = (low.clamp(-1, 1e6) - 0.5).ceil().long().clamp_min(0)
    end = (high.clamp(-1, 1e6) - 0.5).ceil().long().clamp_max(height)
    count = (end - first).clamp_min(0)
    edge = torch.arange(len(line), device=line.device).repeat_interleave(count)
    start = count.cumsum(0) - count
    k = torch.arange(len(edge), device=line.device) - start[edge]
    return edge, first[edge] + k


@torch.no_grad()
def _visible_crossings(
    depth: Tensor, line: Tensor, end_depths: Tensor, image: Tensor, side: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crossings of edges with the lines between the centers of neighboring pixels of a row.

    Only crossings in front of the farther of the two pixels count, and only where the pixel on the
    side of the edge's faces shows the nearer surface.

    Returns:
        For each crossing its edge, row and left pixel, and whether the faces lie to the right.
    """
    _, height, width = depth.shape
    edge, row = _row_crossings(line, height)
    a, b = line[edge].unbind(1)
    fraction = (row + 0.5 - a[:, 1]) / (b[:, 1] - a[:, 1])
    x = a[:, 0] + fraction * (b[:, 0] - a[:, 0])
    left = (x.clamp(-1, 1e6) - 0.5).floor().long()
    inside = (left >= 0) & (left < width - 1)
    edge, row, fraction, left = edge[inside], row[inside], fraction[inside], left[inside]
    faces_right = side[edge] * (line[edge, 1, 1] - line[edge, 0, 1]) < 0
    pixel = (image[edge] * height + row) * width + left
    left_depth, right_depth = depth.reshape(-1)[pixel], depth.reshape(-1)[pixel + 1]
    near = torch.where(faces_right, right_depth, left_depth)
    far = torch.where(faces_right, left_depth, right_depth)
    edge_depth = 1 / torch.lerp(1 / end_depths[edge, 0], 1 / end_depths[edge, 1], fraction)
    keep = ((near < far) & (edge_depth < far)).nonzero().squeeze(1)
    return edge[keep], row[keep], left[keep], faces_right[keep]


def _blend_rows(
    images: Tensor, depth: Tensor, line: Tensor, end_depths: Tensor, image: Tensor, side: Tensor
) -> Tensor:
    """Antialias between neighboring pixels of rows.

    Args:
        images: ``[B, C, H, W]``.
        depth: ``[B, H, W]``.
        line: ``[S, 2, 2]`` ends of the edges in pixels.
        end_depths: ``[S, 2]`` depths of the ends.
        image: ``[S]`` image of each edge.
        side: ``[S]`` side of the edge's faces, as in ``silhouette_edges``.
    """
    batch, _, height, width = images.shape
    edge, row, left, faces_right = _visible_crossings(depth, line, end_depths, image, side)
    pair = (image[edge] * height + row) * (width - 1) + left
    a, b = gather_rows(line, edge).unbind(1)
    fraction = (row + 0.5 - a[:, 1]) / (b[:, 1] - a[:, 1])
    reach = torch.lerp(a[:, 0], b[:, 0], fraction) - (left + 0.5)
    reach = torch.where(faces_right, 1 - reach, reach)
    best = _outermost(pair, reach.detach(), batch * height * (width - 1))
    weight, faces_right = reach[best] - 0.5, faces_right[best]
    # fractions of the left pixel's color that the right one takes, and the other way round
    to_right = faces_right != (weight > 0)
    right_takes = torch.where(to_right, weight.abs(), 0)
    left_takes = torch.where(to_right, 0, weight.abs())
    zero = images.new_zeros(batch * height * (width - 1))
    right_takes, left_takes = (
        zero.index_copy(0, pair[best], takes).reshape(batch, 1, height, width - 1)
        for takes in (right_takes, left_takes)
    )
    step = images[..., 1:] - images[..., :-1]
    return (
        images
        - torch.nn.functional.pad(right_takes * step, (1, 0))
        + torch.nn.functional.pad(left_takes * step, (0, 1))
    )


def _outermost(pair: Int[Tensor, "k"], reach: Float[Tensor, "k"], pairs: int) -> Int[Tensor, "m"]:
    """One crossing per pair of pixels: that of the greatest reach, the first among equal ones."""
    most = reach.new_full((pairs,), -torch.inf).scatter_reduce(0, pair, reach, "amax")
    top = (reach == most[pair]).nonzero().squeeze(1)
    first = top.new_full((pairs,), len(pair)).scatter_reduce(0, pair[top], top, "amin")
    return first[first < len(pair)]
