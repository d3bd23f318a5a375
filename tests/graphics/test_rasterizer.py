"""The rasterizer and its antialiased silhouettes against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from meshes import CUBE_FACES, SQUARE_FACES, cube, sphere, to_float64
from tiny_pipeline import max_difference, normal
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera, look_at, orbit_cameras, turntable_cameras
from limbeck.graphics.geometry.mesh import MeshTopology, concat_topologies, face_normals
from limbeck.graphics.rendering.rasterizer import (
    Fragments,
    ProjectedMesh,
    antialias,
    project_homogeneous,
    rasterize,
    silhouette_edges,
)


def rasterize_mesh(
    camera: Camera, vertices: Tensor, faces: Tensor, height: int, width: int
) -> Fragments:
    """Rasterize one mesh for every camera of a batch."""
    num_views = len(camera)
    mesh = MeshTopology(faces, len(vertices))
    points = project_homogeneous(camera, vertices.expand(num_views, -1, -1), height, width)
    image = torch.arange(num_views).repeat_interleave(len(faces))
    joined = concat_topologies([mesh] * num_views)
    return rasterize(ProjectedMesh(points.flatten(0, 1), joined, image, num_views, height, width))


def aliased_alpha(fragments: Fragments) -> Tensor:
    """1 in covered pixels, [B, H, W]."""
    return fragments.to_image(torch.ones_like(fragments.depth[:, None]))[:, 0]


def antialiased_alpha(fragments: Fragments) -> Tensor:
    """Antialiased opacity, [B, H, W]."""
    return antialias(fragments, aliased_alpha(fragments)[:, None])[:, 0]


def random_rotation() -> Tensor:
    return torch.linalg.qr(normal(3, 3, seed=4))[0]


def points64(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_homogeneous_points_project_by_division():
    camera = to_float64(turntable_cameras(3, 20, 3.0, 50))
    points = normal(10, 3, seed=1)
    homogeneous = project_homogeneous(camera, points.expand(3, -1, -1), 40, 60)
    xy, w = homogeneous.split([2, 1], -1)
    projected = torch.cat([xy / w, w], -1)
    assert max_difference(projected, camera.project(points, 40, 60)) < 1e-12


def test_a_rotated_cube_has_the_depth_and_coverage_of_ray_casting():
    camera, rotation = to_float64(turntable_cameras(3, 25, 3.5, 40)), random_rotation()
    height, width = 60, 80
    fragments = rasterize_mesh(camera, cube(0.55, rotation), CUBE_FACES, height, width)
    # slabs, in the coordinates of the cube
    eye, directions = camera.eye @ rotation, camera.directions(height, width) @ rotation
    directions = torch.where(directions.abs() < 1e-12, 1e-12, directions)
    low, high = ((plane - eye[:, None, None]) / directions for plane in (-0.55, 0.55))
    near, far = low.minimum(high).amax(-1), low.maximum(high).amin(-1)
    assert torch.equal(aliased_alpha(fragments) > 0, near < far)
    forward = -camera.pose[:, :3, 2]
    depth = (camera.directions(height, width) * forward[:, None, None]).sum(-1) * near
    rendered = fragments.to_image(fragments.depth[:, None])[:, 0]
    # pixel centers are single precision
    assert max_difference(rendered, torch.where(near < far, depth, 0.0)) < 1e-5


def test_the_silhouette_of_a_cube_has_half_the_area_of_its_projected_faces():
    """A ray meets a convex body twice. The antialiased area is exact to a hundredth of the
    circumference; the aliased one is not."""
    camera = to_float64(turntable_cameras(6, 25, 3.5, 40))
    corners = cube(0.55, random_rotation())
    projected = camera.project(corners, 64, 64)[:, CUBE_FACES][..., :2]
    ab, ac = projected[:, :, 1] - projected[:, :, 0], projected[:, :, 2] - projected[:, :, 0]
    exact = (ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]).abs().sum(1) / 4
    fragments = rasterize_mesh(camera, corners, CUBE_FACES, 64, 64)
    antialiased, aliased = (f(fragments).sum((1, 2)) for f in (antialiased_alpha, aliased_alpha))
    assert bool(((antialiased - exact).abs() < 0.01 * 4 * exact.sqrt()).all())
    assert bool(((aliased - exact).abs() > 1).any())


def test_attributes_on_a_tilted_plane_are_perspective_correct():
    camera = to_float64(orbit_cameras(torch.tensor([0.3]), torch.tensor([0.9]), 2.0, 60))
    plane = points64((-9, 0, -9), (-9, 0, 9), (9, 0, 9), (9, 0, -9))
    fragments = rasterize_mesh(camera, plane, SQUARE_FACES, 32, 48)
    directions = camera.directions(32, 48).flatten(0, 2)[fragments.pixel]
    hit = camera.eye - directions * (camera.eye[:, 1:2] / directions[:, 1:2])
    assert len(fragments.pixel) == 32 * 48
    assert max_difference(fragments.interpolate(plane), hit) < 1e-6
    values, expected = (x[:, :1] * 2 + x[:, 2:] - 1 for x in (plane, hit))
    assert max_difference(fragments.interpolate(values), expected) < 1e-6


def test_a_floor_under_the_camera_is_clipped_at_the_near_plane():
    """Two of its corners are behind the camera. It covers every pixel below the horizon, at the
    depth of the ray, and none above."""
    camera = look_at(
        points64((0, 1, 0)), points64((0, 1, -5)), torch.tensor([1.2], dtype=torch.float64)
    )
    floor = points64((-5e3, 0, -5e3), (-5e3, 0, 5e3), (5e3, 0, 5e3), (5e3, 0, -5e3))
    fragments = rasterize_mesh(camera, floor, SQUARE_FACES, 20, 20)
    rows = torch.arange(10, 20, dtype=torch.float64)
    depth = 1 / ((rows + 0.5 - 10) / 10 * math.tan(0.6))
    assert fragments.pixel.tolist() == list(range(200, 400))
    assert max_difference(fragments.depth.view(10, 20), depth[:, None].expand(10, 20)) < 1e-9
    behind = floor * torch.tensor([1, 1, 0.0]) + torch.tensor([0, 0, 3.0])
    assert not len(rasterize_mesh(camera, behind, SQUARE_FACES, 20, 20).pixel)


def test_shared_edges_leave_no_gaps_and_the_nearer_face_wins():
    vertices, mesh = sphere(20)
    camera = turntable_cameras(2, 15, 3.0, 40)
    fragments = rasterize_mesh(camera, vertices.float(), mesh.faces, 200, 200)
    covered = aliased_alpha(fragments)
    first, last = covered.argmax(-1), 200 - covered.flip(-1).argmax(-1)
    length = torch.where(covered.any(-1), last - first, 0)
    assert torch.equal(covered.sum(-1).long(), length)
    face = fragments.face % len(mesh.faces)
    centers = vertices[mesh.faces].mean(1)[face].float()
    to_camera = camera.eye[fragments.pixel // 40_000] - centers
    assert (face_normals(vertices, mesh)[face] * to_camera).sum(1).min() > -1e-6


def test_a_mesh_behind_the_camera_renders_nothing():
    behind = torch.tensor([[0.0, 0, 9], [1, 0, 9], [0, 1, 9]])
    camera = turntable_cameras(1, 0, 3.0, 40)
    fragments = rasterize_mesh(camera, behind, torch.tensor([[0, 1, 2]]), 8, 8)
    assert not len(fragments.pixel) and antialiased_alpha(fragments).eq(0).all()


# Silhouettes


def fronto_parallel(
    left: float, top: float, right: float, bottom: float, depth: float = 1.0, size: int = 16
) -> tuple[Camera, Tensor]:
    """A camera, and a rectangle parallel to the image whose edges are at these columns and rows."""
    camera = look_at(
        points64((0, 0, 0)), points64((0, 0, -1)), torch.tensor([math.pi / 2], dtype=torch.float64)
    )
    x0, x1, y0, y1 = ((v * 2 / size - 1) * depth for v in (left, right, top, bottom))
    corners = [(x0, -y0), (x0, -y1), (x1, -y1), (x1, -y0)]
    return camera, points64(*((x, y, -depth) for x, y in corners))


@pytest.mark.parametrize("left", [4.0, 4.2, 4.5, 4.9])
@pytest.mark.parametrize("right", [10.1, 10.5, 10.8])
def test_a_rectangle_covers_pixels_exactly(left, right):
    camera, corners = fronto_parallel(left, 3.3, right, 12.6)
    alpha = antialiased_alpha(rasterize_mesh(camera, corners, SQUARE_FACES, 16, 16))[0]
    pixel = torch.arange(16, dtype=torch.float64)
    row = ((pixel + 1).clamp(max=right) - pixel.clamp(min=left)).clamp(0, 1)
    assert max_difference(alpha[5], row) < 1e-12
    column = ((pixel + 1).clamp(max=12.6) - pixel.clamp(min=3.3)).clamp(0, 1)
    assert max_difference(alpha[:, 7], column) < 1e-12


def test_inner_and_hidden_edges_are_not_blended():
    camera, large = fronto_parallel(2, 2, 14, 14)
    _, small = fronto_parallel(4.3, 4.3, 9.7, 9.7, depth=2.0)
    faces = torch.cat([SQUARE_FACES, SQUARE_FACES + 4])
    colors = points64(*[(1, 0, 0)] * 4, *[(0, 1, 0)] * 4)
    fragments = rasterize_mesh(camera, torch.cat([large, small]), faces, 16, 16)
    image = antialias(fragments, fragments.to_image(fragments.interpolate(colors)))
    assert len(silhouette_edges(fragments.projected)[0]) == 8
    assert max_difference(image[0, 0, 2:14, 2:14], torch.ones(12, 12)) < 1e-12
    assert image[:, 1].abs().max() < 1e-12
    # with the large one at depth 3, the small one is in front and its edges are blended
    fragments = rasterize_mesh(camera, torch.cat([large * 3, small]), faces, 16, 16)
    image = antialias(fragments, fragments.to_image(fragments.interpolate(colors)))
    assert abs(image[0, 1, 7, 4].item() - 0.7) < 1e-12
    assert abs(image[0, 0, 7, 4].item() - 0.3) < 1e-12


def disc_area(radius: float, distance: float, fov: float, size: int) -> float:
    """Area in pixels of a centered sphere: a circle of radius f r / (d^2 - r^2)^.5."""
    focal = size / 2 / math.tan(math.radians(fov) / 2)
    return math.pi * (focal * radius) ** 2 / (distance**2 - radius**2)


def inscribed_sphere(cells: int) -> tuple[Tensor, MeshTopology]:
    """A mesh with all vertices on the sphere of radius .7."""
    vertices, mesh = sphere(cells)
    return vertices / vertices.norm(dim=1, keepdim=True) * 0.7, mesh


# the area of the inscribed polyhedron, as a share of the sphere's
@pytest.mark.parametrize(("cells", "inscribed"), [(12, 0.98), (48, 0.998)])
def test_a_sphere_covers_its_disc_with_faces_larger_or_smaller_than_pixels(cells, inscribed):
    vertices, mesh = inscribed_sphere(cells)
    camera = to_float64(turntable_cameras(4, 15, 3.0, 40))
    alpha = antialiased_alpha(rasterize_mesh(camera, vertices, mesh.faces, 32, 32))
    share = alpha.sum((1, 2)) / disc_area(0.7, 3.0, 40, 32)
    assert share.min() > inscribed - 0.004 and share.max() < 1.002


def test_the_gradient_of_a_silhouette_is_the_growth_of_its_area():
    """d(area)/d(scale) by autograd, by finite differences and in closed form."""
    vertices, mesh = inscribed_sphere(24)
    camera = to_float64(turntable_cameras(4, 15, 3.0, 40))

    def area(scale):
        fragments = rasterize_mesh(camera, scale * vertices, mesh.faces, 64, 64)
        return antialiased_alpha(fragments).sum() / 4

    scale, e = torch.ones((), dtype=torch.float64, requires_grad=True), 1e-6
    (slope,) = torch.autograd.grad(area(scale), scale)
    assert abs((area(1 + e) - area(1 - e)).item() / (2 * e) / slope.item() - 1) < 1e-6
    larger, smaller = (disc_area(0.7 + d, 3.0, 40, 64) for d in (1e-5, -1e-5))
    assert abs(slope.item() / ((larger - smaller) / 2e-5 * 0.7) - 1) < 0.01


def test_vertices_of_a_tilted_silhouette_have_the_gradients_of_finite_differences():
    camera, corners = fronto_parallel(3.37, 2.81, 11.23, 12.64)
    corners = (corners + 0.13 * normal(4, 3, seed=3)).requires_grad_()
    weight = normal(1, 16, 16, seed=8)

    def loss(points):
        fragments = rasterize_mesh(camera, points, SQUARE_FACES, 16, 16)
        return (antialiased_alpha(fragments) * weight).sum()

    assert torch.autograd.gradcheck(loss, (corners,), eps=1e-7, atol=1e-5)
